// SPDX-License-Identifier: GPL-2.0
/*
 * noop for interrupts: every op is there and none does anything.
 *
 * For: the cost of a table that is attached; a place to start a policy from.
 * Not for: moving an interrupt.  Each goes where KVM sends it.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, ends, "", "VMs that ended");

SEC("struct_ops/route")
s32 BPF_PROG(noop_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	return KVM_IRQ_DEFAULT;
}

SEC("struct_ops/run")
void BPF_PROG(noop_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how, u64 off_ns)
{
}

SEC("struct_ops/retarget")
s32 BPF_PROG(noop_retarget, struct kvm *kvm, u32 left)
{
	return 0;
}

SEC("struct_ops/end")
void BPF_PROG(noop_end, struct kvm *kvm)
{
	__sync_fetch_and_add(&ends, 1);
}

KVMEXT_ABOUT("does nothing: the cost of an attached table, and a place to start from")
SEC(".struct_ops.link")
struct kvm_irq_ops noop_irq = {
	.name = "noop",
	.route = (void *)noop_route,
	.run = (void *)noop_run,
	.retarget = (void *)noop_retarget,
	.end = (void *)noop_end,
};
