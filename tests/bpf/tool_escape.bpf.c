// SPDX-License-Identifier: GPL-2.0
/* A policy whose texts are for the terminal of whoever looks at it. */
#include "bpf/kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, depth, 1, 0, 9, "\033[31m",
	     "\033]0;title\007 \302\233"
	     "31m \342\200\256 \r\n\"\\");

SEC("struct_ops/block")
u64 BPF_PROG(escape_block, struct kvm *kvm, u32 vcpu_idx)
{
	return depth;
}

KVMEXT_ABOUT("\033[2J\302\233"
	     "2J")
SEC(".struct_ops.link")
struct kvm_throttle_ops escape = { .name = "escape", .block = (void *)escape_block };
