// SPDX-License-Identifier: GPL-2.0
/* Arguments: the options of every command, and what several commands take. */
#include "args.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "base.h"
#include "json.h"
#include "out.h"

/* Of the command that runs, NULL before one is known */
static const char *man_page;

/* The argument that argp could not make sense of. */
static const char *bad_arg;

static const struct argp_option global_options[] = {
	{ "json", 'j', NULL, 0, "write one JSON document to stdout, for errors too", 10 },
	{ "quiet", 'q', NULL, 0, "say nothing when all is well", 10 },
	{ "verbose", 'v', NULL, 0, "show libbpf's and the verifier's whole log", 10 },
	{ "bpffs", OPT_BPFFS, "DIR", 0, "where bpffs is mounted (/sys/fs/bpf)", 10 },
	{ "debugfs", OPT_DEBUGFS, "DIR", 0, "where debugfs is mounted (/sys/kernel/debug)", 10 },
	{ "help", OPT_HELP, NULL, 0, "print this", 10 },
	{ NULL, '?', NULL, OPTION_HIDDEN, NULL, 10 },
	{ NULL, 'h', NULL, OPTION_HIDDEN, NULL, 10 },
	{ "usage", OPT_USAGE, NULL, OPTION_HIDDEN, NULL, 10 },
	{}
};

void args_page(const char *page)
{
	man_page = page;
}

static void write_help(FILE *f, const struct argp *argp, unsigned int flags, char *name,
		       const char *page)
{
	argp_help(argp, f, flags & ~ARGP_HELP_EXIT_OK, name);
	if (page)
		fprintf(f, "\nkvmext-%s(8) says more.\n", page);
}

void show_help(const struct argp *argp, unsigned int flags, char *name, const char *page)
{
	char *text = NULL;
	size_t size;
	FILE *f;

	if (!g.json) {
		write_help(stdout, argp, flags, name, page);
		return;
	}
	f = open_memstream(&text, &size);
	if (!f)
		abort();
	write_help(f, argp, flags, name, page);
	fclose(f);
	j_open(NULL, '{');
	j_str("help", text);
	j_close('}');
	free(text);
}

static error_t parse_global(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case OPT_HELP:
	case 'h':
	case '?':
		show_help(state->root_argp, ARGP_HELP_STD_HELP, state->name, man_page);
		exit(OK);
	case OPT_USAGE:
		show_help(state->root_argp, ARGP_HELP_USAGE, state->name, NULL);
		exit(OK);
	case ARGP_KEY_ERROR:
		if (state->next > 0 && state->next <= state->argc)
			bad_arg = state->argv[state->next - 1];
		return ARGP_ERR_UNKNOWN;
	case 'j':
		g.json = true;
		return 0;
	case 'q':
		g.quiet = true;
		return 0;
	case 'v':
		g.verbose = true;
		return 0;
	case OPT_BPFFS:
		g.bpffs = arg;
		return 0;
	case OPT_DEBUGFS:
		g.debugfs = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

const struct argp args_global = { .options = global_options, .parser = parse_global };

/*
 * argp's own messages are more than one line and no JSON, so it is kept quiet
 * (which takes its --help with it) and what it could not make sense of is
 * reported here.
 */
int args_report(const char *cmd, error_t err)
{
	if (!err)
		return OK;
	if (err == ENOMEM)
		return fail(E_INTERNAL, NULL, "out of memory");
	if (fail_count())
		return E_USAGE;
	return fail_usage(cmd, "'%s' is no option, or its value is missing",
			  bad_arg ? bad_arg : "?");
}

int parse_args(int argc, char **argv, const struct argp_option *options, argp_parser_t parser,
	       const char *args_doc, const char *doc, void *input)
{
	struct argp_child children[] = {
		{ .argp = &args_global, .header = "Options of every command:", .group = 10 }, {}
	};
	struct argp argp = { .options = options,
			     .parser = parser,
			     .args_doc = args_doc,
			     .doc = doc,
			     .children = children };
	char *cmd = argv[0];
	int index = 0;
	error_t err;

	/* A command without a parser takes no arguments; argp would take them. */
	argv[0] = (char *)called(cmd);
	err = argp_parse(&argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_HELP, &index, input);
	if (!err && !parser && index < argc) {
		fail_usage(cmd, "'%s' is not expected", argv[index]);
		err = EINVAL;
	}
	return args_report(cmd, err);
}

error_t parse_every(const char *cmd, int n, const char *arg, uint64_t *ns, unsigned long *count)
{
	char *end;
	double s;

	errno = 0;
	switch (n) {
	case 0:
		s = strtod(arg, &end);
		if (*end || end == arg || !(s >= 0.1 && s <= 3600))
			return fail_usage(cmd, "the interval '%s' is not 0.1 to 3600 s", arg),
			       EINVAL;
		*ns = s * 1e9;
		return 0;
	case 1:
		*count = strtoul(arg, &end, 10);
		if (*end || end == arg || errno || !*count || *arg == '-')
			return fail_usage(cmd, "'%s' is no count", arg), EINVAL;
		return 0;
	}
	return fail_usage(cmd, "'%s' is not expected", arg), EINVAL;
}

int parse_pid(const char *text, uint32_t *pid)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || *end || end == text || v <= 0 || v > INT32_MAX)
		return -1;
	*pid = v;
	return 0;
}
