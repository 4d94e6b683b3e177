/* SPDX-License-Identifier: GPL-2.0 */
/* Which attach points for tracers this kernel has. */
#ifndef __KVMEXT_HOOK_H
#define __KVMEXT_HOOK_H

#include <stdbool.h>

enum hook { HOOK_NONE, HOOK_NOT_HERE, HOOK_TP_BTF, HOOK_TP, HOOK_FENTRY };

/* hook_tp_btf - KVM or the kernel has this tracepoint, with BTF */
bool hook_tp_btf(const char *name);
bool hook_tp(const char *group, const char *name);
/* hook_fentry - the module or the kernel has this function, and programs can be put there */
bool hook_fentry(const char *module, const char *func);
/* hook_type - KVM or the kernel has this struct */
bool hook_type(const char *name);
/* foreign_kvm - neither vendor's module: kvm_exit may be silent (user/watch.bpf.h) */
bool foreign_kvm(void);
/* hook_exit - how to learn why a vCPU exited; @how is for people */
enum hook hook_exit(const char **how);
/* need_kvm - OK, or why KVM cannot be traced here, reported */
int need_kvm(void);

/**
 * struct figure - something that the tracers show
 * @name: of it
 * @verbs: what shows it
 * @module: whose function @point is; NULL: a tracepoint
 * @point: its attach point, or NULL if there is more to it
 */
struct figure {
	const char *name;
	const char *verbs;
	const char *module;
	const char *point;
};

extern const struct figure figures[];
extern const int nr_figures;
/* figure_hook - the best way to it that this kernel has; HOOK_NOT_HERE: of other machines */
enum hook figure_hook(const struct figure *f, const char **how);

#endif /* __KVMEXT_HOOK_H */
