// SPDX-License-Identifier: GPL-2.0
/*
 * Where a kernel symbol is, for tests.  To read /proc/kallsyms for it takes the Intel
 * machine a minute.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

/* The helper takes a string of the object's own alone */
const char remap_ops_name[] = "remap_ops";
u64 address = 0;

SEC("syscall")
int remap_ops(void *ctx)
{
	return bpf_kallsyms_lookup_name(remap_ops_name, sizeof(remap_ops_name), 0, &address);
}
