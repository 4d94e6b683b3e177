// SPDX-License-Identifier: GPL-2.0
/*
 * probe: counts every call and does what the test's knobs say, well or badly.
 *
 * For tests only.  Each load has its own counts, so two of them can show
 * between them that no call was lost.
 */
#include "kvmext.bpf.h"
#include "tests/kvm/probes/probe.h"

char _license[] SEC("license") = "GPL";

volatile struct probe_knobs knobs SEC(".data") = {};
struct probe_counts counts SEC(".bss") = {};

/*
 * An element of an array whose size is a power of two.  clang may test one
 * register and use another; this the verifier can follow.
 */
#define AT(array, i)                                                      \
	(*({                                                              \
		u64 __i = (i);                                            \
		barrier_var(__i);                                         \
		&(array)[__i & (sizeof(array) / sizeof((array)[0]) - 1)]; \
	}))

static void look(struct kvm *kvm)
{
	if ((u64)kvm == counts.ended)
		__sync_fetch_and_add(&counts.late, 1);
}

static long until(u32 i, u64 *end)
{
	return bpf_ktime_get_ns() >= *end;
}

static void burn(u32 op)
{
	u64 end;

	if (!(knobs.slow_ops & op))
		return;
	end = bpf_ktime_get_ns() + knobs.slow_ns;
	bpf_loop(1 << 23, until, &end, 0);
}

static void raise_error(struct kvm *kvm, u32 op)
{
	if (!(knobs.error_ops & op))
		return;
	/* Only the first of the two may be seen. */
	kvm_throttle_error(kvm, knobs.error_code, "probe: the first error");
	kvm_throttle_error(kvm, knobs.error_code + 1, "probe: the second error");
}

SEC("struct_ops/dirtied")
void BPF_PROG(probe_dirtied, struct kvm *kvm, struct kvm_vcpu *vcpu, u64 gfn, u32 source)
{
	u32 id = vcpu->vcpu_id, idx = vcpu->vcpu_idx;
	u64 page = gfn - knobs.base;

	look(kvm);
	if (vcpu->scheduled_out)
		__sync_fetch_and_add(&counts.out, 1);
	if (source < 4)
		__sync_fetch_and_add(&AT(counts.dirtied, source), 1);
	else
		__sync_fetch_and_add(&counts.other_source, 1);
	if (id < PROBE_CPUS)
		__sync_fetch_and_add(&AT(counts.dirtied_cpu, id), 1);
	if (page < PROBE_PAGES)
		__sync_fetch_and_add(&AT(counts.page, page), 1);
	else
		__sync_fetch_and_add(&counts.outside, 1);
	burn(PROBE_IN_DIRTIED);
	if (knobs.mark_on_dirty)
		kvm_throttle_mark(kvm, idx, true);
	if (source < 4 && knobs.error_sources & 1U << source)
		raise_error(kvm, PROBE_IN_DIRTIED);
}

SEC("struct_ops/block")
s64 BPF_PROG(probe_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	u64 n = __sync_fetch_and_add(&counts.asks, 1);
	s64 answer = knobs.answer;
	u32 id = vcpu->vcpu_id;
	u64 rnd;

	look(kvm);
	AT(counts.ask_ns, n) = bpf_ktime_get_ns();
	if (id < PROBE_CPUS)
		__sync_fetch_and_add(&AT(counts.asks_cpu, id), 1);
	burn(PROBE_IN_BLOCK);
	raise_error(kvm, PROBE_IN_BLOCK);
	if (knobs.how != PROBE_FIXED) {
		rnd = (u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
		/* Every magnitude alike, not nearly always the largest. */
		answer = rnd >> (bpf_get_prandom_u32() & 63);
		if (knobs.how == PROBE_RANDOM)
			answer = (u64)answer & ~(1ULL << 63);
		else if (rnd & 1)
			answer = -answer;
	}
	if (knobs.bad_nr && knobs.bad_nr == kvm_throttle_nr_vcpus(kvm))
		answer = -1;
	if (answer > 0)
		__sync_fetch_and_add(&counts.answered, answer);
	return answer;
}

SEC("struct_ops/dirty_log")
void BPF_PROG(probe_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	struct probe_round *seen = &AT(counts.round, __sync_fetch_and_add(&counts.rounds, 1));
	struct kvm_throttle_stat st = {};
	u32 event = log->event, i;

	look(kvm);
	seen->now_ns = log->now_ns;
	seen->dirty = log->dirty;
	seen->npages = log->npages;
	seen->logged_pages = log->logged_pages;
	seen->vm_pages = log->vm_pages;
	seen->logged_slots = log->logged_slots;
	seen->slot = log->slot;
	seen->event = log->event;
	if (event < 8) {
		__sync_fetch_and_add(&AT(counts.events, event), 1);
		__sync_fetch_and_add(&AT(counts.event_dirty, event), log->dirty);
	}

	burn(PROBE_IN_DIRTY_LOG);
	counts.nr_vcpus = kvm_throttle_nr_vcpus(kvm);
	for (i = 0; i < PROBE_CPUS; i++) {
		if (knobs.mark & 1U << i)
			kvm_throttle_mark(kvm, i, true);
		if (knobs.unmark & 1U << i)
			kvm_throttle_mark(kvm, i, false);
	}
	counts.stat_ret = kvm_throttle_stat(kvm, knobs.ask_idx, &st);
	counts.stat_marked = st.marked;
	counts.stat_vcpu_id = st.vcpu_id;
	for (i = 0; i < 4; i++)
		counts.stat_dirty[i] = st.dirty[i];
	counts.stat_blocks = st.blocks;
	counts.stat_blocked_ns = st.blocked_ns;
	counts.stat_longest_ns = st.longest_ns;
	/* Of a vCPU that is there this changes nothing. */
	counts.mark_ret = kvm_throttle_mark(kvm, knobs.ask_idx, st.marked);
	raise_error(kvm, PROBE_IN_DIRTY_LOG);
}

SEC("struct_ops/end")
void BPF_PROG(probe_end, struct kvm *kvm)
{
	look(kvm);
	__sync_fetch_and_add(&counts.ends, 1);
	counts.ended = (u64)kvm;
}

KVMEXT_ABOUT("test only: counts every call and answers as told")
SEC(".struct_ops.link")
struct kvm_throttle_ops probe = {
	.name = "probe",
	.dirtied = (void *)probe_dirtied,
	.block = (void *)probe_block,
	.dirty_log = (void *)probe_dirty_log,
	.end = (void *)probe_end,
};
