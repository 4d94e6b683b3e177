// SPDX-License-Identifier: GPL-2.0
/* What the kernel, its modules and this process's rights offer. */
#include "kvmext.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "look.h"

#define NOBODY 65534

struct btf *kvm_btf(void)
{
	static struct btf *btf;
	struct btf *base;

	if (btf)
		return btf;
	base = btf__load_vmlinux_btf();
	if (!base)
		return NULL;
	btf = btf__load_module_btf("kvm", base);
	/* KVM may be built in; then it has no state of loading. */
	if (!btf && !access("/sys/module/kvm", F_OK) && access("/sys/module/kvm/initstate", F_OK) &&
	    btf__find_by_name_kind(base, "kvm_vcpu_arch", BTF_KIND_STRUCT) > 0)
		btf = base;
	return btf;
}

bool kvm_has_table(const struct table *t)
{
	struct btf *btf = kvm_btf();
	char *vname = str("bpf_struct_ops_%s", t->ops);
	bool has = btf && btf__find_by_name_kind(btf, vname, BTF_KIND_STRUCT) > 0;

	free(vname);
	return has;
}

int need_kernel(void)
{
	static const char own[] = "load kvm_ext's kvm modules (kvmext doctor says more)";

	for (int i = 0; i < nr_tables; i++)
		if (kvm_has_table(&tables[i]))
			return OK;
	if (access("/sys/kernel/btf/vmlinux", F_OK))
		return fail(E_ENV, "boot a kernel with CONFIG_DEBUG_INFO_BTF",
			    "this kernel has no BTF");
	if (access("/sys/module/kvm", F_OK))
		return fail(E_ENV, "modprobe kvm-amd or kvm-intel, of kvm_ext's modules",
			    "the kvm module is not loaded");
	if (!kvm_btf() && access("/sys/kernel/btf/kvm", F_OK))
		return fail(E_ENV, own, "the kvm module that is loaded has no BTF");
	if (!kvm_btf())
		return fail(E_ENV, own, "BTF of the kvm module cannot be read: %s",
			    strerror(errno));
	return fail(E_ENV, own, "this kernel's KVM has no kvm_ext patches");
}

static const struct {
	int cap;
	const char *name;
} caps[] = {
	{ CAP_BPF, "CAP_BPF" },
	{ CAP_PERFMON, "CAP_PERFMON" },
	{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN" },
};

/*
 * Capabilities in a user namespace other than the first are no use for BPF, but
 * would do for leaving folders in bpffs.  The first one's number is the kernel's
 * PROC_USER_INIT_INO, part of its ABI.
 */
static bool in_container(void)
{
	struct stat st;

	return !stat("/proc/self/ns/user", &st) && st.st_ino != 0xeffffffdU;
}

static uint64_t effective_caps(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	uint64_t eff = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %lx", &eff) == 1)
			break;
	if (f)
		fclose(f);
	return in_container() ? 0 : eff;
}

bool has_cap(int cap)
{
	return effective_caps() >> cap & 1;
}

uint64_t missing_caps(char *names, size_t size)
{
	uint64_t eff = effective_caps(), missing = 0;

	*names = 0;
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		if (eff >> caps[i].cap & 1)
			continue;
		missing |= 1ull << caps[i].cap;
		snprintf(names + strlen(names), size - strlen(names), "%s%s", *names ? ", " : "",
			 caps[i].name);
	}
	return missing;
}

void catch_ends(void (*fn)(int sig))
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction sa = { .sa_handler = fn }, old;

	/* Without SA_RESTART, so that a wait for a key or for time ends */
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++) {
		sigaction(sigs[i], &sa, &old);
		if (old.sa_handler == SIG_IGN && (sigs[i] == SIGHUP || sigs[i] == SIGQUIT))
			sigaction(sigs[i], &old, NULL);
	}
}

int lock_one(const char *what, uint64_t id, const char *busy)
{
	struct flock one = { .l_type = F_WRLCK, .l_start = id & (INT64_MAX >> 1), .l_len = 1 };
	/* /run is root's, so nobody else can hold the lock. */
	char *path = str("/run/kvmext.%s", what);
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600), ret = OK;

	if (fd < 0)
		ret = fail(E_INTERNAL, "it is a lock", "cannot open %s: %s", path, strerror(errno));
	else if (fcntl(fd, F_OFD_SETLK, &one))
		ret = errno == EAGAIN || errno == EACCES ?
			      fail(E_CONFLICT, "end that first", "%s", busy) :
			      fail(E_INTERNAL, "it is a lock", "cannot lock %s: %s", path,
				   strerror(errno));
	free(path);
	return ret;
}

char *first_line(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[128];

	if (!f)
		return NULL;
	if (!fgets(line, sizeof(line), f))
		*line = 0;
	fclose(f);
	line[strcspn(line, "\n")] = 0;
	return str("%s", line);
}

char *lockdown(void)
{
	return first_line("/sys/kernel/security/lockdown") ?: str("%s", "");
}

bool lockdown_bars_reads(void)
{
	char *line = lockdown();
	bool bars = strstr(line, "[confidentiality]");

	free(line);
	return bars;
}

void drop_rights(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = {};

	/* Who may not do the one or the other has no rights that it would take away. */
	if (!geteuid() && (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
			   setresuid(NOBODY, NOBODY, NOBODY)))
		errno = 0;
	syscall(SYS_capset, &head, none);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/*
 * VMs are named by process ids, and the kernel's state file and the tracers know those
 * of the first namespace alone: in another one they would name the wrong process.  Its
 * number is the kernel's PROC_PID_INIT_INO, part of its ABI.
 */
bool in_pid_namespace(void)
{
	struct stat st;

	return !stat("/proc/self/ns/pid", &st) && st.st_ino != 0xeffffffcU;
}

int need_caps(void)
{
	char names[128];

	if (!missing_caps(names, sizeof(names)))
		return OK;
	return fail(E_PRIV, in_container() ? "run it as root of the host" : "run it as root",
		    "policies are for root: this process lacks %s", names);
}

int need_privilege(void)
{
	int ret = need_caps();

	if (ret != OK)
		return ret;
	if (in_pid_namespace())
		return fail(E_ENV, "run it " IN_HOST_PIDS,
			    "this is a pid namespace of its own, in which VMs have other process "
			    "ids than in the kernel's records");
	return OK;
}

bool is_mount(const char *path, long magic)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == magic;
}

int need_bpffs(void)
{
	if (is_mount(g.bpffs, BPFFS_MAGIC))
		return OK;
	return fail(E_ENV, str("run: mount -t bpf bpf %s", g.bpffs),
		    "bpffs, which keeps loaded policies, is not mounted on %s", g.bpffs);
}

bool kill_switch_on(void)
{
	int fd = open(KILL_SWITCH, O_RDONLY | O_CLOEXEC);
	char c = 'Y';

	if (fd >= 0) {
		if (read(fd, &c, 1) != 1)
			c = 'Y';
		close(fd);
	}
	return c == 'N' || c == '0';
}

error_t parse_every(const char *cmd, int n, const char *arg, uint64_t *ns, unsigned long *count)
{
	char *end;
	double s;

	errno = 0;
	switch (n) {
	case 0:
		s = strtod(arg, &end);
		if (*end || end == arg || !(s >= 0.1 && s <= 3600))
			return fail_usage(cmd, "the interval '%s' is not 0.1 to 3600 s", arg),
			       EINVAL;
		*ns = s * 1e9;
		return 0;
	case 1:
		*count = strtoul(arg, &end, 10);
		if (*end || end == arg || errno || !*count || *arg == '-')
			return fail_usage(cmd, "'%s' is no count", arg), EINVAL;
		return 0;
	}
	return fail_usage(cmd, "'%s' is not expected", arg), EINVAL;
}

int parse_pid(const char *text, uint32_t *pid)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || *end || end == text || v <= 0 || v > INT32_MAX)
		return -1;
	*pid = v;
	return 0;
}

char *proc_comm(uint32_t pid)
{
	char *path = str("/proc/%u/comm", pid), *name = first_line(path);

	free(path);
	return name;
}

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
