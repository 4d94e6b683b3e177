/* SPDX-License-Identifier: GPL-2.0 */
/* What the first processes of the tests' Linux guests share. */
#ifndef __TESTS_INIT_H
#define __TESTS_INIT_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* In one write(), so that lines of several threads do not mix. */
static void say(const char *fmt, ...)
{
	char line[200];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(1, line, n) < 0)
		return; /* nobody left to tell */
}

static _Noreturn void die(const char *what)
{
	say("guest: error %s: %s\n", what, strerror(errno));
	for (;;)
		pause();
}

#endif
