// SPDX-License-Identifier: GPL-2.0
/* For the tests of the tool: texts that are not ASCII. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u64, plain, 1, 0, 9, "ms", "Größe é 時間");
KVMEXT_PARAM(u64, micro, 2, 0, 9, "µs", "Länge");
KVMEXT_PARAM(u64, wide, 3, 0, 9, "頁", "two columns for one character");

SEC("struct_ops/block")
s64 BPF_PROG(utf8_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return plain + micro + wide;
}

KVMEXT_ABOUT("für Tests")
SEC(".struct_ops.link")
struct kvm_throttle_ops utf8 = {
	.name = "utf8",
	.block = (void *)utf8_block,
};
