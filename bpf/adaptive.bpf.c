// SPDX-License-Identifier: GPL-2.0
/*
 * adaptive: handle a vCPU's frequent exits in the fastpath, and only while that is harmless.
 *
 * Per vCPU, a kind of exit that comes often enough is handled in the fastpath until it is
 * rare again.  A kind whose exits are mostly full exits all the same (OUT to a port of user
 * space) is left alone for a while.  While another task waits for the CPU, the policy asks
 * for fewer consecutive re-entries.  Now and then it times the way from exit to entry: the
 * host's interrupts wait that long.  If one way took too long, every exit is a full exit
 * for a while.
 *
 * For: hosts where vCPUs share CPUs with other work; guests of which nothing is known.
 * Not for: guests that exit seldom, which gain nothing.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, hot, 100, 1, 100000, "", "exits of a kind in 100 ms that make it worth it");
KVMEXT_PARAM(u32, useless, 25, 0, 100, "%",
	     "of a kind this much at least must be answered, else it is left alone for a while");
KVMEXT_PARAM(u32, resumes, 256, 1, 4096, "", "most consecutive re-entries");
KVMEXT_PARAM(u32, waiting, 16, 1, 4096, "", "the same while another task wants the CPU");
KVMEXT_PARAM(u32, longest, 20000, 1, 10000000, "ns",
	     "longest bearable way from exit to entry, with IRQs off");
KVMEXT_PARAM(u32, sample, 8, 1, 1000, "",
	     "time one in so many of the intervals between two questions");
KVMEXT_PARAM(u32, away, 1000, 10, 60000, "ms", "how long what was a bad idea is left alone");

KVMEXT_COUNTER(u64, asked, "", "times that a vCPU asked");
KVMEXT_COUNTER(u64, resumed, "", "exits that were handled in the fastpath");
KVMEXT_COUNTER(u64, timed, "", "intervals in which the way was timed");
KVMEXT_COUNTER(u64, too_long, "", "of them, those with a way that was too long");
KVMEXT_COUNTER(u64, in_vain, "", "kinds left alone because most were full exits");
KVMEXT_COUNTER(u64, shared, "", "answers while another task wanted the CPU");
KVMEXT_COUNTER(u64, worst_ns, "ns", "the longest way that was seen");
KVMEXT_COUNTER(u64, no_room, "", "answers for a vCPU for which there is no room");

#define MS 1000000ULL

/*
 * VMs do not share an entry, and up to so many vCPUs of a VM take one: it is the number of
 * VMs that fills the map, not that of the vCPUs that one user gives them.
 */
#define BLOCK 64
#define MAX_VCPUS 4096

struct block_key {
	u64 kvm;
	u64 block; /* vcpu_idx / BLOCK */
};

/**
 * struct vcpu_mind - what is known of a vCPU
 * @kinds: those that were last answered with
 * @turn: questions so far
 * @timing: the way is being timed
 * @back: when a kind may be tried again, bpf_ktime_get_ns(); of 0, "other", all kinds
 */
struct vcpu_mind {
	u32 kinds;
	u32 turn;
	u64 timing;
	u64 back[KVM_SAVE_NR_KINDS];
};

struct block {
	struct vcpu_mind mind[BLOCK];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct block_key);
	__type(value, struct block);
} minds SEC(".maps");

/* Too large for the stack; all zero, and stays so */
static const struct block fresh;

static struct vcpu_mind *mind_of(struct kvm *kvm, const struct kvm_save_stats *stats)
{
	u64 idx = stats->vcpu_idx;
	struct block_key key = { .kvm = (u64)kvm, .block = idx / BLOCK };
	struct block *block = bpf_map_lookup_elem(&minds, &key);

	if (!block && idx < MAX_VCPUS) {
		bpf_map_update_elem(&minds, &key, &fresh, BPF_NOEXIST);
		block = bpf_map_lookup_elem(&minds, &key);
	}
	return block ? &block->mind[idx % BLOCK] : NULL;
}

SEC("struct_ops/select")
s64 BPF_PROG(adaptive_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
{
	struct vcpu_mind *mind = mind_of(kvm, stats);
	u64 now = bpf_ktime_get_ns(), ns = stats->ns, alone = away * MS, least;
	u32 kinds = 0, classes = KVM_SAVE_XSTATE | KVM_SAVE_HOST, row = resumes, i;

	__sync_fetch_and_add(&asked, 1);
	if (!mind) {
		__sync_fetch_and_add(&no_room, 1);
		return 0;
	}

	if (mind->timing) {
		__sync_fetch_and_add(&timed, 1);
		if (stats->longest_ns > worst_ns)
			worst_ns = stats->longest_ns;
		if (stats->longest_ns > longest) {
			__sync_fetch_and_add(&too_long, 1);
			mind->back[KVM_SAVE_OTHER] = now + alone;
		}
	}

	/*
	 * No rate of what is too short, as after a change of CPUs.  Unrolled, because the
	 * kernel's structs may be read at fixed places only.
	 */
	if (ns < MS)
		kinds = mind->kinds;
#pragma unroll
	for (i = KVM_SAVE_OTHER + 1; i < KVM_SAVE_NR_KINDS; i++) {
		u64 exits = stats->exits[i], done = stats->resumed[i];
		bool on = mind->kinds & 1U << i;

		__sync_fetch_and_add(&resumed, done);
		/* One that is on stays so until it is half as frequent */
		least = hot * ns / (on ? 200 * MS : 100 * MS);
		if (ns < MS || exits < least || !exits || now < mind->back[i])
			continue;
		if (on && done * 100 < exits * useless) {
			__sync_fetch_and_add(&in_vain, 1);
			mind->back[i] = now + alone;
			continue;
		}
		kinds |= 1U << i;
	}
	kinds &= stats->safe;
	if (now < mind->back[KVM_SAVE_OTHER])
		kinds = 0;

	if (stats->waiting && waiting < row) {
		__sync_fetch_and_add(&shared, 1);
		row = waiting;
	}
	mind->kinds = kinds;
	mind->timing = kinds && !(mind->turn++ % (sample ?: 1));
	if (mind->timing)
		classes |= KVM_SAVE_TIME;
	return KVM_SAVE_ANSWER(kinds, classes, row);
}

/* The next VM may have the same address */
SEC("struct_ops/end")
void BPF_PROG(adaptive_end, struct kvm *kvm)
{
	struct block_key key = { .kvm = (u64)kvm };
	u32 i;

	bpf_for(i, 0, MAX_VCPUS / BLOCK) {
		key.block = i;
		bpf_map_delete_elem(&minds, &key);
	}
}

KVMEXT_ABOUT("handles frequent exits in the fastpath, while that keeps nobody waiting")
SEC(".struct_ops.link")
struct kvm_save_ops adaptive = {
	.name = "adaptive",
	.select = (void *)adaptive_select,
	.end = (void *)adaptive_end,
};
