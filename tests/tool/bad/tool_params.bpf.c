// SPDX-License-Identifier: GPL-2.0
/* For the tests of the tool: every type of variable, and a block() that asks for what is set. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM_RO(u32, target_ms, 300, 1, 10000, "ms", "a load-time parameter with a unit");
KVMEXT_PARAM_RO(bool, strict, false, 0, 1, "", "a load-time switch");
KVMEXT_PARAM(s64, gain, -5, -100, 100, "%", "a signed one");
KVMEXT_PARAM(u64, huge, 0, 0, 18446744073709551615, "", "as wide as it gets");
KVMEXT_PARAM(u8, small, 7, 0, 255, "", "one byte");
KVMEXT_PARAM(s16, medium, -1, -32768, 32767, "", "two bytes");
KVMEXT_PARAM(bool, loud, true, 0, 1, "", "a switch");
KVMEXT_PARAM(u64, block_ns, 2000000, 0, 100000000, "ns", "answer of block()");
KVMEXT_PARAM(u64, go_wrong, 0, 0, 1, "", "1: report an error at the next round");
KVMEXT_COUNTER(u64, asks, "", "calls of block()");
KVMEXT_COUNTER(s32, level, "pages", "a signed counter");

u64 private_sum;

SEC("struct_ops/block")
s64 BPF_PROG(params_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	__sync_fetch_and_add(&asks, 1);
	level = gain;
	private_sum += target_ms + huge + small + medium + loud + strict;
	return block_ns;
}

SEC("struct_ops/dirty_log")
void BPF_PROG(params_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	if (go_wrong)
		kvm_throttle_error(kvm, -5, "asked to fail; \"quoted\"");
}

KVMEXT_ABOUT("every type of parameter")
SEC(".struct_ops.link")
struct kvm_throttle_ops params = {
	.name = "params-1.0",
	.block = (void *)params_block,
	.dirty_log = (void *)params_dirty_log,
};
