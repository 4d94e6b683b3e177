// SPDX-License-Identifier: GPL-2.0
/* Has a map that libbpf would pin in bpffs, or take from there. */
#include "bpf/kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} kvmext SEC(".maps");

SEC("struct_ops/block")
u64 BPF_PROG(pin_block, struct kvm *kvm, u32 vcpu_idx)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&kvmext, &zero) ? 0 : 1;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops pin = { .name = "pin", .block = (void *)pin_block };
