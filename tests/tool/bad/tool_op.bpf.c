// SPDX-License-Identifier: GPL-2.0
/* Bad: a program for an op that the kernel's table has not. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct kvm_throttle_ops___other {
	u32 vm;
	u32 flags;
	char name[32];
	s64 (*of_another_kernel)(struct kvm *kvm);
};

SEC("struct_ops/of_another_kernel")
s64 BPF_PROG(decides, struct kvm *kvm)
{
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops___other bad = { .name = "bad", .of_another_kernel = (void *)decides };
