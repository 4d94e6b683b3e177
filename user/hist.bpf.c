// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: the programs of kvmext hist.  The tool loads those of the figure
 * that is asked for.
 */
#include "vcpu.bpf.h"

char _license[] SEC("license") = "GPL";

/* With --per-vcpu the tool makes it a plain one: a vCPU runs on one CPU at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, HIST_KEYS);
	__type(key, struct hist_key);
	__type(value, struct hist);
} hists SEC(".maps");

static const struct hist zero;
const volatile bool want_exit;
const volatile bool want_inject;
const volatile bool want_irq;
const volatile bool per_vcpu;
__u64 lost;

static __always_inline u32 log2(u64 v)
{
	u32 r, s;

	r = (v > 0xffffffff) << 5;
	v >>= r;
	s = (v > 0xffff) << 4;
	v >>= s;
	r |= s;
	s = (v > 0xff) << 3;
	v >>= s;
	r |= s;
	s = (v > 0xf) << 2;
	v >>= s;
	r |= s;
	s = (v > 0x3) << 1;
	v >>= s;
	r |= s;
	return r | v >> 1;
}

static __always_inline void count(u64 reason, u32 vm, s32 vcpu, u64 ns)
{
	struct hist_key key = { .reason = reason };
	u32 slot = log2(ns);
	struct hist *h;

	if (per_vcpu) {
		key.vm = vm;
		key.vcpu = vcpu;
	}
	h = bpf_map_lookup_elem(&hists, &key);
	if (!h) {
		bpf_map_update_elem(&hists, &key, &zero, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&hists, &key);
	}
	if (!h) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	if (slot >= HIST_SLOTS)
		slot = HIST_SLOTS - 1;
	if (per_vcpu) {
		/* An interrupt that goes into the guest is counted where it comes from. */
		__sync_fetch_and_add(&h->slot[slot], 1);
		__sync_fetch_and_add(&h->n, 1);
		__sync_fetch_and_add(&h->sum, ns);
	} else {
		h->slot[slot]++;
		h->n++;
		h->sum += ns;
	}
	if (ns > h->max)
		h->max = ns;
}

/* Of hist irq */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HIST_VCPUS);
	__type(key, struct hist_key);
	__type(value, struct irq_vcpu);
} irqs SEC(".maps");

/* Interrupts whose vCPU is not known: where fentry is refused, see accept() */
__u64 stray;

static __always_inline struct irq_vcpu *irq_vcpu(u32 vm, s32 id, struct kvm_vcpu *vcpu)
{
	struct hist_key key = { .vm = vm, .vcpu = id };
	struct irq_vcpu new = { .addr = (u64)vcpu }, *v;

	v = bpf_map_lookup_elem(&irqs, &key);
	if (!v && vcpu) {
		bpf_map_update_elem(&irqs, &key, &new, BPF_NOEXIST);
		v = bpf_map_lookup_elem(&irqs, &key);
		if (!v)
			__sync_fetch_and_add(&lost, 1);
	}
	return v;
}

/* All of this is the vCPU's own to change meanwhile; wrong is at worst the one interrupt. */
static __always_inline u32 irq_state(struct kvm_vcpu *vcpu)
{
	if (BPF_CORE_READ(vcpu, mode) != OUTSIDE_GUEST_MODE)
		return IRQ_GUEST;
	if (BPF_CORE_READ(vcpu, preempted))
		return IRQ_PREEMPTED;
	if (BPF_CORE_READ(vcpu, ready))
		return IRQ_READY;
	if (BPF_CORE_READ(vcpu, wait.task))
		return IRQ_HALTED;
	/* Since 6.10; before, who is with its VMM cannot be told. */
	if (bpf_core_field_exists(vcpu->wants_to_run) && !BPF_CORE_READ(vcpu, wants_to_run))
		return IRQ_USER;
	return IRQ_KVM;
}

static __always_inline void irq_comes(u32 vm, s32 id, struct irq_vcpu *v)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)v->addr;
	u64 now = bpf_ktime_get_ns();
	u32 state = irq_state(vcpu);

	if (state >= IRQ_STATES)
		return;
	__sync_fetch_and_add(&v->came[state], 1);
	/* The hardware takes it: there will be no entry for it. */
	if (state == IRQ_GUEST && BPF_CORE_READ(vcpu, arch.apic, apicv_active))
		count(state, vm, id, 0);
	else
		__sync_val_compare_and_swap(&v->first, 0, now << 3 | state);
}

static __always_inline void irq_runs(struct kvm_vcpu *vcpu)
{
	struct irq_vcpu *v;
	u64 first, now;

	if (!vm_wanted(tgid()) || !vcpu_wanted(vcpu->vcpu_id))
		return;
	v = irq_vcpu(vm_pid(vcpu->kvm), vcpu->vcpu_id, vcpu);
	if (!v)
		return;
	v->addr = (u64)vcpu;
	if (!v->first)
		return;
	first = __sync_lock_test_and_set(&v->first, 0);
	now = bpf_ktime_get_ns();
	if (first)
		count(first & 7, vm_pid(vcpu->kvm), vcpu->vcpu_id,
		      now > first >> 3 ? now - (first >> 3) : 0);
}

static __always_inline int irq_to(struct kvm_lapic *apic)
{
	struct kvm_vcpu *vcpu = apic->vcpu;
	u32 vm = vm_pid(BPF_CORE_READ(vcpu, kvm));
	s32 id = BPF_CORE_READ(vcpu, vcpu_id);
	struct irq_vcpu *v;

	if (!vm_wanted(vm) || !vcpu_wanted(id))
		return 0;
	v = irq_vcpu(vm, id, vcpu);
	if (v)
		irq_comes(vm, id, v);
	return 0;
}

SEC("fentry/svm_deliver_interrupt")
int BPF_PROG(svm_irq, struct kvm_lapic *apic)
{
	return irq_to(apic);
}

SEC("fentry/vmx_deliver_interrupt")
int BPF_PROG(vmx_irq, struct kvm_lapic *apic)
{
	return irq_to(apic);
}

/*
 * Where functions cannot be traced.  The tracepoint does not tell the VM, so that is
 * taken from the current process, which may be another when a device interrupts.
 */
SEC("tp_btf/kvm_apic_accept_irq")
int BPF_PROG(accept, u32 id)
{
	struct irq_vcpu *v = irq_vcpu(tgid(), id, NULL);

	if (!v)
		__sync_fetch_and_add(&stray, 1);
	else if (vm_wanted(tgid()) && vcpu_wanted(id))
		irq_comes(tgid(), id, v);
	return 0;
}

SEC("tp_btf/kvm_entry")
int BPF_PROG(entry, struct kvm_vcpu *vcpu)
{
	struct vcpu_thread *t = vcpu ? thread_of_vcpu(vcpu->vcpu_id) : NULL;
	u64 now = bpf_ktime_get_ns();

	speaks();
	if (want_irq && vcpu)
		irq_runs(vcpu);
	if (!t)
		return 0;
	if (want_exit && t->exit_ts && reason_wanted(t->key))
		count(t->key, tgid(), t->vcpu, now - t->exit_ts);
	if (want_inject && t->inject_ts)
		count(0, tgid(), t->vcpu, now - t->inject_ts);
	t->exit_ts = 0;
	t->inject_ts = 0;
	return 0;
}

SEC("tp_btf/kvm_fpu")
int BPF_PROG(fpu, int load)
{
	struct vcpu_thread *t = user_run(load);

	if (t && t->exit_ts && reason_wanted(t->key))
		count(t->key, tgid(), t->vcpu, bpf_ktime_get_ns() - t->exit_ts);
	if (t)
		t->exit_ts = 0;
	return 0;
}

/* An entry that is given up and tried again counts from its first try. */
SEC("tp_btf/kvm_inj_virq")
int BPF_PROG(inject)
{
	struct vcpu_thread *t = thread();

	if (t && !t->inject_ts)
		t->inject_ts = bpf_ktime_get_ns();
	return 0;
}

/* Any thread of the machine is woken here: the storage of most is empty. */
SEC("tp_btf/sched_waking")
int BPF_PROG(waking, struct task_struct *p)
{
	struct vcpu_thread *t = p ? bpf_task_storage_get(&threads, p, NULL, 0) : NULL;

	if (t)
		t->waking_ts = bpf_ktime_get_ns();
	return 0;
}

/* The vCPU's thread is back from halting; @waited: it slept, was not just polling. */
SEC("tp_btf/kvm_vcpu_wakeup")
int BPF_PROG(wakeup, u64 ns, bool waited)
{
	struct vcpu_thread *t = thread();
	u64 now = bpf_ktime_get_ns();

	if (t && waited && t->waking_ts > now - ns)
		count(0, tgid(), t->vcpu, now - t->waking_ts);
	return 0;
}

SEC("tp_btf/kvm_throttle_block")
int BPF_PROG(block, struct kvm_vcpu *vcpu, u64 seq, u64 ns, u64 slept)
{
	if (vcpu && vm_wanted(vm_pid(vcpu->kvm)) && vcpu_wanted(vcpu->vcpu_id))
		count(0, vm_pid(vcpu->kvm), vcpu->vcpu_id, slept);
	return 0;
}
