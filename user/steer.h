/* SPDX-License-Identifier: GPL-2.0 */
/* What user/steer.bpf.c and kvmext steer agree on. */
#ifndef __KVMEXT_STEER_H
#define __KVMEXT_STEER_H

#define STEER_QUEUES 256 /* tun's own limit */
#define STEER_VCPUS 4096 /* KVM's own limit of vCPU ids */
#define STEER_FLOWS 4096
#define STEER_TAP 16 /* IFNAMSIZ */

/**
 * enum run_state - what a vCPU's thread does
 * @RUN_UNKNOWN: it was not met yet
 * @RUN_RUNNING: has a CPU: in the guest, in KVM, polling, or in the VMM
 * @RUN_HALTED: sleeps until an interrupt
 * @RUN_READY: was woken, and waits for a CPU
 * @RUN_PREEMPTED: lost its CPU to another thread
 * @RUN_AWAY: sleeps for something else: in the VMM, or blocked in KVM
 */
enum run_state {
	RUN_UNKNOWN,
	RUN_RUNNING,
	RUN_HALTED,
	RUN_READY,
	RUN_PREEMPTED,
	RUN_AWAY,
	RUN_STATES,
};

/**
 * struct steer_vcpu - run state of a vCPU; by its id in map "vcpus", which can be mapped
 * @since: CLOCK_MONOTONIC
 * @cpu: that it has, or had last
 * @state: enum run_state
 * @woken_ns: how long it waited for a CPU after being woken, lately
 * @preempted_ns: how long it lacked its CPU when it was preempted, lately
 */
struct steer_vcpu {
	__u64 since;
	__u32 cpu;
	__u32 state;
	__u64 woken_ns;
	__u64 preempted_ns;
};

/**
 * struct steer_queue - where a queue's interrupt goes; by tun's number in map "queues"
 * @vcpu: its id + 1; 0: not known
 * @other: the id + 1 to which the last one went, if that was another
 * @times: how many consecutive times
 */
struct steer_queue {
	__u32 vcpu;
	__u32 other;
	__u32 times;
};

/**
 * struct steer_count - what was steered to a queue
 * @packets: all
 * @bursts: of them
 * @moved: bursts whose home is another queue
 * @state: bursts, by the state of the queue's vCPU when the burst began
 */
struct steer_count {
	__u64 packets;
	__u64 bursts;
	__u64 moved;
	__u64 state[RUN_STATES];
};

#endif /* __KVMEXT_STEER_H */
