// SPDX-License-Identifier: GPL-2.0
/*
 * empty_dirty: a policy with no op at all.
 *
 * For tests: a table that is attached and asked nothing costs nothing.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

KVMEXT_ABOUT("test only: attached, and no op is there")
SEC(".struct_ops.link")
struct kvm_dirty_ops empty_dirty = {
	.name = "empty",
};
