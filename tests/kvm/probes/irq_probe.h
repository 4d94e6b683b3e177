/* SPDX-License-Identifier: GPL-2.0 */
/* What the irq_probe policy and the tests share, as probe.h does for probe. */
#ifndef __TESTS_IRQ_PROBE_H
#define __TESTS_IRQ_PROBE_H

#define IRQ_PROBE_CPUS 8

enum irq_probe_how {
	IRQ_PROBE_OWN, /* KVM's own choice */
	IRQ_PROBE_INDEX, /* @answer, whatever it is */
	IRQ_PROBE_TURN, /* each candidate in turn */
	IRQ_PROBE_VCPU, /* the candidate whose vCPU id is @answer, else OWN */
	IRQ_PROBE_RANDOM, /* any candidate or OWN */
	IRQ_PROBE_WILD, /* any s32, a candidate now and then */
};

struct irq_probe_knobs {
	__u32 how; /* enum irq_probe_how */
	__s32 answer;
	__u32 error; /* call kvm_irq_error() */
	__s32 retarget; /* what retarget() answers */
	__u32 coin; /* it answers 0 or 1, as it falls */
	__u32 pad;
	__u64 slow_ns; /* burn that long in route() */
};

struct irq_probe_counts {
	__u64 asked;
	__u64 wild; /* answers that were outside the set */
	__u64 runs[4]; /* by enum kvm_irq_run */
	__u64 retargets;
	__u64 left; /* what retarget() was told */
	__u64 ends;
	__u64 ended; /* the VM that ended last; the test makes it 0 before there is another */
	__u64 late; /* calls for it */
	__u64 off_wrong; /* run() was told a time that cannot be */
	/* of the last call */
	__u32 nr;
	__s32 own;
	__u32 vector;
	__u32 dest_id;
	__u32 flags;
	__u32 set; /* bit per vCPU id */
	__s32 beyond; /* kvm_irq_look() of the first index that is none */
	__u32 pad;
	/* by vCPU id */
	__u32 state[IRQ_PROBE_CPUS];
	__u32 pending[IRQ_PROBE_CPUS];
	__s32 cpu[IRQ_PROBE_CPUS];
	__u64 since_ns[IRQ_PROBE_CPUS];
	__u64 sent[IRQ_PROBE_CPUS]; /* good answers */
	__u64 off_ns[IRQ_PROBE_CPUS]; /* what run() was told last */
	__u64 away_ns[IRQ_PROBE_CPUS]; /* from then until it was called */
};

#endif
