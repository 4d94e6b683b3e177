// SPDX-License-Identifier: GPL-2.0
/*
 * A policy as small as one can be, with every kind of variable: where fuzzing of
 * objects starts, and an object for the command lines that are fuzzed.  It brings
 * its own types, as those of vmlinux.h would make it 900 KiB.
 */
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#define TAG(text) __attribute__((btf_decl_tag("kvmext:" text)))
#define PARAM(lo, hi, unit) \
	TAG("param") TAG("min=" #lo) TAG("max=" #hi) TAG("unit=" unit) TAG("help=h")

struct kvm;

struct kvm_throttle_ops {
	__u32 vm;
	__u32 flags;
	char name[32];
	__s64 (*block)(struct kvm *kvm, __u32 vcpu);
	void (*dirty_log)(struct kvm *kvm);
};

char _license[] SEC("license") = "GPL";

const volatile __u32 limit PARAM(1, 100, "ms") SEC(".rodata") = 7;
const volatile bool strict PARAM(0, 1, "") SEC(".rodata") = true;
volatile __u64 ns PARAM(0, 1000000, "ns") SEC(".data") = 5;
volatile signed char gain PARAM(-3, 3, "%") SEC(".data") = -1;
__u64 count TAG("counter") TAG("unit=pages") TAG("help=h") SEC(".bss");

SEC("struct_ops/block")
__s64 seed_block(unsigned long long *ctx)
{
	(void)ctx;
	__sync_fetch_and_add(&count, gain);
	return strict ? ns : limit;
}

TAG("about=a")
SEC(".struct_ops.link")
struct kvm_throttle_ops seed = { .name = "seed", .block = (void *)seed_block };
