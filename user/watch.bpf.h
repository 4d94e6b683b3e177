/* SPDX-License-Identifier: GPL-2.0 */
/* What the tool's watchers of KVM share.  They need nothing of kvm_ext's patches. */
#ifndef __KVMEXT_WATCH_BPF_H
#define __KVMEXT_WATCH_BPF_H

/* An attach point's arguments are fixed, and BPF_PROG() adds ctx. */
#pragma clang diagnostic ignored "-Wunused-parameter"
#define BPF_NO_KFUNC_PROTOTYPES
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define KVM_MEM_LOG_DIRTY_PAGES 1

/*
 * The tracepoint's arguments do not have the reason.  It is in the vendor's own
 * part of the vCPU, of which struct kvm_vcpu is the head; these are the fields
 * that matter, found by name where the kernel has them.
 */
struct vmcb_control_area___x {
	u32 exit_code;
} __attribute__((preserve_access_index));

struct vmcb___x {
	struct vmcb_control_area___x control;
} __attribute__((preserve_access_index));

struct vcpu_svm___x {
	struct vmcb___x *vmcb;
} __attribute__((preserve_access_index));

union vmx_exit_reason___x {
	u32 full;
} __attribute__((preserve_access_index));

struct vcpu_vmx___x {
	union vmx_exit_reason___x exit_reason;
} __attribute__((preserve_access_index));

/* Since 6.16, where TDX shares it */
struct vcpu_vt___x {
	union vmx_exit_reason___x exit_reason;
} __attribute__((preserve_access_index));

struct vcpu_vmx___vt {
	struct vcpu_vt___x vt;
} __attribute__((preserve_access_index));

/* A KVM that runs its guests without the hardware's help */
struct vcpu_pvm___x {
	u32 exit_reason;
} __attribute__((preserve_access_index));

/* kvm_exit's isa; ISA_USER: no exit of the hardware's, but KVM_EXIT_* */
#define ISA_USER 0
#define ISA_VMX 1
#define ISA_SVM 2

/*
 * The reason that kvm_exit's own record has, read where the vendor keeps it; -1 if that
 * is not known.  struct kvm_vcpu is the first member of each of these.
 */
static __always_inline u32 exit_reason(const struct kvm_vcpu *vcpu, u32 isa)
{
	if (bpf_core_field_exists(struct vcpu_pvm___x, exit_reason))
		return BPF_CORE_READ((struct vcpu_pvm___x *)vcpu, exit_reason);
	if (isa == ISA_SVM && bpf_core_field_exists(struct vcpu_svm___x, vmcb))
		return BPF_CORE_READ((struct vcpu_svm___x *)vcpu, vmcb, control.exit_code);
	if (isa == ISA_VMX && bpf_core_field_exists(struct vcpu_vmx___x, exit_reason))
		return BPF_CORE_READ((struct vcpu_vmx___x *)vcpu, exit_reason.full) & 0xffff;
	if (isa == ISA_VMX && bpf_core_field_exists(struct vcpu_vmx___vt, vt))
		return BPF_CORE_READ((struct vcpu_vmx___vt *)vcpu, vt.exit_reason.full) & 0xffff;
	return -1;
}

/*
 * Neither vendor's module is loaded.  A KVM of its own kind was met that has kvm_entry
 * and kvm_exit and never calls them; there, an exit is one to user space.  kvm_fpu tells
 * when KVM_RUN begins and ends: it loads the guest's FPU and puts it away.
 */
const volatile bool foreign;
bool spoke; /* kvm_entry or kvm_exit was called, so that is not so here */

static __always_inline void speaks(void)
{
	if (foreign && !spoke)
		spoke = true;
}

static __always_inline bool silent_kvm(void)
{
	return foreign && !spoke;
}

/*
 * The vCPU whose KVM_RUN this thread is in, or NULL.  KVM alone uses preempt
 * notifiers, and a thread has one from vcpu_load() to vcpu_put(), asleep or not.
 */
static __always_inline u64 task_vcpu(struct task_struct *task)
{
	u64 notifier = (u64)task->preempt_notifiers.first;

	return notifier ? notifier - bpf_core_field_offset(struct preempt_notifier, link) -
				  bpf_core_field_offset(struct kvm_vcpu, preempt_notifier) :
			  0;
}

/* CONFIG_MEMCG has it */
struct mm_struct___owner {
	struct task_struct *owner;
} __attribute__((preserve_access_index));

/*
 * The process id of a VM's VMM.  kvm->userspace_pid is the id of whichever thread made the
 * VM; the memory's owner knows the process, until that has exited.
 */
static __always_inline u32 vm_pid(const struct kvm *kvm)
{
	struct mm_struct___owner *mm = (void *)BPF_CORE_READ(kvm, mm);
	struct task_struct *owner;

	if (bpf_core_field_exists(mm->owner)) {
		owner = BPF_CORE_READ(mm, owner);
		if (owner)
			return BPF_CORE_READ(owner, tgid);
	}
	return BPF_CORE_READ(kvm, userspace_pid);
}

/*
 * Why KVM does not let the hardware take this VM's interrupts: bits of
 * enum kvm_apicv_inhibit, 0: it does; all ones: this kernel does not tell
 */
static __always_inline u64 vm_inhibits(const struct kvm *kvm)
{
	if (!bpf_core_field_exists(kvm->arch.apicv_inhibit_reasons))
		return ~0ULL;
	return BPF_CORE_READ(kvm, arch.apicv_inhibit_reasons);
}

/*
 * mark_page_dirty_in_slot() marks every page that KVM finds dirty.  Is it news to
 * the log?  With a ring each is an entry; in a bitmap the bit may be set already.
 */
static __always_inline bool dirty_news(struct kvm *kvm, const struct kvm_memory_slot *slot, u64 gfn)
{
	u64 rel, word = 0;

	if (!slot || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return false;
	if (kvm->dirty_ring_size)
		return true;
	if (!slot->dirty_bitmap)
		return false;
	rel = gfn - slot->base_gfn;
	if (bpf_probe_read_kernel(&word, sizeof(word), slot->dirty_bitmap + rel / 64))
		return false;
	return !(word >> rel % 64 & 1);
}

#endif /* __KVMEXT_WATCH_BPF_H */
