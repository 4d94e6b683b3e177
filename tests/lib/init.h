/* SPDX-License-Identifier: GPL-2.0 */
/* What the first processes of the tests' Linux guests share. */
#ifndef __TESTS_INIT_H
#define __TESTS_INIT_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
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

/* The kernel's modules that came with us, in the order in which they need each other */
static inline void load_modules(void)
{
	char name[64], path[80];
	FILE *f = fopen("/m/order", "r");

	while (f && fscanf(f, "%63s", name) == 1) {
		int fd;

		snprintf(path, sizeof(path), "/m/%s", name);
		fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			die(path);
		close(fd);
	}
}

#endif
