/* SPDX-License-Identifier: GPL-2.0 */
/* What user/look.bpf.c says of a VM and user/look.c reads. */
#ifndef __KVMEXT_LOOK_VM_H
#define __KVMEXT_LOOK_VM_H

#define LOOK_UNKNOWN (~0ULL)

/**
 * struct look_vm - a VM, as one file of a process says
 * @kvm: struct kvm's address; a VM may have several files, and is told by several threads if the
 *	process's first one has ended
 * @inhibits: bits of enum kvm_apicv_inhibit, LOOK_UNKNOWN if this kernel has none
 * @logging: memslots whose dirty pages are logged, likewise
 * @tgid: the process that has the file
 * @pad: 0
 */
struct look_vm {
	__u64 kvm;
	__u64 inhibits;
	__u64 logging;
	__u32 tgid;
	__u32 pad;
};

#endif /* __KVMEXT_LOOK_VM_H */
