// SPDX-License-Identifier: GPL-2.0
/* Processes, and the VMs that they have. */
#include "vmm.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "look.h"
#include "out.h"
#include "text.h"

/* The process that thread @tid is of, 0 if there is none to be seen */
static uint32_t proc_tgid(uint32_t tid)
{
	char *path = str("/proc/%u/status", tid), line[128];
	FILE *f = fopen(path, "re");
	uint32_t tgid = 0;

	free(path);
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Tgid: %u", &tgid) == 1)
			break;
	if (f)
		fclose(f);
	return tgid;
}

/*
 * For who may not look at the process's files: KVM has a folder TID-FD for each VM,
 * called by the thread that made it.  If one of those threads is gone it cannot be told.
 */
static int vms_in_debugfs(uint32_t pid)
{
	char *path = str("%s/kvm", g.debugfs);
	DIR *dir = opendir(path);
	bool unknown = !dir;
	struct dirent *e;
	int vms = 0;

	free(path);
	while (dir && (e = readdir(dir))) {
		uint32_t tid, fd, tgid;

		if (sscanf(e->d_name, "%u-%u", &tid, &fd) != 2)
			continue;
		tgid = proc_tgid(tid);
		vms += tgid == pid;
		unknown |= !tgid;
	}
	if (dir)
		closedir(dir);
	return vms ? vms : unknown ? -EACCES : 0;
}

/* The files of VMs in a folder of /proc, or -errno: -EACCES if they cannot be seen */
static int vm_files(const char *path)
{
	DIR *dir = opendir(path);
	int files = 0, err = dir ? 0 : errno;
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		char target[64];
		ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);

		if (n < 0) {
			/* "." and ".." are no links; what was closed meanwhile is gone. */
			if (errno == EACCES || errno == EPERM)
				err = EACCES;
			continue;
		}
		target[n] = 0;
		files += !strcmp(target, "anon_inode:kvm-vm");
	}
	if (dir)
		closedir(dir);
	return files ? files : -err;
}

/* Those of a process; a VMM's first thread may have ended, and has none any more. */
static int vm_files_of(uint32_t pid)
{
	char *path = str("/proc/%u/task", pid);
	DIR *dir = opendir(path);
	int files = dir ? 0 : -errno;
	struct dirent *e;

	free(path);
	while (dir && !files && (e = readdir(dir))) {
		if (*e->d_name == '.')
			continue;
		path = str("/proc/%u/task/%s/fd", pid, e->d_name);
		files = vm_files(path);
		free(path);
		/* A thread that has ended meanwhile */
		if (files == -ENOENT)
			files = 0;
	}
	if (dir)
		closedir(dir);
	return files;
}

/* A process, and the kernel's addresses of its VMs */
struct found {
	uint32_t pid;
	uint64_t kvm[64];
	int n;
};

static int add_found(const struct look_vm *vm, void *arg)
{
	struct found *f = arg;

	if (vm->tgid != f->pid)
		return 0;
	for (int i = 0; i < f->n; i++)
		if (f->kvm[i] == vm->kvm)
			return 0;
	f->kvm[f->n++] = vm->kvm;
	return f->n == ARRAY_SIZE(f->kvm);
}

int nr_vms(uint32_t pid)
{
	struct found found = { .pid = pid };
	int files;

	/* A VM may have several files, and another process may have been handed one. */
	if (vms_look(pid, add_found, &found) >= 0)
		return found.n;
	/* BPF is not to be had: its files are all there is to see. */
	files = vm_files_of(pid);
	return files == -EACCES ? vms_in_debugfs(pid) : files;
}

bool vm_ended(uint32_t pid)
{
	struct pollfd p = { .events = POLLIN };
	bool exited;

	if (!pid)
		return false;
	p.fd = syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return errno == ESRCH;
	/* A process that has ended, reaped or not */
	exited = poll(&p, 1, 0) > 0;
	close(p.fd);
	return exited || !nr_vms(pid);
}

/*
 * The kernel decides in the end; this is for an answer that says what the
 * process is.
 */
int need_vm(uint32_t pid)
{
	static const char give[] = "give the process id of a VM's VMM (such as QEMU)";
	uint32_t tgid = proc_tgid(pid);
	char *comm = proc_comm(pid);
	int vms;

	if (!tgid && kill(pid, 0) && errno == ESRCH)
		return fail(E_VM, give, "there is no process %u", pid);
	if (tgid && tgid != pid)
		return fail(E_VM, str("use --vm %u", tgid),
			    "%u (%s) is a thread of process %u, and a VM is named by its process",
			    pid, comm ? comm : "gone", tgid);
	vms = nr_vms(pid);
	if (!vms)
		return fail(E_VM, give, "process %u (%s) has no VM", pid, comm ? comm : "gone");
	/* If it cannot be seen, let the kernel say. */
	return OK;
}
