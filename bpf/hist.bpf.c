// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: the programs of kvmext hist.  The tool loads those of the figure
 * that is asked for.
 */
#include "vcpu.bpf.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, HIST_KEYS);
	__type(key, struct hist_key);
	__type(value, struct hist);
} hists SEC(".maps");

static const struct hist zero;
const volatile bool want_exit;
const volatile bool want_inject;
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
	h->slot[slot]++;
	h->n++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

SEC("tp_btf/kvm_entry")
int BPF_PROG(entry, struct kvm_vcpu *vcpu)
{
	struct vcpu_thread *t = vcpu ? thread_of_vcpu(vcpu->vcpu_id) : NULL;
	u64 now = bpf_ktime_get_ns();

	speaks();
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
	if (vcpu && vm_wanted(vcpu->kvm->userspace_pid) && vcpu_wanted(vcpu->vcpu_id))
		count(0, vcpu->kvm->userspace_pid, vcpu->vcpu_id, slept);
	return 0;
}
