// SPDX-License-Identifier: GPL-2.0
/*
 * same_vcpu: handle every exit in the fastpath that KVM can handle there.
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

KVMEXT_PARAM(u32, resumes, 256, 1, 4096, "", "most consecutive re-entries");
KVMEXT_COUNTER(u64, asked, "", "times that a vCPU asked");

SEC("struct_ops/select")
s64 BPF_PROG(same_vcpu_select, struct kvm *kvm, struct kvm_vcpu *vcpu,
	     const struct kvm_save_stats *stats)
{
	__sync_fetch_and_add(&asked, 1);
	return KVM_SAVE_ANSWER(stats->safe, KVM_SAVE_XSTATE | KVM_SAVE_HOST, resumes);
}

KVMEXT_ABOUT("handles every exit in the fastpath that is safe there")
SEC(".struct_ops.link")
struct kvm_save_ops same_vcpu = {
	.name = "same_vcpu",
	.select = (void *)same_vcpu_select,
};
