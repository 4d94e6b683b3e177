// SPDX-License-Identifier: GPL-2.0
/* Bad where the kernel's configuration is not to be found. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

extern int CONFIG_HZ __kconfig;

SEC("struct_ops/block")
s64 BPF_PROG(kconfig_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	return CONFIG_HZ;
}

SEC(".struct_ops.link")
struct kvm_throttle_ops kconfig = {
	.name = "kconfig",
	.block = (void *)kconfig_block,
};
