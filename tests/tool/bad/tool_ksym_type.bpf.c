// SPDX-License-Identifier: GPL-2.0
/* Bad: reads a variable that is a struct in every kernel as a number. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

extern const int runqueues __ksym;

SEC("struct_ops/block")
s64 BPF_PROG(reads, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return (s64)&runqueues;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)reads };
