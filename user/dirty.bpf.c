// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: what kvmext dirty collects by.
 *
 * One of two programs is attached.  The first sees each page at the one place
 * where KVM marks it dirty in the log, or in the ring, so its counts are the
 * log's.  The second is for kernels without fentry: it sees write faults.
 */
#include "watch.bpf.h"
#include "dirty.h"

char _license[] SEC("license") = "GPL";

/* One is filled while the tool empties the other. */
struct pages {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct dirty_key);
	__type(value, struct dirty_val);
};

struct pages even SEC(".maps");
struct pages odd SEC(".maps");

__u32 epoch;
__u64 lost;

static __always_inline int dirtied(struct kvm_vcpu *vcpu, u64 kvm, u64 gfn)
{
	struct dirty_key key = { .kvm = kvm, .chunk = gfn >> DIRTY_CHUNK_SHIFT };
	u64 bit = 1ull << (gfn & ((1 << DIRTY_CHUNK_SHIFT) - 1));
	struct dirty_val *val, fresh = {};
	void *map = epoch & 1 ? (void *)&odd : (void *)&even;

	key.vcpu = BPF_CORE_READ(vcpu, vcpu_id);
	key.tgid = vm_pid(BPF_CORE_READ(vcpu, kvm));
	val = bpf_map_lookup_elem(map, &key);
	if (!val) {
		bpf_map_update_elem(map, &key, &fresh, BPF_NOEXIST);
		val = bpf_map_lookup_elem(map, &key);
		if (!val) {
			__sync_fetch_and_add(&lost, 1);
			return 0;
		}
	}
	/* The key has the vCPU, so nobody else writes here. */
	val->bits |= bit;
	val->n++;
	return 0;
}

SEC("fentry/mark_page_dirty_in_slot")
int BPF_PROG(dirty_log, struct kvm *kvm, const struct kvm_memory_slot *slot, u64 gfn)
{
	u64 vcpu = task_vcpu(bpf_get_current_task_btf());

	if (!vcpu || !dirty_news(kvm, slot, gfn))
		return 0;
	return dirtied((void *)vcpu, (u64)kvm, gfn);
}

#define PFERR_WRITE 2

SEC("tp_btf/kvm_page_fault")
int BPF_PROG(dirty_fault, struct kvm_vcpu *vcpu, u64 addr, u64 error_code)
{
	if (!vcpu || !(error_code & PFERR_WRITE))
		return 0;
	return dirtied(vcpu, (u64)BPF_CORE_READ(vcpu, kvm), addr >> 12);
}
