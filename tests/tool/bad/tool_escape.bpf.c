// SPDX-License-Identifier: GPL-2.0
/* A policy whose texts are for the terminal of whoever looks at it: escape sequences of one
 * and two bytes and the mark that turns text round.  They stand here as they are, since clang 19
 * takes no \033 in an attribute's string.
 */
#include "bpf/kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, depth, 1, 0, 9, "[31m",
	     "]0;title\a 31m ‮ \r\n\"\\");

SEC("struct_ops/block")
u64 BPF_PROG(escape_block, struct kvm *kvm, u32 vcpu_idx)
{
	return depth;
}

KVMEXT_ABOUT("[2J2J")
SEC(".struct_ops.link")
struct kvm_throttle_ops escape = { .name = "escape", .block = (void *)escape_block };
