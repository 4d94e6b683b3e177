// SPDX-License-Identifier: GPL-2.0
/* What each local APIC accepted, by vCPU id and vector: KVM's side of an interrupt. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct {
	u64 n[8][256];
} accepted SEC(".bss") = {};

SEC("tp_btf/kvm_apic_accept_irq")
int BPF_PROG(accept, u32 apicid, u16 dm, u16 tm, u8 vec)
{
	u64 id = apicid, v = vec;

	barrier_var(id);
	barrier_var(v);
	__sync_fetch_and_add(&accepted.n[id & 7][v & 255], 1);
	return 0;
}
