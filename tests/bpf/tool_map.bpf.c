// SPDX-License-Identifier: GPL-2.0
/* Bad: has a map that is larger than any kernel makes. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 0xffffffff);
	__type(key, u32);
	__type(value, u64);
} huge SEC(".maps");

SEC("struct_ops/block")
s64 BPF_PROG(reads, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	u32 key = 0;
	u64 *val = bpf_map_lookup_elem(&huge, &key);

	return val ? *val : 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .block = (void *)reads };
