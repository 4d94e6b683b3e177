// SPDX-License-Identifier: GPL-2.0
/*
 * irq_route: is asked where each interrupt goes, and leaves it to KVM.
 *
 * For tests: what route() alone costs a vCPU that takes no interrupt.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/route")
s32 BPF_PROG(irq_route_route, struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	return KVM_IRQ_DEFAULT;
}

KVMEXT_ABOUT("test only: route() alone")
SEC(".struct_ops.link")
struct kvm_irq_ops irq_route = {
	.name = "irq_route",
	.route = (void *)irq_route_route,
};
