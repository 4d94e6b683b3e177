// SPDX-License-Identifier: GPL-2.0
/*
 * misbehave: the worst answers, on demand.
 *
 * For: tests of what KVM does with them.
 * Not for: anything else.  It cannot crash a guest or a host, but slows them.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

enum mode {
	WELL,
	HUGE, /* block(): the largest number there is */
	NEGATIVE, /* block(): outside the allowed set */
	RANDOM, /* block(): any 64 bits */
	GIVE_UP_DIRTIED, /* error from dirtied(): a run queue's lock may be held */
	GIVE_UP_BLOCK, /* error from block() */
	GIVE_UP_DIRTY_LOG, /* error from dirty_log() */
	SLOW, /* dirtied(): takes its time */
	NO_SUCH_VCPU, /* kfuncs with indices that are none */
	MARK_STORM, /* mark and unmark every vCPU at each page */
	NR_MODES,
};

KVMEXT_PARAM(
	u32, mode, 0, 0, 9, "",
	"0 well, 1 huge, 2 negative, 3 random, 4 to 6 give up in dirtied, block, round, 7 slow, 8 no such vCPU, 9 mark storm");

KVMEXT_COUNTER(u64, dirtied_calls, "", "calls of dirtied()");
KVMEXT_COUNTER(u64, block_calls, "", "calls of block()");
KVMEXT_COUNTER(u64, round_calls, "", "calls of dirty_log()");
KVMEXT_COUNTER(u64, found, "", "vCPUs found where there are none: must stay 0");

static u64 spun;

static long spin(u32 i, void *ctx)
{
	__sync_fetch_and_add(&spun, 1);
	return 0;
}

SEC("struct_ops/dirtied")
void BPF_PROG(misbehave_dirtied, struct kvm *kvm, struct kvm_vcpu *vcpu, u64 gfn, u32 source)
{
	struct kvm_throttle_stat stat = {};
	u32 i;

	__sync_fetch_and_add(&dirtied_calls, 1);
	switch (mode) {
	case GIVE_UP_DIRTIED:
		kvm_throttle_error(kvm, -4, "gave up in dirtied, as it was told");
		kvm_throttle_error(kvm, -5, "a second error, which must not show");
		break;
	case SLOW:
		bpf_loop(1 << 21, spin, NULL, 0);
		break;
	case NO_SUCH_VCPU:
		i = bpf_get_prandom_u32() | 0x10000;
		if (!kvm_throttle_mark(kvm, i, true) || !kvm_throttle_stat(kvm, i, &stat) ||
		    !kvm_throttle_mark(kvm, -1, true))
			__sync_fetch_and_add(&found, 1);
		break;
	case MARK_STORM:
		bpf_for(i, 0, kvm_throttle_nr_vcpus(kvm)) {
			kvm_throttle_mark(kvm, i, false);
			kvm_throttle_mark(kvm, i, true);
		}
		break;
	}
}

SEC("struct_ops/block")
s64 BPF_PROG(misbehave_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	__sync_fetch_and_add(&block_calls, 1);
	switch (mode) {
	case HUGE:
		return 0x7fffffffffffffffLL;
	case NEGATIVE:
		return -1;
	case RANDOM:
		return (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	case GIVE_UP_BLOCK:
		kvm_throttle_error(kvm, -5, "gave up in block, as it was told");
		return 100000000;
	}
	return 0;
}

SEC("struct_ops/dirty_log")
void BPF_PROG(misbehave_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	__sync_fetch_and_add(&round_calls, 1);
	if (mode == GIVE_UP_DIRTY_LOG)
		kvm_throttle_error(kvm, -6, "gave up in dirty_log, as it was told");
}

KVMEXT_ABOUT("test only: the worst answers, on demand")
SEC(".struct_ops.link")
struct kvm_throttle_ops misbehave = {
	.flags = KVM_THROTTLE_F_ANY_VCPU,
	.name = "misbehave",
	.dirtied = (void *)misbehave_dirtied,
	.block = (void *)misbehave_block,
	.dirty_log = (void *)misbehave_dirty_log,
};
