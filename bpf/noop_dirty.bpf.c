// SPDX-License-Identifier: GPL-2.0
/*
 * noop for the dirty log: every op is there and none does anything.
 *
 * For: the cost of a table that is attached and asked; a place to start a policy from.
 * Not for: sending less.  Every page that is dirty is let through.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, words, "", "words of 64 pages that were asked about");
KVMEXT_COUNTER(u64, ends, "", "VMs that ended");

SEC("struct_ops/harvest")
u64 BPF_PROG(noop_harvest, struct kvm *kvm, u32 slot, u64 gfn, u64 mask)
{
	__sync_fetch_and_add(&words, 1);
	return mask;
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
	.end = (void *)noop_end,
};
