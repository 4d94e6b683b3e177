// SPDX-License-Identifier: GPL-2.0
/*
 * noop for exits: every op is there and none does anything.
 *
 * For: the cost of a table that is attached and asked; a place to start a policy from.
 * Not for: handling exits in the fastpath.  Every exit is a full exit.  Under eager it is
 * too, and no op is called.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, ends, "", "VMs that ended");

SEC("struct_ops/select")
s64 BPF_PROG(noop_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
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
struct kvm_save_ops noop_save = {
	.name = "noop",
	.select = (void *)noop_select,
	.end = (void *)noop_end,
};
