// SPDX-License-Identifier: GPL-2.0
/* Policies that are loaded, as the kernel tells it, whoever loaded them. */
#include "policy.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "out.h"
#include "pin.h"
#include "table.h"
#include "text.h"
#include "vars.h"

char *instance_name(const char *table, const char *name, uint32_t vm)
{
	char *own = vm ? str("%s@%u", name, vm) : str("%s", name);

	return strcmp(table, tables[0].name) ? str("%s:%s", table, own) : own;
}

/* The part that names the policy. */
static const char *bare(const char *instance)
{
	const char *colon = strchr(instance, ':');

	return colon ? colon + 1 : instance;
}

/*
 * A folder with "~" is of a tool at work, or was left by one that was killed.  With the
 * table in force in it, it is the policy's all the same.
 */
static const char *folder(const char *instance, const struct pinned *pin)
{
	if (*instance != '~')
		return instance;
	return pin->in_charge ? instance + 1 : NULL;
}

static int match_pin(const char *dir, const char *instance, void *arg)
{
	const char *name = *instance == '~' ? instance + 1 : instance;
	struct policies *ps = arg;
	struct pinned pin;
	int err = pins_look(dir, &pin);

	if (!err && !folder(instance, &pin))
		return 0;
	for (int i = 0; i < ps->n && err != -ENOENT; i++) {
		struct policy *p = &ps->p[i];

		if (err && !strcmp(p->instance, name))
			p->pin_err = -err;
		if (err || p->link_id != pin.link_id || (p->dir && !pin.in_charge))
			continue;
		free(p->dir);
		p->dir = str("%s", dir);
		p->in_charge = pin.in_charge;
	}
	return 0;
}

/* As much of a record as a pin tells. */
static struct rec *rec_of_pin(const char *instance, uint32_t link_id)
{
	const char *name = bare(instance), *at = strchr(name, '@');
	struct rec *r = calloc(1, sizeof(*r));

	if (!r)
		abort();
	r->kind = "policy";
	r->key[0] = "name";
	r->val[0] = str("%.*s", at ? (int)(at - name) : (int)strlen(name), name);
	r->key[1] = "vm";
	r->val[1] = str("%s", at ? at + 1 : "0");
	r->key[2] = "link";
	r->val[2] = str("%u", link_id);
	r->key[3] = "table";
	r->val[3] = name == instance ? str("%s", tables[0].name) :
				       str("%.*s", (int)(name - 1 - instance), instance);
	r->n = 4;
	return r;
}

static int add_pin(const char *dir, const char *instance, void *arg)
{
	struct policies *ps = arg;
	struct policy *p = NULL;
	struct pinned pin;
	int err = pins_look(dir, &pin);

	if (err == -ENOENT)
		return 0;
	if (err)
		return fail(E_ENV, "try again", "cannot read the pins in %s: %s", dir,
			    strerror(-err));
	instance = folder(instance, &pin);
	if (!instance || !pin.attached)
		return 0;
	for (int i = 0; i < ps->n; i++)
		if (ps->p[i].link_id == pin.link_id)
			p = &ps->p[i];
	/* The link is in two folders while it changes hands. */
	if (p && !pin.in_charge)
		return 0;
	if (!p) {
		ps->p = realloc(ps->p, (ps->n + 1) * sizeof(*ps->p));
		if (!ps->p)
			abort();
		p = &ps->p[ps->n++];
	}
	*p = (struct policy){
		.instance = str("%s", instance),
		.rec = rec_of_pin(instance, pin.link_id),
		.link_id = pin.link_id,
		.dir = str("%s", dir),
		.in_charge = pin.in_charge,
	};
	p->vm = rec_u64(p->rec, "vm");
	return 0;
}

int policy_pins(const struct policy *p)
{
	if (!p->pin_err)
		return OK;
	return fail(p->pin_err == EPERM || p->pin_err == EACCES ? E_PRIV : E_ENV,
		    p->pin_err == EPERM || p->pin_err == EACCES ?
			    "see what security module forbids it" :
			    "try again",
		    "cannot read the pins of '%s': %s", p->instance, strerror(p->pin_err));
}

void json_pinned(const struct policy *p)
{
	if (p->pin_err)
		j_str("pinned", NULL);
	else
		j_bool("pinned", p->dir);
}

/* Both have @key and it is the same. */
static bool same(const struct rec *a, const char *key_a, const struct rec *b, const char *key_b)
{
	const char *x = rec_str(a, key_a), *y = rec_str(b, key_b);

	return x && y && !strcmp(x, y);
}

const struct rec *policy_taken(const struct policies *ps, const struct policy *p,
			       const struct rec *r)
{
	for (r = r ? r + 1 : ps->st.rec; r && r < ps->st.rec + ps->st.n; r++) {
		if (!rec_is(r, "taken") || !same(r, "table", p->rec, "table"))
			continue;
		/* Its number tells a policy from the next one of its name. */
		if (rec_str(r, "seq") ? same(r, "seq", p->rec, "seq") :
					same(r, "policy", p->rec, "name") &&
						(!p->vm || same(r, "vm", p->rec, "vm")))
			return r;
	}
	return NULL;
}

void json_taken(const struct policies *ps, const struct policy *p)
{
	j_open("taken_from", '[');
	for (const struct rec *r = NULL; (r = policy_taken(ps, p, r));) {
		j_open(NULL, '{');
		rec_json(r, " table policy seq ");
		j_close('}');
	}
	j_close(']');
}

/* Those of the tool, in the folders of pins */
static int read_pins(struct policies *ps, int (*fn)(const char *, const char *, void *))
{
	int ret = pins_each(fn, ps);

	if (ret < 0)
		return fail(E_ENV, "try again", "cannot list %s/kvmext: %s", g.bpffs,
			    strerror(-ret));
	return ret;
}

/*
 * KVM takes its debugfs folder away with kvm-amd or kvm-intel, and the policies
 * stay: what was pinned must be found and be unloaded then, too.
 */
static bool state_is_away(void)
{
	char *path = str("%s/kvm/ext/state", g.debugfs);
	bool away = access(path, F_OK) && errno == ENOENT && is_mount(g.debugfs, DEBUGFS_MAGIC_) &&
		    kvm_has_table(&tables[0]);

	free(path);
	return away;
}

int policies_read(struct policies *ps)
{
	int ret;

	*ps = (struct policies){};
	ret = need_privilege();
	if (ret != OK)
		return ret;
	ret = pins_check();
	if (ret != OK)
		return ret;
	if (state_is_away())
		return read_pins(ps, add_pin);
	ret = state_read(&ps->st);
	if (ret != OK)
		return ret;
	ps->p = calloc(ps->st.n + 1, sizeof(*ps->p));
	if (!ps->p)
		abort();
	for (int i = 0; i < ps->st.n; i++) {
		const struct rec *r = &ps->st.rec[i];
		const char *name, *table;

		if (!rec_is(r, "policy"))
			continue;
		name = rec_str(r, "name");
		table = rec_str(r, "table");
		ps->p[ps->n++] = (struct policy){
			.instance = instance_name(table ? table : tables[0].name, name ? name : "?",
						  rec_u64(r, "vm")),
			.rec = r,
			.link_id = rec_u64(r, "link"),
			.vm = rec_u64(r, "vm"),
		};
	}
	return read_pins(ps, match_pin);
}

int policy_find(const struct policies *ps, const char *name, struct policy **p)
{
	const char **names = calloc(ps->n + 1, sizeof(*names)), *near = NULL;
	char *which = NULL;
	int n = 0;

	if (!names)
		abort();
	for (int i = 0; i < ps->n; i++) {
		const char *table = rec_str(ps->p[i].rec, "table");
		char *full = str("%s:%s", table ? table : tables[0].name, bare(ps->p[i].instance));

		names[i] = ps->p[i].instance;
		if (!strcmp(full, name) || !strcmp(ps->p[i].instance, name)) {
			*p = &ps->p[i];
			return OK;
		}
		if (!strcmp(bare(ps->p[i].instance), name)) {
			*p = &ps->p[i];
			which = which ? str("%s, %s", which, full) : full;
			n++;
		}
		/* NAME for NAME@PID */
		if (!strncmp(names[i], name, strlen(name)) && names[i][strlen(name)] == '@')
			near = names[i];
	}
	if (n == 1)
		return OK;
	if (n)
		return fail(E_POLICY, str("say which: %s", which),
			    "%d policies '%s' are loaded, in different tables", n, name);
	if (!near)
		near = nearest(name, names, ps->n);
	return fail(E_POLICY,
		    near  ? str("did you mean '%s'?", near) :
		    ps->n ? "see kvmext list" :
			    "none is; kvmext load FILE loads one",
		    "no policy '%s' is loaded", name);
}

/**
 * struct wanted - what is looked for among a policy's maps
 * @fds: its sections, or NULL
 * @btf_id: BTF of its programs
 * @name: a map by its name, or NULL
 * @fd: that map
 * @err: -errno of the first look that failed, for another reason than that a thing is gone
 */
struct wanted {
	int *fds;
	uint32_t btf_id;
	const char *name;
	int fd;
	int err;
};

/* A descriptor, or -1; what failed is noted. */
static int looked(struct wanted *w, int fd)
{
	if (fd >= 0)
		return fd;
	if (fd != -ENOENT && !w->err)
		w->err = fd;
	return -1;
}

/* The map that is called @name, or with a dot: whose name ends so */
static int map_called(struct wanted *w, const uint32_t *ids, uint32_t n, const char *name)
{
	for (uint32_t i = 0; i < n; i++) {
		int fd = looked(w, bpf_map_get_fd_by_id(ids[i]));
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);
		const char *is = info.name;

		if (fd < 0)
			continue;
		if (!looked(w, bpf_map_get_info_by_fd(fd, &info, &len))) {
			if (*name == '.')
				is = strchr(info.name, '.');
			if (is && !strcmp(is, name))
				return fd;
		}
		close(fd);
	}
	return -1;
}

static void maps_of_prog(uint32_t id, struct wanted *w)
{
	struct bpf_prog_info info = {};
	uint32_t ids[64], len = sizeof(info);
	int prog = looked(w, bpf_prog_get_fd_by_id(id));

	if (prog < 0)
		return;
	info.nr_map_ids = ARRAY_SIZE(ids);
	info.map_ids = (uintptr_t)ids;
	if (!looked(w, bpf_prog_get_info_by_fd(prog, &info, &len))) {
		uint32_t n = info.nr_map_ids < ARRAY_SIZE(ids) ? info.nr_map_ids : ARRAY_SIZE(ids);

		w->btf_id = info.btf_id;
		for (int k = 0; w->fds && k < VAR_KINDS; k++)
			if (w->fds[k] < 0)
				w->fds[k] = map_called(w, ids, n, section_names[k]);
		if (w->name && w->fd < 0)
			w->fd = map_called(w, ids, n, w->name);
	}
	close(prog);
}

/* Reading a table gives the ids of its programs in the place of pointers. */
static void maps_of_table(const char *table, const char *val, struct wanted *w)
{
	for (int i = 0; table && i < nr_tables; i++) {
		struct table_ops ops;

		if (strcmp(tables[i].name, table) || kvm_table_ops(&tables[i], &ops))
			continue;
		for (int j = 0; j < ops.n; j++) {
			unsigned long id;

			memcpy(&id, val + ops.off[j], sizeof(id));
			if (id && id <= UINT32_MAX)
				maps_of_prog(id, w);
		}
	}
}

/* The sections' maps and BTF of a policy that others pinned or hold. */
static void maps_of_link(const struct policy *p, struct wanted *w)
{
	char val[1024] = {};
	struct bpf_map_info minfo = {};
	struct bpf_link_info linfo = {};
	uint32_t len = sizeof(linfo), zero = 0;
	int link, map = -1;

	link = looked(w, bpf_link_get_fd_by_id(p->link_id));
	if (link >= 0 && !looked(w, bpf_link_get_info_by_fd(link, &linfo, &len)))
		map = looked(w, bpf_map_get_fd_by_id(linfo.struct_ops.map_id));
	if (link >= 0)
		close(link);
	len = sizeof(minfo);
	if (map >= 0 && !looked(w, bpf_map_get_info_by_fd(map, &minfo, &len)) &&
	    minfo.value_size <= sizeof(val) && !looked(w, bpf_map_lookup_elem(map, &zero, val)))
		maps_of_table(rec_str(p->rec, "table"), val, w);
	if (map >= 0)
		close(map);
}

/* 0 or -errno */
static int section_maps(const struct policy *p, int fds[VAR_KINDS], uint32_t *btf_id)
{
	struct wanted w = { .fds = fds };
	bool found = false, all = true;

	for (int k = 0; k < VAR_KINDS; k++)
		fds[k] = -1;
	*btf_id = 0;
	for (int k = 0; k < VAR_KINDS && p->in_charge; k++) {
		char *path = str("%s/%s", p->dir, section_pins[k]);

		fds[k] = bpf_obj_get(path);
		free(path);
		found |= fds[k] >= 0;
		all &= fds[k] >= 0 || fds[k] == -ENOENT;
	}
	if (found && all)
		return 0;
	maps_of_link(p, &w);
	*btf_id = w.btf_id;
	return w.err;
}

int policy_map(const struct policy *p, const char *name)
{
	struct wanted w = { .name = name, .fd = -1 };

	maps_of_link(p, &w);
	return w.fd;
}

static int unread(const struct policy *p, int err)
{
	return fail(err == -EPERM || err == -EACCES ? E_PRIV : E_ENV,
		    err == -EPERM || err == -EACCES ? "see what security module forbids it" :
						      "try again",
		    "cannot read the variables of policy '%s': %s", p->instance, strerror(-err));
}

/* A section that can be written to is mapped; of another one there is a copy.  0 or -errno. */
static int read_section(struct inside *in, int kind, int fd, const struct bpf_map_info *info)
{
	size_t page = sysconf(_SC_PAGESIZE);
	uint32_t zero = 0;
	void *live;

	if (kind != VAR_RODATA && info->map_flags & BPF_F_MMAPABLE) {
		live = mmap(NULL, (info->value_size + page - 1) / page * page,
			    PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (live != MAP_FAILED) {
			in->sec[kind] = live;
			in->live[kind] = true;
			return 0;
		}
		/* Frozen: it can be read. */
		if (errno != EPERM)
			return -errno;
	}
	in->sec[kind] = calloc(1, (info->value_size + 7) & ~7u);
	if (!in->sec[kind])
		abort();
	return bpf_map_lookup_elem(fd, &zero, in->sec[kind]);
}

int policy_inside(const struct policy *p, struct inside *in)
{
	size_t sizes[VAR_KINDS] = {};
	struct btf *btf = NULL;
	const char *wrong;
	int fds[VAR_KINDS], sec_id, err;
	uint32_t btf_id;

	*in = (struct inside){};
	err = section_maps(p, fds, &btf_id);
	for (int k = 0; k < VAR_KINDS && !err; k++) {
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);

		if (fds[k] < 0)
			continue;
		err = bpf_map_get_info_by_fd(fds[k], &info, &len);
		if (!err)
			err = read_section(in, k, fds[k], &info);
		if (!btf_id)
			btf_id = info.btf_id;
		sizes[k] = info.value_size;
		close(fds[k]);
	}
	if (!err && btf_id) {
		btf = btf__load_from_kernel_by_id(btf_id);
		err = btf ? 0 : -errno;
	}
	if (err)
		return unread(p, err);
	if (!btf)
		return OK;
	sec_id = btf__find_by_name_kind(btf, ".struct_ops.link", BTF_KIND_DATASEC);
	if (sec_id > 0)
		in->about =
			btf_tag(btf, btf_var_secinfos(btf__type_by_id(btf, sec_id))->type, "about");
	wrong = vars_from_btf(btf, sizes, &in->vars);
	if (wrong)
		return fail(E_OBJECT, "repair the policy's source and load it anew",
			    "policy '%s' declares a variable wrongly: %s", p->instance, wrong);
	return OK;
}
