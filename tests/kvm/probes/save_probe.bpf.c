// SPDX-License-Identifier: GPL-2.0
/*
 * save_probe: notes what select() is told and answers as the test's knobs say.
 *
 * For tests only.
 */
#include "kvmext.bpf.h"
#include "tests/kvm/probes/save_probe.h"

char _license[] SEC("license") = "GPL";

volatile struct save_probe_knobs knobs SEC(".data") = { .resumes = 256 };
struct save_probe_counts counts SEC(".bss") = {};

SEC("struct_ops/select")
s64 BPF_PROG(save_probe_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
{
	u32 i;

	_Static_assert(KVM_SAVE_NR_KINDS == SAVE_PROBE_KINDS, "the header has no vmlinux.h");
	__sync_fetch_and_add(&counts.asked, 1);
	if (!stats->ns)
		__sync_fetch_and_add(&counts.firsts, 1);
	if (stats->vcpu_idx < SAVE_PROBE_CPUS)
		__sync_fetch_and_add(&counts.asked_vcpu[stats->vcpu_idx & (SAVE_PROBE_CPUS - 1)],
				     1);
#pragma clang loop unroll(full)
	for (i = 0; i < SAVE_PROBE_KINDS; i++) {
		__sync_fetch_and_add(&counts.exits[i], stats->exits[i]);
		__sync_fetch_and_add(&counts.resumed[i], stats->resumed[i]);
	}
	if (stats->longest_ns > counts.longest_ns)
		counts.longest_ns = stats->longest_ns;
	if (stats->longest_batch > counts.longest_batch)
		counts.longest_batch = stats->longest_batch;
	if (stats->waiting)
		__sync_fetch_and_add(&counts.waiting, 1);
	counts.vcpu_id = stats->vcpu_id;
	counts.cpu = stats->cpu;
	counts.safe = stats->safe;

	if (stats->ns && !counts.kinds) {
		counts.idle++;
		if (stats->longest_batch > counts.idle_batch)
			counts.idle_batch = stats->longest_batch;
	}
	counts.kinds = 1;

	switch (knobs.how) {
	case SAVE_PROBE_FIXED:
		counts.kinds = knobs.answer;
		return knobs.answer;
	case SAVE_PROBE_WILD:
		if (bpf_get_prandom_u32() & 1)
			break;
		return ((u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32()) & ~(1ULL << 63);
	}
	return KVM_SAVE_ANSWER(stats->safe, knobs.classes, knobs.resumes);
}

SEC("struct_ops/end")
void BPF_PROG(save_probe_end, struct kvm *kvm)
{
	__sync_fetch_and_add(&counts.ends, 1);
}

KVMEXT_ABOUT("test only: notes what it is told and answers as told")
SEC(".struct_ops.link")
struct kvm_save_ops save_probe = {
	.name = "save_probe",
	.select = (void *)save_probe_select,
	.end = (void *)save_probe_end,
};
