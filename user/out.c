// SPDX-License-Identifier: GPL-2.0
/* Errors, JSON and tables: everything the tool prints goes through here. */
#include "kvmext.h"

#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static const char *const code_names[] = {
	[OK] = "ok",
	[E_INTERNAL] = "internal",
	[E_USAGE] = "usage",
	[E_PRIV] = "privilege",
	[E_ENV] = "environment",
	[E_OBJECT] = "object",
	[E_PARAM] = "parameter",
	[E_VM] = "vm",
	[E_CONFLICT] = "conflict",
	[E_POLICY] = "policy",
	[E_REFUSED] = "refused",
};

/* Where a document is: the brackets that are open in it */
static char j_brackets[16];
static int j_depth;
static bool j_comma;
static bool j_one_line;

static char *vstr(const char *fmt, va_list ap)
{
	char *s;

	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	return s;
}

char *str(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	s = vstr(fmt, ap);
	va_end(ap);
	return s;
}

/*
 * The length of the UTF-8 character at @s, 0 if it is none; @c is which, or the byte.  Longer forms than
 * needed, halves of surrogate pairs and what is beyond Unicode are none.
 */
static int utf8(const unsigned char *s, uint32_t *c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	int n = *s < 0x80 ? 1 : *s < 0xc0 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : *s < 0xf8 ? 4 : 0;

	*c = n > 1 ? *s & (0x7f >> n) : *s;
	for (int i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80) {
			n = 0;
			break;
		}
		*c = *c << 6 | (s[i] & 0x3f);
	}
	if (*c < least[n] || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000))
		n = 0;
	if (!n)
		*c = *s;
	return n;
}

/* What a terminal obeys: controls, and what turns the direction of writing round */
static bool is_control(uint32_t c)
{
	return c < ' ' || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/*
 * Names of processes, texts in objects and messages of policies are others' choice,
 * and a terminal obeys control characters.
 */
void printable(char *s, const char *keep)
{
	while (*s) {
		uint32_t c;
		int n = utf8((unsigned char *)s, &c);

		if (n && (!is_control(c) || (n == 1 && strchr(keep, c))))
			s += n;
		else
			*s++ = c < ' ' ? ' ' : '?';
	}
}

static int failures;

int fail_count(void)
{
	return failures;
}

static bool env_utf8;

void out_init(void)
{
	setlocale(LC_CTYPE, "");
	env_utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	/* Names are UTF-8 whatever the locale, and a table wants to know how wide they are. */
	if (!env_utf8)
		setlocale(LC_CTYPE, "C.UTF-8");
}

bool out_utf8(void)
{
	return env_utf8;
}

static bool muted;

bool fail_mute(bool mute)
{
	bool was = muted;

	muted = mute;
	return was;
}

static void j_end(void);

/*
 * An error is one line, whatever a kernel log or a file name brings in, and a command
 * reports one: the first, of which others are but consequences.
 */
static int vfail(enum code code, const char *hint, const char *fmt, va_list ap)
{
	char *msg, *h;

	if (muted || failures++)
		return code;
	msg = vstr(fmt, ap);
	printable(msg, "");
	h = hint ? str("%s", hint) : NULL;
	if (h)
		printable(h, "");
	if (g.json) {
		/* In the midst of a document it ends that, which stays one. */
		if (!j_depth)
			j_open(NULL, '{');
		j_end();
		j_open("error", '{');
		j_num("code", code);
		j_str("name", code_names[code]);
		j_str("message", msg);
		j_str("hint", h);
		j_close('}');
		j_close('}');
	} else {
		fprintf(stderr, "kvmext: %s%s%s\n", msg, h ? "; " : "", h ? h : "");
	}
	free(msg);
	free(h);
	return code;
}

int fail(enum code code, const char *hint, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = vfail(code, hint, fmt, ap);
	va_end(ap);
	return ret;
}

int fail_usage(const char *cmd, const char *fmt, ...)
{
	char *hint = cmd ? str("see kvmext %s --help", cmd) : str("see kvmext --help");
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = vfail(E_USAGE, hint, fmt, ap);
	va_end(ap);
	free(hint);
	return ret;
}

static void vprint(const char *fmt, va_list ap)
{
	char *s = vstr(fmt, ap);
	size_t len = strlen(s);
	bool nl = len && s[len - 1] == '\n';

	/* Only the format ends a line. */
	s[len - nl] = 0;
	printable(s, "");
	printf("%s%s", s, nl ? "\n" : "");
	free(s);
}

void say(const char *fmt, ...)
{
	va_list ap;

	if (g.quiet || g.json)
		return;
	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprint(fmt, ap);
	va_end(ap);
}

static int distance(const char *a, const char *b)
{
	int la = strlen(a), lb = strlen(b), row[64];

	if (lb >= (int)ARRAY_SIZE(row))
		return lb;
	for (int j = 0; j <= lb; j++)
		row[j] = j;
	for (int i = 1; i <= la; i++) {
		int diag = row[0];

		row[0] = i;
		for (int j = 1; j <= lb; j++) {
			int sub = diag + (a[i - 1] != b[j - 1]);
			int best = row[j] < row[j - 1] ? row[j] : row[j - 1];

			diag = row[j];
			row[j] = best + 1 < sub ? best + 1 : sub;
		}
	}
	return row[lb];
}

const char *nearest(const char *s, const char *const *names, int n)
{
	const char *best = NULL;
	int best_d = 0;

	for (int i = 0; i < n; i++) {
		int d = distance(s, names[i]);

		/* The start of a name, or few slips for its length. */
		if (strlen(s) > 2 && !strncmp(s, names[i], strlen(s)))
			d = 1;
		if (d * 3 > (int)strlen(names[i]) + 2)
			continue;
		if (!best || d < best_d) {
			best = names[i];
			best_d = d;
		}
	}
	return best;
}

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* In whole numbers: a tracer calls it for each event, and floating point takes long to print. */
const char *duration_in(char *buf, size_t size, uint64_t ns)
{
	static const struct {
		uint64_t below;
		uint64_t tenth;
		const char *unit;
	} units[] = {
		{ 10000000, 100, "us" },	   { 1000000000, 100000, "ms" },
		{ 600000000000, 100000000, "s" },  { 7200000000000, 6000000000, "min" },
		{ UINT64_MAX, 360000000000, "h" },
	};
	uint64_t tenths;
	int i = 0;

	if (ns < 10000) {
		snprintf(buf, size, "%lu ns", ns);
		return buf;
	}
	while (ns >= units[i].below && i < (int)ARRAY_SIZE(units) - 1)
		i++;
	tenths = ns / units[i].tenth + (ns % units[i].tenth >= units[i].tenth / 2);
	snprintf(buf, size, "%lu.%lu %s", tenths / 10, tenths % 10, units[i].unit);
	return buf;
}

char *duration(uint64_t ns)
{
	char buf[DURATION_LEN];

	return str("%s", duration_in(buf, sizeof(buf), ns));
}

/*
 * libsmartcols can write a table as JSON, but not an object, a number that may
 * be absent or a table within a record; so that all documents are alike, all
 * are written here.
 */
void j_lines(void)
{
	j_one_line = true;
}

/* JSON is UTF-8; a byte that is not is shown as U+FFFD. */
static void j_quote(const char *s)
{
	putchar('"');
	while (*s) {
		uint32_t c;
		int n = utf8((const unsigned char *)s, &c);

		if (!n)
			printf("\\ufffd");
		else if (c == '"' || c == '\\')
			printf("\\%c", (char)c);
		else if (is_control(c))
			printf("\\u%04x", c);
		else
			fwrite(s, 1, n, stdout);
		s += n ? n : 1;
	}
	putchar('"');
}

static void j_key(const char *key)
{
	if (j_comma)
		putchar(',');
	if (j_depth && !j_one_line)
		printf("\n%*s", 2 * j_depth, "");
	if (key) {
		j_quote(key);
		printf(": ");
	}
	j_comma = true;
}

void j_open(const char *key, char bracket)
{
	j_key(key);
	putchar(bracket);
	if (j_depth == ARRAY_SIZE(j_brackets))
		abort();
	j_brackets[j_depth++] = bracket;
	j_comma = false;
}

void j_close(char bracket)
{
	j_depth--;
	if (j_comma && !j_one_line)
		printf("\n%*s", 2 * j_depth, "");
	putchar(bracket);
	j_comma = true;
	if (!j_depth) {
		putchar('\n');
		j_comma = false;
	}
}

/* Close all but the outermost. */
static void j_end(void)
{
	while (j_depth > 1)
		j_close(j_brackets[j_depth - 1] == '{' ? '}' : ']');
}

void j_str(const char *key, const char *val)
{
	j_key(key);
	if (val)
		j_quote(val);
	else
		printf("null");
}

void j_num(const char *key, s128 val)
{
	char *s = value_text(val, false);

	j_key(key);
	printf("%s", s);
	free(s);
}

void j_bool(const char *key, bool val)
{
	j_key(key);
	printf(val ? "true" : "false");
}

void j_real(const char *key, double val)
{
	j_key(key);
	printf("%.3f", val);
}

struct libscols_table *tbl_new(const struct col *cols, int n)
{
	struct libscols_table *tbl = scols_new_table();

	if (!tbl)
		abort();
	for (int i = 0; i < n; i++)
		if (!scols_table_new_column(tbl, cols[i].name, 0,
					    cols[i].right ? SCOLS_FL_RIGHT : 0))
			abort();
	return tbl;
}

void tbl_row(struct libscols_table *tbl, int n, ...)
{
	struct libscols_line *line = scols_table_new_line(tbl, NULL);
	va_list ap;

	if (!line)
		abort();
	va_start(ap, n);
	for (int i = 0; i < n; i++) {
		char *s = va_arg(ap, char *);

		if (s)
			printable(s, "");
		if (scols_line_refer_data(line, i, s ? s : str("-")))
			abort();
	}
	va_end(ap);
}

void tbl_row_of(struct libscols_table *tbl, int n, char *const *cells)
{
	struct libscols_line *line = scols_table_new_line(tbl, NULL);

	for (int i = 0; i < n; i++) {
		char *s = str("%s", cells[i]);

		printable(s, "");
		if (!line || scols_line_refer_data(line, i, s))
			abort();
	}
}

void tbl_print(struct libscols_table *tbl)
{
	scols_print_table(tbl);
	scols_unref_table(tbl);
}
