// SPDX-License-Identifier: GPL-2.0
/* Policy files: what is in them, and bringing one into the kernel. */
#include "object.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "log.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "vars.h"
#include "vet.h"

/*
 * The file is read once: who can write to it, or to its folder, must not be able
 * to show one file to the checks and another to libbpf.
 */
int object_file(const char *path, struct object *o)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret = OK;
	struct stat st = {};
	ssize_t n = 1;

	*o = (struct object){ .path = path };
	if (fd < 0 || fstat(fd, &st)) {
		ret = fail(E_OBJECT,
			   errno == EACCES ? "run it as a user who may read it" : "check the path",
			   "cannot open %s: %s", path, strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode)) {
		ret = vet_bad(path, "is no file");
		goto out;
	}
	if (st.st_size > POLICY_FILE_MAX) {
		ret = vet_bad(path, "is far too big to be a policy");
		goto out;
	}
	o->file = malloc(st.st_size + 1);
	if (!o->file)
		abort();
	while (o->size < (size_t)st.st_size && n > 0) {
		n = read(fd, o->file + o->size, st.st_size - o->size);
		if (n > 0)
			o->size += n;
	}
	if (n < 0)
		ret = fail(E_OBJECT, NULL, "cannot read %s: %s", path, strerror(errno));
out:
	if (fd >= 0)
		close(fd);
	return ret;
}

/*
 * A file may be damaged in ways that make libbpf or libelf crash.  Let a child
 * read it first; what it did not survive, we do not try.
 */
static int survives(const struct object *o)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return fail(E_INTERNAL, NULL, "cannot fork: %s", strerror(errno));
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);
		struct rlimit cpu = { 20, 21 };
		struct object copy = *o;

		dup2(null, 1);
		dup2(null, 2);
		/* CPU time: a disk that is slow says nothing of the file. */
		setrlimit(RLIMIT_CPU, &cpu);
		g.verbose = false;
		drop_rights();
		object_read(&copy);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		return vet_bad(o->path, "is corrupt: reading it crashes libbpf");
	return OK;
}

/* "kvm_a_ops, kvm_b_ops and kvm_c_ops" */
static char *table_names(void)
{
	char *all = str("%s", tables[0].ops);

	for (int i = 1; i < nr_tables; i++)
		all = str("%s%s%s", all, i == nr_tables - 1 ? " and " : ", ", tables[i].ops);
	return all;
}

static int read_table(struct object *o, const struct btf *btf)
{
	uint32_t off, size, vm_off, vm_size;
	const struct bpf_map *ops = NULL;
	struct bpf_map *map;
	const char *ops_name, *flavour, *data;
	size_t ops_size, len;
	int n = 0, var;

	bpf_object__for_each_map(map, o->obj)
	{
		if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS)
			continue;
		/* One in .maps has no table behind it, which libbpf would find out too late. */
		if (!bpf_map__autoattach(map))
			return vet_bad(o->path, "has an op table in SEC(\".maps\")");
		ops = map;
		o->ops = map;
		n++;
	}
	if (!ops)
		return fail(E_OBJECT,
			    "a policy has one struct kvm_..._ops in SEC(\".struct_ops.link\")",
			    "%s has no op table", o->path);
	if (n > 1)
		return fail(E_OBJECT, "put each in a file of its own", "%s has %d op tables",
			    o->path, n);
	if (!(bpf_map__map_flags(ops) & BPF_F_LINK))
		return fail(E_OBJECT, "declare it with SEC(\".struct_ops.link\")",
			    "%s's table '%s' cannot be linked", o->path, bpf_map__name(ops));

	o->ops_type = btf__type_by_id(btf, bpf_map__btf_value_type_id(ops));
	if (!o->ops_type || !btf_is_struct(o->ops_type))
		return vet_bad(o->path, "is corrupt: its table has no type");
	var = btf__find_by_name_kind(btf, bpf_map__name(ops), BTF_KIND_VAR);
	if (var > 0)
		o->about = btf_tag(btf, var, "about");
	ops_name = btf__str_by_offset(btf, o->ops_type->name_off);
	/* As libbpf does: what follows "___" only tells types of one name apart. */
	flavour = strstr(ops_name, "___");
	len = flavour ? (size_t)(flavour - ops_name) : strlen(ops_name);
	for (int i = 0; i < nr_tables; i++)
		if (strlen(tables[i].ops) == len && !strncmp(tables[i].ops, ops_name, len))
			o->table = &tables[i];
	if (!o->table)
		return fail(E_OBJECT, str("kvmext takes %s", table_names()),
			    "%s's table is a struct %s, which is none of kvm_ext's", o->path,
			    ops_name);

	data = bpf_map__initial_value(ops, &ops_size);
	if (vet_member(btf, o->ops_type, "vm", &vm_off, &vm_size) || vm_size != 4 ||
	    vet_member(btf, o->ops_type, "name", &off, &size) || off + size > ops_size)
		return fail(E_OBJECT, "build it with this kernel's vmlinux.h",
			    "%s's struct %s has no vm or no name", o->path, ops_name);
	if (strnlen(data + off, size) == size || size > sizeof(o->name) || !data[off] ||
	    data[off + strspn(data + off, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					  "0123456789_.-")])
		return fail(E_OBJECT, "set .name to letters, digits, '_', '.' and '-', at most 31",
			    "%s's table '%s' has no good name", o->path, bpf_map__name(ops));
	strcpy(o->name, data + off);
	return OK;
}

static int open_error(const char *path, int err)
{
	char *line;

	if (err == -ENOMEM)
		return fail(E_INTERNAL, NULL, "cannot read %s: out of memory", path);
	line = log_last();
	return fail(E_OBJECT, "build it anew; -v shows all that libbpf says",
		    "%s is no good BPF object: %s", path, line ? line : strerror(-err));
}

int object_read(struct object *o)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts);
	size_t sizes[VAR_KINDS] = {};
	const char *path = o->path;
	char *name = str("%s", basename(path));
	struct bpf_map *map;
	const char *wrong;
	struct btf *btf;
	int ret;

	ret = vet_file(path, o->file, o->size);
	if (ret != OK)
		return ret;
	log_clear();
	/* As libbpf names what it opens by path: maps are called after it. */
	name[strcspn(name, ".")] = 0;
	opts.object_name = name;
	o->obj = bpf_object__open_mem(o->file, o->size, &opts);
	if (!o->obj)
		return open_error(path, -errno);
	btf = bpf_object__btf(o->obj);
	if (!btf)
		return fail(E_OBJECT, "build it with clang -g", "%s has no BTF", path);
	ret = read_table(o, btf);
	if (ret != OK)
		return ret;

	bpf_object__for_each_map(map, o->obj)
	{
		/* "NAME.bss"; but a section of one's own, as ".data.bss", by all of its name */
		const char *dot = strchr(bpf_map__name(map), '.');

		/* It would be left there, or be another program's. */
		if (bpf_map__pin_path(map))
			return fail(E_OBJECT, "declare it without pinning",
				    "%s's map '%s' asks to be pinned as %s", o->path,
				    bpf_map__name(map), bpf_map__pin_path(map));

		for (int k = 0; bpf_map__is_internal(map) && dot && k < VAR_KINDS; k++) {
			if (strcmp(dot, section_names[k]))
				continue;
			o->map[k] = map;
			o->sec[k] = bpf_map__initial_value(map, &sizes[k]);
			if (!o->sec[k])
				sizes[k] = 0;
		}
	}
	wrong = vars_from_btf(btf, sizes, &o->vars);
	if (wrong)
		return fail(E_OBJECT, "repair its declaration, and build it anew",
			    "%s declares a variable wrongly: %s", path, wrong);
	for (int i = 0; i < o->vars.n; i++) {
		const struct var *v = &o->vars.v[i];
		s128 val = var_load(v, o->sec[v->kind]);

		if (v->param && (val < v->min || val > v->max))
			return fail(E_OBJECT, "repair its KVMEXT_PARAM",
				    "%s's '%s' has a default out of its range", path, v->name);
	}
	return OK;
}

int object_open(struct object *o)
{
	int ret = survives(o);

	if (ret == OK)
		ret = object_read(o);
	free(o->file);
	o->file = NULL;
	return ret;
}

void object_set(struct object *o, const struct setting *set, int n)
{
	for (int i = 0; i < n; i++)
		var_store(set[i].var, o->sec[set[i].var->kind], set[i].val);
}

/* The ops of a table: its members that are pointers to functions. */
static char *op_names(const struct btf *btf, const struct btf_type *t)
{
	char *all = NULL;

	for (int i = 0; i < btf_vlen(t); i++) {
		const struct btf_member *m = btf_members(t) + i;
		const char *name = btf__str_by_offset(btf, m->name_off);
		int id = btf__resolve_type(btf, m->type);

		if (id > 0 && btf_is_ptr(btf__type_by_id(btf, id)))
			all = all ? str("%s, %s", all, name) : str("%s", name);
	}
	return all ? all : str("none");
}

static const struct btf_type *kernel_table(const struct object *o)
{
	struct btf *kbtf = kvm_btf();
	int id = kbtf ? btf__find_by_name_kind(kbtf, o->table->ops, BTF_KIND_STRUCT) : -1;

	return id > 0 ? btf__type_by_id(kbtf, id) : NULL;
}

/* The type of the table's value in the kernel, and where the table is in it */
static const struct btf_type *kernel_value(const struct object *o, uint32_t *data_off)
{
	char *name = str("bpf_struct_ops_%s", o->table->ops);
	int id = btf__find_by_name_kind(kvm_btf(), name, BTF_KIND_STRUCT);
	const struct btf_type *t = id > 0 ? btf__type_by_id(kvm_btf(), id) : NULL;
	uint32_t size;

	free(name);
	return t && !vet_member(kvm_btf(), t, "data", data_off, &size) ? t : NULL;
}

/* A member that the kernel's table lacks may be there, but not be used. */
int object_fits(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	const struct btf_type *kt = kernel_table(o);
	const char *data = bpf_map__initial_value(o->ops, NULL);
	uint32_t data_off;

	if (!kt || !kernel_value(o, &data_off))
		return fail(E_ENV, "use this tool's own kvm modules",
			    "this kernel's struct bpf_struct_ops_%s is not as expected",
			    o->table->ops);
	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const char *name = btf__str_by_offset(btf, m->name_off);
		uint32_t off, size, koff, ksize;
		bool used = false;

		if (vet_member(btf, o->ops_type, name, &off, &size))
			return vet_bad(o->path, "is corrupt: its table's type makes no sense");
		for (uint32_t b = 0; b < size; b++)
			used |= data[off + b];
		if (!used)
			continue;
		if (vet_member(kvm_btf(), kt, name, &koff, &ksize))
			return fail(
				E_OBJECT,
				str("this kernel's ops are: %s; build the policy for this kernel",
				    op_names(kvm_btf(), kt)),
				"%s has a program for '%s', which is no op of this kernel's %s",
				o->path, name, o->table->ops);
		if (ksize != size)
			return fail(E_OBJECT, "build it with this kernel's vmlinux.h",
				    "%s is built for another kernel: '%s' is %u bytes, here %u",
				    o->path, name, size, ksize);
	}
	return OK;
}

/*
 * The program for a member of the table.  libbpf puts pointers there, but only
 * where a relocation stands: what else is there is only bytes of the file.
 */
const struct bpf_program *object_prog(const struct object *o, const struct btf_member *m)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	const char *data = bpf_map__initial_value(o->ops, NULL);
	struct bpf_program *prog, *p;
	uint32_t off, size;

	if (vet_member(btf, o->ops_type, btf__str_by_offset(btf, m->name_off), &off, &size) ||
	    size != sizeof(prog))
		return NULL;
	memcpy(&prog, data + off, sizeof(prog));
	bpf_object__for_each_program(p, o->obj) if (p == prog) return p;
	return NULL;
}

/*
 * The table's value as the kernel wants it.  libbpf has it too, but keeps it to
 * bpf_map__attach_struct_ops() and to links that this process made; an update
 * of a pinned link needs it apart.
 */
int object_fill(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	const char *data = bpf_map__initial_value(o->ops, NULL);
	uint32_t data_off = 0, size, zero = 0;
	const struct btf_type *kt = kernel_table(o), *vt = kernel_value(o, &data_off);
	char *val;
	int err;

	if (!kt || !vt)
		return -EINVAL;
	val = calloc(1, vt->size);
	if (!val)
		abort();
	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const char *name = btf__str_by_offset(btf, m->name_off);
		const struct btf_type *mt;
		uint32_t off, koff;
		int id;

		if (vet_member(btf, o->ops_type, name, &off, &size) ||
		    vet_member(kvm_btf(), kt, name, &koff, &size))
			continue;
		id = btf__resolve_type(btf, m->type);
		mt = id > 0 ? btf__type_by_id(btf, id) : NULL;
		if (mt && btf_is_ptr(mt)) {
			const struct bpf_program *prog = object_prog(o, m);
			unsigned long fd;

			if (!prog)
				continue;
			fd = bpf_program__fd(prog);
			memcpy(val + data_off + koff, &fd, sizeof(fd));
		} else {
			memcpy(val + data_off + koff, data + off, size);
		}
	}
	err = bpf_map_update_elem(bpf_map__fd(o->ops), &zero, val, 0);
	free(val);
	return err;
}

int object_load(struct object *o, uint32_t vm)
{
	uint32_t off, size;

	vet_member(bpf_object__btf(o->obj), o->ops_type, "vm", &off, &size);
	memcpy((char *)bpf_map__initial_value(o->ops, NULL) + off, &vm, sizeof(vm));
	log_clear();
	return bpf_object__load(o->obj);
}

int object_ops_fd(const struct object *o)
{
	return bpf_map__fd(o->ops);
}
