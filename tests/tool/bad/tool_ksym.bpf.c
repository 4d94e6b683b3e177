// SPDX-License-Identifier: GPL-2.0
/* Bad: reads a variable that no kernel has. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

extern const int variable_of_another_kernel __ksym;

SEC("struct_ops/block")
s64 BPF_PROG(reads, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return variable_of_another_kernel;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)reads };
