// SPDX-License-Identifier: GPL-2.0
/* Bad: dirtied() must not sleep. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops.s/dirtied")
void BPF_PROG(sleeps, struct kvm *kvm, struct kvm_vcpu *vcpu, u64 gfn, u32 source)
{
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .dirtied = (void *)sleeps };
