// SPDX-License-Identifier: GPL-2.0
/* Bad: flags that the kernel does not know. */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

SEC(".struct_ops.link")
struct kvm_throttle_ops bad = { .name = "bad", .flags = 0x80000000 };
