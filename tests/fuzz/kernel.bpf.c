// SPDX-License-Identifier: GPL-2.0
/*
 * Of this object's types is the kernel that fuzzed policies are loaded into, see
 * load.c: small, as libbpf reads all of them for each run.
 */
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

struct kvm_vcpu {
	int vcpu_id, vcpu_idx;
};

struct kvm {
	struct kvm_vcpu *vcpu;
	unsigned int users;
};

struct kvm_throttle_ops {
	__u32 vm;
	__u32 flags;
	char name[32];
	void (*dirtied)(struct kvm *kvm, struct kvm_vcpu *vcpu, __u64 gfn, __u32 source);
	__s64 (*block)(struct kvm *kvm, struct kvm_vcpu *vcpu);
	void (*dirty_log)(struct kvm *kvm, const void *log);
};

struct bpf_struct_ops_common_value {
	__u32 refcnt, state;
};

struct bpf_struct_ops_kvm_throttle_ops {
	struct bpf_struct_ops_common_value common;
	struct kvm_throttle_ops data __attribute__((aligned(64)));
};

struct bpf_struct_ops_kvm_throttle_ops table;
struct kvm *vms;

int kvm_throttle_mark(struct kvm *kvm, __u32 vcpu, bool on)
{
	(void)kvm, (void)vcpu, (void)on;
	return 0;
}
