// SPDX-License-Identifier: GPL-2.0
/*
 * What keeps a policy loaded when the tool has gone: pins in bpffs.
 *
 * The steps of load and of switch are ordered so that the kernel and the
 * folders together always tell how far a killed tool had come:
 *
 *   load:   ~I with maps | link made | link in ~I | rename ~I to I
 *   switch: ~I with maps and link | link updated | exchange ~I and I | ~I gone
 *
 * A link that is in no folder dies with the tool.  A folder is in charge if its
 * link holds its own ops map; a "~" folder in charge becomes its instance, any
 * other is left-over and goes.
 */
#include "kvmext.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static char *base(void)
{
	return str("%s/kvmext", g.bpffs);
}

/* bpffs takes no dots in names, and a policy's name may have them. */
static char *encode(const char *instance)
{
	char *out = malloc(3 * strlen(instance) + 1), *p = out;

	if (!out)
		abort();
	for (; *instance; instance++) {
		if (*instance == '.')
			p += sprintf(p, "%%2e");
		else
			*p++ = *instance;
	}
	*p = 0;
	return out;
}

static char *decode(const char *dir)
{
	char *out = str("%s", dir), *p = out;

	for (; *dir; dir++) {
		if (!strncmp(dir, "%2e", 3)) {
			*p++ = '.';
			dir += 2;
		} else {
			*p++ = *dir;
		}
	}
	*p = 0;
	return out;
}

char *pins_dir(const char *instance)
{
	return str("%s/kvmext/%s", g.bpffs, encode(instance));
}

char *pins_new_dir(const char *instance)
{
	return str("%s/kvmext/~%s", g.bpffs, encode(instance));
}

bool pins_exists(const char *instance)
{
	return !access(pins_dir(instance), F_OK);
}

/* The link goes first: a folder without one is known to be left-over. */
int pins_remove(const char *dir)
{
	static const char *const names[] = { "link", "ops", "rodata", "data", "bss" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *path = str("%s/%s", dir, names[i]);

		unlink(path);
		free(path);
	}
	if (rmdir(dir) && errno != ENOENT)
		return fail(E_INTERNAL, "remove it by hand", "cannot remove %s: %s", dir,
			    strerror(errno));
	return OK;
}

int pins_get_link(const char *dir, struct bpf_link_info *info)
{
	char *path = str("%s/link", dir);
	uint32_t len = sizeof(*info);
	int fd = bpf_obj_get(path);

	free(path);
	memset(info, 0, sizeof(*info));
	if (fd >= 0 && bpf_link_get_info_by_fd(fd, info, &len)) {
		close(fd);
		return -1;
	}
	return fd;
}

uint32_t pins_ops_id(const char *dir)
{
	struct bpf_map_info info = {};
	char *path = str("%s/ops", dir);
	uint32_t len = sizeof(info);
	int fd = bpf_obj_get(path);

	free(path);
	if (fd < 0)
		return 0;
	if (bpf_map_get_info_by_fd(fd, &info, &len))
		info.id = 0;
	close(fd);
	return info.id;
}

int pins_each(int (*fn)(const char *dir, const char *instance, void *arg), void *arg)
{
	char *top = base();
	struct dirent **e;
	int n = scandir(top, &e, NULL, alphasort), ret = 0;

	for (int i = 0; i < n; i++) {
		if (*e[i]->d_name != '.' && !ret)
			ret = fn(str("%s/%s", top, e[i]->d_name), decode(e[i]->d_name), arg);
		free(e[i]);
	}
	if (n >= 0)
		free(e);
	free(top);
	return ret;
}

struct holder {
	const char *not_dir;
	uint32_t link_id;
	bool found;
};

static int is_holder(const char *dir, const char *instance, void *arg)
{
	struct holder *h = arg;
	struct bpf_link_info info;
	int fd;

	(void)instance;
	if (!strcmp(dir, h->not_dir))
		return 0;
	fd = pins_get_link(dir, &info);
	if (fd < 0)
		return 0;
	close(fd);
	h->found = info.id == h->link_id && info.struct_ops.map_id == pins_ops_id(dir);
	return h->found;
}

static int finish(const char *instance)
{
	char *from = pins_new_dir(instance), *to = pins_dir(instance);

	if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
		return OK;
	if (errno == EEXIST && !renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE))
		return pins_remove(from);
	return fail(E_INTERNAL, "the next kvmext command will try again",
		    "cannot rename %s to %s: %s", from, to, strerror(errno));
}

/* Called under the lock for each folder, so its maker has gone. */
static int repair(const char *dir, const char *instance, void *arg)
{
	struct bpf_link_info info;
	bool in_charge;
	int fd;

	(void)arg;
	fd = pins_get_link(dir, &info);
	if (fd < 0 || !info.struct_ops.map_id) {
		if (fd >= 0)
			close(fd);
		pins_remove(dir);
		return 0;
	}
	close(fd);
	in_charge = info.struct_ops.map_id == pins_ops_id(dir);
	if (*instance == '~') {
		if (in_charge)
			finish(instance + 1);
		else
			pins_remove(dir);
	} else if (!in_charge) {
		/* A switch to another name, killed before the old folder went. */
		struct holder h = { .not_dir = dir, .link_id = info.id };

		pins_each(is_holder, &h);
		if (h.found)
			pins_remove(dir);
	}
	return 0;
}

/*
 * bpffs may be mounted for all to write to, and the folder be a stranger's, or a
 * link to another place: then we would believe, rename and remove what he wants.
 */
static int open_base(const char *top, char **wrong)
{
	int fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), err = errno;
	struct stat st, up;

	*wrong = NULL;
	if (fd < 0 && (err == ENOTDIR || err == ELOOP)) {
		*wrong = str("%s, where policies are kept, is no folder", top);
		return -1;
	}
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) || fstatat(fd, "..", &up, 0))
		*wrong = str("cannot look at %s: %s", top, strerror(errno));
	else if ((st.st_uid && st.st_uid != geteuid()) || st.st_mode & 022)
		*wrong = str("%s, where policies are kept, is not root's alone: user %u, mode %04o",
			     top, st.st_uid, st.st_mode & 07777);
	else if ((up.st_uid && up.st_uid != geteuid()) ||
		 (up.st_mode & 022 && !(up.st_mode & S_ISVTX)))
		*wrong = str("others than root can take %s away: %s has user %u, mode %04o", top,
			     g.bpffs, up.st_uid, up.st_mode & 07777);
	return fd;
}

char *pins_wrong(void)
{
	char *wrong;
	int fd = open_base(base(), &wrong);

	if (fd >= 0)
		close(fd);
	return wrong;
}

int pins_lock(enum pins_lock how)
{
	char *top = base(), *wrong;
	int fd;

	/* Who only reads changes nothing: without a folder there is nothing to clean. */
	if (how == PINS_WAIT && mkdir(top, 0700) && errno != EEXIST)
		return fail(errno == EACCES || errno == EPERM ? E_PRIV : E_ENV, NULL,
			    "cannot make %s: %s", top, strerror(errno));
	fd = open_base(top, &wrong);
	if (wrong) {
		if (fd >= 0)
			close(fd);
		return fail(E_ENV, PINS_MEND, "%s", wrong);
	}
	if (fd < 0)
		return how == PINS_TRY ?
			       OK :
			       fail(E_ENV, NULL, "cannot open %s: %s", top, strerror(errno));
	if (flock(fd, LOCK_EX | (how == PINS_TRY ? LOCK_NB : 0))) {
		close(fd);
		return how == PINS_TRY ?
			       OK :
			       fail(E_INTERNAL, NULL, "cannot lock %s: %s", top, strerror(errno));
	}
	pins_each(repair, NULL);
	/* A writer keeps the lock until it exits. */
	if (how == PINS_TRY)
		close(fd);
	free(top);
	return OK;
}

static int pin(int fd, const char *dir, const char *name)
{
	char *path = str("%s/%s", dir, name);
	int err = bpf_obj_pin(fd, path);

	if (err)
		fail(E_ENV, NULL, "cannot pin %s: %s", path, strerror(errno));
	free(path);
	return err ? E_ENV : OK;
}

int pins_new(const struct object *o, const char *instance)
{
	char *dir = pins_new_dir(instance);
	int ret;

	if (mkdir(dir, 0700))
		return fail(E_ENV, NULL, "cannot make %s: %s", dir, strerror(errno));
	ret = pin(object_ops_fd(o), dir, "ops");
	for (int k = 0; k < VAR_KINDS && ret == OK; k++)
		if (o->map[k])
			ret = pin(bpf_map__fd(o->map[k]), dir, section_pins[k]);
	if (ret != OK)
		pins_remove(dir);
	return ret;
}

int pins_new_link(const char *instance, int link_fd)
{
	return pin(link_fd, pins_new_dir(instance), "link");
}

void pins_drop_new(const char *instance)
{
	pins_remove(pins_new_dir(instance));
}

int pins_commit(const char *instance)
{
	return finish(instance);
}
