/* SPDX-License-Identifier: GPL-2.0 */
/* What the save_probe policy and the tests share, as probe.h does for probe. */
#ifndef __TESTS_SAVE_PROBE_H
#define __TESTS_SAVE_PROBE_H

#define SAVE_PROBE_CPUS 8
#define SAVE_PROBE_KINDS 11

enum save_probe_how {
	SAVE_PROBE_SAFE, /* all that is safe, with @classes and @resumes */
	SAVE_PROBE_FIXED, /* @answer, whatever it is */
	SAVE_PROBE_WILD, /* any s64 that is not negative, a good one now and then */
};

struct save_probe_knobs {
	__s64 answer;
	__u32 how; /* enum save_probe_how */
	__u32 classes;
	__u32 resumes;
	__u32 pad;
};

struct save_probe_counts {
	__u64 asked;
	__u64 ends;
	__u64 firsts; /* calls that were a vCPU's first: ns is 0 */
	__u64 asked_vcpu[SAVE_PROBE_CPUS]; /* by vcpu_idx */
	__u64 exits[SAVE_PROBE_KINDS]; /* sums of what was told */
	__u64 resumed[SAVE_PROBE_KINDS];
	__u64 longest_ns; /* the most that was told */
	__u32 longest_batch;
	__u32 waiting; /* calls that found another task waiting */
	/* of the last call */
	__u32 vcpu_id;
	__u32 cpu;
	__u32 safe;
	__u32 kinds; /* that it answered with */
	/* Calls whose vCPU was answered with no kind before, of VMs of one vCPU */
	__u64 idle;
	__u32 idle_batch; /* the longest row that any of them was told */
	__u32 pad;
};

#endif
