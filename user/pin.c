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
#include "pin.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base.h"
#include "object.h"
#include "out.h"
#include "text.h"
#include "vars.h"

#define PINS_SEE "see kvmext doctor; a security module or a lack of memory may be in the way"

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
static int remove_dir(const char *dir)
{
	static const char *const names[] = { "link", "ops", "rodata", "data", "bss" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *path = str("%s/%s", dir, names[i]);

		unlink(path);
		free(path);
	}
	return rmdir(dir) && errno != ENOENT ? -errno : 0;
}

int pins_remove(const char *dir)
{
	int err = remove_dir(dir);

	if (err)
		return fail(E_INTERNAL, "remove it by hand", "cannot remove %s: %s", dir,
			    strerror(-err));
	return OK;
}

int pins_get_link(const char *dir, struct bpf_link_info *info)
{
	char *path = str("%s/link", dir);
	uint32_t len = sizeof(*info);
	int fd = bpf_obj_get(path), err;

	free(path);
	memset(info, 0, sizeof(*info));
	err = fd >= 0 ? bpf_link_get_info_by_fd(fd, info, &len) : 0;
	if (err) {
		close(fd);
		/* The link is there. */
		return err == -ENOENT ? -EIO : err;
	}
	return fd;
}

static int ops_id(const char *dir, uint32_t *id)
{
	struct bpf_map_info info = {};
	char *path = str("%s/ops", dir);
	uint32_t len = sizeof(info);
	int fd = bpf_obj_get(path), err;

	free(path);
	*id = 0;
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	err = bpf_map_get_info_by_fd(fd, &info, &len);
	close(fd);
	*id = info.id;
	return err;
}

int pins_look(const char *dir, struct pinned *p)
{
	struct bpf_link_info info;
	int fd = pins_get_link(dir, &info), err;
	uint32_t id;

	*p = (struct pinned){};
	if (fd < 0)
		return fd;
	close(fd);
	err = ops_id(dir, &id);
	*p = (struct pinned){ .link_id = info.id,
			      .attached = info.struct_ops.map_id,
			      .in_charge = id && info.struct_ops.map_id == id };
	return err;
}

int pins_each(int (*fn)(const char *dir, const char *instance, void *arg), void *arg)
{
	char *top = base();
	struct dirent **e;
	int n = scandir(top, &e, NULL, alphasort), ret = n < 0 && errno != ENOENT ? -errno : 0;

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
	struct pinned p;

	(void)instance;
	if (!strcmp(dir, h->not_dir))
		return 0;
	h->found = !pins_look(dir, &p) && p.link_id == h->link_id && p.in_charge;
	return h->found;
}

static int finish(const char *instance)
{
	char *from = pins_new_dir(instance), *to = pins_dir(instance);

	if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
		return 0;
	if (errno == EEXIST && !renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE))
		return remove_dir(from);
	return -errno;
}

/*
 * Called under the lock for each folder, so its maker has gone.  Only what is known to be
 * left over goes: memory may be short, or a security module be in the way of a look.
 */
static int repair(const char *dir, const char *instance, void *arg)
{
	struct pinned p;
	int err = pins_look(dir, &p);

	(void)arg;
	if (err == -ENOENT || (!err && !p.attached)) {
		remove_dir(dir);
	} else if (!err && *instance == '~') {
		if (p.in_charge)
			finish(instance + 1);
		else
			remove_dir(dir);
	} else if (!err && !p.in_charge) {
		/* A switch to another name, killed before the old folder went. */
		struct holder h = { .not_dir = dir, .link_id = p.link_id };

		pins_each(is_holder, &h);
		if (h.found)
			remove_dir(dir);
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

/* OK with a descriptor of the folder, or with -1 if there is none; else what was reported */
static int open_checked(const char *top, int *fd)
{
	char *wrong;
	int err;

	*fd = open_base(top, &wrong);
	err = errno;
	if (wrong && *fd >= 0)
		close(*fd);
	if (wrong)
		return fail(E_ENV, PINS_MEND, "%s", wrong);
	if (*fd >= 0 || err == ENOENT)
		return OK;
	return fail(err == EACCES ? E_PRIV : E_ENV,
		    err == EACCES ? "run it as user 0, or give it CAP_DAC_READ_SEARCH" :
				    "try again",
		    "cannot look at loaded policies: cannot open %s: %s", top, strerror(err));
}

int pins_check(void)
{
	char *top = base();
	int fd, ret = open_checked(top, &fd);

	free(top);
	if (ret == OK && fd >= 0)
		close(fd);
	return ret;
}

int pins_lock(void)
{
	char *top = base();
	int fd, ret;

	if (mkdir(top, 0700) && errno != EEXIST)
		return fail(errno == EACCES || errno == EPERM ? E_PRIV : E_ENV,
			    errno == EACCES ? "run it as user 0, or give it CAP_DAC_OVERRIDE" :
					      NULL,
			    "cannot make %s: %s", top, strerror(errno));
	ret = open_checked(top, &fd);
	if (ret != OK)
		return ret;
	if (fd < 0)
		return fail(E_ENV, "try again", "%s, where policies are kept, was taken away", top);
	if (flock(fd, LOCK_EX)) {
		close(fd);
		return fail(E_INTERNAL, NULL, "cannot lock %s: %s", top, strerror(errno));
	}
	free(top);
	pins_each(repair, NULL);
	/* It is kept until we exit. */
	return OK;
}

static int pin(int fd, const char *dir, const char *name)
{
	char *path = str("%s/%s", dir, name);
	int err = bpf_obj_pin(fd, path);

	if (err)
		fail(E_ENV, PINS_SEE, "cannot pin %s: %s", path, strerror(errno));
	free(path);
	return err ? E_ENV : OK;
}

int pins_new(const struct object *o, const char *instance)
{
	char *dir = pins_new_dir(instance);
	int ret;

	if (mkdir(dir, 0700))
		return fail(E_ENV, PINS_SEE, "cannot make %s: %s", dir, strerror(errno));
	ret = pin(object_ops_fd(o), dir, "ops");
	for (int k = 0; k < VAR_KINDS && ret == OK; k++)
		if (o->map[k])
			ret = pin(bpf_map__fd(o->map[k]), dir, section_pins[k]);
	if (ret != OK)
		remove_dir(dir);
	return ret;
}

int pins_new_link(const char *instance, int link_fd)
{
	return pin(link_fd, pins_new_dir(instance), "link");
}

void pins_drop_new(const char *instance)
{
	remove_dir(pins_new_dir(instance));
}

int pins_commit(const char *instance)
{
	int err = finish(instance);

	if (err)
		return fail(E_INTERNAL,
			    "the next kvmext load, switch, set or unload will try again",
			    "cannot rename %s to %s: %s", pins_new_dir(instance),
			    pins_dir(instance), strerror(-err));
	return OK;
}
