// SPDX-License-Identifier: GPL-2.0
/* Parameters written by hand: in .bss beside a counter, and static but volatile. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

volatile u64 first __KVMEXT_PARAM(0, 1000, "", "one in .data, at the same place as one in .bss")
	SEC(".data") = 1;
volatile u64 in_bss __KVMEXT_PARAM(0, 1000, "", "starts as 0, so it is in .bss") SEC(".bss");
static volatile u64 own __KVMEXT_PARAM(0, 1000, "", "static, and volatile") SEC(".data") = 2;
KVMEXT_COUNTER(u64, seen, "", "what block() found: first, in_bss and own, by three digits each");

SEC("struct_ops/block")
s64 BPF_PROG(bss_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	seen = first * 1000000 + in_bss * 1000 + own;
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bss = {
	.name = "bss",
	.block = (void *)bss_block,
};
