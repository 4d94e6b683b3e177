// SPDX-License-Identifier: GPL-2.0
/*
 * irq_probe: notes what route() is asked and answers as the test's knobs say.
 *
 * For tests only.
 */
#include "kvmext.bpf.h"
#include "tests/kvm/probes/irq_probe.h"

char _license[] SEC("license") = "GPL";

volatile struct irq_probe_knobs knobs SEC(".data") = {};
struct irq_probe_counts counts SEC(".bss") = {};

#define AT(array, i)                                  \
	(*({                                          \
		u64 __i = (i);                        \
		barrier_var(__i);                     \
		&(array)[__i & (IRQ_PROBE_CPUS - 1)]; \
	}))

/* The VM that the test says ended hears of nothing any more */
static void note(struct kvm *kvm)
{
	if (counts.ended == (u64)kvm)
		__sync_fetch_and_add(&counts.late, 1);
}

static long until(u32 i, u64 *end)
{
	return bpf_ktime_get_ns() >= *end;
}

SEC("struct_ops/route")
s32 BPF_PROG(irq_probe_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	u64 turn = __sync_fetch_and_add(&counts.asked, 1), end;
	u32 how = knobs.how, nr = irq->nr, set = 0, i;
	s32 answer = KVM_IRQ_DEFAULT, want = knobs.answer;
	struct kvm_irq_candidate c;

	note(kvm);
	counts.nr = nr;
	counts.own = irq->own;
	counts.vector = irq->vector;
	counts.dest_id = irq->dest_id;
	counts.flags = irq->flags;
	counts.beyond = kvm_irq_look(irq, nr, &c);

	switch (how) {
	case IRQ_PROBE_INDEX:
		answer = want;
		break;
	case IRQ_PROBE_TURN:
		answer = turn % nr;
		break;
	case IRQ_PROBE_RANDOM:
		answer = (s32)(bpf_get_prandom_u32() % (nr + 1)) - 1;
		break;
	case IRQ_PROBE_WILD:
		answer = bpf_get_prandom_u32();
		break;
	}
	bpf_for(i, 0, nr) {
		if (kvm_irq_look(irq, i, &c))
			break;
		if (c.vcpu_id < 32)
			set |= 1U << c.vcpu_id;
		AT(counts.state, c.vcpu_id) = c.state;
		AT(counts.pending, c.vcpu_id) = c.pending;
		AT(counts.cpu, c.vcpu_id) = c.cpu;
		AT(counts.since_ns, c.vcpu_id) = c.since_ns;
		if (how == IRQ_PROBE_VCPU && (s32)c.vcpu_id == want)
			answer = i;
		if (answer == (s32)i)
			__sync_fetch_and_add(&AT(counts.sent, c.vcpu_id), 1);
	}
	counts.set = set;
	if (answer != KVM_IRQ_DEFAULT && (answer < 0 || (u32)answer >= nr))
		__sync_fetch_and_add(&counts.wild, 1);
	if (knobs.slow_ns) {
		end = bpf_ktime_get_ns() + knobs.slow_ns;
		bpf_loop(1 << 23, until, &end, 0);
	}
	if (knobs.error) {
		kvm_irq_error(irq, 7, "irq_probe: the first error");
		kvm_irq_error(irq, 8, "irq_probe: the second error");
	}
	return answer;
}

SEC("struct_ops/run")
void BPF_PROG(irq_probe_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how, u64 off_ns)
{
	u64 now = bpf_ktime_get_ns();

	note(kvm);
	if (how < 4)
		__sync_fetch_and_add(&AT(counts.runs, how & 3), 1);
	if (off_ns > now || off_ns <= AT(counts.off_ns, vcpu->vcpu_id))
		__sync_fetch_and_add(&counts.off_wrong, 1);
	AT(counts.off_ns, vcpu->vcpu_id) = off_ns;
	AT(counts.away_ns, vcpu->vcpu_id) = now - off_ns;
}

SEC("struct_ops/retarget")
s32 BPF_PROG(irq_probe_retarget, struct kvm *kvm, u32 left)
{
	note(kvm);
	__sync_fetch_and_or(&counts.left, left);
	__sync_fetch_and_add(&counts.retargets, 1);
	return knobs.coin ? (s32)(bpf_get_prandom_u32() & 1) : knobs.retarget;
}

SEC("struct_ops/end")
void BPF_PROG(irq_probe_end, struct kvm *kvm)
{
	note(kvm);
	counts.ended = (u64)kvm;
	__sync_fetch_and_add(&counts.ends, 1);
}

KVMEXT_ABOUT("test only: notes what it is asked and answers as told")
SEC(".struct_ops.link")
struct kvm_irq_ops irq_probe = {
	.name = "irq_probe",
	.route = (void *)irq_probe_route,
	.run = (void *)irq_probe_run,
	.retarget = (void *)irq_probe_retarget,
	.end = (void *)irq_probe_end,
};
