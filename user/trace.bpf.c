// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: the programs of kvmext trace.  The tool loads those that the
 * kernel has attach points for and that are asked for.
 */
#include "vcpu.bpf.h"

char _license[] SEC("license") = "GPL";

/* One for each CPU, so that none waits for another; the tool makes them. */
struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct ring);
} rings SEC(".maps");

/* The tool is woken when so many bytes wait; it looks by itself from time to time. */
const volatile __u64 wake_bytes = 2048;
const volatile bool want_exit;

__u64 lost[EV_NR];

static __always_inline void *ring(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rings, &cpu);
}

static __always_inline void *reserve(u64 size, u32 type)
{
	void *r = ring(), *ev = r ? bpf_ringbuf_reserve(r, size, 0) : NULL;

	if (!ev)
		__sync_fetch_and_add(&lost[type], 1);
	return ev;
}

/*
 * A program stays on its CPU, so that is the ring that it reserved in.  The tool is woken
 * by the event that gets over the mark and not by those after it: a wake-up is an interrupt
 * on this CPU, which takes a vCPU out of the guest.
 */
static __always_inline void submit(void *ev)
{
	void *r = ring();
	u64 waiting = r ? bpf_ringbuf_query(r, BPF_RB_AVAIL_DATA) : 0;

	bpf_ringbuf_submit(ev, waiting - wake_bytes < 256 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

struct args {
	u64 a, b, c, d;
};

static __always_inline void fill(struct event *ev, u32 type, u64 ts, u64 dur, u32 vm, s32 vcpu,
				 const struct args *a)
{
	ev->ts = ts;
	ev->dur = dur;
	ev->vm = vm;
	ev->tid = vcpu == NO_VCPU ? 0 : (u32)bpf_get_current_pid_tgid();
	ev->vcpu = vcpu;
	ev->type = type;
	ev->arg[0] = a->a;
	ev->arg[1] = a->b;
	ev->arg[2] = a->c;
	ev->arg[3] = a->d;
}

static __always_inline void emit(u32 type, u64 ts, u64 dur, u32 vm, s32 vcpu, const struct args *a)
{
	struct event *ev;

	if (filter.min_ns && (dur == NO_DUR || dur < filter.min_ns))
		return;
	ev = reserve(sizeof(*ev), type);
	if (!ev)
		return;
	fill(ev, type, ts, dur, vm, vcpu, a);
	submit(ev);
}

static __always_inline void emit_now(u32 type, u32 vm, s32 vcpu, const struct args *a)
{
	emit(type, bpf_ktime_get_ns(), NO_DUR, vm, vcpu, a);
}

/* --- exit ------------------------------------------------------------------ */

static __always_inline void emit_exit(struct vcpu_thread *t, u64 dur)
{
	struct args a = { .a = t->key, .b = t->user };

	if (reason_wanted(t->key))
		emit(EV_EXIT, t->exit_ts, dur, tgid(), t->vcpu, &a);
	t->exit_ts = 0;
}

/* Entries are watched in any case: by them a thread is known to run that vCPU. */
SEC("tp_btf/kvm_entry")
int BPF_PROG(entry, struct kvm_vcpu *vcpu)
{
	struct vcpu_thread *t = vcpu ? thread_of_vcpu(vcpu->vcpu_id) : NULL;

	speaks();
	if (want_exit && t && t->exit_ts)
		emit_exit(t, bpf_ktime_get_ns() - t->exit_ts);
	return 0;
}

SEC("tp_btf/kvm_userspace_exit")
int BPF_PROG(user_exit, u32 reason, int error)
{
	struct vcpu_thread *t = thread();

	/* With an error, the reason is an older one. */
	if (t && t->exit_ts)
		t->user = error < 0 ? USER_NO_REASON : (u64)reason + 1;
	return 0;
}

SEC("tp_btf/kvm_fpu")
int BPF_PROG(fpu, int load)
{
	struct vcpu_thread *t = user_run(load);

	if (t && t->exit_ts)
		emit_exit(t, bpf_ktime_get_ns() - t->exit_ts);
	return 0;
}

/* The last exit of a vCPU is followed by no entry. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exit)
{
	struct vcpu_thread *t = thread();

	if (t && t->exit_ts)
		emit_exit(t, NO_DUR);
	return 0;
}

/* --- fault, dirty ------------------------------------------------------------ */

SEC("tp_btf/kvm_page_fault")
int BPF_PROG(fault, struct kvm_vcpu *vcpu, u64 addr, u64 error)
{
	struct args a = { .a = addr, .b = error };

	if (vcpu && vm_wanted(tgid()) && vcpu_wanted(vcpu->vcpu_id))
		emit_now(EV_FAULT, tgid(), vcpu->vcpu_id, &a);
	return 0;
}

static __always_inline void dirtied(u32 vm, u64 gfn, u64 slot)
{
	struct vcpu_thread *t = thread();
	struct args a = { .a = gfn, .b = slot };

	if (vm_wanted(vm) && (t || filter.vcpu == NO_VCPU))
		emit_now(EV_DIRTY, vm, t ? t->vcpu : NO_VCPU, &a);
}

/* Called for any memslot; this is what it tests itself. */
SEC("fentry/mark_page_dirty_in_slot")
int BPF_PROG(dirty_fentry, struct kvm *kvm, const struct kvm_memory_slot *slot, u64 gfn)
{
	if (slot && slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
		dirtied(vm_pid(kvm), gfn, (u16)slot->id);
	return 0;
}

/* --- throttle ---------------------------------------------------------------- */

SEC("tp_btf/kvm_throttle_mark")
int BPF_PROG(mark, struct kvm_vcpu *vcpu, int marks, bool on)
{
	struct args a = { .a = marks, .b = on };

	if (vcpu && vm_wanted(vm_pid(vcpu->kvm)) && vcpu_wanted(vcpu->vcpu_id))
		emit_now(EV_MARK, vm_pid(vcpu->kvm), vcpu->vcpu_id, &a);
	return 0;
}

/* The vCPU is that which takes it; with several, and none chosen, there is no one. */
SEC("tp_btf/kvm_irq_route")
int BPF_PROG(route, struct kvm *kvm, struct kvm_irq_ctx *ctx_, u64 seq, s32 answer,
	     struct kvm_vcpu *vcpu)
{
	struct args a = { .a = seq, .c = answer };
	int id = vcpu ? vcpu->vcpu_id : NO_VCPU;

	if (!kvm || !ctx_ || !vm_wanted(vm_pid(kvm)) || !vcpu_wanted(id))
		return 0;
	a.b = ctx_->vector | (u64)ctx_->nr << 32;
	a.d = ctx_->own;
	emit_now(EV_ROUTE, vm_pid(kvm), id, &a);
	return 0;
}

SEC("tp_btf/kvm_irq_retarget")
int BPF_PROG(retarget, struct kvm_vcpu *vcpu, unsigned int host_irq, u32 vector, s64 was)
{
	struct args a = { .a = host_irq, .b = vector, .c = was };

	if (vcpu && vm_wanted(vm_pid(vcpu->kvm)) && vcpu_wanted(vcpu->vcpu_id))
		emit_now(EV_RETARGET, vm_pid(vcpu->kvm), vcpu->vcpu_id, &a);
	return 0;
}

SEC("tp_btf/kvm_throttle_ask")
int BPF_PROG(ask, struct kvm_vcpu *vcpu, u64 seq, s64 answer, u64 ns)
{
	struct args a = { .a = seq, .b = answer, .c = ns };

	if (vcpu && vm_wanted(vm_pid(vcpu->kvm)) && vcpu_wanted(vcpu->vcpu_id))
		emit_now(EV_ASK, vm_pid(vcpu->kvm), vcpu->vcpu_id, &a);
	return 0;
}

/* It comes when the block is over. */
SEC("tp_btf/kvm_throttle_block")
int BPF_PROG(block, struct kvm_vcpu *vcpu, u64 seq, u64 ns, u64 slept, u32 end)
{
	struct args a = { .a = seq, .b = ns, .c = end };

	if (vcpu && vm_wanted(vm_pid(vcpu->kvm)) && vcpu_wanted(vcpu->vcpu_id))
		emit(EV_BLOCK, bpf_ktime_get_ns() - slept, slept, vm_pid(vcpu->kvm), vcpu->vcpu_id,
		     &a);
	return 0;
}

SEC("tp_btf/kvm_throttle_dirty_log")
int BPF_PROG(dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *r)
{
	struct args a = {};

	if (!kvm || !r)
		return 0;
	a = (struct args){ .a = r->event, .b = r->slot, .c = r->dirty, .d = r->npages };
	if (vm_wanted(vm_pid(kvm)) && filter.vcpu == NO_VCPU)
		emit_now(EV_DIRTY_LOG, vm_pid(kvm), NO_VCPU, &a);
	return 0;
}

/* --- irq ----------------------------------------------------------------------- */

SEC("tp_btf/kvm_inj_virq")
int BPF_PROG(inject, unsigned int vector, bool soft, bool again)
{
	struct args a = { .a = vector, .b = soft, .c = again };
	struct vcpu_thread *t = thread();

	if (t)
		emit_now(EV_INJECT, tgid(), t->vcpu, &a);
	return 0;
}

SEC("tp_btf/kvm_inj_exception")
int BPF_PROG(exception, unsigned int vector, bool has_error, unsigned int error, bool again)
{
	struct args a = { .a = vector, .b = has_error, .c = error, .d = again };
	struct vcpu_thread *t = thread();

	if (t)
		emit_now(EV_EXCEPTION, tgid(), t->vcpu, &a);
	return 0;
}

/*
 * These two are called where the interrupt comes from, which may be any context:
 * the VM is that of the current process, which is known to be right only if it
 * is a VMM.  The tool looks.
 */
SEC("tp_btf/kvm_apic_accept_irq")
int BPF_PROG(accept, u32 vcpu, u16 mode, u16 level, u8 vector)
{
	struct args a = { .a = vector, .b = mode, .c = level };
	u32 vm = tgid();
	struct event *ev;

	if (!vm_wanted(vm) || !vcpu_wanted(vcpu) || filter.min_ns)
		return 0;
	ev = reserve(sizeof(*ev), EV_ACCEPT);
	if (!ev)
		return 0;
	fill(ev, EV_ACCEPT, bpf_ktime_get_ns(), NO_DUR, vm, vcpu, &a);
	/* The thread that sends it is not that of the vCPU. */
	ev->tid = 0;
	submit(ev);
	return 0;
}

SEC("tp_btf/kvm_msi_set_irq")
int BPF_PROG(msi, u64 address, u64 data)
{
	struct args a = { .a = address, .b = data };

	if (vm_wanted(tgid()) && filter.vcpu == NO_VCPU)
		emit_now(EV_MSI, tgid(), NO_VCPU, &a);
	return 0;
}

SEC("tp_btf/kvm_vcpu_wakeup")
int BPF_PROG(wakeup, u64 ns, bool waited, bool valid)
{
	struct args a = { .a = waited, .b = valid };
	struct vcpu_thread *t = thread();

	if (t)
		emit(EV_WAKEUP, bpf_ktime_get_ns() - ns, ns, tgid(), t->vcpu, &a);
	return 0;
}

/* --- policy ---------------------------------------------------------------------- */

static __always_inline int policy_event(u32 type, u32 vm, const struct args *a, const char *name,
					const char *table, const char *msg)
{
	struct policy_event *ev;

	if ((vm && !vm_wanted(vm)) || filter.min_ns)
		return 0;
	ev = reserve(sizeof(*ev), type);
	if (!ev)
		return 0;
	fill(&ev->ev, type, bpf_ktime_get_ns(), NO_DUR, vm, NO_VCPU, a);
	bpf_probe_read_kernel_str(ev->name, sizeof(ev->name), name);
	bpf_probe_read_kernel_str(ev->table, sizeof(ev->table), table);
	bpf_probe_read_kernel_str(ev->msg, sizeof(ev->msg), msg);
	submit(ev);
	return 0;
}

static __always_inline int policy(struct kvm_ext_policy *p, u32 type)
{
	struct args a = {};

	if (!p)
		return 0;
	a = (struct args){ .a = p->seq, .b = p->vm, .c = p->kind, .d = p->code };
	return policy_event(type, p->vm, &a, p->name, p->table->name, p->msg);
}

SEC("tp_btf/kvm_ext_attach")
int BPF_PROG(attach, struct kvm_ext_policy *p)
{
	return policy(p, EV_ATTACH);
}

SEC("tp_btf/kvm_ext_update")
int BPF_PROG(update, struct kvm_ext_policy *p)
{
	return policy(p, EV_UPDATE);
}

SEC("tp_btf/kvm_ext_detach")
int BPF_PROG(detach, struct kvm_ext_policy *p)
{
	return policy(p, EV_DETACH);
}

SEC("tp_btf/kvm_ext_eject")
int BPF_PROG(eject, struct kvm_ext_policy *p)
{
	return policy(p, EV_EJECT);
}

SEC("tp_btf/kvm_ext_take")
int BPF_PROG(take, struct kvm *kvm, struct kvm_ext_table *table, struct kvm_ext_fault *fault)
{
	struct args a = {};
	u32 vm;

	if (!kvm || !table || !fault)
		return 0;
	vm = vm_pid(kvm);
	a = (struct args){ .a = fault->taken, .b = vm, .c = fault->kind };
	return policy_event(EV_TAKE, vm, &a, fault->name, table->name, fault->msg);
}
