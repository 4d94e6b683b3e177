// SPDX-License-Identifier: GPL-2.0
/* Running the tool again and again in one process, and looking at what it says. */
#define FUZZ_ARENA
#include "tests/fuzz/arena.h"
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <elf.h>
#include <setjmp.h>
#include <time.h>

#include "user/columns.h"
#include "user/pin.h"

/* --- memory --- */

static void **blocks;
static int nr_blocks, max_blocks;

static void *keep(void *p)
{
	if (!p)
		abort();
	if (nr_blocks == max_blocks) {
		max_blocks = 2 * max_blocks + 64;
		blocks = realloc(blocks, max_blocks * sizeof(*blocks));
		if (!blocks)
			abort();
	}
	blocks[nr_blocks++] = p;
	return p;
}

/* Newest first, as most are freed soon.  Others' memory is not in the list. */
static void forget(const void *p)
{
	for (int i = nr_blocks; i-- > 0;) {
		if (blocks[i] == p) {
			blocks[i] = blocks[--nr_blocks];
			return;
		}
	}
}

void *fuzz_malloc(size_t size)
{
	return keep(malloc(size));
}

void *fuzz_calloc(size_t n, size_t size)
{
	return keep(calloc(n, size));
}

void *fuzz_realloc(void *p, size_t size)
{
	forget(p);
	return keep(realloc(p, size));
}

void fuzz_free(void *p)
{
	forget(p);
	free(p);
}

int fuzz_vasprintf(char **s, const char *fmt, va_list ap)
{
	int n = vasprintf(s, fmt, ap);

	if (n >= 0)
		keep(*s);
	return n;
}

/* --- what the tool is kept from --- */

int fuzz_privilege = E_PRIV;
const uint8_t *fuzz_file;
size_t fuzz_file_size;

static struct bpf_object *opened[64];
static int nr_opened;

struct bpf_object *__real_bpf_object__open_mem(const void *buf, size_t size,
					       const struct bpf_object_open_opts *opts);
struct bpf_object *__wrap_bpf_object__open_mem(const void *buf, size_t size,
					       const struct bpf_object_open_opts *opts);
struct bpf_object *__wrap_bpf_object__open_mem(const void *buf, size_t size,
					       const struct bpf_object_open_opts *opts)
{
	struct bpf_object *obj = __real_bpf_object__open_mem(buf, size, opts);

	if (obj) {
		fuzz_assert(nr_opened < (int)ARRAY_SIZE(opened));
		opened[nr_opened++] = obj;
	}
	return obj;
}

int __real_object_file(const char *path, struct object *o);
int __wrap_object_file(const char *path, struct object *o);
int __wrap_object_file(const char *path, struct object *o)
{
	if (!fuzz_file)
		return __real_object_file(path, o);
	/* No byte more than there is, so that one read behind it is noticed. */
	*o = (struct object){ .path = path, .size = fuzz_file_size };
	o->file = fuzz_malloc(fuzz_file_size);
	memcpy(o->file, fuzz_file, fuzz_file_size);
	return OK;
}

/* Without the child that tries it first. */
int __wrap_object_open(struct object *o);
int __wrap_object_open(struct object *o)
{
	int ret = object_read(o);

	fuzz_free(o->file);
	o->file = NULL;
	return ret;
}

void __wrap_drop_rights(void);
void __wrap_drop_rights(void)
{
}

int __wrap_need_privilege(void);
int __wrap_need_privilege(void)
{
	return fuzz_privilege == OK ? OK : fail(fuzz_privilege, "run it as root", "not here");
}

/* Reads all types of this machine's kernel, for each run. */
int __wrap_need_kernel(void);
int __wrap_need_kernel(void)
{
	return fuzz_kernel ? OK : fail(E_ENV, "use another", "no kernel");
}

/* --- a kernel to load into, if there is one (load.c) --- */

struct btf *fuzz_kernel;
static const void *types;
static uint32_t types_size;

struct btf *fuzz_types(const char *path)
{
	struct btf *btf = btf__parse(path, NULL);

	if (!btf)
		abort();
	types = btf__raw_data(btf, &types_size);
	return btf;
}

struct btf *__real_kvm_btf(void);
struct btf *__wrap_kvm_btf(void);
struct btf *__wrap_kvm_btf(void)
{
	return fuzz_kernel ?: __real_kvm_btf();
}

/* libbpf frees it when it has loaded. */
struct btf *__real_btf__load_vmlinux_btf(void);
struct btf *__wrap_btf__load_vmlinux_btf(void);
struct btf *__wrap_btf__load_vmlinux_btf(void)
{
	return fuzz_kernel ? btf__new(types, types_size) : __real_btf__load_vmlinux_btf();
}

/* What libbpf finds out is kept, and this kernel's answers are another input's next time. */
bool __real_feat_supported(void *cache, int feature);
bool __wrap_feat_supported(void *cache, int feature);
bool __wrap_feat_supported(void *cache, int feature)
{
	return fuzz_kernel ? true : __real_feat_supported(cache, feature);
}

long __real_syscall(long nr, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f);
long __attribute__((weak)) fuzz_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	return __real_syscall(nr, a, b, c, d, e, f);
}

long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	return fuzz_syscall(nr, a, b, c, d, e, f);
}

/* Pins are files, and none of its business. */
#define PINS(ret, name, params, args, instead)                       \
	ret __real_##name params;                                    \
	ret __wrap_##name params;                                    \
	ret __wrap_##name params                                     \
	{                                                            \
		return fuzz_kernel ? (instead) : __real_##name args; \
	}

PINS(int, need_bpffs, (void), (), OK)
PINS(bool, kill_switch_on, (void), (), false)
PINS(int, pins_lock, (void), (), OK)
PINS(int, pins_check, (void), (), OK)
PINS(bool, pins_exists, (const char *instance), (instance), false)
PINS(int, pins_new, (const struct object *o, const char *instance), (o, instance), OK)
PINS(int, pins_new_link, (const char *instance, int fd), (instance, fd), OK)
PINS(int, pins_commit, (const char *instance), (instance), OK)

void __real_pins_drop_new(const char *instance);
void __wrap_pins_drop_new(const char *instance);
void __wrap_pins_drop_new(const char *instance)
{
	if (!fuzz_kernel)
		__real_pins_drop_new(instance);
}

int __wrap_cmd_doctor(int argc, char **argv);
int __wrap_cmd_doctor(int argc, char **argv)
{
	return parse_args(argc, argv, NULL, NULL, "", "", NULL) ?: fail(E_ENV, "a", "b");
}

/* The table frees it, and libsmartcols is not built with our free(). */
int __real_scols_line_refer_data(struct libscols_line *line, size_t n, char *data);
int __wrap_scols_line_refer_data(struct libscols_line *line, size_t n, char *data);
int __wrap_scols_line_refer_data(struct libscols_line *line, size_t n, char *data)
{
	forget(data);
	return __real_scols_line_refer_data(line, n, data);
}

/* Rates are over a sample, which takes its time. */
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left);
int __wrap_nanosleep(const struct timespec *ts, struct timespec *left)
{
	(void)ts;
	(void)left;
	return 0;
}

/* --- one run --- */

/* The tool's own state, which objcopy --globalize-symbol lets us at. */
extern int failures, j_depth;
extern bool j_comma;
extern const char *bad_arg;
extern char *log_buf;
extern size_t log_len;

static jmp_buf exited;
static int exit_code;

void fuzz_exit(int code)
{
	exit_code = code;
	longjmp(exited, 1);
}

void fuzz_reset(void)
{
	for (int i = 0; i < nr_opened; i++)
		bpf_object__close(opened[i]);
	nr_opened = 0;
	failures = j_depth = 0;
	j_comma = false;
	bad_arg = NULL;
	log_buf = NULL;
	log_len = 0;
	g = (struct global){ .bpffs = "/sys/fs/bpf", .debugfs = "/sys/kernel/debug" };
	while (nr_blocks)
		free(blocks[--nr_blocks]);
}

static void no_controls(const char *text)
{
	for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
		fuzz_assert(*s == '\n' || (*s >= ' ' && *s != 0x7f));
		fuzz_assert(*s != 0xc2 || s[1] >= 0xa0 || s[1] < 0x80);
	}
}

static const char *skip(const char *s)
{
	return s + strspn(s, " \n");
}

/* Behind the JSON value at @s; aborts if there is none. */
static const char *json_value(const char *s)
{
	static const char *const words[] = { "true", "false", "null" };
	char close = *s == '{' ? '}' : ']';

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strncmp(s, words[i], strlen(words[i])))
			return s + strlen(words[i]);
	if (*s == '-' || isdigit(*s)) {
		s += *s == '-';
		fuzz_assert(isdigit(*s) && (*s != '0' || !isdigit(s[1])));
		s += strspn(s, "0123456789");
		if (*s != '.')
			return s;
		fuzz_assert(isdigit(s[1]));
		return s + 1 + strspn(s + 1, "0123456789");
	}
	if (*s == '"') {
		for (s++; *s != '"'; s++) {
			fuzz_assert((unsigned char)*s >= ' ' && *s != 0x7f);
			if (*s == '\\' && *++s == 'u') {
				fuzz_assert(strspn(s + 1, "0123456789abcdef") >= 4);
				s += 4;
			}
		}
		return s + 1;
	}
	fuzz_assert(*s == '{' || *s == '[');
	for (s = skip(s + 1); *s != close; s = skip(s)) {
		if (close == '}') {
			fuzz_assert(*s == '"');
			s = skip(json_value(s));
			fuzz_assert(*s == ':');
			s = skip(s + 1);
		}
		s = skip(json_value(s));
		fuzz_assert(*s == ',' || *s == close);
		if (*s == ',') {
			s = skip(s + 1);
			fuzz_assert(*s != close);
		}
	}
	return s + 1;
}

int fuzz_run(int argc, char **argv)
{
	char *out = NULL, *err = NULL;
	size_t out_len, err_len;
	FILE *so = stdout, *se = stderr;
	volatile bool all = false;
	volatile int ret;

	stdout = open_memstream(&out, &out_len);
	stderr = open_memstream(&err, &err_len);
	if (!stdout || !stderr)
		abort();
	if (setjmp(exited)) {
		ret = exit_code;
	} else {
		ret = kvmext_main(argc, argv);
		all = true;
	}
	fclose(stdout);
	fclose(stderr);
	stdout = so;
	stderr = se;

	fuzz_assert(ret >= OK && ret <= E_REFUSED);
	/* The tool has chosen a locale in which this is so. */
	fuzz_assert(mbstowcs(NULL, out, 0) != (size_t)-1);
	no_controls(out);
	no_controls(err);
	if (all && g.json)
		fuzz_assert(!*skip(json_value(out)));
	if (ret == OK || g.json)
		fuzz_assert(g.verbose || !*err);
	else
		fuzz_assert(g.verbose || (!strncmp(err, "kvmext: ", 8) &&
					  strchr(err, '\n') == err + err_len - 1));
	free(out);
	free(err);
	fuzz_reset();
	return ret;
}

#ifdef FUZZ
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

size_t fuzz_mutate_any(uint8_t *data, size_t size, size_t max)
{
	return LLVMFuzzerMutate(data, size, max);
}

/*
 * Most changes to an ELF file that know nothing of ELF end at its first bytes: change
 * one section's contents or one entry of the section table, mostly.
 */
size_t fuzz_mutate_elf(uint8_t *data, size_t size, size_t max, unsigned int seed)
{
	Elf64_Ehdr eh;
	Elf64_Shdr sh;
	uint64_t at;

	if (size < sizeof(eh) || seed % 4 == 0)
		return LLVMFuzzerMutate(data, size, max);
	memcpy(&eh, data, sizeof(eh));
	if (!eh.e_shnum || eh.e_shoff > size || eh.e_shnum > (size - eh.e_shoff) / sizeof(sh))
		return LLVMFuzzerMutate(data, size, max);
	at = eh.e_shoff + seed / 16 % eh.e_shnum * sizeof(sh);
	memcpy(&sh, data + at, sizeof(sh));
	if (seed % 4 == 1) {
		LLVMFuzzerMutate((uint8_t *)&sh, sizeof(sh), sizeof(sh));
		memcpy(data + at, &sh, sizeof(sh));
	} else if (sh.sh_offset < size && sh.sh_size && sh.sh_size <= size - sh.sh_offset) {
		/* A few bytes of it: all of a large one at once is only noise. */
		uint64_t off = seed / 256 % sh.sh_size, n = sh.sh_size - off;

		LLVMFuzzerMutate(data + sh.sh_offset + off, n < 24 ? n : 24, n < 24 ? n : 24);
	}
	return size;
}
#endif
