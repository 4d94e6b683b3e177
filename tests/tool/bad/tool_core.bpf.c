// SPDX-License-Identifier: GPL-2.0
/* Bad: reads a field that this kernel's KVM has not, as if built for another. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct kvm_vcpu___other {
	u64 of_another_kernel;
} __attribute__((preserve_access_index));

SEC("struct_ops/block")
s64 BPF_PROG(reads, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return BPF_CORE_READ((struct kvm_vcpu___other *)vcpu, of_another_kernel);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)reads };
