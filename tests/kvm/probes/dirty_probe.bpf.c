// SPDX-License-Identifier: GPL-2.0
/*
 * dirty_probe: notes what harvest() is told and answers as the test's knobs say.
 *
 * For tests only.
 */
#include "kvmext.bpf.h"
#include "tests/kvm/probes/dirty_probe.h"

char _license[] SEC("license") = "GPL";

volatile struct dirty_probe_knobs knobs SEC(".data") = {};
struct dirty_probe_counts counts SEC(".bss") = {};

static u64 answer(u64 mask, u64 out)
{
	u64 spun = 0;
	u32 i;

	counts.pages += kvmext_popcount(mask);
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
	return mask & ~out;
}

static void note(struct kvm *kvm, struct kvm_dirty_block *block, bool atomic)
{
	if (!counts.asked)
		counts.first_gfn = block->gfn;
	counts.asked++;
	counts.slot = block->slot;
	counts.clock = kvm_dirty_clock(kvm);
	if (knobs.how == DIRTY_PROBE_ERROR)
		kvm_dirty_error(kvm, 7, "as the test wants");
	if (knobs.read == DIRTY_PROBE_READ && !atomic)
		counts.ret = kvm_dirty_read(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	else if (knobs.read != DIRTY_PROBE_NONE)
		counts.ret = kvm_dirty_read_atomic(kvm, knobs.gpa, counts.got, sizeof(counts.got));
	if (counts.ret == -11)
		counts.again++;
}

static __always_inline void harvest(struct kvm *kvm, struct kvm_dirty_block *block, bool atomic)
{
	u64 *words = kvm_dirty_words(block, KVM_DIRTY_WORDS * sizeof(u64)), out = knobs.out;
	u32 i;

	if (!words)
		return;
	note(kvm, block, atomic);
	/* As of a guest that took them into use in between */
	if (block->pass == KVM_DIRTY_FINAL)
		out &= ~knobs.used;
	bpf_for(i, 0, KVM_DIRTY_WORDS) {
		u64 k = i, *word;

		/* That the verifier sees it bounded */
		asm volatile("%0 &= 63" : "+r"(k));
		word = words + k;
		if (!*word || i >= block->words)
			continue;
		counts.last_gfn = block->gfn + i * 64;
		*word = answer(*word, out);
	}
}

SEC("struct_ops/harvest")
void BPF_PROG(dirty_probe_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	harvest(kvm, block, false);
}

SEC("struct_ops/harvest")
void BPF_PROG(dirty_probe_harvest_atomic, struct kvm *kvm, struct kvm_dirty_block *block)
{
	harvest(kvm, block, true);
}

SEC("struct_ops/basis")
u64 BPF_PROG(dirty_probe_basis, struct kvm *kvm, u32 slot)
{
	counts.based++;
	return knobs.doubt ? 0 : knobs.basis + 1;
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
	.basis = (void *)dirty_probe_basis,
	.end = (void *)dirty_probe_end,
};

KVMEXT_ABOUT("test only: the same without basis(), and it reads only what is there")
SEC(".struct_ops.link")
struct kvm_dirty_ops dirty_probe_atomic = {
	.name = "dirty_atomic",
	.harvest = (void *)dirty_probe_harvest_atomic,
	.end = (void *)dirty_probe_end,
};
