/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests need of kvm_ext: the probe policy with its knobs and counts, links,
 * marks, the state file, the kill switch, the kernel log and the tracepoints.
 *
 * Errors come as the kernel's own -errno; nothing is pinned unless a test does it.
 */
#ifndef __TESTS_EXT_H
#define __TESTS_EXT_H

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/kvm/probes/probe.h"
#include "vm.h"

#define EXT_STATE "/sys/kernel/debug/kvm/ext/state"
#define EXT_SWITCH "/sys/module/kvm/parameters/ext_enable"
#define TRACING "/sys/kernel/tracing"

/* As in kvm.ko; user programs have no vmlinux.h. */
enum { DIRTY_WRITE_FAULT, DIRTY_PML, DIRTY_MAP, DIRTY_HOST };
enum { LOG_START, LOG_STOP, HARVEST, RING_RESET, CLEAR };
#define F_ANY_VCPU 1

/* The head of struct kvm_throttle_ops as a policy object has it. */
struct ops_head {
	__u32 vm;
	__u32 flags;
	char name[32];
	struct bpf_program *dirtied;
	struct bpf_program *block;
	struct bpf_program *round;
	struct bpf_program *end;
};

#define MS 1000000ULL

/* Poll until @cond holds or @ms (more where all is slow) are over; whether it holds. */
#define WAIT(cond, ms)                                            \
	({                                                        \
		uint64_t __end = now_ns() + (ms)*MS * patience(); \
		bool __is;                                        \
		while (!(__is = (cond)) && now_ns() < __end)      \
			sleep_ms(1);                              \
		__is;                                             \
	})

/* --- libbpf's words, kept for the tests that want to know the reason ------- */

static char ext_log[65536];
static size_t ext_log_len;

static inline int ext_print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	int n;

	if (level == LIBBPF_DEBUG || ext_log_len >= sizeof(ext_log) - 1)
		return 0;
	n = vsnprintf(ext_log + ext_log_len, sizeof(ext_log) - ext_log_len, fmt, ap);
	ext_log_len += n;
	if (ext_log_len > sizeof(ext_log) - 1)
		ext_log_len = sizeof(ext_log) - 1;
	return n;
}

/* --- objects --------------------------------------------------------------- */

/* A policy object of the build, by its path from build/.  Tests are two folders below that. */
static inline struct bpf_object *ext_open(const char *path)
{
	char file[4096];
	ssize_t n = readlink("/proc/self/exe", file, sizeof(file) - 1);
	char *slash;

	libbpf_set_print(ext_print);
	ext_log_len = 0;
	ext_log[0] = 0;
	if (n < 0)
		return NULL;
	file[n] = 0;
	slash = strrchr(file, '/');
	snprintf(slash + 1, sizeof(file) - (slash + 1 - file), "../../%s", path);
	return bpf_object__open_file(file, NULL);
}

static inline void *ext_map_memory(struct bpf_object *obj, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, name);
	void *p;

	if (!map)
		return NULL;
	p = mmap(NULL, (bpf_map__value_size(map) + 4095) & ~4095UL, PROT_READ | PROT_WRITE,
		 MAP_SHARED, bpf_map__fd(map), 0);
	return p == MAP_FAILED ? NULL : p;
}

static inline void ext_unmap_memory(volatile void *p, size_t size)
{
	if (p)
		munmap((void *)p, (size + 4095) & ~4095UL);
}

/* A policy's own variable, where it is mapped; of the loaded object. */
static inline void *ext_variable(struct bpf_object *obj, const char *section, const char *name)
{
	const struct btf *btf = bpf_object__btf(obj);
	const struct btf_type *t =
		btf__type_by_id(btf, btf__find_by_name_kind(btf, section, BTF_KIND_DATASEC));
	char *memory = t ? ext_map_memory(obj, section) : NULL;

	for (int i = 0; memory && i < btf_vlen(t); i++) {
		struct btf_var_secinfo *v = btf_var_secinfos(t) + i;
		const struct btf_type *var = btf__type_by_id(btf, v->type);

		if (!strcmp(btf__name_by_offset(btf, var->name_off), name))
			return memory + v->offset;
	}
	return NULL;
}

/*
 * Load a policy for VM @vm: @table of the object and no other one that it may have, under the
 * name @name.  NULL: the table that it has, its own name.
 */
static inline int ext_load(const char *path, const char *table, const char *name, __u32 vm,
			   struct bpf_object **obj, struct bpf_map **ops)
{
	struct {
		__u32 vm;
		__u32 flags;
		char name[32];
	} * head;
	struct bpf_map *map;
	size_t size;

	*ops = NULL;
	*obj = ext_open(path);
	if (!*obj)
		return -errno;
	bpf_object__for_each_map(map, *obj)
	{
		if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS)
			continue;
		if (!table || !strcmp(bpf_map__name(map), table))
			*ops = map;
		else
			bpf_map__set_autocreate(map, false);
	}
	head = *ops ? bpf_map__initial_value(*ops, &size) : NULL;
	if (!head || size < sizeof(*head))
		return -EBADMSG;
	head->vm = vm;
	if (name)
		snprintf(head->name, sizeof(head->name), "%s", name);
	return bpf_object__load(*obj);
}

struct probe {
	struct bpf_object *obj;
	struct bpf_map *ops; /* the table */
	struct bpf_link *link;
	volatile struct probe_knobs *k;
	volatile struct probe_counts *c;
};

/* @ops: PROBE_IN_* of the ops it is to have. */
static inline int probe_load(struct probe *p, const char *name, __u32 vm, __u32 flags,
			     unsigned int ops)
{
	struct bpf_map *map;
	struct ops_head *head;
	size_t size;
	int ret;

	*p = (struct probe){};
	p->obj = ext_open("tests/kvm/probes/probe.bpf.o");
	if (!p->obj)
		return -errno;
	map = bpf_object__find_map_by_name(p->obj, "probe");
	head = map ? bpf_map__initial_value(map, &size) : NULL;
	if (!head || size < sizeof(*head))
		return -EBADMSG;
	head->vm = vm;
	head->flags = flags;
	snprintf(head->name, sizeof(head->name), "%s", name);
	if (!(ops & PROBE_IN_DIRTIED))
		head->dirtied = NULL;
	if (!(ops & PROBE_IN_BLOCK))
		head->block = NULL;
	if (!(ops & PROBE_IN_DIRTY_LOG))
		head->round = NULL;
	ret = bpf_object__load(p->obj);
	if (ret)
		return ret;
	p->ops = map;
	p->k = ext_map_memory(p->obj, ".data");
	p->c = ext_map_memory(p->obj, ".bss");
	if (!p->k || !p->c)
		return -ENOMEM;
	p->k->base = VM_MEM / VM_PAGE;
	return 0;
}

#define PROBE_ALL (PROBE_IN_DIRTIED | PROBE_IN_BLOCK | PROBE_IN_DIRTY_LOG)

static inline int ext_update(struct bpf_link *link, struct bpf_map *map)
{
	return bpf_link__update_map(link, map);
}

/* Attach a table that no struct probe stands for. */
static inline int ext_attach(struct bpf_map *map, struct bpf_link **link)
{
	*link = bpf_map__attach_struct_ops(map);
	return *link ? 0 : -errno;
}

static inline int probe_attach(struct probe *p)
{
	return ext_attach(p->ops, &p->link);
}

static inline void probe_detach(struct probe *p)
{
	bpf_link__destroy(p->link);
	p->link = NULL;
}

static inline void probe_free(struct probe *p)
{
	if (!p->obj)
		return;
	probe_detach(p);
	ext_unmap_memory(p->k, sizeof(*p->k));
	ext_unmap_memory(p->c, sizeof(*p->c));
	bpf_object__close(p->obj);
	p->obj = NULL;
}

static inline int probe_up(struct probe *p, const char *name, __u32 vm, __u32 flags)
{
	return probe_load(p, name, vm, flags, PROBE_ALL) ?: probe_attach(p);
}

static inline __u64 probe_dirtied(struct probe *p)
{
	return p->c->dirtied[0] + p->c->dirtied[1] + p->c->dirtied[2] + p->c->dirtied[3];
}

/* --- marks: by the program that the tool uses ------------------------------ */

/* Loaded once: a mark that ends a block is to be quick. */
static inline int ext_mark(pid_t pid, __u32 vcpu, bool on)
{
	struct {
		__u32 pid, vcpu, on;
	} args = { pid, vcpu, on };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &args, .ctx_size_in = sizeof(args));
	static struct bpf_program *prog;
	int ret;

	if (!prog) {
		struct bpf_object *obj = ext_open("user/mark.bpf.o");

		if (!obj)
			return -ENOENT;
		ret = bpf_object__load(obj);
		if (ret)
			return ret;
		prog = bpf_object__find_program_by_name(obj, "mark");
	}
	ret = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);
	return ret ?: (int)opts.retval;
}

/* --- the state file -------------------------------------------------------- */

static inline char *ext_read(const char *path)
{
	size_t size = 1 << 16, len = 0;
	char *text = malloc(size);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		free(text);
		return NULL;
	}
	while ((n = read(fd, text + len, size - len - 1)) > 0) {
		len += n;
		if (size - len < 4096)
			text = realloc(text, size *= 2);
	}
	close(fd);
	text[len] = 0;
	return text;
}

/* Is "key=value" one of the words of this line (after its first)? */
static inline const char *ext_word(const char *line, const char *word, size_t len)
{
	const char *p = line;

	while ((p = strstr(p, word))) {
		if (p > line && p[-1] == ' ' && (word[len - 1] == '=' || p[len] == ' ' || !p[len]))
			return p;
		p += len;
	}
	return NULL;
}

/*
 * The value of @key in the record of @kind that has all of the words of @match:
 * 0, or -ENOENT.  Quotes are taken off.
 */
static inline int ext_get(const char *kind, const char *match, const char *key, char *value,
			  size_t size)
{
	char *text = ext_read(EXT_STATE), *line, *next, want[128], keyeq[64];
	int ret = -ENOENT;

	value[0] = 0;
	if (!text)
		return -ENOENT;
	snprintf(keyeq, sizeof(keyeq), "%s=", key);
	for (line = text; ret && line && *line; line = next) {
		const char *p = line;
		char *word, *save = NULL;
		bool all = true;

		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (strncmp(line, kind, strlen(kind)) || line[strlen(kind)] != ' ')
			continue;
		snprintf(want, sizeof(want), "%s", match);
		for (word = strtok_r(want, " ", &save); word; word = strtok_r(NULL, " ", &save))
			all &= !!ext_word(line, word, strlen(word));
		if (!all)
			continue;
		p = ext_word(line, keyeq, strlen(keyeq));
		if (!p)
			continue;
		p += strlen(keyeq);
		if (*p == '"') {
			const char *end = strchr(p + 1, '"');

			snprintf(value, size, "%.*s", end ? (int)(end - p - 1) : 0, p + 1);
		} else {
			snprintf(value, size, "%.*s", (int)strcspn(p, " "), p);
		}
		ret = 0;
	}
	free(text);
	return ret;
}

/* The same for a number; -1 if there is none. */
static inline long long ext_num(const char *kind, const char *match, const char *key)
{
	char value[64], *end;
	long long n;

	if (ext_get(kind, match, key, value, sizeof(value)))
		return -1;
	n = strtoll(value, &end, 10);
	return *value && !*end ? n : -1;
}

static inline bool ext_is(const char *kind, const char *match, const char *key, const char *want)
{
	char value[256];

	return !ext_get(kind, match, key, value, sizeof(value)) && !strcmp(value, want);
}

static inline long long vcpu_num(pid_t pid, int vcpu, const char *key)
{
	char match[64];

	snprintf(match, sizeof(match), "pid=%d id=%d", pid, vcpu);
	return ext_num("vcpu", match, key);
}

static inline long long vcpu_dirty(pid_t pid, int vcpu)
{
	return vcpu_num(pid, vcpu, "dirty_write") + vcpu_num(pid, vcpu, "dirty_pml") +
	       vcpu_num(pid, vcpu, "dirty_map") + vcpu_num(pid, vcpu, "dirty_host");
}

/* Is the policy of that name in that state? */
static inline bool policy_is(const char *name, const char *state)
{
	char match[64];

	snprintf(match, sizeof(match), "name=%s", name);
	return ext_is("policy", match, "state", state);
}

static inline long long policy_num(const char *name, const char *key)
{
	char match[64];

	snprintf(match, sizeof(match), "name=%s", name);
	return ext_num("policy", match, key);
}

static inline bool policy_has(const char *name, const char *key, const char *want)
{
	char match[64];

	snprintf(match, sizeof(match), "name=%s", name);
	return ext_is("policy", match, key, want);
}

/* Which policy is in charge of that process's VM; "-" for none. */
static inline bool in_charge(pid_t pid, const char *name)
{
	char match[64];

	snprintf(match, sizeof(match), "pid=%d", pid);
	return ext_is("vm", match, "policy", name);
}

/* How many policies of that table are attached anywhere, in whatever state. */
static inline int table_policies(const char *table)
{
	char *text = ext_read(EXT_STATE), *p = text, line[64];
	int n = 0;

	if (!text)
		return -ENOENT;
	snprintf(line, sizeof(line), "policy table=%s ", table);
	for (; (p = strstr(p, line)); p++)
		n += p == text || p[-1] == '\n';
	free(text);
	return n;
}

static inline int policies(void)
{
	return table_policies("throttle");
}

/* As insmod: @params is "name=value ...". */
static inline int ext_insmod(const char *path, const char *params)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, params, 0) ? -errno : 0;
	close(fd);
	return ret;
}

static inline int ext_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static inline int ext_enable(bool on)
{
	return ext_write(EXT_SWITCH, on ? "Y" : "N");
}

/* --- the kernel log -------------------------------------------------------- */

static inline int kmsg_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

/*
 * What the kernel said since kmsg_open() or the last call that mentions one of
 * the texts, or NULL.  An argument list of texts ends with NULL.
 */
static inline const char *kmsg_find(int fd, const char *const *texts)
{
	static char hit[4096];
	char record[8192];
	ssize_t n;

	hit[0] = 0;
	for (;;) {
		n = read(fd, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE)
			continue;
		if (n <= 0)
			break;
		record[n] = 0;
		for (int i = 0; texts[i] && !hit[0]; i++)
			if (strstr(record, texts[i]))
				snprintf(hit, sizeof(hit), "%.4000s", record);
	}
	return hit[0] ? hit : NULL;
}

static inline const char *kmsg_splat(int fd)
{
	static const char *const splats[] = { "BUG:",
					      "WARNING:",
					      "Oops",
					      "general protection",
					      "INFO: task",
					      "soft lockup",
					      "suspicious RCU",
					      "scheduling while atomic",
					      "sleeping function called",
					      "Call Trace",
					      "rcu: INFO",
					      NULL };

	return kmsg_find(fd, splats);
}

/* At the end of a test: the kernel's log has nothing alarming since kmsg_open(). */
#define EXPECT_NO_SPLAT(fd)                          \
	do {                                         \
		const char *splat = kmsg_splat(fd);  \
                                                     \
		EXPECT_EQ(NULL, splat)               \
		{                                    \
			TH_LOG("kernel: %s", splat); \
		}                                    \
	} while (0)

/* The same for a fixture: it begins with no policy there and the kill switch off. */
#define ASSERT_STOCK(self)                      \
	do {                                    \
		(self)->pid = getpid();         \
		(self)->kmsg = kmsg_open();     \
		ASSERT_LE(0, (self)->kmsg);     \
		ASSERT_EQ(0, policies());       \
		ASSERT_EQ(0, ext_enable(true)); \
	} while (0)

#endif /* __TESTS_EXT_H */
