// SPDX-License-Identifier: GPL-2.0
/* Running the tool again and again in one process, and looking at what it says. */
#define FUZZ_ARENA
#include "tests/fuzz/arena.h"
#include "tests/fuzz/fuzz.h"

#include <ctype.h>
#include <setjmp.h>
#include <time.h>

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
	return fail(E_ENV, "use another", "no kernel");
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
			fuzz_assert(*s >= ' ' && *s < 0x7f);
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
