// SPDX-License-Identifier: GPL-2.0
/*
 * run_first: to a vCPU that runs now; else to the one that will run first.
 *
 * When it will run is judged by history: how long its last waits for a CPU took,
 * less what it has waited already, and how long it took to come round when it
 * was woken from a halt.  Among those that run the one that took the last
 * interrupt is best, and no more of a VM's interrupts move than a budget allows.
 * The published system that does so inside KVM is the model.
 *
 * For: hosts with more to run than CPUs.
 * Not for: hosts with a CPU for each vCPU: all run, and nothing is gained.
 */
#include "irq.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, budget, 2000, 0, 1000000, "/s", "moves of a VM's interrupts in a second at most");
KVMEXT_PARAM(u32, weight, 4, 1, 64, "", "of 1/N each wait counts in the average");

KVMEXT_COUNTER(u64, stays, "", "interrupts to the vCPU that took the one before");
KVMEXT_COUNTER(u64, running, "", "moves to a vCPU that runs");
KVMEXT_COUNTER(u64, predicted, "", "moves to the one that will run first");
KVMEXT_COUNTER(u64, over_budget, "", "moves that the budget did not allow");

struct who {
	u64 kvm;
	u64 idx;
};

/**
 * struct past - a vCPU's history
 * @off_ns: when it went off its CPU
 * @how: KVM_IRQ_RUN_*, why
 * @kick_ns: when it was halted and sent an interrupt; 0: not since
 * @wait_ns: its waits for a CPU after it was preempted, on average
 * @wake_ns: the same from an interrupt to the CPU
 */
struct past {
	u64 off_ns;
	u64 how;
	u64 kick_ns;
	u64 wait_ns;
	u64 wake_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct who);
	__type(value, struct past);
} pasts SEC(".maps");

/**
 * struct purse - what a VM may spend
 * @second: since boot
 * @spent: moves in it
 */
struct purse {
	u64 second;
	u64 spent;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct purse);
} purses SEC(".maps");

static __always_inline u64 average(u64 old, u64 now)
{
	u32 w = weight;

	if (!w)
		w = 1;
	return old ? old - old / w + now / w : now;
}

SEC("struct_ops/run")
void BPF_PROG(run_first_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how)
{
	struct who key = { (u64)kvm, vcpu->vcpu_idx };
	struct past *p = bpf_map_lookup_elem(&pasts, &key), fresh = {};
	u64 now = bpf_ktime_get_ns();

	if (!p) {
		bpf_map_update_elem(&pasts, &key, &fresh, BPF_NOEXIST);
		p = bpf_map_lookup_elem(&pasts, &key);
		if (!p)
			return;
	}
	if (how != KVM_IRQ_RUN_ON) {
		p->off_ns = now;
		p->how = how;
		p->kick_ns = 0;
		return;
	}
	if (p->off_ns && p->how == KVM_IRQ_RUN_PREEMPTED)
		p->wait_ns = average(p->wait_ns, now - p->off_ns);
	if (p->kick_ns && p->how == KVM_IRQ_RUN_HALTED)
		p->wake_ns = average(p->wake_ns, now - p->kick_ns);
	p->off_ns = 0;
}

/* How long from now until it runs, if it is sent the interrupt */
static __always_inline u64 until(struct kvm *kvm, const struct kvm_irq_candidate *c, u64 now)
{
	struct who key = { (u64)kvm, c->vcpu_idx };
	struct past *p = bpf_map_lookup_elem(&pasts, &key);
	u64 waited;

	/* Nothing is known: as good as a tick or two */
	if (!p)
		return 8000000;
	if (c->state & KVM_IRQ_HALTED)
		return p->wake_ns;
	/* In user space, or asleep there: the VMM decides */
	if (!(c->state & (KVM_IRQ_PREEMPTED | KVM_IRQ_READY)))
		return 16000000;
	waited = c->since_ns && now > c->since_ns ? now - c->since_ns : 0;
	/* It waits for longer than usual: no more is known, so half of it again */
	return waited < p->wait_ns ? p->wait_ns - waited : p->wait_ns / 2;
}

static __always_inline bool afford(struct kvm *kvm, u64 now)
{
	u64 key = (u64)kvm, second = now / 1000000000;
	struct purse *p = bpf_map_lookup_elem(&purses, &key), fresh = { second, 0 };

	if (!p) {
		bpf_map_update_elem(&purses, &key, &fresh, BPF_NOEXIST);
		p = bpf_map_lookup_elem(&purses, &key);
		if (!p)
			return false;
	}
	if (p->second != second) {
		p->second = second;
		p->spent = 0;
	}
	return __sync_fetch_and_add(&p->spent, 1) < budget;
}

SEC("struct_ops/route")
s32 BPF_PROG(run_first_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct irq_line *line = irq_line(kvm, irq);
	struct kvm_irq_candidate c, best_c = {};
	u64 now, t, best = ~0ULL;
	s32 last, to = -1;
	struct past *p;
	u32 i;

	if (!line)
		return KVM_IRQ_OWN;

	last = irq_last(line, irq, &c);
	if (last >= 0 && c.state & IRQ_RUNS) {
		__sync_fetch_and_add(&stays, 1);
		return last;
	}

	now = bpf_ktime_get_ns();
	bpf_for(i, 0, irq->nr) {
		if (kvm_irq_look(irq, i, &c))
			break;
		if (c.state & KVM_IRQ_IN_GUEST)
			t = 0;
		else if (c.state & KVM_IRQ_LOADED)
			t = 1;
		else
			t = 2 + until(kvm, &c, now);
		/* At a tie to who had the last one, or whom KVM would take */
		if (t < best ||
		    (t == best && ((s32)i == last || (last < 0 && (s32)i == irq->own)))) {
			best = t;
			best_c = c;
			to = i;
		}
	}
	if (to < 0)
		return KVM_IRQ_OWN;

	if (to == last) {
		__sync_fetch_and_add(&stays, 1);
	} else if (last >= 0 && !afford(kvm, now)) {
		__sync_fetch_and_add(&over_budget, 1);
		return last;
	} else {
		if (last >= 0)
			__sync_fetch_and_add(best < 2 ? &running : &predicted, 1);
		irq_took(line, to, best_c.vcpu_idx);
	}
	if (best_c.state & KVM_IRQ_HALTED) {
		struct who key = { (u64)kvm, best_c.vcpu_idx };

		p = bpf_map_lookup_elem(&pasts, &key);
		if (p && !p->kick_ns)
			p->kick_ns = now;
	}
	return to;
}

SEC("struct_ops/resteer")
s32 BPF_PROG(run_first_resteer, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how)
{
	return how == KVM_IRQ_RUN_PREEMPTED;
}

static long drop_past(void *map, struct who *key, struct past *p, u64 *kvm)
{
	if (key->kvm == *kvm)
		bpf_map_delete_elem(map, key);
	return 0;
}

SEC("struct_ops/end")
void BPF_PROG(run_first_end, struct kvm *kvm)
{
	u64 key = (u64)kvm;

	irq_forget(kvm);
	bpf_for_each_map_elem(&pasts, drop_past, &key, 0);
	bpf_map_delete_elem(&purses, &key);
}

KVMEXT_ABOUT("to a vCPU that runs now, else to the one that will run first")
SEC(".struct_ops.link")
struct kvm_irq_ops run_first = {
	.name = "run_first",
	.route = (void *)run_first_route,
	.run = (void *)run_first_run,
	.resteer = (void *)run_first_resteer,
	.end = (void *)run_first_end,
};
