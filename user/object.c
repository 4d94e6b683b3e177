// SPDX-License-Identifier: GPL-2.0
/* Policy files: what is in them, and bringing one into the kernel. */
#include "kvmext.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

/* A policy that reads as fine gets no further than this many bytes. */
#define FILE_MAX (64 << 20)

const struct table tables[] = {
	{ .name = "throttle", .ops = "kvm_throttle_ops" },
	{ .name = "irq", .ops = "kvm_irq_ops" },
	{ .name = "save", .ops = "kvm_save_ops" },
	{ .name = "dirty", .ops = "kvm_dirty_ops" },
};
const int nr_tables = ARRAY_SIZE(tables);

static char *log_buf;
static size_t log_len;

static int log_print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char *text;
	int len;

	if (level == LIBBPF_DEBUG && !g.verbose)
		return 0;
	len = vasprintf(&text, fmt, ap);
	if (len < 0)
		return 0;
	if (g.verbose) {
		printable(text, "\n\t");
		fputs(text, stderr);
	}
	if (level != LIBBPF_DEBUG) {
		log_buf = realloc(log_buf, log_len + len + 1);
		if (!log_buf)
			abort();
		memcpy(log_buf + log_len, text, len + 1);
		log_len += len;
	}
	free(text);
	return len;
}

void log_init(void)
{
	libbpf_set_print(log_print);
}

void log_clear(void)
{
	log_len = 0;
	if (log_buf)
		*log_buf = 0;
}

const char *log_text(void)
{
	return log_len ? log_buf : "";
}

/* The first line of libbpf's log that has @key in it, without "libbpf: ". */
static char *log_line(const char *key)
{
	const char *hit = strstr(log_text(), key), *start;
	char *line;

	if (!hit)
		return NULL;
	for (start = hit; start > log_buf && start[-1] != '\n'; start--)
		;
	line = str("%.*s", (int)strcspn(start, "\n"), start);
	return strncmp(line, "libbpf: ", 8) ? line : line + 8;
}

/* What stands in the log between @before and the next of @ends. */
static char *log_word(const char *before, const char *ends)
{
	const char *p = strstr(log_text(), before);

	if (!p)
		return NULL;
	p += strlen(before);
	return str("%.*s", (int)strcspn(p, ends), p);
}

/* The last line that says something: on every way out of a load libbpf adds that it failed. */
static char *last_line(void)
{
	static const char head[] = "libbpf: ", failed[] = "failed to load object ";
	const char *end = log_text() + strlen(log_text()), *p;

	for (; end > log_text(); end = p) {
		while (end > log_text() && end[-1] == '\n')
			end--;
		for (p = end; p > log_text() && p[-1] != '\n'; p--)
			;
		if (p == end)
			break;
		if (strncmp(p, head, sizeof(head) - 1))
			return str("%.*s", (int)(end - p), p);
		if (strncmp(p + sizeof(head) - 1, failed, sizeof(failed) - 1))
			return str("%.*s", (int)(end - p - sizeof(head) + 1), p + sizeof(head) - 1);
	}
	return NULL;
}

/* The verifier's verdict is the last line of its log that is no statistics. */
static char *verdict(void)
{
	const char *p = strstr(log_text(), "-- BEGIN PROG LOAD LOG --"), *end, *nl;
	char *best = NULL;

	if (!p)
		return NULL;
	p = strchr(p, '\n');
	end = p ? strstr(p, "-- END PROG LOAD LOG --") : NULL;
	for (; p && end && p < end; p = nl) {
		p++;
		nl = strchr(p, '\n');
		if (!nl || nl == p || !strncmp(p, "libbpf:", 7) || !strncmp(p, "processed ", 10) ||
		    !strncmp(p, "verification time", 17) || !strncmp(p, "stack depth", 11) ||
		    !strncmp(p, "-- ", 3))
			continue;
		best = str("%.*s", (int)(nl - p), p);
	}
	return best;
}

static int bad(const char *path, const char *what)
{
	return fail(E_OBJECT, "give a policy built by clang -target bpf -g", "%s %s", path, what);
}

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
		ret = bad(path, "is no file");
		goto out;
	}
	if (st.st_size > FILE_MAX) {
		ret = bad(path, "is far too big to be a policy");
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
 * libbpf trusts an ELF file's headers more than a file that was cut short or
 * damaged deserves: see first that all of it is there.
 */
static int elf_check(const char *path, const char *data, size_t size)
{
	Elf64_Ehdr eh;
	Elf64_Shdr sh;

	if (size < sizeof(eh) || memcmp(data, ELFMAG, SELFMAG))
		return bad(path, "is no ELF object");
	memcpy(&eh, data, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_BPF || eh.e_type != ET_REL)
		return bad(path, "is an ELF file, but no BPF object");
	if (eh.e_ident[EI_DATA] != ELFDATA2LSB)
		return bad(path, "is a BPF object for the other byte order");
	if (eh.e_shentsize != sizeof(sh) || eh.e_shoff > size ||
	    eh.e_shnum > (size - eh.e_shoff) / sizeof(sh))
		return bad(path, "is truncated or corrupt: its section table is not all there");
	for (int i = 0; i < eh.e_shnum; i++) {
		memcpy(&sh, data + eh.e_shoff + i * sizeof(sh), sizeof(sh));
		if (sh.sh_type == SHT_NOBITS ?
			    sh.sh_size > FILE_MAX :
			    sh.sh_type != SHT_NULL &&
				    (sh.sh_offset > size || sh.sh_size > size - sh.sh_offset))
			return bad(path, "is truncated or corrupt: a section is not all there");
	}
	return OK;
}

/* Whether all members of a struct or union lie within it. */
static bool members_good(const struct btf *btf, const struct btf_type *t)
{
	for (int i = 0; btf_is_composite(t) && i < btf_vlen(t); i++) {
		uint32_t bits = btf_member_bitfield_size(t, i);
		int64_t size = btf__resolve_size(btf, btf_members(t)[i].type);

		if (!bits && size > 0)
			bits = size > FILE_MAX ? UINT32_MAX : size * 8;
		if ((uint64_t)btf_member_bit_offset(t, i) + bits > (uint64_t)t->size * 8)
			return false;
	}
	return true;
}

/*
 * libbpf checks that BTF's types and names are there, but adds up places and sizes
 * of variables as they come, and writes to where a table's type says its members are.
 */
static int btf_check(const char *path, const void *data, size_t size)
{
	struct btf *btf = btf__new(data, size);
	int n = btf ? (int)btf__type_cnt(btf) : 0, ret = btf ? OK : bad(path, "has corrupt BTF");

	for (int i = 1; i < n && ret == OK; i++) {
		const struct btf_type *t = btf__type_by_id(btf, i);
		const struct btf_var_secinfo *vsi = btf_var_secinfos(t);

		if (!members_good(btf, t))
			ret = bad(path, "has corrupt BTF: a member is nowhere");
		for (int j = 0; ret == OK && btf_is_datasec(t) && j < btf_vlen(t); j++, vsi++) {
			const struct btf_type *v = btf__type_by_id(btf, vsi->type);
			int64_t len = btf_is_var(v) ? btf__resolve_size(btf, vsi->type) : 0;

			if ((!btf_is_var(v) && !btf_is_func(v)) || vsi->offset > FILE_MAX ||
			    vsi->size > FILE_MAX || len > FILE_MAX) {
				ret = bad(path, "has corrupt BTF: a variable is nowhere");
				break;
			}
		}
	}
	btf__free(btf);
	return ret;
}

/* It believes symbols, too, when they say where in a section a variable is. */
static bool symbols_good(const char *data, const Elf64_Ehdr *eh, const Elf64_Shdr *tab)
{
	Elf64_Shdr sh;
	Elf64_Sym sym;

	for (size_t i = 0; i < tab->sh_size / sizeof(sym); i++) {
		memcpy(&sym, data + tab->sh_offset + i * sizeof(sym), sizeof(sym));
		if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= SHN_LORESERVE)
			continue;
		if (sym.st_shndx >= eh->e_shnum)
			return false;
		memcpy(&sh, data + eh->e_shoff + sym.st_shndx * sizeof(sh), sizeof(sh));
		if (sym.st_value > sh.sh_size || sym.st_size > sh.sh_size - sym.st_value)
			return false;
	}
	return true;
}

static int sections_check(const char *path, const char *data)
{
	static const char btf[] = ".BTF";
	Elf64_Shdr sh, names = {};
	Elf64_Ehdr eh;

	memcpy(&eh, data, sizeof(eh));
	if (eh.e_shstrndx < eh.e_shnum)
		memcpy(&names, data + eh.e_shoff + eh.e_shstrndx * sizeof(sh), sizeof(names));
	for (int i = 0; i < eh.e_shnum; i++) {
		memcpy(&sh, data + eh.e_shoff + i * sizeof(sh), sizeof(sh));
		if (sh.sh_type == SHT_SYMTAB && !symbols_good(data, &eh, &sh))
			return bad(path, "is corrupt: a symbol is nowhere");
		if (sh.sh_type != SHT_PROGBITS || names.sh_type != SHT_STRTAB ||
		    names.sh_size < sizeof(btf) || sh.sh_name > names.sh_size - sizeof(btf) ||
		    memcmp(data + names.sh_offset + sh.sh_name, btf, sizeof(btf)))
			continue;
		if (btf_check(path, data + sh.sh_offset, sh.sh_size) != OK)
			return E_OBJECT;
	}
	return OK;
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
		return bad(o->path, "is corrupt: reading it crashes libbpf");
	return OK;
}

static int find_member(const struct btf *btf, const struct btf_type *t, const char *name,
		       uint32_t *off, uint32_t *size)
{
	for (int i = 0; i < btf_vlen(t); i++) {
		const struct btf_member *m = btf_members(t) + i;
		int64_t sz;

		if (strcmp(btf__str_by_offset(btf, m->name_off), name))
			continue;
		sz = btf__resolve_size(btf, m->type);
		*off = btf_member_bit_offset(t, i) / 8;
		*size = sz;
		return sz > 0 && (uint64_t)*off + sz <= t->size ? 0 : -1;
	}
	return -1;
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
			return bad(o->path, "has an op table in SEC(\".maps\")");
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
		return bad(o->path, "is corrupt: its table has no type");
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
	if (find_member(btf, o->ops_type, "vm", &vm_off, &vm_size) || vm_size != 4 ||
	    find_member(btf, o->ops_type, "name", &off, &size) || off + size > ops_size)
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
	line = last_line();
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

	ret = elf_check(path, o->file, o->size);
	if (ret == OK)
		ret = sections_check(path, o->file);
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

int table_ops(const struct table *t, struct table_ops *ops)
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
	    find_member(btf, btf__type_by_id(btf, vid), "data", &data_off, &size))
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

static const struct btf_type *kernel_table(const struct object *o)
{
	struct btf *kbtf = kvm_btf();
	int id = kbtf ? btf__find_by_name_kind(kbtf, o->table->ops, BTF_KIND_STRUCT) : -1;

	return id > 0 ? btf__type_by_id(kbtf, id) : NULL;
}

/* A member that the kernel's table lacks may be there, but not be used. */
static int check_members(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	const struct btf_type *kt = kernel_table(o);
	const char *data = bpf_map__initial_value(o->ops, NULL);

	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const char *name = btf__str_by_offset(btf, m->name_off);
		uint32_t off, size, koff, ksize;
		bool used = false;

		if (find_member(btf, o->ops_type, name, &off, &size))
			return bad(o->path, "is corrupt: its table's type makes no sense");
		for (uint32_t b = 0; b < size; b++)
			used |= data[off + b];
		if (!used)
			continue;
		if (find_member(kvm_btf(), kt, name, &koff, &ksize))
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

	if (find_member(btf, o->ops_type, btf__str_by_offset(btf, m->name_off), &off, &size) ||
	    size != sizeof(prog))
		return NULL;
	memcpy(&prog, data + off, sizeof(prog));
	bpf_object__for_each_program(p, o->obj) if (p == prog) return p;
	return NULL;
}

/* Whether the op's program is declared SEC("struct_ops.s/..."). */
static bool op_sleeps(const struct object *o, const char *op)
{
	const struct btf *btf = bpf_object__btf(o->obj);

	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const struct bpf_program *prog = object_prog(o, m);

		if (prog && !strcmp(btf__str_by_offset(btf, m->name_off), op))
			return !strncmp(bpf_program__section_name(prog), "struct_ops.s", 12);
	}
	return false;
}

/* The first of its CONFIG_ variables: without the kernel's configuration it has no value. */
static const char *kconfig_name(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	int id = btf__find_by_name_kind(btf, ".kconfig", BTF_KIND_DATASEC);
	const struct btf_type *sec = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; sec && i < btf_vlen(sec); i++) {
		const struct btf_type *t = btf__type_by_id(btf, btf_var_secinfos(sec)[i].type);
		const char *name = btf__str_by_offset(btf, t->name_off);

		if (!strncmp(name, "CONFIG_", 7))
			return name;
	}
	return "__kconfig";
}

/* Which of libbpf's and the verifier's lines tells what is wrong, in our words. */
static int why_not_loaded(const struct object *o, uint32_t vm, int err)
{
	static const char rebuild[] = "build it with this kernel's vmlinux.h";
	char *prog = log_word("prog '", "'"), *line, *word, *what;
	char *place = vm ? str("VM %u", vm) : str("every VM");
	struct utsname un;

	if (strstr(log_text(), "failed to open system Kconfig")) {
		uname(&un);
		return fail(E_OBJECT,
			    str("put the kernel's .config there, or declare %s __weak",
				kconfig_name(o)),
			    "%s reads the kernel's configuration (%s, __kconfig), which is neither "
			    "/boot/config-%s nor /proc/config.gz",
			    o->path, kconfig_name(o), un.release);
	}
	word = log_word("extern (kcfg) '", "'") ?: log_word("extern 'CONFIG_", "'");
	if (word && strncmp(word, "CONFIG_", 7))
		word = str("CONFIG_%s", word);
	if (word)
		return fail(E_OBJECT, str("declare %s __weak, or build it for this kernel", word),
			    "%s reads %s (__kconfig), which this kernel's configuration does not "
			    "have as declared",
			    o->path, word);

	line = log_line("extern (var ksym) '");
	if (line) {
		word = log_word("extern (var ksym) '", "'");
		return fail(E_OBJECT, "build it for this kernel, or update the kvm modules",
			    strstr(line, "incompatible types") ?
				    "%s reads %s (__ksym), which has another type in this kernel" :
				    "%s reads %s (__ksym), which this kernel does not have",
			    o->path, word);
	}
	if (strstr(log_text(), "not found in kernel or module BTFs")) {
		word = log_word("extern (func ksym) '", "'");
		return fail(E_OBJECT, "build it for this kernel, or update the kvm modules",
			    "%s calls %s(), which this kernel does not have", o->path,
			    word ? word : "a kernel function");
	}
	if (strstr(log_text(), "incompatible with")) {
		word = log_word("'", "'");
		return fail(E_OBJECT, rebuild,
			    "%s is built for another kernel: its '%s' has another type here",
			    o->path, word ? word : "?");
	}
	line = log_line("failed to resolve CO-RE relocation");
	if (line) {
		/* "<byte_off> [8] struct kvm_vcpu.x (0:0 @ offset 0)" */
		word = log_word("failed to resolve CO-RE relocation ", "\n(");
		what = strstr(word, "] ");
		return fail(E_OBJECT, rebuild,
			    "%s is built for another kernel: '%s' uses %s, which is not here",
			    o->path, prog ? prog : "?", what ? what + 2 : word);
	}
	if (strstr(log_text(), "isn't referenced anywhere"))
		return fail(E_OBJECT, "name it in the table, or remove it",
			    "%s's program '%s' is for no op of its table", o->path,
			    prog ? prog : "?");
	if (strstr(log_text(), "Cannot find member") || strstr(log_text(), "Unmatched member") ||
	    strstr(log_text(), "Error in size of member") ||
	    strstr(log_text(), "is not found in kernel BTF")) {
		line = last_line();
		return fail(E_OBJECT, rebuild, "%s is built for another kernel: %s", o->path,
			    line ? line : "its table is another");
	}
	word = log_word("attach to unsupported member ", " \n");
	if (word && op_sleeps(o, word))
		return fail(E_REFUSED, str("declare it SEC(\"struct_ops/%s\"), without .s", word),
			    "%s's program for '%s' may sleep, but that op must not", o->path, word);
	if (word)
		return fail(E_REFUSED, "leave that op out", "this kernel takes no program for '%s'",
			    word);
	line = verdict();
	if (line) {
		const char *end = strstr(log_text(), "-- BEGIN PROG LOAD LOG --");

		/* The program at fault is the one named last before its log. */
		for (const char *p = log_text(); p && p < end;) {
			p = strstr(p, "prog '");
			if (p && p < end)
				prog = str("%.*s", (int)strcspn(p + 6, "'"), p + 6);
			if (p)
				p++;
		}
		return fail(E_REFUSED, "-v shows the verifier's whole log",
			    "%s: the verifier refuses '%s': %s", o->path, prog ? prog : "?", line);
	}
	if (err == -EPERM || err == -EACCES)
		return fail(E_PRIV, "run it as root, outside containers that forbid bpf()",
			    "loading %s for %s is not permitted", o->path, place);
	line = last_line();
	return fail(E_REFUSED, "-v shows all that libbpf says", "cannot load %s for %s: %s",
		    o->path, place, line ? line : strerror(-err));
}

/*
 * The table's value as the kernel wants it.  libbpf has it too, but keeps it to
 * bpf_map__attach_struct_ops() and to links that this process made; an update
 * of a pinned link needs it apart.
 */
static int fill_table(const struct object *o, uint32_t vm)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	char *vname = str("bpf_struct_ops_%s", o->table->ops), *val;
	const char *data = bpf_map__initial_value(o->ops, NULL);
	const struct btf_type *kt = kernel_table(o), *vt;
	uint32_t data_off = 0, size, zero = 0;
	int vid = btf__find_by_name_kind(kvm_btf(), vname, BTF_KIND_STRUCT), err;

	vt = vid > 0 ? btf__type_by_id(kvm_btf(), vid) : NULL;
	if (!vt || find_member(kvm_btf(), vt, "data", &data_off, &size))
		return fail(E_ENV, "use this tool's own kvm modules",
			    "this kernel's struct %s is not as expected", vname);
	val = calloc(1, vt->size);
	if (!val)
		abort();
	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const char *name = btf__str_by_offset(btf, m->name_off);
		const struct btf_type *mt;
		uint32_t off, koff;
		int id;

		if (find_member(btf, o->ops_type, name, &off, &size) ||
		    find_member(kvm_btf(), kt, name, &koff, &size))
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
	if (err)
		return link_error(o, "load", vm, err);
	return OK;
}

int object_ready(const char *path, char *const *args, int n, struct object *o, struct setting **set)
{
	int ret = object_file(path, o);

	if (ret == OK)
		ret = object_open(o);
	if (ret == OK)
		ret = settings_parse(o->name, &o->vars, args, n, false, set);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK)
		ret = need_kernel();
	if (ret == OK)
		ret = need_bpffs();
	return ret;
}

int object_load(struct object *o, uint32_t vm)
{
	uint32_t off, size;
	int ret;

	ret = check_members(o);
	if (ret != OK)
		return ret;
	find_member(bpf_object__btf(o->obj), o->ops_type, "vm", &off, &size);
	memcpy((char *)bpf_map__initial_value(o->ops, NULL) + off, &vm, sizeof(vm));
	log_clear();
	ret = bpf_object__load(o->obj);
	if (ret)
		return why_not_loaded(o, vm, ret);
	return fill_table(o, vm);
}

int object_ops_fd(const struct object *o)
{
	return bpf_map__fd(o->ops);
}
