// SPDX-License-Identifier: GPL-2.0
/*
 * noop: every op is there and none does anything.
 *
 * For: the cost of a table that is attached; a place to start a policy from.
 * Not for: slowing anything down.  A vCPU that is marked under it never blocks.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, rounds, "", "dirty-log events seen");

SEC("struct_ops/dirtied")
void BPF_PROG(noop_dirtied, struct kvm *kvm, struct kvm_vcpu *vcpu, u64 gfn, u32 source)
{
}

SEC("struct_ops/block")
s64 BPF_PROG(noop_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return 0;
}

SEC("struct_ops/dirty_log")
void BPF_PROG(noop_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	__sync_fetch_and_add(&rounds, 1);
}

SEC("struct_ops/end")
void BPF_PROG(noop_end, struct kvm *kvm)
{
}

KVMEXT_ABOUT("does nothing: the cost of an attached table, and a place to start from")
SEC(".struct_ops.link")
struct kvm_throttle_ops noop = {
	.name = "noop",
	.dirtied = (void *)noop_dirtied,
	.block = (void *)noop_block,
	.dirty_log = (void *)noop_dirty_log,
	.end = (void *)noop_end,
};
