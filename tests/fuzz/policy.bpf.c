// SPDX-License-Identifier: GPL-2.0
/*
 * Where fuzzing of the load starts: a policy with what libbpf has to work for, that is
 * fields by CO-RE, a kernel function, a map, a subprogram and variables.  Its own types,
 * as in seed.bpf.c.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define TAG(text) __attribute__((btf_decl_tag("kvmext:" text)))

struct kvm_vcpu {
	int vcpu_idx;
} __attribute__((preserve_access_index));

struct kvm {
	unsigned int users;
} __attribute__((preserve_access_index));

struct kvm_throttle_ops {
	__u32 vm;
	__u32 flags;
	char name[32];
	__s64 (*block)(struct kvm *kvm, struct kvm_vcpu *vcpu);
	void (*dirty_log)(struct kvm *kvm, const void *log);
};

char _license[] SEC("license") = "GPL";

extern int kvm_throttle_mark(struct kvm *kvm, __u32 vcpu, bool on) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

const volatile __u32 limit TAG("param") TAG("min=1") TAG("max=100") SEC(".rodata") = 7;
volatile __u64 ns TAG("param") TAG("unit=ns") SEC(".data") = 5;
__u64 count TAG("counter") SEC(".bss");

static __attribute__((noinline)) __u64 note(__u32 idx)
{
	__u64 *n = bpf_map_lookup_elem(&seen, &idx);

	return n ? ++*n : ns;
}

SEC("struct_ops/block")
__s64 policy_block(unsigned long long *ctx)
{
	struct kvm_vcpu *vcpu = (void *)ctx[1];

	__sync_fetch_and_add(&count, 1);
	return note(vcpu->vcpu_idx) * limit;
}

SEC("struct_ops/dirty_log")
int policy_dirty_log(unsigned long long *ctx)
{
	struct kvm *kvm = (void *)ctx[0];

	return kvm_throttle_mark(kvm, kvm->users, true);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops policy = {
	.name = "policy",
	.block = (void *)policy_block,
	.dirty_log = (void *)policy_dirty_log,
};
