// SPDX-License-Identifier: GPL-2.0
/* Bad: a table, but not one of kvm_ext's. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC("struct_ops/release")
void BPF_PROG(releases, struct sock *sk)
{
}

SEC(".struct_ops.link")
struct tcp_congestion_ops bad = { .name = "bad", .release = (void *)releases };
