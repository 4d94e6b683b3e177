// SPDX-License-Identifier: GPL-2.0
/* Bad: without a link it could be neither switched nor found. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC(".struct_ops")
struct kvm_throttle_ops bad = { .name = "bad" };
