// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: the program by which the tool marks a vCPU.  It is run once by
 * BPF_PROG_RUN and never attached.
 */
#include "kvmext.bpf.h"

char _license[] SEC("license") = "GPL";

struct mark_args {
	u32 pid;
	u32 vcpu_id;
	u32 on;
};

SEC("syscall")
int mark(struct mark_args *args)
{
	return kvm_throttle_mark_pid(args->pid, args->vcpu_id, args->on);
}
