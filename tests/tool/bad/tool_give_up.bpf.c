// SPDX-License-Identifier: GPL-2.0
/*
 * tool_give_up: what kvmext hint takes for skip_free, and gives up or is slow as it is told.
 *
 * For tests: its VMs then have a policy that is loaded and does nothing for them.
 */
#include "kvmext.bpf.h"
#include "free.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, give_up, 0, 0, 2, "", "1 give up at the next harvest, 2 be slow from there on");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 2); /* VMs */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__array(values, struct area);
} areas SEC(".maps");

static u64 spun;

static long spin(u32 i, void *ctx)
{
	__sync_fetch_and_add(&spun, 1);
	return 0;
}

SEC("struct_ops/harvest")
void BPF_PROG(give_up_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	/* That the map is one of its own */
	if (!bpf_map_lookup_elem(&areas, &pid))
		return;
	if (give_up == 1)
		kvm_dirty_error(kvm, 7, "as the test wants");
	else if (give_up == 2)
		bpf_loop(1 << 21, spin, NULL, 0);
}

KVMEXT_ABOUT("test only: gives up as it is told")
SEC(".struct_ops.link")
struct kvm_dirty_ops tool_give_up = {
	.name = "skip_free",
	.harvest = (void *)give_up_harvest,
};
