// SPDX-License-Identifier: GPL-2.0
/* What libbpf and the verifier said, and how to find the line that matters. */
#include "log.h"

#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdio.h>

#include "base.h"
#include "text.h"

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

char *log_line(const char *key)
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

char *log_word(const char *before, const char *ends)
{
	const char *p = strstr(log_text(), before);

	if (!p)
		return NULL;
	p += strlen(before);
	return str("%.*s", (int)strcspn(p, ends), p);
}

char *log_last(void)
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

char *log_verdict(void)
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
