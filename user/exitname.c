// SPDX-License-Identifier: GPL-2.0
/*
 * Names of VM exits, from the tables that this very kernel prints kvm_exit
 * with: so they are right for both vendors and for kernels newer than the tool.
 */
#include "exitname.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base.h"
#include "text.h"

#define FORMAT "events/kvm/kvm_exit/format"
#define USER_FORMAT "events/kvm/kvm_userspace_exit/format"
#define NAMES_MAX 512

struct name {
	uint32_t isa;
	uint32_t reason;
	char *name;
};

static struct name names[NAMES_MAX];
static int nr_names;
/* Those with small numbers, which is nearly all, by isa and number */
static const char *quick[ISA_SVM + 1][0x500];
static int state = -1;
static const char *where = "not looked for";

/*
 * tracefs, wherever it is mounted.  If it is nowhere, a mount of our own that no
 * path leads to and that ends with its descriptor: nothing changes for others.
 */
int tracefs_open(const char **path)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent *m;
	int fs, fd = -1;

	while (f && fd < 0 && (m = getmntent(f))) {
		char *dir;

		if (!strcmp(m->mnt_type, "tracefs"))
			dir = str("%s", m->mnt_dir);
		else if (!strcmp(m->mnt_type, "debugfs"))
			dir = str("%s/tracing", m->mnt_dir);
		else
			continue;
		fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && faccessat(fd, "events", F_OK, 0)) {
			close(fd);
			fd = -1;
		}
		if (fd >= 0)
			*path = dir;
		else
			free(dir);
	}
	if (f)
		endmntent(f);
	if (fd >= 0)
		return fd;
	fs = fsopen("tracefs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	if (!fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	fd = fd < 0 ? -errno : fd;
	close(fs);
	*path = "tracefs, not mounted anywhere";
	return fd;
}

/* "0x040 + 14", "-1", "48": what a C compiler makes of them */
static bool number(const char **s, uint32_t *val)
{
	long long sum = 0, v;
	char *end;

	for (;;) {
		errno = 0;
		v = strtoll(*s, &end, 0);
		if (end == *s || errno)
			return false;
		sum += v;
		*s = end + strspn(end, "UL ()");
		if (**s != '+')
			break;
		(*s)++;
	}
	*val = sum;
	return true;
}

/* "NAME", or "NA" "ME", as a C compiler has them */
static char *literal(const char **s)
{
	char *name = str("%s", "");

	while (**s == '"') {
		const char *end = strchr(*s + 1, '"');
		char *longer;

		if (!end)
			break;
		longer = str("%s%.*s", name, (int)(end - *s - 1), *s + 1);
		free(name);
		name = longer;
		*s = end + 1 + strspn(end + 1, " ");
	}
	return name;
}

/* { NUMBER, "NAME" }, ... up to the closing parenthesis */
static void table(const char *s, uint32_t isa)
{
	uint32_t reason;

	for (; *s && nr_names < NAMES_MAX; s++) {
		s += strspn(s, ", ");
		if (*s != '{')
			return;
		s++;
		if (!number(&s, &reason))
			return;
		s += strspn(s, ", ");
		names[nr_names++] = (struct name){ isa, reason, literal(&s) };
		if (*s != '}')
			return;
	}
}

/* (isa == KVM_ISA_VMX) ? __print_symbolic(..., table) : __print_symbolic(..., table) */
static void parse(const char *fmt, uint32_t first, uint32_t last)
{
	static const char symbolic[] = "__print_symbolic(";

	for (uint32_t isa = first; isa <= last; isa++) {
		fmt = strstr(fmt, symbolic);
		if (!fmt)
			return;
		fmt += strlen(symbolic);
		table(fmt + strcspn(fmt, "{"), isa);
	}
}

static char *slurp(int dir, const char *path)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	size_t size = 1 << 16, n = 0;
	char *buf = NULL;
	ssize_t got = 0;

	if (fd < 0)
		return NULL;
	buf = malloc(size);
	while (buf && n < size - 1 && (got = read(fd, buf + n, size - 1 - n)) > 0)
		n += got;
	if (buf)
		buf[n] = 0;
	close(fd);
	return buf;
}

int exit_names_load(void)
{
	const char *path = NULL;
	char *text = NULL;
	int dir;

	if (state >= 0)
		return state ? OK : E_ENV;
	state = 0;
	dir = tracefs_open(&path);
	if (dir < 0) {
		where = str("no tracefs: %s", strerror(-dir));
		return E_ENV;
	}
	text = slurp(dir, FORMAT);
	where = text ? str("%s", path) : str("%s has no " FORMAT ": %s", path, strerror(errno));
	if (!text) {
		close(dir);
		return E_ENV;
	}
	parse(text, ISA_VMX, ISA_SVM);
	free(text);
	state = nr_names > 0;
	/* What user space is left the guest for, of the same kind */
	text = slurp(dir, USER_FORMAT);
	if (text)
		parse(text, ISA_NONE, ISA_NONE);
	free(text);
	close(dir);
	if (!state)
		where = str("%s/" FORMAT " is not understood", path);
	for (int i = nr_names; i-- > 0;)
		if (names[i].reason < ARRAY_SIZE(quick[0]))
			quick[names[i].isa][names[i].reason] = names[i].name;
	return state ? OK : E_ENV;
}

const char *exit_names_where(int *n)
{
	*n = nr_names;
	return where;
}

const char *exit_name(uint32_t isa, uint32_t reason)
{
	static char num[4][16];
	static unsigned int turn;

	if (isa == ISA_VMX)
		reason &= 0xffff;
	if (isa < ARRAY_SIZE(quick) && reason < ARRAY_SIZE(quick[0]) && quick[isa][reason])
		return quick[isa][reason];
	for (int i = 0; i < nr_names; i++)
		if (names[i].isa == isa && names[i].reason == reason)
			return names[i].name;
	turn = (turn + 1) % ARRAY_SIZE(num);
	snprintf(num[turn], sizeof(num[0]), "0x%x", reason);
	return num[turn];
}

int exit_reasons(const char *name, uint64_t *keys, int max)
{
	char *end;
	unsigned long v = strtoul(name, &end, 0);
	int n = 0;

	for (int i = 0; i < nr_names; i++)
		if (names[i].isa != ISA_NONE && !strcasecmp(names[i].name, name) && n < max)
			keys[n++] = EXIT_KEY(names[i].isa, names[i].reason);
	if (n || *end || end == name || v > UINT32_MAX)
		return n;
	for (uint32_t isa = ISA_VMX; isa <= ISA_SVM && n < max; isa++)
		keys[n++] = EXIT_KEY(isa, v);
	return n;
}

const char *exit_name_nearest(const char *name)
{
	const char *all[NAMES_MAX];

	for (int i = 0; i < nr_names; i++)
		all[i] = names[i].name;
	return nearest(name, all, nr_names);
}
