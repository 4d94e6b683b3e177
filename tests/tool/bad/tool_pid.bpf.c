// SPDX-License-Identifier: GPL-2.0
/* Bad: a kfunc that is for the tool's programs, called in an op. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/block")
s64 BPF_PROG(calls, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return kvm_throttle_mark_pid(1, 0, true);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)calls };
