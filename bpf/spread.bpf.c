// SPDX-License-Identifier: GPL-2.0
/*
 * spread: each source's interrupts to its candidates in turn.
 *
 * For: many interrupts of one device, whose handling is the load; a measure that
 * policies which look can be held against.
 * Not for: busy hosts.  It does not look who runs, and takes the cache along
 * with each interrupt.
 */
#include "irq.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, routed, "", "interrupts that had a turn");

SEC("struct_ops/route")
s32 BPF_PROG(spread_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct irq_line *line = irq_line(kvm, irq);

	if (!line)
		return KVM_IRQ_DEFAULT;
	__sync_fetch_and_add(&routed, 1);
	return __sync_fetch_and_add(&line->turn, 1) % irq->nr;
}

SEC("struct_ops/end")
void BPF_PROG(spread_end, struct kvm *kvm)
{
	irq_forget(kvm);
}

KVMEXT_ABOUT("each interrupt to the next of the vCPUs that may take it")
SEC(".struct_ops.link")
struct kvm_irq_ops spread = {
	.name = "spread",
	.route = (void *)spread_route,
	.end = (void *)spread_end,
};
