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
 *   host:  beat N              is it still to be trusted?
 *   host:  scan                look for free pages that the hooks did not see
 *   host:  moving              a migration is near or under way, for FREE_MOVING_MS from here on
 *   host:  zero KEEP           take all free memory but KEEP MiB, so that it is zero
 *   host:  release             give that back
 *   guest: area 1 COOKIE PFNS PAGES   followed by one line "gfn FIRST COUNT" for each run
 *                              of the area's pages in order, and "end"
 *   guest: alive COOKIE N      yes
 *   guest: scanned PAGES       "scan" is done, and found so many
 *   guest: zeroed PAGES        so much is zero, and held
 *   guest: refused REASON      why there is no area, for people
 *   guest: bye COOKIE          the area is not to be trusted any more
 *
 * What "zero" took is given back too if no "moving" comes, and as far as the guest needs it.
 * Numbers are decimal, COOKIE is hexadecimal.  What is not understood is passed over.
 *
 * The area is trusted for FREE_LEASE_MS from when the "beat" was sent that was answered: a word of the
 * guest's own may have waited in buffers for any time.  An area that has been withdrawn, by the agent or by
 * the guest's kernel before it starts another or reads back a hibernation image, has @magic 0 for good.
 */
#ifndef __KVMEXT_FREE_H
#define __KVMEXT_FREE_H

#define FREE_MAGIC 0x656572662d74766bULL
#define FREE_PORT "org.kvm_ext.free" /* name of the virtio-serial port */
#define FREE_PAGE_BITS (4096 * 8)
/* 2 TiB of guest memory */
#define FREE_AREA_PAGES (1 + 16384)
/* How often the host asks, and how long it trusts the area after an answer's question */
#define FREE_BEAT_MS 250
#define FREE_LEASE_MS 1000
/* So long after the last "moving" the guest is as it was. */
#define FREE_MOVING_MS 3000

/**
 * struct free_head - the area's first page
 * @magic: FREE_MAGIC while the area is what this file says
 * @cookie: drawn when the area was made; no two areas have the same
 * @pfns: bits that the area has
 * @seq: odd while bits may be wrong; a reader looks before and after, as at a seqlock
 * @lists: the guest's own: what the agent has set vm.percpu_pagelist_high_fraction to; 0 when it has
 *	   not.  Here, as the next agent has to put it back if this one is killed.
 * @lists_were: what it was
 */
struct free_head {
	__u64 magic;
	__u64 cookie;
	__u64 pfns;
	__u64 seq;
	__u64 lists;
	__u64 lists_were;
};

/* VMs that one skip_free serves at a time */
#define FREE_VMS 1024

/**
 * struct free_lease - what skip_free is told of a VM's area, and what it has done
 * @until: the area is trusted until then, CLOCK_MONOTONIC, ns; 0: there is none
 * @cookie: the area's
 * @pfns: the area's
 * @logs: dirty logs of memslots that the policy was asked about
 * @skipped: pages that it left out
 * @sent: dirty pages that it let through
 * @gfns: the gfn of each of the area's pages, plus 1; 0: no page
 *
 * An array map of u64 that the host's tool makes for each VM, maps, and puts into skip_free's map "areas",
 * under the process id of the VMM.  @cookie is written last when the area is told anew, with @until 0 before.
 */
struct free_lease {
	__u64 until;
	__u64 cookie;
	__u64 pfns;
	__u64 logs;
	__u64 skipped;
	__u64 sent;
	__u64 gfns[FREE_AREA_PAGES];
};

#define FREE_LEASE_WORDS (sizeof(struct free_lease) / sizeof(__u64))

#ifdef __bpf__
/* A map of the policy's for a VM: struct free_lease, which kvmext hint writes to */
struct area {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, FREE_LEASE_WORDS);
	__type(key, u32);
	__type(value, u64);
};
#endif

#endif /* __KVMEXT_FREE_H */
