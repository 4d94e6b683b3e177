// SPDX-License-Identifier: GPL-2.0
/*
 * noop for the dirty log: every op is there and none does anything.
 *
 * For: the cost of a table that is attached and asked; a place to start a policy from.
 * Not for: sending less.  Every page that is dirty is let through.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, blocks, "", "stretches of 4096 pages that were asked about");
KVMEXT_COUNTER(u64, ends, "", "VMs that ended");

SEC("struct_ops/harvest")
void BPF_PROG(noop_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	__sync_fetch_and_add(&blocks, 1);
}

SEC("struct_ops/basis")
u64 BPF_PROG(noop_basis, struct kvm *kvm, u32 slot)
{
	return 1;
}

SEC("struct_ops/end")
void BPF_PROG(noop_end, struct kvm *kvm)
{
	__sync_fetch_and_add(&ends, 1);
}

KVMEXT_ABOUT("does nothing: the cost of an attached table, and a place to start from")
SEC(".struct_ops.link")
struct kvm_dirty_ops noop_dirty = {
	.name = "noop",
	.harvest = (void *)noop_harvest,
	.basis = (void *)noop_basis,
	.end = (void *)noop_end,
};
