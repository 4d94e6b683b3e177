// SPDX-License-Identifier: GPL-2.0
/* A policy that has no op that a hook calls: an attached table whose ops are all absent. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/end")
void BPF_PROG(irq_none_end, struct kvm *kvm)
{
}

KVMEXT_ABOUT("test only: no op that a hook calls")
SEC(".struct_ops.link")
struct kvm_irq_ops irq_none = {
	.name = "irq_none",
	.end = (void *)irq_none_end,
};
