/* SPDX-License-Identifier: GPL-2.0 */
/* What the dirty_probe policy and the tests share, as probe.h does for probe. */
#ifndef __TESTS_DIRTY_PROBE_H
#define __TESTS_DIRTY_PROBE_H

enum dirty_probe_how {
	DIRTY_PROBE_MASK, /* leave out the pages of @out, each word the same */
	DIRTY_PROBE_WILD, /* any u64 */
	DIRTY_PROBE_ADD, /* bits that were not asked about, and all that were */
	DIRTY_PROBE_ERROR, /* let all through, and give up */
	DIRTY_PROBE_SLOW, /* let all through, after @spin rounds */
};

enum dirty_probe_read {
	DIRTY_PROBE_NONE,
	DIRTY_PROBE_READ, /* kvm_dirty_read() */
	DIRTY_PROBE_ATOMIC, /* kvm_dirty_read_atomic() */
};

struct dirty_probe_knobs {
	__u64 out;
	__u64 gpa; /* to read from */
	__u32 how; /* enum dirty_probe_how */
	__u32 read; /* enum dirty_probe_read */
	__u32 spin;
	__u32 doubt; /* basis() answers 0 */
	__u64 basis; /* basis() answers that, and 1 more */
	__u64 used; /* pages that are in use again when harvest() is asked the second time */
};

struct dirty_probe_counts {
	__u64 asked;
	__u64 again; /* of these, not for the first time as the read missed a page */
	__u64 based; /* calls of basis() */
	__u64 pages; /* bits of all masks */
	__u64 ends;
	__u64 clock; /* kvm_dirty_clock() */
	__u64 got[2]; /* what was read */
	__u64 first_gfn; /* of the first call since the test cleared @asked */
	__u64 last_gfn; /* of the last word that was not 0 */
	__s32 ret; /* of the read */
	__u32 slot;
};

#endif
