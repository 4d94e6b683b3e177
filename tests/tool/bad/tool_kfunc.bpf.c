// SPDX-License-Identifier: GPL-2.0
/* Bad: calls a function that no kernel has. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

extern int kvm_throttle_of_another_kernel(struct kvm *kvm) __ksym;

SEC("struct_ops/block")
s64 BPF_PROG(calls, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return kvm_throttle_of_another_kernel(kvm);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)calls };
