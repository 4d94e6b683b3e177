// SPDX-License-Identifier: GPL-2.0
/* Text: made, looked at, made harmless. Numbers and times as people read them. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <wchar.h>

#include "base.h"

char *vstr(const char *fmt, va_list ap)
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

int utf8(const char *s, uint32_t *c)
{
	mbstate_t state = {};
	wchar_t wide;
	size_t n;

	*c = (unsigned char)*s;
	if (*c < 0x80)
		return 1;
	n = mbrtowc(&wide, s, MB_CUR_MAX, &state);
	/* glibc takes four bytes for more than there is in Unicode. */
	if (n > MB_CUR_MAX || wide > 0x10ffff)
		return 0;
	*c = wide;
	return n;
}

int text_width(const char *s)
{
	wchar_t *wide = calloc(strlen(s) + 1, sizeof(*wide));
	size_t n;
	int width = -1;

	if (!wide)
		abort();
	n = mbstowcs(wide, s, strlen(s));
	if (n != (size_t)-1)
		width = wcswidth(wide, n);
	free(wide);
	return width < 0 ? (int)strlen(s) : width;
}

bool is_control(uint32_t c)
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
		int n = utf8(s, &c);

		if (n && (!is_control(c) || (n == 1 && strchr(keep, c))))
			s += n;
		else
			*s++ = c < ' ' ? ' ' : '?';
	}
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

char *value_text(s128 v, bool is_bool)
{
	char buf[48], *p = buf + sizeof(buf);
	bool neg = v < 0;
	unsigned __int128 u = neg ? -(unsigned __int128)v : (unsigned __int128)v;

	if (is_bool)
		return str(v ? "on" : "off");
	*--p = 0;
	do {
		*--p = '0' + (int)(u % 10);
		u /= 10;
	} while (u);
	if (neg)
		*--p = '-';
	return str("%s", p);
}
