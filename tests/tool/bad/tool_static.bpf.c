// SPDX-License-Identifier: GPL-2.0
/* Bad: a parameter that is static, whose value the compiler puts into the instructions. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

static u64 block_ns __KVMEXT_PARAM(0, 100, "ns", "compiled in") SEC(".data") = 5;

SEC("struct_ops/block")
s64 BPF_PROG(static_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return block_ns;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops static_param = {
	.name = "static",
	.block = (void *)static_block,
};
