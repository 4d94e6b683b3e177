// SPDX-License-Identifier: GPL-2.0
/* Bad: a parameter in a section of its own, which the tool does not look into. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

volatile u64 block_ns __KVMEXT_PARAM(0, 100, "ns", "out of sight") SEC(".data.mine") = 5;

SEC("struct_ops/block")
s64 BPF_PROG(section_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return block_ns;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops section = {
	.name = "section",
	.block = (void *)section_block,
};
