// SPDX-License-Identifier: GPL-2.0
/* Policies that are loaded, as the kernel tells it, whoever loaded them. */
#include "kvmext.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

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

static int match_pin(const char *dir, const char *instance, void *arg)
{
	struct policies *ps = arg;
	struct bpf_link_info info;
	int fd;

	/* A tool at work: the link is in its old place too, or will be soon. */
	if (*instance == '~')
		return 0;
	fd = pins_get_link(dir, &info);
	if (fd < 0)
		return 0;
	close(fd);
	for (int i = 0; i < ps->n; i++)
		if (ps->p[i].link_id == info.id) {
			ps->p[i].dir = str("%s", dir);
			ps->p[i].in_charge = info.struct_ops.map_id == pins_ops_id(dir);
		}
	return 0;
}

/* As much of a record as a pin tells. */
static int add_pin(const char *dir, const char *instance, void *arg)
{
	struct policies *ps = arg;
	const char *name = bare(instance), *at = strchr(name, '@');
	struct bpf_link_info info;
	struct policy *p;
	struct rec *r;
	int fd;

	fd = *instance == '~' ? -1 : pins_get_link(dir, &info);
	if (fd < 0)
		return 0;
	close(fd);
	ps->p = realloc(ps->p, (ps->n + 1) * sizeof(*ps->p));
	r = calloc(1, sizeof(*r));
	if (!ps->p || !r)
		abort();
	r->kind = "policy";
	r->key[0] = "name";
	r->val[0] = str("%.*s", at ? (int)(at - name) : (int)strlen(name), name);
	r->key[1] = "vm";
	r->val[1] = str("%s", at ? at + 1 : "0");
	r->key[2] = "link";
	r->val[2] = str("%u", info.id);
	r->key[3] = "table";
	r->val[3] = name == instance ? str("%s", tables[0].name) :
				       str("%.*s", (int)(name - 1 - instance), instance);
	r->n = 4;
	p = &ps->p[ps->n++];
	*p = (struct policy){
		.instance = str("%s", instance),
		.rec = r,
		.link_id = info.id,
		.vm = rec_u64(r, "vm"),
		.dir = str("%s", dir),
		.in_charge = info.struct_ops.map_id == pins_ops_id(dir),
	};
	return 0;
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
	ret = pins_lock(PINS_TRY);
	if (ret != OK)
		return ret;
	if (state_is_away()) {
		pins_each(add_pin, ps);
		return OK;
	}
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
	pins_each(match_pin, ps);
	return OK;
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

static int map_with_suffix(const uint32_t *ids, uint32_t n, const char *suffix)
{
	for (uint32_t i = 0; i < n; i++) {
		int fd = bpf_map_get_fd_by_id(ids[i]);
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);
		const char *dot;

		if (fd < 0)
			continue;
		if (!bpf_map_get_info_by_fd(fd, &info, &len)) {
			dot = strrchr(info.name, '.');
			if (dot && !strcmp(dot, suffix))
				return fd;
		}
		close(fd);
	}
	return -1;
}

/* What is looked for among a policy's maps: its sections, or one by its name */
struct wanted {
	int *fds;
	uint32_t btf_id;
	const char *name;
	int fd;
};

static int map_named(const uint32_t *ids, uint32_t n, const char *name)
{
	for (uint32_t i = 0; i < n; i++) {
		int fd = bpf_map_get_fd_by_id(ids[i]);
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);

		if (fd >= 0 && !bpf_map_get_info_by_fd(fd, &info, &len) && !strcmp(info.name, name))
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return -1;
}

static void maps_of_prog(uint32_t id, struct wanted *w)
{
	struct bpf_prog_info info = {};
	uint32_t ids[64], len = sizeof(info);
	int prog = bpf_prog_get_fd_by_id(id);

	if (prog < 0)
		return;
	info.nr_map_ids = ARRAY_SIZE(ids);
	info.map_ids = (uintptr_t)ids;
	if (!bpf_prog_get_info_by_fd(prog, &info, &len)) {
		uint32_t n = info.nr_map_ids < ARRAY_SIZE(ids) ? info.nr_map_ids : ARRAY_SIZE(ids);

		w->btf_id = info.btf_id;
		for (int k = 0; w->fds && k < VAR_KINDS; k++)
			if (w->fds[k] < 0)
				w->fds[k] = map_with_suffix(ids, n, section_names[k]);
		if (w->name && w->fd < 0)
			w->fd = *w->name == '.' ? map_with_suffix(ids, n, w->name) :
						  map_named(ids, n, w->name);
	}
	close(prog);
}

/* Reading a table gives the ids of its programs in the place of pointers. */
static void maps_of_table(const char *table, const char *val, struct wanted *w)
{
	for (int i = 0; table && i < nr_tables; i++) {
		struct table_ops ops;

		if (strcmp(tables[i].name, table) || table_ops(&tables[i], &ops))
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

	link = bpf_link_get_fd_by_id(p->link_id);
	if (link >= 0 && !bpf_link_get_info_by_fd(link, &linfo, &len))
		map = bpf_map_get_fd_by_id(linfo.struct_ops.map_id);
	if (link >= 0)
		close(link);
	len = sizeof(minfo);
	if (map >= 0 && !bpf_map_get_info_by_fd(map, &minfo, &len) &&
	    minfo.value_size <= sizeof(val) && !bpf_map_lookup_elem(map, &zero, val))
		maps_of_table(rec_str(p->rec, "table"), val, w);
	if (map >= 0)
		close(map);
}

static void section_maps(const struct policy *p, int fds[VAR_KINDS], uint32_t *btf_id)
{
	bool found = false;

	for (int k = 0; k < VAR_KINDS; k++)
		fds[k] = -1;
	*btf_id = 0;
	for (int k = 0; k < VAR_KINDS && p->in_charge; k++) {
		char *path = str("%s/%s", p->dir, section_pins[k]);

		fds[k] = bpf_obj_get(path);
		free(path);
		if (fds[k] >= 0)
			found = true;
	}
	if (!found) {
		struct wanted w = { .fds = fds };

		maps_of_link(p, &w);
		*btf_id = w.btf_id;
	}
}

int policy_map(const struct policy *p, const char *name)
{
	struct wanted w = { .name = name, .fd = -1 };

	maps_of_link(p, &w);
	return w.fd;
}

int policy_inside(const struct policy *p, struct inside *in)
{
	size_t sizes[VAR_KINDS] = {};
	int fds[VAR_KINDS], sec_id;
	uint32_t btf_id, zero = 0;
	struct btf *btf = NULL;
	const char *wrong;

	*in = (struct inside){};
	section_maps(p, fds, &btf_id);
	for (int k = 0; k < VAR_KINDS; k++) {
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);
		size_t page = sysconf(_SC_PAGESIZE);

		if (fds[k] < 0 || bpf_map_get_info_by_fd(fds[k], &info, &len))
			continue;
		if (!btf_id)
			btf_id = info.btf_id;
		if (k == VAR_DATA && info.map_flags & BPF_F_MMAPABLE) {
			in->sec[k] = mmap(NULL, (info.value_size + page - 1) / page * page,
					  PROT_READ | PROT_WRITE, MAP_SHARED, fds[k], 0);
			if (in->sec[k] == MAP_FAILED)
				in->sec[k] = NULL;
		} else {
			in->sec[k] = calloc(1, (info.value_size + 7) & ~7u);
			if (in->sec[k] && bpf_map_lookup_elem(fds[k], &zero, in->sec[k]))
				in->sec[k] = NULL;
		}
		if (in->sec[k])
			sizes[k] = info.value_size;
		close(fds[k]);
	}
	if (btf_id)
		btf = btf__load_from_kernel_by_id(btf_id);
	if (!btf)
		return OK;
	sec_id = btf__find_by_name_kind(btf, ".struct_ops.link", BTF_KIND_DATASEC);
	if (sec_id > 0)
		in->about =
			btf_tag(btf, btf_var_secinfos(btf__type_by_id(btf, sec_id))->type, "about");
	wrong = vars_from_btf(btf, sizes, &in->vars);
	if (wrong)
		return fail(E_OBJECT, NULL, "policy '%s' declares a variable wrongly: %s",
			    p->instance, wrong);
	return OK;
}
