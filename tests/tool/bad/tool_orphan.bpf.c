// SPDX-License-Identifier: GPL-2.0
/* Bad: a program that is for no op of the table. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/block")
s64 BPF_PROG(forgotten, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad" };
