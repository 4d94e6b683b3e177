// SPDX-License-Identifier: GPL-2.0
/* Bad: its table has a member that is a number in the kernel's, as a struct of that size. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct other_flags {
	u32 bits;
};

struct kvm_throttle_ops___other {
	u32 vm;
	struct other_flags flags;
	char name[32];
	s64 (*block)(struct kvm *kvm, struct kvm_vcpu *vcpu);
};

SEC("struct_ops/block")
s64 BPF_PROG(answers, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops___other bad = {
	.name = "bad",
	.flags = { 1 },
	.block = (void *)answers,
};
