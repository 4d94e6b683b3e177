// SPDX-License-Identifier: GPL-2.0
/*
 * Policies that the kernel must refuse, each for one reason, and the one that
 * differs from them by that reason alone and must be taken.  A test creates one
 * of the maps or loads one of the programs; nothing here is ever loaded whole.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/dirtied")
void BPF_PROG(good_dirtied, struct kvm *kvm, struct kvm_vcpu *vcpu, u64 gfn, u32 source)
{
	kvm_throttle_mark(kvm, vcpu->vcpu_idx, true);
}

SEC("struct_ops/block")
s64 BPF_PROG(good_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return 0;
}

SEC("struct_ops/dirty_log")
void BPF_PROG(good_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	kvm_throttle_nr_vcpus(kvm);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops good = {
	.name = "good",
	.dirtied = (void *)good_dirtied,
	.block = (void *)good_block,
	.dirty_log = (void *)good_dirty_log,
};

/*
 * No op of any table may sleep: who waits for it to end would wait with it.  Each op is
 * there twice, and what differs is that alone.
 */
#define ONE_OP(kind, section, table, op)                   \
	SEC(section "/" #op)                               \
	int kind##_prog_##table##_##op(void *ctx)          \
	{                                                  \
		return 0;                                  \
	}                                                  \
                                                           \
	SEC(".struct_ops.link")                            \
	struct kvm_##table##_ops kind##_##table##_##op = { \
		.name = #kind,                             \
		.op = (void *)kind##_prog_##table##_##op,  \
	}
#define SLEEPY_AND_AWAKE(table, op)                \
	ONE_OP(sleepy, "struct_ops.s", table, op); \
	ONE_OP(awake, "struct_ops", table, op)

SLEEPY_AND_AWAKE(throttle, dirtied);
SLEEPY_AND_AWAKE(throttle, block);
SLEEPY_AND_AWAKE(throttle, dirty_log);
SLEEPY_AND_AWAKE(throttle, end);
SLEEPY_AND_AWAKE(irq, route);
SLEEPY_AND_AWAKE(irq, run);
SLEEPY_AND_AWAKE(irq, retarget);
SLEEPY_AND_AWAKE(irq, end);
SLEEPY_AND_AWAKE(save, select);
SLEEPY_AND_AWAKE(save, end);
SLEEPY_AND_AWAKE(dirty, harvest);
SLEEPY_AND_AWAKE(dirty, basis);
SLEEPY_AND_AWAKE(dirty, end);

/* A kfunc of the tool's programs in an op. */
SEC("struct_ops/block")
s64 BPF_PROG(pid_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return kvm_throttle_mark_pid(1, 0, true);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops mark_pid = {
	.name = "mark_pid",
	.block = (void *)pid_block,
};

/* vcpu->kvm is not a trusted pointer: only the op's own argument is. */
SEC("struct_ops/block")
s64 BPF_PROG(untrusted_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return kvm_throttle_nr_vcpus(vcpu->kvm);
}

SEC(".struct_ops.link")
struct kvm_throttle_ops untrusted = {
	.name = "untrusted",
	.block = (void *)untrusted_block,
};

/* KVM's memory is not a policy's to write. */
SEC("struct_ops/block")
s64 BPF_PROG(write_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	vcpu->vcpu_id = 5;
	return 0;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops write = {
	.name = "write",
	.block = (void *)write_block,
};

/* What another table's ops may call: to read the guest's memory is for harvest(), */
SEC("struct_ops/dirty_log")
void BPF_PROG(read_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *log)
{
	u64 word;

	kvm_dirty_read(kvm, 0, &word, sizeof(word));
}

SEC(".struct_ops.link")
struct kvm_throttle_ops read_throttle = {
	.name = "read_throttle",
	.dirty_log = (void *)read_dirty_log,
};

/* ... and the clock too */
SEC("struct_ops/select")
s64 BPF_PROG(clock_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
{
	return kvm_dirty_clock(kvm);
}

SEC(".struct_ops.link")
struct kvm_save_ops clock_save = {
	.name = "clock_save",
	.select = (void *)clock_select,
};

/* ... and to count vCPUs is the throttle's. */
SEC("struct_ops/harvest")
void BPF_PROG(vcpus_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	kvm_throttle_nr_vcpus(kvm);
}

SEC(".struct_ops.link")
struct kvm_dirty_ops vcpus_dirty = {
	.name = "vcpus_dirty",
	.harvest = (void *)vcpus_harvest,
};

/* Taken: what differs in these is the kfunc alone. */
SEC("struct_ops/harvest")
void BPF_PROG(good_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	u64 word;

	kvm_dirty_read(kvm, 0, &word, sizeof(word));
	kvm_dirty_clock(kvm);
}

SEC(".struct_ops.link")
struct kvm_dirty_ops good_dirty = {
	.name = "good_dirty",
	.harvest = (void *)good_harvest,
};

/* An op's kfunc in the tool's kind of program, with a pointer got elsewhere. */
SEC("syscall")
int syscall_nr_vcpus(struct kvm **ctx)
{
	return kvm_throttle_nr_vcpus(*ctx);
}

/* ... and where the pointer would be good. */
SEC("tp_btf/kvm_vcpu_wakeup")
int BPF_PROG(tracing_mark_pid)
{
	return kvm_throttle_mark_pid(1, 0, true);
}

/* Taken: what differs in the two above is the kfunc alone. */
SEC("syscall")
int syscall_good(u32 *ctx)
{
	return kvm_throttle_mark_pid(*ctx, 0, true);
}

/* Attached without a link it could be neither swapped nor found. */
SEC(".struct_ops")
struct kvm_throttle_ops legacy = {
	.name = "legacy",
};

SEC(".struct_ops.link")
struct kvm_throttle_ops empty = {
	.name = "empty",
};

SEC(".struct_ops.link")
struct kvm_throttle_ops bad_name = {
	.name = "bad name",
};

SEC(".struct_ops.link")
struct kvm_throttle_ops no_name = {};

SEC(".struct_ops.link")
struct kvm_throttle_ops bad_flags = {
	.name = "bad_flags",
	.flags = 0x80000000,
};
