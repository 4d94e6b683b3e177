// SPDX-License-Identifier: GPL-2.0
/*
 * JSON on stdout, as it comes: nothing is kept but the brackets that are open.
 *
 * json-c builds the whole document before it prints it, with allocations for each value;
 * trace would do so for every event. It passes strings on that are no UTF-8, or that a
 * terminal obeys. And an error in the midst of a document has to close it, so that it stays
 * one document.
 *
 * libsmartcols can write a table as JSON, but not an object, a number that may be absent or a
 * table within a record.
 */
#include "json.h"

#include <stdio.h>

#include "base.h"
#include "text.h"

/* Where a document is: the brackets that are open in it */
static char j_brackets[16];
static int j_depth;
static bool j_comma;
static bool j_one_line;

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
		int n = utf8(s, &c);

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

void j_unwind(void)
{
	if (!j_depth)
		j_open(NULL, '{');
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
