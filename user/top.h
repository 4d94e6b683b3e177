/* SPDX-License-Identifier: GPL-2.0 */
/* What user/top.bpf.c counts for a vCPU, as user/vms.c reads it from the mapped array. */
#ifndef __KVMEXT_TOP_H
#define __KVMEXT_TOP_H

#define TOP_VCPUS 4096 /* more than that at a time are counted in "lost" */

/*
 * Exit reasons in one row: the vendor's small numbers, AMD's second block at 0x400, and one for
 * all others (such as -1, SVM's error).
 */
#define TOP_LOW 192
#define TOP_NPF 0x400
#define TOP_NPF_NR 8
#define TOP_OTHER (TOP_LOW + TOP_NPF_NR)
#define TOP_REASONS (TOP_OTHER + 1)

struct top_reason {
	__u64 n;
	__u64 ns; /* from the exit to the next entry */
};

/**
 * struct top_vcpu - a vCPU's counters since it was met
 * @vcpu: struct kvm_vcpu's address while it lives, then 0
 * @key: the same, but it stays
 * @kvm: struct kvm's address; a process may have several VMs
 * @tgid: the VMM's process id
 * @id: the vCPU's id
 * @isa: whose exit numbers @reason has
 * @tid: the thread that ran it last
 * @inhibits: bits of enum kvm_apicv_inhibit, all ones if not known
 * @inhibits_ns: when these were read
 * @last: index of the last exit's reason
 * @exit_ns: when it left the guest
 * @entry_ns: when it entered the guest; after @exit_ns while it is in there
 * @guest_ns: in the guest, to the last exit
 * @outside_ns: between exit and entry, to the last entry
 * @halt_since: halted since then, or 0
 * @halted_ns: HLT, polling included
 * @delay: the scheduler's count of time that @tid was runnable and did not run
 * @ready_ns: the same, summed over threads since the vCPU was met
 * @blocked_ns: blocked by a throttle policy
 * @asks: times that the policy was asked
 * @blocks: times that it was blocked
 * @dirty: pages dirtied that were not dirty in the log
 * @injected: interrupts injected by KVM at an entry
 * @posted: interrupts given to APICv or AVIC
 * @irq_since: oldest interrupt that waits for injection, or 0
 * @inj_n: injections with a known start
 * @inj_ns: from being raised to being injected
 * @wake_since: woken from a halt then, not entered yet; or 0
 * @wake_n: halts that ended in a sleep's wake-up
 * @wake_ns: from wake-up to entry
 *
 * All but the interrupts' fields are written by the vCPU's thread alone.
 */
struct top_vcpu {
	__u64 vcpu;
	__u64 key;
	__u64 kvm;
	__u32 tgid;
	__u32 id;
	__u32 isa;
	__u32 tid;
	__u64 inhibits;
	__u64 inhibits_ns;
	__u64 last;
	__u64 exit_ns;
	__u64 entry_ns;
	__u64 guest_ns;
	__u64 outside_ns;
	__u64 halt_since;
	__u64 halted_ns;
	__u64 delay;
	__u64 ready_ns;
	__u64 blocked_ns;
	__u64 asks;
	__u64 blocks;
	__u64 dirty;
	__u64 injected;
	__u64 posted;
	__u64 irq_since;
	__u64 inj_n;
	__u64 inj_ns;
	__u64 wake_since;
	__u64 wake_n;
	__u64 wake_ns;
	struct top_reason reason[TOP_REASONS];
};

#endif /* __KVMEXT_TOP_H */
