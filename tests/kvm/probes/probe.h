/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the probe policy and the tests share: the tests set the knobs and read
 * the counts through the maps' memory while the policy runs.
 */
#ifndef __TESTS_PROBE_H
#define __TESTS_PROBE_H

#define PROBE_CPUS 8
#define PROBE_PAGES 4096 /* counted one by one from @base on */
#define PROBE_ASKS 1024 /* times of asks that are kept */
#define PROBE_EVENTS 64 /* rounds that are kept */

enum probe_answer {
	PROBE_FIXED, /* @answer */
	PROBE_RANDOM, /* any valid answer: 0 to 2^63 - 1, small ones often */
	PROBE_WILD, /* any s64 */
};

#define PROBE_IN_DIRTIED 1
#define PROBE_IN_BLOCK 2
#define PROBE_IN_DIRTY_LOG 4

struct probe_knobs {
	__s64 answer;
	__u32 how; /* enum probe_answer */
	__u32 slow_ops; /* PROBE_IN_*: burn @slow_ns there */
	__u64 slow_ns;
	__u32 error_ops; /* PROBE_IN_*: call kvm_throttle_error() there */
	__u32 error_sources; /* bit per kvm_throttle_source: from dirtied() only for these */
	__s64 error_code; /* the second call of an op passes this + 1 */
	__u32 mark; /* bit per vCPU: marked by each dirty_log() */
	__u32 unmark;
	__u32 mark_on_dirty; /* mark the vCPU that dirties */
	__u32 ask_idx; /* dirty_log() asks for this vCPU's numbers */
	__u32 bad_nr; /* block() answers -1 in a VM of so many vCPUs */
	__u32 pad;
	__u64 base; /* first gfn whose pages are counted */
};

struct probe_round {
	__u64 now_ns;
	__u64 dirty;
	__u64 npages;
	__u64 logged_pages;
	__u64 vm_pages;
	__u32 slot;
	__u32 event;
	__u32 logged_slots;
	__u32 pad;
};

struct probe_counts {
	__u64 dirtied[4];
	__u64 dirtied_cpu[PROBE_CPUS];
	__u64 other_source; /* dirtied() with a source that is none */
	__u64 outside; /* pages not among the counted ones */
	__u64 asks;
	__u64 asks_cpu[PROBE_CPUS];
	__u64 answered; /* sum of valid answers */
	__u64 rounds;
	__u64 events[8];
	__u64 event_dirty[8];
	__u64 out; /* calls of dirtied() while the vCPU was being scheduled out */
	__s64 mark_ret; /* what kfuncs returned to dirty_log() for @ask_idx */
	__s64 stat_ret;
	__u32 nr_vcpus;
	__u32 stat_marked;
	__u32 stat_vcpu_id;
	__u32 pad;
	__u64 stat_dirty[4];
	__u64 stat_blocks;
	__u64 stat_blocked_ns;
	__u64 stat_longest_ns;
	__u64 ask_ns[PROBE_ASKS];
	struct probe_round round[PROBE_EVENTS];
	__u64 ends; /* end() */
	__u64 ended; /* the VM whose end() was last; a test clears it for the next at its address */
	__u64 late; /* calls for that VM after it */
	__u32 page[PROBE_PAGES];
};

#endif
