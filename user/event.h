/* SPDX-License-Identifier: GPL-2.0 */
/* What the tracers and the tool that shows their events agree on. */
#ifndef __KVMEXT_EVENT_H
#define __KVMEXT_EVENT_H

enum ev_type {
	EV_EXIT,
	EV_FAULT,
	EV_DIRTY,
	EV_MARK,
	EV_ASK,
	EV_BLOCK,
	EV_DIRTY_LOG,
	EV_INJECT,
	EV_EXCEPTION,
	EV_ACCEPT,
	EV_MSI,
	EV_WAKEUP,
	EV_ROUTE,
	EV_RETARGET,
	EV_ATTACH,
	EV_UPDATE,
	EV_DETACH,
	EV_EJECT,
	EV_TAKE,
	EV_NR,
};

#define NO_DUR (~0ULL)
#define NO_VCPU (-1)
#define REASONS_MAX 16
#define USER_NO_REASON (~0ULL) /* KVM_RUN failed, as with a signal */

/**
 * struct event - something that happened
 * @ts: when it began, CLOCK_MONOTONIC
 * @dur: ns that it took, NO_DUR if it has no length or that is not known
 * @vm: the VMM's process id, 0 if it is not known
 * @tid: the thread, 0 if not a vCPU's
 * @vcpu: its id in KVM, or NO_VCPU
 * @type: enum ev_type
 * @arg: by type:
 *	EXIT		isa << 32 | reason, KVM_EXIT_* + 1 if user space was needed
 *	FAULT		guest-physical address, error code
 *	DIRTY		guest frame number, memslot
 *	MARK		who marks, on
 *	ASK		policy, its answer, ns granted
 *	BLOCK		policy, ns granted, why it ended
 *	ROUND		kind, memslot, dirty pages, pages in all
 *	INJECT		vector, soft, once more
 *	EXCEPTION	vector, has an error code, error code, once more
 *	ACCEPT		vector, delivery mode, level
 *	MSI		address, data
 *	WAKEUP		scheduled out, for a reason
 *	ROUTE		policy, vector | candidates << 32, its answer, KVM's own
 *	RESTEER		the device's interrupt in the host, vector, vCPU index before or -1
 *	ATTACH to EJECT	policy, for which VM, what kind of ejection, code
 *	TAKE		policy, from which VM, what kind of error
 */
struct event {
	__u64 ts;
	__u64 dur;
	__u32 vm;
	__u32 tid;
	__s32 vcpu;
	__u32 type;
	__u64 arg[4];
};

/* Of the types ATTACH to TAKE */
struct policy_event {
	struct event ev;
	char name[32];
	char table[16];
	char msg[128];
};

/**
 * struct filter - what is wanted
 * @vm: of this process only, or 0
 * @vcpu: this vCPU only, or NO_VCPU
 * @nr_reasons: exits for these reasons only; 0: all
 * @min_ns: only what took so long; what has no length is left out then
 * @reason: isa << 32 | reason
 */
struct filter {
	__u32 vm;
	__s32 vcpu;
	__u32 nr_reasons;
	__u64 min_ns;
	__u64 reason[REASONS_MAX];
};

/**
 * enum irq_state - what the vCPU does to which an interrupt comes
 * @IRQ_GUEST: in the guest
 * @IRQ_KVM: on its CPU, but in KVM; also asleep there, but for halting
 * @IRQ_HALTED: asleep until an interrupt
 * @IRQ_READY: was woken, and waits for a CPU
 * @IRQ_PREEMPTED: lost its CPU to another thread
 * @IRQ_USER: is with its VMM
 */
enum irq_state {
	IRQ_GUEST,
	IRQ_KVM,
	IRQ_HALTED,
	IRQ_READY,
	IRQ_PREEMPTED,
	IRQ_USER,
	IRQ_STATES,
};

/**
 * struct irq_vcpu - a vCPU as interrupts find it, by struct hist_key with reason 0
 * @addr: struct kvm_vcpu
 * @first: when the first came since its last entry << 3 | its enum irq_state; or 0
 * @came: all of them, by state
 */
struct irq_vcpu {
	__u64 addr;
	__u64 first;
	__u64 came[IRQ_STATES];
};

#define HIST_SLOTS 44
/* Of exits there are not more kinds; each takes room for each CPU that there may be. */
#define HIST_KEYS 128
/* With --per-vcpu: each takes room when it is first used, and once, for all CPUs */
#define HIST_VCPU_KEYS 65536
#define HIST_VCPUS 8192 /* of hist irq */

/**
 * struct hist_key - what a histogram is of
 * @reason: isa << 32 | reason of an exit; else 0
 * @vm: with --per-vcpu: its process
 * @vcpu: and its id; else both are 0
 */
struct hist_key {
	__u64 reason;
	__u32 vm;
	__s32 vcpu;
};

/**
 * struct hist - of times in ns
 * @slot: slot i counts 2^i to 2^(i+1) - 1, slot 0 also 0, the last all above
 * @n: how many
 * @sum: of all
 * @max: longest
 */
struct hist {
	__u64 slot[HIST_SLOTS];
	__u64 n;
	__u64 sum;
	__u64 max;
};

#endif /* __KVMEXT_EVENT_H */
