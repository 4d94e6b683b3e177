// SPDX-License-Identifier: GPL-2.0
/*
 * run_first: to a vCPU that runs now; else to the one that will run first.
 *
 * When it will run is judged by history: how long its last waits for a CPU took,
 * less what it has waited already, and how long it took to come round when it
 * was woken from a halt.  Among those that run the one that took the last
 * interrupt is best, unless it takes so many more than another that its devices
 * should be shared out: those of a VM do not pile up on whoever ran first.  No more
 * of a VM's interrupts move than a budget allows.  The published system that does so
 * inside KVM is the model, without the balance.
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
KVMEXT_COUNTER(u64, balanced, "", "moves off a vCPU that runs and takes more than its share");
KVMEXT_COUNTER(u64, predicted, "", "moves to the one that will run first");
KVMEXT_COUNTER(u64, over_budget, "", "moves that the budget did not allow");

/* vCPUs with the same index modulo this are taken for one */
#define PASTS 128
/* While the last one's vCPU runs, others are looked at one in so many times */
#define BALANCE 16

/**
 * struct past - a vCPU's history
 * @kick_ns: when it was halted and sent an interrupt; 0: not since
 * @wait_us: its waits for a CPU after it was preempted, on average; 0: unknown
 * @wake_us: the same from an interrupt to the CPU
 * @load: interrupts that it took of late
 */
struct past {
	u64 kick_ns;
	u32 wait_us;
	u32 wake_us;
	struct irq_load load;
};

/**
 * struct vm - what is known of a VM, in a place of its own
 * @past: by index of the vCPU
 * @second: since boot
 * @spent: moves in it
 */
struct vm {
	struct past past[PASTS];
	u64 second;
	u64 spent;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, IRQ_VMS);
	__type(key, u64);
	__type(value, struct vm);
} vms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct vm);
} no_vm SEC(".maps");

static __always_inline struct past *past_of(struct vm *vm, u64 idx)
{
	barrier_var(idx);
	return &vm->past[idx & (PASTS - 1)];
}

static __always_inline u32 average(u32 old, u64 ns)
{
	u32 w = weight, now = ns < 1ULL << 41 ? ns / 1024 : 1U << 31;

	if (!w)
		w = 1;
	now = now ?: 1;
	return old ? old - old / w + now / w : now;
}

SEC("struct_ops/run")
void BPF_PROG(run_first_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how, u64 off_ns)
{
	struct vm *vm = irq_vm_value(&vms, &no_vm, kvm);
	u64 now = bpf_ktime_get_ns();
	struct past *p;

	if (!vm)
		return;
	p = past_of(vm, vcpu->vcpu_idx);
	if (how == KVM_IRQ_RUN_PREEMPTED)
		p->wait_us = average(p->wait_us, now - off_ns);
	else if (how == KVM_IRQ_RUN_HALTED && p->kick_ns > off_ns)
		p->wake_us = average(p->wake_us, now - p->kick_ns);
	p->kick_ns = 0;
}

/* How long from now until it runs, if it is sent the interrupt, in 1024 ns */
static __always_inline u64 until(const struct past *p, const struct kvm_irq_candidate *c, u64 now)
{
	u64 waited;

	if (c->state & KVM_IRQ_HALTED)
		return p->wake_us;
	/* In user space, or asleep there: the VMM decides */
	if (!(c->state & (KVM_IRQ_PREEMPTED | KVM_IRQ_READY)))
		return 16000;
	/* Nothing is known: as good as a tick or two */
	if (!p->wait_us)
		return 8000;
	waited = c->since_ns && now > c->since_ns ? (now - c->since_ns) / 1024 : 0;
	/* It waits for longer than usual: no more is known, so half of it again */
	return waited < p->wait_us ? p->wait_us - waited : p->wait_us / 2;
}

static __always_inline bool afford(struct vm *vm, u64 now)
{
	u64 second = now / 1000000000;

	if (vm->second != second) {
		vm->second = second;
		vm->spent = 0;
	}
	return __sync_fetch_and_add(&vm->spent, 1) < budget;
}

/*
 * Not static, as the verifier then looks at each of these once, and not at each way
 * that leads here.
 */

/*
 * One more of @line goes to the vCPU of @p; @was is that of the last one, if another, and
 * so will the rest.
 */
__attribute__((noinline)) int run_first_account(struct past *p, struct past *was,
						struct irq_line *line, u32 now)
{
	u32 load, from, moves = 0;

	if (!p || !line)
		return 0;
	load = irq_load(&line->load, now);
	if (was) {
		from = irq_load(&was->load, now);
		irq_load_set(&was->load, now, from > load ? from - load : 0);
		moves = load;
	}
	irq_load_set(&p->load, now, irq_load(&p->load, now) + moves + 1);
	irq_load_set(&line->load, now, load + 1);
	return 0;
}

enum { MINE = 1, RATHER = 2 };

/*
 * The least is best.  Who is in the guest, whose thread is about to be there, who will be;
 * of those who are who takes least of late; of equals RATHER.  What MINE takes would be
 * less without @line; by half as much again another has to be better.
 */
__attribute__((noinline)) u64 run_first_score(const struct past *p, const struct irq_line *line,
					      const struct kvm_irq_candidate *c, u32 flags, u64 now)
{
	u64 load, t = 0, off;
	u32 since = irq_now();

	if (!p || !line || !c)
		return ~0ULL;
	load = irq_load(&p->load, since);
	if (!(c->state & IRQ_RUNS)) {
		t = 2 + until(p, c, now);
		load = 0;
	} else if (flags & MINE) {
		off = irq_load(&line->load, since);
		off += off / 2;
		load = load > off ? load - off : 0;
	} else if (!(c->state & KVM_IRQ_IN_GUEST)) {
		t = 1;
	}
	if (load >= 1 << 24)
		load = (1 << 24) - 1;
	return t << 25 | load << 1 | !(flags & RATHER);
}

SEC("struct_ops/route")
s32 BPF_PROG(run_first_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct vm *vm = irq_vm_value(&vms, &no_vm, kvm);
	struct irq_line *line = irq_line(kvm, irq);
	u32 since = irq_now(), vcpu = 0, state = 0, last_state = 0, i;
	u64 now, s, best = ~0ULL;
	struct kvm_irq_candidate c = {};
	s32 last = -1, to = -1;
	struct past *p;

	if (!line || !vm)
		return KVM_IRQ_DEFAULT;

	if (line->turn++ % BALANCE && !(irq->flags & KVM_IRQ_POSTED) &&
	    !kvm_irq_look(irq, line->last, &c) && c.vcpu_idx + 1 == line->vcpu &&
	    c.state & IRQ_RUNS) {
		__sync_fetch_and_add(&stays, 1);
		run_first_account(past_of(vm, c.vcpu_idx), NULL, line, since);
		return line->last;
	}

	now = bpf_ktime_get_ns();
	bpf_for(i, 0, irq->nr) {
		u32 flags = 0;

		if (kvm_irq_look(irq, i, &c))
			break;
		if (c.vcpu_idx + 1 == line->vcpu)
			flags = MINE | RATHER;
		else if (!line->vcpu && (s32)i == irq->own)
			flags = RATHER;
		barrier_var(flags);
		s = run_first_score(past_of(vm, c.vcpu_idx), line, &c, flags, now);
		if (flags & MINE) {
			last = i;
			last_state = c.state;
		}
		if (s < best) {
			best = s;
			to = i;
			vcpu = c.vcpu_idx;
			state = c.state;
		}
	}
	if (to < 0)
		return KVM_IRQ_DEFAULT;

	if (to == last) {
		__sync_fetch_and_add(&stays, 1);
	} else if (last >= 0) {
		if (!afford(vm, now)) {
			__sync_fetch_and_add(&over_budget, 1);
			return last;
		}
		__sync_fetch_and_add(last_state & IRQ_RUNS ? &balanced :
				     state & IRQ_RUNS      ? &running :
							     &predicted,
				     1);
	}
	run_first_account(past_of(vm, vcpu),
			  line->vcpu && line->vcpu != vcpu + 1 ? past_of(vm, line->vcpu - 1) : NULL,
			  line, since);
	irq_took(line, to, vcpu);
	if (state & KVM_IRQ_HALTED) {
		p = past_of(vm, vcpu);
		if (!p->kick_ns)
			p->kick_ns = now;
	}
	return to;
}

SEC("struct_ops/retarget")
s32 BPF_PROG(run_first_retarget, struct kvm *kvm, u32 left)
{
	return left >> KVM_IRQ_RUN_PREEMPTED & 1;
}

SEC("struct_ops/end")
void BPF_PROG(run_first_end, struct kvm *kvm)
{
	u64 key = (u64)kvm;

	irq_forget(kvm);
	bpf_map_delete_elem(&vms, &key);
}

KVMEXT_ABOUT("to a vCPU that runs now, else to the one that will run first")
SEC(".struct_ops.link")
struct kvm_irq_ops run_first = {
	.name = "run_first",
	.route = (void *)run_first_route,
	.run = (void *)run_first_run,
	.retarget = (void *)run_first_retarget,
	.end = (void *)run_first_end,
};
