// SPDX-License-Identifier: GPL-2.0
/*
 * irq_run: hears of each vCPU that comes and goes, and does nothing.
 *
 * For tests: what run() alone costs.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/run")
void BPF_PROG(irq_run_run, struct kvm *kvm, struct kvm_vcpu *vcpu, u32 how, u64 off_ns)
{
}

KVMEXT_ABOUT("test only: run() alone")
SEC(".struct_ops.link")
struct kvm_irq_ops irq_run = {
	.name = "irq_run",
	.run = (void *)irq_run_run,
};
