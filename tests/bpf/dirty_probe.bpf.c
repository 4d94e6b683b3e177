// SPDX-License-Identifier: GPL-2.0
/*
 * dirty_probe: notes what harvest() is told and answers as the test's knobs say.
 *
 * For tests only.
 */
#include "kvmext.bpf.h"
#include "tests/bpf/dirty_probe.h"

char _license[] SEC("license") = "GPL";

volatile struct dirty_probe_knobs knobs SEC(".data") = {};
struct dirty_probe_counts counts SEC(".bss") = {};

static u64 answer(u64 mask)
{
	u64 left = mask, spun = 0;
	u32 i;

	counts.asked++;
	for (i = 0; i < 64 && left; i++) {
		left &= left - 1;
		counts.pages++;
	}

	switch (knobs.how) {
	case DIRTY_PROBE_WILD:
		return (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	case DIRTY_PROBE_ADD:
		return ~0ULL;
	case DIRTY_PROBE_SLOW:
		bpf_for(i, 0, knobs.spin)
			spun += i;
		/* Else the compiler knows that nobody looks */
		return mask | (spun == 1);
	}
	return mask & ~knobs.out;
}

static void note(struct kvm *kvm, u32 slot, u64 gfn)
{
	if (!counts.asked)
		counts.first_gfn = gfn;
	counts.last_gfn = gfn;
	counts.slot = slot;
	counts.clock = kvm_dirty_clock(kvm);
	if (knobs.how == DIRTY_PROBE_ERROR)
		kvm_dirty_error(kvm, 7, "as the test wants");
}

SEC("struct_ops/harvest")
u64 BPF_PROG(dirty_probe_harvest, struct kvm *kvm, u32 slot, u64 gfn, u64 mask)
{
	note(kvm, slot, gfn);
	if (knobs.read == DIRTY_PROBE_SLEEP)
		counts.ret = kvm_dirty_read(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	else if (knobs.read == DIRTY_PROBE_ATOMIC)
		counts.ret = kvm_dirty_read_atomic(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	return answer(mask);
}

SEC("struct_ops/harvest")
u64 BPF_PROG(dirty_probe_harvest_atomic, struct kvm *kvm, u32 slot, u64 gfn, u64 mask)
{
	note(kvm, slot, gfn);
	if (knobs.read == DIRTY_PROBE_ATOMIC)
		counts.ret = kvm_dirty_read_atomic(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	return answer(mask);
}

SEC("struct_ops/end")
void BPF_PROG(dirty_probe_end, struct kvm *kvm)
{
	/* There is nothing to read from any more, and it may not */
	counts.ret = kvm_dirty_read_atomic(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	__sync_fetch_and_add(&counts.ends, 1);
}

KVMEXT_ABOUT("test only: notes what it is told and answers as told")
SEC(".struct_ops.link")
struct kvm_dirty_ops dirty_probe = {
	.name = "dirty_probe",
	.harvest = (void *)dirty_probe_harvest,
	.end = (void *)dirty_probe_end,
};

KVMEXT_ABOUT("test only: the same, and it reads only what is there")
SEC(".struct_ops.link")
struct kvm_dirty_ops dirty_probe_atomic = {
	.name = "dirty_atomic",
	.harvest = (void *)dirty_probe_harvest_atomic,
	.end = (void *)dirty_probe_end,
};
