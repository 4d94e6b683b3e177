// SPDX-License-Identifier: GPL-2.0
/*
 * same_vcpu: whatever can be answered on the spot is.
 *
 * The published system's rule, as far as it is safe: nothing is saved or loaded
 * while the same vCPU goes on.
 *
 * For: guests whose exits are many and cheap (CPUID, MSRs, doorbells).
 * Not for: hosts that look at the length of every stretch with IRQs off; see
 * adaptive.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, resumes, 256, 1, 4096, "", "most exits in a row that are answered on the spot");
KVMEXT_COUNTER(u64, asked, "", "times that a vCPU asked");

SEC("struct_ops/select")
s64 BPF_PROG(same_vcpu_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
{
	__sync_fetch_and_add(&asked, 1);
	return KVM_SAVE_ANSWER(stats->safe, KVM_SAVE_XSTATE | KVM_SAVE_HOST, resumes);
}

KVMEXT_ABOUT("every exit that is safe to is answered on the spot")
SEC(".struct_ops.link")
struct kvm_save_ops same_vcpu = {
	.name = "same_vcpu",
	.select = (void *)same_vcpu_select,
};
