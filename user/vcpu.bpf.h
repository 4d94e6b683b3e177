/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tracers know of a vCPU, and why it exited.
 *
 * It is kept in the storage of the vCPU's thread: no lock is taken and nothing is
 * hashed at an exit, and it goes when the thread goes.
 */
#ifndef __KVMEXT_VCPU_BPF_H
#define __KVMEXT_VCPU_BPF_H

#include "watch.bpf.h"
#include "event.h"

/*
 * Pointers of BTF tracepoints: newer verifiers have them tested for NULL before
 * they are used, though none here ever is.
 */

/**
 * struct vcpu_thread - a thread that runs a vCPU
 * @exit_ts: when it left the guest, 0: it is there
 * @key: why, isa << 32 | reason
 * @user: KVM_EXIT_* + 1 if user space was needed since
 * @inject_ts: when the first interrupt since then was injected
 * @waking_ts: when it was last woken
 * @known: @vcpu is known
 * @vcpu: its id
 */
struct vcpu_thread {
	u64 exit_ts;
	u64 key;
	u64 user;
	u64 inject_ts;
	u64 waking_ts;
	bool known;
	s32 vcpu;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct vcpu_thread);
} threads SEC(".maps");

const volatile struct filter filter;
/* Exits to user space that stand for others, as those are not told here */
__u64 silent;

static __always_inline u32 tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline bool vm_wanted(u32 vm)
{
	return !filter.vm || filter.vm == vm;
}

static __always_inline bool vcpu_wanted(s32 vcpu)
{
	return filter.vcpu == NO_VCPU || filter.vcpu == vcpu;
}

static __always_inline bool reason_wanted(u64 key)
{
	if (!filter.nr_reasons)
		return true;
	for (u32 i = 0; i < REASONS_MAX; i++)
		if (i < filter.nr_reasons && filter.reason[i] == key)
			return true;
	return false;
}

/* What is known of the current thread, or NULL: it runs no vCPU that is wanted. */
static __always_inline struct vcpu_thread *thread(void)
{
	struct vcpu_thread *t;

	t = bpf_task_storage_get(&threads, bpf_get_current_task_btf(), NULL, 0);
	return t && t->known && vcpu_wanted(t->vcpu) ? t : NULL;
}

static __always_inline struct vcpu_thread *thread_of_vcpu(s32 vcpu)
{
	struct vcpu_thread *t;

	if (!vm_wanted(tgid()) || !vcpu_wanted(vcpu))
		return NULL;
	t = bpf_task_storage_get(&threads, bpf_get_current_task_btf(), NULL,
				 BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* A thread may run one vCPU after another. */
	if (t && (!t->known || t->vcpu != vcpu)) {
		t->exit_ts = 0;
		t->inject_ts = 0;
		t->vcpu = vcpu;
		t->known = true;
	}
	return t;
}

static __always_inline void left_guest(struct vcpu_thread *t, u64 key)
{
	t->exit_ts = bpf_ktime_get_ns();
	t->key = key;
	t->user = 0;
	t->inject_ts = 0;
}

SEC("tp_btf/kvm_exit")
int BPF_PROG(exit_btf, struct kvm_vcpu *vcpu, u32 isa)
{
	struct vcpu_thread *t = vcpu ? thread_of_vcpu(vcpu->vcpu_id) : NULL;

	speaks();
	if (t)
		left_guest(t, (u64)isa << 32 | exit_reason(vcpu, isa));
	return 0;
}

/* Where the vendor's types are not known, the tracepoint's record has the reason. */
SEC("tp/kvm/kvm_exit")
int exit_tp(struct trace_event_raw_kvm_exit *ctx)
{
	struct vcpu_thread *t = thread_of_vcpu(ctx->vcpu_id);
	u32 reason = ctx->exit_reason;

	speaks();
	if (t)
		left_guest(t,
			   (u64)ctx->isa << 32 | (ctx->isa == ISA_VMX ? reason & 0xffff : reason));
	return 0;
}

/* Where those two are silent: KVM_RUN begins or ends.  Returns the thread if it begins. */
static __always_inline struct vcpu_thread *user_run(bool begins)
{
	struct kvm_vcpu *vcpu = (void *)task_vcpu(bpf_get_current_task_btf());
	struct vcpu_thread *t;

	if (!silent_kvm() || !vcpu)
		return NULL;
	t = thread_of_vcpu(BPF_CORE_READ(vcpu, vcpu_id));
	if (t && !begins) {
		left_guest(t, (u64)ISA_USER << 32 | BPF_CORE_READ(vcpu, run, exit_reason));
		__sync_fetch_and_add(&silent, 1);
	}
	return begins ? t : NULL;
}

#endif /* __KVMEXT_VCPU_BPF_H */
