/* SPDX-License-Identifier: GPL-2.0 */
/* Processes, and the VMs that they have. */
#ifndef __KVMEXT_VMM_H
#define __KVMEXT_VMM_H

#include "base.h"

/*
 * nr_vms - how many VMs the process has, or -errno: -EACCES if that cannot be seen
 *
 * Where BPF is not to be had, it is how many files of VMs the process has open.
 */
int nr_vms(uint32_t pid);
/* need_vm - E_VM unless the process has a VM open */
int need_vm(uint32_t pid);
/* vm_ended - the process has exited or closed its VMs; false for process 0 */
bool vm_ended(uint32_t pid);

#endif /* __KVMEXT_VMM_H */
