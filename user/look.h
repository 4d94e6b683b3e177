/* SPDX-License-Identifier: GPL-2.0 */
/* What KVM has decided about VMs, without tracing them. */
#ifndef __KVMEXT_LOOK_H
#define __KVMEXT_LOOK_H

#include <linux/types.h>
#include <stdint.h>

#include "look_vm.h"

/**
 * vms_look - call @fn once for each VM that a process has open
 * @pid: of this process only, or 0
 * @fn: ends it by returning non-zero
 * @arg: for @fn
 *
 * Return: 0, what @fn returned, or -errno: it cannot be had on this kernel, or here.
 */
int vms_look(uint32_t pid, int (*fn)(const struct look_vm *vm, void *arg), void *arg);
/**
 * apicv_text - why APICv or AVIC is not used, for people
 * @inhibits: bits of the kernel's enum kvm_apicv_inhibit
 *
 * Return: the kernel's own names in small letters, "" for none (it is used), NULL if
 * that is not known; good for the next call.
 */
const char *apicv_text(uint64_t inhibits);

#endif /* __KVMEXT_LOOK_H */
