// SPDX-License-Identifier: GPL-2.0
/* What the kernel, its modules and this process's rights offer. */
#include "host.h"

#include <bpf/btf.h>
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

#include "base.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "vet.h"

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

int kvm_table_ops(const struct table *t, struct table_ops *ops)
{
	struct btf *btf = kvm_btf();
	int id = btf ? btf__find_by_name_kind(btf, t->ops, BTF_KIND_STRUCT) : -1;
	char *vname = str("bpf_struct_ops_%s", t->ops);
	int vid = btf ? btf__find_by_name_kind(btf, vname, BTF_KIND_STRUCT) : -1;
	const struct btf_type *kt;
	uint32_t data_off, size;

	free(vname);
	ops->n = 0;
	if (id <= 0 || vid <= 0 ||
	    vet_member(btf, btf__type_by_id(btf, vid), "data", &data_off, &size))
		return -1;
	kt = btf__type_by_id(btf, id);
	for (int i = 0; i < btf_vlen(kt) && ops->n < (int)ARRAY_SIZE(ops->off); i++) {
		const struct btf_member *m = btf_members(kt) + i;
		int mid = btf__resolve_type(btf, m->type);

		if (mid <= 0 || !btf_is_ptr(btf__type_by_id(btf, mid)))
			continue;
		ops->name[ops->n] = btf__str_by_offset(btf, m->name_off);
		ops->off[ops->n++] = data_off + btf_member_bit_offset(kt, i) / 8;
	}
	return 0;
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

char *proc_comm(uint32_t pid)
{
	char *path = str("/proc/%u/comm", pid), *name = first_line(path);

	free(path);
	return name;
}
