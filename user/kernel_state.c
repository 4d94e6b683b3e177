// SPDX-License-Identifier: GPL-2.0
/* The kernel's state file: lines of "kind key=value ...". */
#include "kernel_state.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "json.h"
#include "out.h"
#include "text.h"

static char *read_all(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0, size = 0;
	char *buf = NULL;
	ssize_t n;

	if (fd < 0)
		return NULL;
	do {
		if (size - len < 4096) {
			size += 65536;
			buf = realloc(buf, size + 1);
			if (!buf)
				abort();
		}
		n = read(fd, buf + len, size - len);
		if (n > 0)
			len += n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0) {
		int err = errno;

		free(buf);
		close(fd);
		errno = err;
		return NULL;
	}
	close(fd);
	buf[len] = 0;
	return buf;
}

/* A quoted value, its escapes undone in place; returns what is behind it. */
static char *unquote(char *p, char **val)
{
	char *out = p + 1;

	*val = out;
	for (p++; *p && *p != '"'; p++) {
		if (*p == '\\' && p[1]) {
			p++;
			*out++ = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
		} else {
			*out++ = *p;
		}
	}
	if (*p)
		p++;
	*out = 0;
	return p;
}

static void parse_line(struct rec *r, char *p)
{
	r->kind = strsep(&p, " ");
	while (p && *p && r->n < (int)ARRAY_SIZE(r->key)) {
		char *eq = p + strcspn(p, "= "), *val;

		if (*eq != '=') {
			/* "version 1": a value with no key */
			strsep(&p, " ");
			continue;
		}
		*eq = 0;
		r->key[r->n] = p;
		if (eq[1] == '"') {
			p = unquote(eq + 1, &val);
			p += strspn(p, " ");
		} else {
			p = eq + 1;
			val = strsep(&p, " ");
		}
		r->val[r->n++] = val;
	}
}

static int no_state(const char *path, int err)
{
	int ret;

	if (err == EACCES && geteuid())
		return fail(E_PRIV, "run it as user 0, or give it CAP_DAC_READ_SEARCH",
			    "user %u may not read %s", geteuid(), path);
	if (err == EACCES || err == EPERM)
		return fail(E_PRIV, "see /sys/kernel/security/lsm: a security module bars it",
			    "%s cannot be read: %s", path, strerror(err));
	ret = need_kernel();
	if (ret != OK)
		return ret;
	if (!is_mount(g.debugfs, DEBUGFS_MAGIC_))
		return fail(E_ENV, str("run: mount -t debugfs debugfs %s", g.debugfs),
			    "debugfs, which tells the state of policies, is not mounted on %s",
			    g.debugfs);
	return fail(E_ENV, "see kvmext doctor", "cannot read %s: %s", path, strerror(err));
}

static const char head[] = "version ";

/* The first line of the file says which it is; without one it is no version of ours. */
static int version_of(const char *text)
{
	return strncmp(text, head, sizeof(head) - 1) ? INT32_MAX : atoi(text + sizeof(head) - 1);
}

int state_version(void)
{
	char *path = str("%s/kvm/ext/state", g.debugfs), *text = read_all(path);
	int version = text ? version_of(text) : errno == ENOENT ? 0 : -errno;

	free(text);
	free(path);
	return version;
}

static int other_version(const char *path, int version)
{
	char *what = version == INT32_MAX ? str("no version") : str("version %d", version);

	return fail(
		E_ENV,
		"install the tool and the kvm modules of one release (kvmext version shows both)",
		"%s has %s, and kvmext " KVMEXT_VERSION " reads version %d", path, what,
		STATE_VERSION);
}

int state_read(struct state *st)
{
	char *path = str("%s/kvm/ext/state", g.debugfs), *buf = read_all(path), *line;
	struct timespec ts;

	*st = (struct state){ .text = buf };
	if (!buf)
		return no_state(path, errno);
	if (version_of(buf) != STATE_VERSION) {
		int version = version_of(buf);

		state_free(st);
		return other_version(path, version);
	}
	free(path);
	/* The clock of since_ns, which goes on while the machine is suspended */
	clock_gettime(CLOCK_BOOTTIME, &ts);
	st->read_ns = ts.tv_sec * 1000000000ull + ts.tv_nsec;
	while ((line = strsep(&buf, "\n"))) {
		if (!*line)
			continue;
		if (!(st->n & (st->n - 1))) {
			st->rec = realloc(st->rec, (st->n ? 2 * st->n : 1) * sizeof(*st->rec));
			if (!st->rec)
				abort();
		}
		st->rec[st->n] = (struct rec){};
		parse_line(&st->rec[st->n++], line);
	}
	return OK;
}

void state_free(struct state *st)
{
	free(st->rec);
	free(st->text);
	*st = (struct state){};
}

const char *rec_str(const struct rec *r, const char *key)
{
	for (int i = 0; i < r->n; i++)
		if (!strcmp(r->key[i], key))
			return r->val[i];
	return NULL;
}

bool rec_num(const struct rec *r, const char *key, uint64_t *val)
{
	const char *s = rec_str(r, key);
	char *end;

	if (!s || !*s)
		return false;
	*val = strtoull(s, &end, 0);
	return !*end;
}

uint64_t rec_u64(const struct rec *r, const char *key)
{
	uint64_t v;

	return rec_num(r, key, &v) ? v : 0;
}

bool rec_is(const struct rec *r, const char *kind)
{
	return !strcmp(r->kind, kind);
}

const struct rec *rec_find(const struct state *st, const char *kind, const char *key, uint64_t val)
{
	for (int i = 0; i < st->n; i++) {
		uint64_t v;

		if (rec_is(&st->rec[i], kind) && rec_num(&st->rec[i], key, &v) && v == val)
			return &st->rec[i];
	}
	return NULL;
}

/* Texts of people and programs, which may be all digits */
static bool is_text(const char *key)
{
	static const char *const keys[] = { "name", "policy", "msg", "dump", "kind" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(key, keys[i]))
			return true;
	return false;
}

void rec_json(const struct rec *r, const char *skip)
{
	for (int i = 0; i < r->n; i++) {
		const char *v = r->val[i];
		size_t digits = strspn(v + (*v == '-'), "0123456789");
		char *key = str(" %s ", r->key[i]);
		bool skipped = strstr(skip, key);

		free(key);
		if (skipped)
			continue;
		if (digits && digits < 20 && !v[(*v == '-') + digits] && !is_text(r->key[i]))
			j_num(r->key[i],
			      *v == '-' ? (s128)strtoll(v, NULL, 10) : (s128)strtoull(v, NULL, 10));
		else
			j_str(r->key[i], v);
	}
}
