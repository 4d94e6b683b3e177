/* SPDX-License-Identifier: GPL-2.0 */
/* What the kernel, its modules and this process's rights offer. */
#ifndef __KVMEXT_HOST_H
#define __KVMEXT_HOST_H

#include <bpf/btf.h>

#include "base.h"
#include "table.h"

/* kvm_btf - BTF of the kvm module (or of vmlinux if it is built in), NULL if none; cached */
struct btf *kvm_btf(void);
/* kvm_has_table - this KVM takes policies for it */
bool kvm_has_table(const struct table *t);

/**
 * struct table_ops - where a table's ops are
 * @name: their names
 * @off: where in the value of a struct_ops map
 * @n: how many
 */
struct table_ops {
	const char *name[32];
	uint32_t off[32];
	int n;
};

/* kvm_table_ops - ask the kernel's BTF for the ops of a table */
int kvm_table_ops(const struct table *t, struct table_ops *ops);

/* need_kernel - E_ENV with the reason if policies cannot work in this kernel */
int need_kernel(void);
/* need_caps - E_PRIV with the capabilities that this process lacks */
int need_caps(void);
/* need_privilege - these, and the kernel's process ids: E_ENV in a pid namespace */
int need_privilege(void);
/**
 * catch_ends - have a function called for each signal that asks for an end
 * @fn: called without SA_RESTART, so that a wait ends
 *
 * SIGHUP and SIGQUIT stay ignored if they are, as by nohup(1).
 */
void catch_ends(void (*fn)(int sig));
/**
 * lock_one - be the only one of all kvmexts to serve something, until this process ends
 * @what: the command
 * @id: the thing
 * @busy: what to report if another kvmext has it
 *
 * The locks of a command are bytes of one file, so that a kvmext that is killed leaves no file.
 *
 * Return: OK or the code of what was reported.
 */
int lock_one(const char *what, uint64_t id, const char *busy);
/* first_line - of a file, without its end; NULL if it cannot be opened.  To be freed */
char *first_line(const char *path);
/* lockdown - the kernel's levels, the one it is at in brackets; "" if none.  To be freed */
char *lockdown(void);
/* lockdown_bars_reads - no BPF program may read the kernel's memory; policies need not */
bool lockdown_bars_reads(void);
/* drop_rights - be nobody from here on, to read what strangers made */
void drop_rights(void);
int need_bpffs(void);
bool kill_switch_on(void);
uint64_t missing_caps(char *names, size_t size);
/* has_cap - this process has that capability, of <linux/capability.h>, in the first user namespace */
bool has_cap(int cap);
bool is_mount(const char *path, long magic);
/* in_pid_namespace - process ids here are not the kernel's */
bool in_pid_namespace(void);
#define IN_HOST_PIDS "on the host, or in a container with the host's pid namespace (--pid=host)"
char *proc_comm(uint32_t pid);

#define BPFFS_MAGIC 0xcafe4a11L
#define DEBUGFS_MAGIC_ 0x64626720L
#define KILL_SWITCH "/sys/module/kvm/parameters/ext_enable"

#endif /* __KVMEXT_HOST_H */
