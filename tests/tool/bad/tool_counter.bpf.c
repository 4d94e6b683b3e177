// SPDX-License-Identifier: GPL-2.0
/* Bad: a counter that is static, which the compiler leaves out as nobody reads it. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

static u64 asks KVMEXT_TAG("counter") KVMEXT_TAG("help=left out") __attribute__((used));

SEC("struct_ops/block")
s64 BPF_PROG(counter_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	asks++;
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops counter = {
	.name = "counter",
	.block = (void *)counter_block,
};
