// SPDX-License-Identifier: GPL-2.0
/* Bad: a parameter's default is out of its own range. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_PARAM(u32, wrong, 7, 10, 20, "", "7 is not from 10 to 20");

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad" };
