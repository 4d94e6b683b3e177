// SPDX-License-Identifier: GPL-2.0
/* What both programs, kvmext and kvmext-guest, do before and after a command. */
#include "program.h"

#include <errno.h>
#include <stdio.h>

#include "base.h"
#include "log.h"
#include "out.h"

/* -j among letters that take no value in any command, as in -vj, or the long option */
static bool is_json(const char *arg)
{
	return !strcmp(arg, "--json") ||
	       (*arg == '-' && strchr(arg, 'j') && arg[1 + strspn(arg + 1, "jqvbuVh?")] == 0);
}

void program_begin(int argc, char **argv, const char *alone)
{
	/* Errors in the options before a --json are to be JSON as well. */
	for (int i = 1; i < argc; i++)
		if (is_json(argv[i]))
			g.json = true;
	out_init(alone);
	log_init();
}

int program_end(int ret)
{
	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return ret;
	/* An earlier write that failed did so for a reason of which nothing is left. */
	fprintf(stderr, "%s: cannot write the output%s%s; give it room, or a reader\n",
		program_name(), errno ? ": " : "", errno ? strerror(errno) : "");
	return ret ? ret : E_INTERNAL;
}
