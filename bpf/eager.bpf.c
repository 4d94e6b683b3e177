// SPDX-License-Identifier: GPL-2.0
/*
 * eager: KVM as it is.
 *
 * For: a VM that is to be left out of a policy for every VM; a base to measure
 * the others against.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, ends, "", "VMs that ended");

SEC("struct_ops/end")
void BPF_PROG(eager_end, struct kvm *kvm)
{
	__sync_fetch_and_add(&ends, 1);
}

KVMEXT_ABOUT("every exit is a full exit, as in stock KVM")
SEC(".struct_ops.link")
struct kvm_save_ops eager = {
	.name = "eager",
	.end = (void *)eager_end,
};
