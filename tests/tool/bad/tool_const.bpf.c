// SPDX-License-Identifier: GPL-2.0
/* Bad: a parameter that is const without volatile, so that its value is compiled in. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

const u64 block_ns __KVMEXT_PARAM(0, 100, "ns", "compiled in") SEC(".rodata") = 5;

SEC("struct_ops/block")
s64 BPF_PROG(const_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return block_ns;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops const_param = {
	.name = "const",
	.block = (void *)const_block,
};
