// SPDX-License-Identifier: GPL-2.0
/*
 * stun: a marked vCPU is blocked for a fixed time on each page-write exit.
 *
 * The published system as it is: who migrates marks the vCPUs that must slow
 * down (kvmext mark), and each first write to a page then costs them a block.
 *
 * For: a known culprit; experiments, where a fixed cost per page is wanted.
 * Not for: leaving alone.  It looks at nothing: too short a block and migration
 * does not converge, too long a one and the guest stands still for no use.  It
 * blocks a marked vCPU whenever dirty logging is on, so also outside migration
 * where the VMM logs (a VGA frame buffer).  converge needs no such care.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u64, block, 10000000, 0, 100000000, "ns",
	     "block after each page-write exit of a marked vCPU");

KVMEXT_COUNTER(u64, asked, "", "times a marked vCPU's write exit asked for a block");

SEC("struct_ops/block")
s64 BPF_PROG(stun_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	__sync_fetch_and_add(&asked, 1);
	return block;
}

KVMEXT_ABOUT("blocks marked vCPUs for a fixed time on each page-write exit")
SEC(".struct_ops.link")
struct kvm_throttle_ops stun = {
	.name = "stun",
	.block = (void *)stun_block,
};
