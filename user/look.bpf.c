// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy: finds VMs by the files that processes have open, and says what KVM
 * has decided about each.  It attaches to nothing, so VMs that are idle show too.
 */
#include "watch.bpf.h"
#include "look_vm.h"

char _license[] SEC("license") = "GPL";

#define ANON_INODE_FS_MAGIC 0x09041934

static __always_inline struct kvm *vm_of(struct file *file)
{
	char name[8] = {};

	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != ANON_INODE_FS_MAGIC)
		return NULL;
	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return bpf_strncmp(name, sizeof(name), "kvm-vm") ? NULL : BPF_CORE_READ(file, private_data);
}

SEC("iter/task_file")
int look(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct look_vm vm = {};
	struct kvm *kvm;

	/* Threads share their process's files.  A first thread that has ended has none. */
	if (!task || !file ||
	    (task->tgid != task->pid && task->files == BPF_CORE_READ(task, group_leader, files)))
		return 0;
	kvm = vm_of(file);
	/* Another process may have been handed the file. */
	if (!kvm || BPF_CORE_READ(kvm, mm) != BPF_CORE_READ(task, mm))
		return 0;
	vm.kvm = (u64)kvm;
	vm.tgid = task->tgid;
	vm.inhibits = vm_inhibits(kvm);
	vm.logging = LOOK_UNKNOWN;
	if (bpf_core_field_exists(kvm->nr_memslots_dirty_logging))
		vm.logging = BPF_CORE_READ(kvm, nr_memslots_dirty_logging.counter);
	bpf_seq_write(ctx->meta->seq, &vm, sizeof(vm));
	return 0;
}
