// SPDX-License-Identifier: GPL-2.0
/* Bad: writes to KVM's memory, which the verifier refuses. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/block")
s64 BPF_PROG(writes, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	vcpu->vcpu_id = 5;
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)writes };
