// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: what kvmext top counts by.
 *
 * Each vCPU has a slot in a mapped array, which its own thread alone writes; the
 * tool reads it as memory.  No program takes a lock where a guest
 * exits or is entered, and finding the vCPU there costs a comparison: each CPU
 * remembers the one it ran last.
 */
#include "watch.bpf.h"
#include "top.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TOP_VCPUS);
	__type(key, u32);
	__type(value, struct top_vcpu);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TOP_VCPUS);
	__type(key, u64);
	__type(value, u32);
} vcpus SEC(".maps");

/* Slots that the tool gave back */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, TOP_VCPUS);
	__type(value, u32);
} spare SEC(".maps");

#define CPUS 1024

/* The vCPU that a CPU ran last.  Its slot knows if that is still so. */
struct {
	__u64 vcpu;
	__u32 slot;
} __attribute__((aligned(64))) ran[CPUS];

#define INHIBITS_NS 200000000

__u32 next_slot;
__u32 policy_changes; /* Policies that came, went or were taken from a VM */
__u64 lost;
const volatile __u32 nr_slots = TOP_VCPUS;

static __always_inline u32 reason_index(u32 reason)
{
	if (reason < TOP_LOW)
		return reason;
	if (reason - TOP_NPF < TOP_NPF_NR)
		return TOP_LOW + (reason - TOP_NPF);
	return TOP_OTHER;
}

/* A vCPU that this CPU did not run last; a new one gets a slot if its thread is here. */
static __noinline u32 find(u64 addr)
{
	struct kvm_vcpu *vcpu = (void *)addr;
	struct top_vcpu *v;
	u32 slot, *known;

	known = bpf_map_lookup_elem(&vcpus, &addr);
	if (known) {
		slot = *known;
		v = bpf_map_lookup_elem(&slots, &slot);
		if (v && v->vcpu == addr)
			return slot;
	}
	if (bpf_map_pop_elem(&spare, &slot)) {
		if (next_slot >= nr_slots) {
			lost++;
			return -1;
		}
		slot = __sync_fetch_and_add(&next_slot, 1);
	}
	v = bpf_map_lookup_elem(&slots, &slot);
	if (!v || bpf_map_update_elem(&vcpus, &addr, &slot, BPF_ANY)) {
		bpf_map_push_elem(&spare, &slot, 0);
		lost++;
		return -1;
	}
	v->key = addr;
	v->kvm = (u64)BPF_CORE_READ(vcpu, kvm);
	v->tgid = vm_pid(BPF_CORE_READ(vcpu, kvm));
	v->id = BPF_CORE_READ(vcpu, vcpu_id);
	v->vcpu = addr;
	return slot;
}

static __always_inline struct top_vcpu *get(u64 addr)
{
	u32 cpu = bpf_get_smp_processor_id() & (CPUS - 1), slot = ran[cpu].slot;
	struct top_vcpu *v;

	/* Since 6.12 the verifier wants to see that a tracepoint's pointer is not NULL. */
	if (!addr)
		return NULL;
	if (ran[cpu].vcpu == addr) {
		v = bpf_map_lookup_elem(&slots, &slot);
		if (v && v->vcpu == addr)
			return v;
	}
	slot = find(addr);
	v = bpf_map_lookup_elem(&slots, &slot);
	if (v) {
		ran[cpu].vcpu = addr;
		ran[cpu].slot = slot;
	}
	return v;
}

/* One that was met before, whoever runs here */
static __always_inline struct top_vcpu *peek(u64 addr)
{
	u32 *slot = addr ? bpf_map_lookup_elem(&vcpus, &addr) : NULL;
	struct top_vcpu *v;

	if (!slot)
		return NULL;
	v = bpf_map_lookup_elem(&slots, slot);
	return v && v->vcpu == addr ? v : NULL;
}

static __always_inline struct top_vcpu *current_vcpu(void)
{
	return get(task_vcpu(bpf_get_current_task_btf()));
}

static __always_inline void left(struct top_vcpu *v, u32 isa, u32 reason)
{
	u64 now = bpf_ktime_get_ns(), delay, r;
	struct task_struct *task;

	if (v->entry_ns)
		v->guest_ns += now - v->entry_ns;
	v->exit_ns = now;
	/* It changes a few times in a VM's life, if at all. */
	if (now - v->inhibits_ns > INHIBITS_NS) {
		v->inhibits_ns = now;
		v->inhibits = vm_inhibits((const struct kvm *)v->kvm);
	}

	v->isa = isa;
	r = reason_index(reason);
	v->last = r;
	/* The compiler knows that it is in bounds, the verifier does not. */
	barrier_var(r);
	if (r < TOP_REASONS)
		v->reason[r].n++;

	task = bpf_get_current_task_btf();
	delay = task->sched_info.run_delay;
	if (v->tid == (u32)task->pid)
		v->ready_ns += delay - v->delay;
	else
		v->tid = task->pid;
	v->delay = delay;
}

static __always_inline void entered(struct top_vcpu *v)
{
	u64 now = bpf_ktime_get_ns(), ns, r;

	if (v->exit_ns > v->entry_ns) {
		ns = now - v->exit_ns;
		v->outside_ns += ns;
		r = v->last;
		if (r < TOP_REASONS)
			v->reason[r].ns += ns;
	}
	v->entry_ns = now;
	if (v->wake_since) {
		v->wake_n++;
		v->wake_ns += now - v->wake_since;
		v->wake_since = 0;
	}
}

SEC("tp_btf/kvm_exit")
int BPF_PROG(top_exit, struct kvm_vcpu *vcpu, u32 isa)
{
	struct top_vcpu *v = get((u64)vcpu);

	speaks();
	if (v)
		left(v, isa, exit_reason(vcpu, isa));
	return 0;
}

SEC("tp_btf/kvm_entry")
int BPF_PROG(top_entry, struct kvm_vcpu *vcpu)
{
	struct top_vcpu *v = get((u64)vcpu);

	speaks();
	if (v)
		entered(v);
	return 0;
}

/* Where those two are silent */
SEC("tp_btf/kvm_fpu")
int BPF_PROG(top_fpu, int load)
{
	struct top_vcpu *v = silent_kvm() ? current_vcpu() : NULL;
	struct kvm_vcpu *vcpu;

	if (!v)
		return 0;
	vcpu = (void *)v->vcpu;
	if (load)
		entered(v);
	else
		left(v, ISA_USER, BPF_CORE_READ(vcpu, run, exit_reason));
	return 0;
}

SEC("tp_btf/kvm_inj_virq")
int BPF_PROG(top_inj_virq, unsigned int vector, bool soft, bool reinjected)
{
	struct top_vcpu *v = current_vcpu();
	u64 since;

	/* A reinjected one was counted at its first attempt. */
	if (!v || reinjected)
		return 0;
	v->injected++;
	since = v->irq_since;
	if (since) {
		v->irq_since = 0;
		v->inj_n++;
		v->inj_ns += bpf_ktime_get_ns() - since;
	}
	return 0;
}

/* In the vCPU's thread when its halt is over: polling and sleep, from the HLT on */
SEC("tp_btf/kvm_vcpu_wakeup")
int BPF_PROG(top_wakeup, u64 ns, bool waited, bool valid)
{
	struct top_vcpu *v = current_vcpu();

	if (v) {
		v->halted_ns += ns;
		v->halt_since = 0;
	}
	return 0;
}

SEC("fentry/kvm_vcpu_halt")
int BPF_PROG(top_halt, struct kvm_vcpu *vcpu)
{
	struct top_vcpu *v = get((u64)vcpu);

	if (v)
		v->halt_since = bpf_ktime_get_ns();
	return 0;
}

/* Every wake-up of the host comes by here: one load tells vCPU threads. */
SEC("tp_btf/sched_waking")
int BPF_PROG(top_waking, struct task_struct *p)
{
	u64 addr = p ? task_vcpu(p) : 0;
	struct kvm_vcpu *vcpu = (void *)addr;
	struct top_vcpu *v;

	if (!addr || !BPF_CORE_READ(vcpu, stat.generic.blocking))
		return 0;
	v = peek(addr);
	if (v && !v->wake_since)
		v->wake_since = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int accept_irq(struct kvm_lapic *apic, int delivery_mode)
{
	struct top_vcpu *v = peek((u64)apic->vcpu);

	if (!v)
		return 0;
	if (apic->apicv_active)
		__sync_fetch_and_add(&v->posted, 1);
	else if (!v->irq_since)
		v->irq_since = bpf_ktime_get_ns();
	return 0;
}

/* The device's, the sender's or the timer's context: any */
SEC("fentry/svm_deliver_interrupt")
int BPF_PROG(top_svm_irq, struct kvm_lapic *apic, int delivery_mode)
{
	return accept_irq(apic, delivery_mode);
}

SEC("fentry/vmx_deliver_interrupt")
int BPF_PROG(top_vmx_irq, struct kvm_lapic *apic, int delivery_mode)
{
	return accept_irq(apic, delivery_mode);
}

SEC("fentry/mark_page_dirty_in_slot")
int BPF_PROG(top_dirty, struct kvm *kvm, const struct kvm_memory_slot *slot, u64 gfn)
{
	struct top_vcpu *v;

	if (!dirty_news(kvm, slot, gfn))
		return 0;
	v = current_vcpu();
	/* KVM_RUN of one VM does not write to another, but a process may have two. */
	if (v && v->kvm == (u64)kvm)
		v->dirty++;
	return 0;
}

SEC("fentry/kvm_arch_vcpu_destroy")
int BPF_PROG(top_destroy, struct kvm_vcpu *vcpu)
{
	u64 addr = (u64)vcpu;
	struct top_vcpu *v = peek(addr);

	if (v) {
		bpf_map_delete_elem(&vcpus, &addr);
		v->vcpu = 0;
	}
	return 0;
}

/* Tracepoints of the series */

SEC("tp_btf/kvm_throttle_ask")
int BPF_PROG(top_ask, struct kvm_vcpu *vcpu, u64 seq, s64 answer, u64 ns)
{
	struct top_vcpu *v = get((u64)vcpu);

	if (v) {
		v->asks++;
		v->blocks += ns > 0;
	}
	return 0;
}

SEC("tp_btf/kvm_throttle_block")
int BPF_PROG(top_block, struct kvm_vcpu *vcpu, u64 seq, u64 ns, u64 slept)
{
	struct top_vcpu *v = get((u64)vcpu);

	if (v)
		v->blocked_ns += slept;
	return 0;
}

static __always_inline int policy_changed(void)
{
	__sync_fetch_and_add(&policy_changes, 1);
	return 0;
}

SEC("tp_btf/kvm_ext_attach")
int BPF_PROG(top_attach)
{
	return policy_changed();
}

SEC("tp_btf/kvm_ext_update")
int BPF_PROG(top_update)
{
	return policy_changed();
}

SEC("tp_btf/kvm_ext_detach")
int BPF_PROG(top_detach)
{
	return policy_changed();
}

SEC("tp_btf/kvm_ext_eject")
int BPF_PROG(top_eject)
{
	return policy_changed();
}

SEC("tp_btf/kvm_ext_take")
int BPF_PROG(top_take)
{
	return policy_changed();
}
