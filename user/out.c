// SPDX-License-Identifier: GPL-2.0
/* Errors, and what is said to people. */
#include "out.h"

#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>

#include "base.h"
#include "json.h"
#include "text.h"

static int failures;

int fail_count(void)
{
	return failures;
}

static bool env_utf8;
/* The name of a program that is one command */
static const char *single;

const char *program_name(void)
{
	return single ? single : "kvmext";
}

const char *called(const char *cmd)
{
	return cmd && !single ? str("kvmext %s", cmd) : program_name();
}

void out_init(const char *alone)
{
	single = alone;
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
		j_unwind();
		j_open("error", '{');
		j_num("code", code);
		j_str("name", code_names[code]);
		j_str("message", msg);
		j_str("hint", h);
		j_close('}');
		j_close('}');
	} else {
		fprintf(stderr, "%s: %s%s%s\n", program_name(), msg, h ? "; " : "", h ? h : "");
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
	char *hint = str("see %s --help", called(cmd));
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
