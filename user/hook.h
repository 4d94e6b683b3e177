/* SPDX-License-Identifier: GPL-2.0 */
/* Which attach points for tracers this kernel has. */
#ifndef __KVMEXT_HOOK_H
#define __KVMEXT_HOOK_H

#include <stdbool.h>

#include "table.h"

enum hook { HOOK_NONE, HOOK_NOT_HERE, HOOK_TP_BTF, HOOK_TP, HOOK_FENTRY };

/*
 * hook_has - KVM or the kernel has this tracepoint with BTF, or this function and programs can
 * be put there, or this struct
 */
bool hook_has(enum point_id p);
/* hook_exit - how to learn why a vCPU exited; @how is for people */
enum hook hook_exit(const char **how);
/* hook_figure - the best way to the point's figure here; HOOK_NOT_HERE: of other machines */
enum hook hook_figure(enum point_id p, const char **how);
/* foreign_kvm - neither vendor's module: kvm_exit may be silent (user/watch.bpf.h) */
bool foreign_kvm(void);
/* need_kvm - OK, or why KVM cannot be traced here, reported */
int need_kvm(void);

#endif /* __KVMEXT_HOOK_H */
