// SPDX-License-Identifier: GPL-2.0
/*
 * uniform: every vCPU alike, harder with each round that does not shrink.
 *
 * QEMU's auto-converge on this mechanism: from the second round on each vCPU is
 * kept from running for a share of its time, which grows by a step with every
 * round that leaves more than half as much to send as the one before.  Unlike
 * auto-converge it stops a vCPU only at its page-write exits, so what only
 * computes hardly notices.
 *
 * For: comparison; a guest whose vCPUs all dirty alike.
 * Not for: guests where some vCPUs matter more: all that write pay the same,
 * whoever is to blame.
 */
#include "kvmext.bpf.h"
#include "rounds.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, initial, 20, 1, 94, "%", "share of time blocked at first");
KVMEXT_PARAM(u32, step, 10, 1, 94, "%", "more with each round that does not shrink by half");
KVMEXT_PARAM(u32, most, 94, 1, 94, "%", "share of time blocked at most");

KVMEXT_COUNTER(u64, steps, "", "times the share was raised, over all VMs");
KVMEXT_COUNTER(u64, no_room, "",
	       "events of VMs for which there is no room: they are not throttled");

#define MAX_VCPUS 256

struct vm {
	struct rounds rounds;
	u32 share; /* percent of time blocked now */
	u64 step_ns; /* when it was last raised */
	u64 asked_ns[MAX_VCPUS]; /* end of the last block, about */
	u64 blocked_ns[MAX_VCPUS]; /* sum of blocks by then */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ROUNDS_VMS);
	__type(key, u64);
	__type(value, struct vm);
} vms SEC(".maps");

/* Too large for the stack; all zero, and stays so */
static const struct vm fresh;

SEC("struct_ops/dirty_log")
void BPF_PROG(uniform_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *ev)
{
	u64 key = (u64)kvm;
	bool harder;
	struct vm *vm;
	u32 i;

	vm = rounds_vm(&vms, kvm, &fresh);
	if (!vm) {
		__sync_fetch_and_add(&no_room, 1);
		return;
	}

	switch (ev->event) {
	case KVM_THROTTLE_LOG_START:
	case KVM_THROTTLE_LOG_STOP:
		if (rounds_over(ev)) {
			bpf_for(i, 0, kvm_throttle_nr_vcpus(kvm))
				kvm_throttle_mark(kvm, i, false);
			bpf_map_delete_elem(&vms, &key);
		}
		return;
	case KVM_THROTTLE_HARVEST:
		harder = rounds_harvest(&vm->rounds, ev) && vm->rounds.round > 2 &&
			 vm->rounds.last_dirty && ev->dirty * 2 > vm->rounds.last_dirty;
		/* The second round is the first that can be too much */
		harder |= vm->rounds.round == 2 && !vm->share;
		break;
	case KVM_THROTTLE_RING_RESET:
		/* A dirty ring shows no rounds: raise it every two seconds */
		if (!vm->step_ns)
			vm->step_ns = ev->now_ns;
		harder = ev->now_ns - vm->step_ns > 2000000000ULL;
		break;
	default:
		return;
	}
	if (!harder)
		return;

	vm->step_ns = ev->now_ns;
	vm->share = vm->share ? vm->share + step : initial;
	if (vm->share > most)
		vm->share = most;
	__sync_fetch_and_add(&steps, 1);
	bpf_for(i, 0, kvm_throttle_nr_vcpus(kvm))
		kvm_throttle_mark(kvm, i, true);
}

SEC("struct_ops/block")
s64 BPF_PROG(uniform_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	u32 i = vcpu->vcpu_idx;
	u64 now = bpf_ktime_get_ns(), ran, ns;
	struct kvm_throttle_stat stat = {};
	u64 key = (u64)kvm;
	struct vm *vm;
	u32 share;

	vm = bpf_map_lookup_elem(&vms, &key);
	if (!vm || i >= MAX_VCPUS || !vm->share || kvm_throttle_stat(kvm, i, &stat))
		return 0;

	share = vm->share;
	ran = vm->asked_ns[i] ? now - vm->asked_ns[i] - (stat.blocked_ns - vm->blocked_ns[i]) :
				1000000;
	/* A long run without a write earns no long block */
	if (ran > 10000000)
		ran = 10000000;
	if (share > 94)
		share = 94;
	ns = ran * share / (100 - share);
	vm->asked_ns[i] = now;
	vm->blocked_ns[i] = stat.blocked_ns;
	return ns;
}

SEC("struct_ops/end")
void BPF_PROG(uniform_end, struct kvm *kvm)
{
	u64 key = (u64)kvm;

	bpf_map_delete_elem(&vms, &key);
}

KVMEXT_ABOUT("blocks every vCPU alike, harder each round, as auto-converge does")
SEC(".struct_ops.link")
struct kvm_throttle_ops uniform = {
	.name = "uniform",
	.block = (void *)uniform_block,
	.dirty_log = (void *)uniform_dirty_log,
	.end = (void *)uniform_end,
};
