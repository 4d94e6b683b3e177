// SPDX-License-Identifier: GPL-2.0
/* For the tests of the tool: sections of its own whose names end as those of parameters do. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u64, knob, 5, 0, 100, "", "in .data");
KVMEXT_COUNTER(u64, asks, "", "in .bss");

volatile u64 own_data[3] SEC(".data.data") = { 9, 9, 9 };
volatile u64 own_bss[3] SEC(".data.bss") = { 9, 9, 9 };

SEC("struct_ops/block")
s64 BPF_PROG(own_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	__sync_fetch_and_add(&asks, 1);
	return knob + own_data[0] + own_bss[0];
}

KVMEXT_ABOUT("sections of its own")
SEC(".struct_ops.link")
struct kvm_throttle_ops own = {
	.name = "own",
	.block = (void *)own_block,
};
