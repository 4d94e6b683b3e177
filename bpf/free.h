/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Free pages: what kvmext guest, kvmext hint and the policy skip_free agree on.
 *
 * The guest keeps an area of pages in its memory: a head page, then one bit per page
 * frame, 1 while the page lies in the guest's buddy allocator.  The host is told by
 * virtio-serial where these pages are, reads them itself, and never writes there.
 *
 * On the line, each message a line of ASCII:
 *
 *   host:  register            where is the area?
 *   host:  scan                look for free pages that the hooks did not see
 *   host:  zero KEEP           take all free memory but KEEP MiB once, so that it is zero
 *   guest: area 1 COOKIE PFNS PAGES   followed by one line "gfn FIRST COUNT" for each run
 *                              of the area's pages in order, and "end"
 *   guest: alive COOKIE        every FREE_BEAT_MS while the area may be trusted
 *   guest: zeroed PAGES        "zero" is done
 *   guest: refused REASON      why there is no area, for people
 *   guest: bye COOKIE          the area is not to be trusted any more
 *
 * Numbers are decimal, COOKIE is hexadecimal.
 */
#ifndef __KVMEXT_FREE_H
#define __KVMEXT_FREE_H

#define FREE_MAGIC 0x656572662d74766bULL
#define FREE_PORT "org.kvm_ext.free" /* name of the virtio-serial port */
#define FREE_PAGE_BITS (4096 * 8)
/* 2 TiB of guest memory */
#define FREE_AREA_PAGES (1 + 16384)
#define FREE_BEAT_MS 250
/* So long the area is trusted after the guest's last word. */
#define FREE_LEASE_MS 1000

/**
 * struct free_head - the area's first page
 * @magic: FREE_MAGIC while the area is what this file says
 * @cookie: drawn when the area was made; no two areas have the same
 * @pfns: bits that the area has
 * @seq: odd while bits may be wrong; a reader looks before and after, as at a seqlock
 */
struct free_head {
	__u64 magic;
	__u64 cookie;
	__u64 pfns;
	__u64 seq;
};

/**
 * struct free_lease - the one element of skip_free's map "lease", which the host's tool keeps
 * @until: the area is trusted until then, CLOCK_MONOTONIC, ns; 0: there is none
 * @cookie: the area's
 * @pfns: the area's
 *
 * Map "area" of skip_free has the gfn of each of the area's pages, plus 1, by its index.
 * @cookie is written last when the area is told anew, with @until 0 before.
 */
struct free_lease {
	__u64 until;
	__u64 cookie;
	__u64 pfns;
};

#endif /* __KVMEXT_FREE_H */
