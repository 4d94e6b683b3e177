/* SPDX-License-Identifier: GPL-2.0 */
/* Names of VM exits. */
#ifndef __KVMEXT_EXITNAME_H
#define __KVMEXT_EXITNAME_H

#include <stdint.h>

/* KVM_ISA_* of the kernel, as kvm_exit has them; ISA_NONE for KVM_EXIT_*, exits to user space */
enum { ISA_NONE, ISA_VMX, ISA_SVM };
#define EXIT_KEY(isa, reason) ((uint64_t)(isa) << 32 | (uint32_t)(reason))

/**
 * tracefs_open - a descriptor of tracefs, mounted or not
 * @path: where it is, for people
 *
 * Return: a descriptor for openat(), or -errno.
 */
int tracefs_open(const char **path);
/* exit_names_load - read the kernel's tables once; OK, or E_ENV with nothing reported */
int exit_names_load(void);
/* exit_names_where - where the names are from, or why there are none; how many */
const char *exit_names_where(int *n);
/* exit_name - never NULL: "0x7f" if it has no name; good for the next three calls */
const char *exit_name(uint32_t isa, uint32_t reason);
/* exit_reasons - EXIT_KEY()s of a name (any case, both vendors') or a number; how many */
int exit_reasons(const char *name, uint64_t *keys, int max);
const char *exit_name_nearest(const char *name);

#endif /* __KVMEXT_EXITNAME_H */
