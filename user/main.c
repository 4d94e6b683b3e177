// SPDX-License-Identifier: GPL-2.0
/* kvmext: policies for KVM. The command line, up to the command. */
#include <argp.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "json.h"
#include "out.h"
#include "program.h"
#include "text.h"

/* @page: kvmext-PAGE(8) has the command; tests/host/man.sh checks it */
static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *page;
} commands[] = {
	{ "load", cmd_load, "policy" },	      { "switch", cmd_switch, "policy" },
	{ "unload", cmd_unload, "policy" },   { "list", cmd_list, "policy" },
	{ "status", cmd_status, "watch" },    { "get", cmd_get, "params" },
	{ "set", cmd_set, "params" },	      { "mark", cmd_mark, "policy" },
	{ "unmark", cmd_unmark, "policy" },   { "doctor", cmd_doctor, "doctor" },
	{ "top", cmd_top, "watch" },	      { "dirty", cmd_dirty, "watch" },
	{ "trace", cmd_trace, "trace" },      { "hist", cmd_hist, "trace" },
	{ "steer", cmd_steer, "steer" },      { "guest", cmd_guest, "free" },
	{ "hint", cmd_hint, "free" },	      { "help", cmd_help, "doctor" },
	{ "version", cmd_version, "doctor" },
};

struct top_args {
	int command;
};

static error_t parse_top(int key, char *arg, struct argp_state *state)
{
	struct top_args *a = state->input;

	switch (key) {
	case 'V':
		/* As any program has it; the command says more. */
		if (!g.json) {
			printf("kvmext %s (libbpf %s)\n", KVMEXT_VERSION,
			       libbpf_version_string() + 1);
			exit(OK);
		}
		j_open(NULL, '{');
		j_str("kvmext", KVMEXT_VERSION);
		j_str("libbpf", libbpf_version_string() + 1);
		j_close('}');
		exit(OK);
	case ARGP_KEY_ARG:
		(void)arg;
		/* The rest is the command's. */
		a->command = state->next - 1;
		state->next = state->argc;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option top_options[] = { { "version", 'V', NULL, 0, "print the version",
						    20 },
						  {} };

static const char top_args_doc[] = "COMMAND ...";
static const char top_doc[] =
	"Policies for KVM: load, tune and watch BPF programs that decide in KVM's place.\v"
	"Commands:\n"
	"  load FILE [--vm PID] [NAME=VALUE...]  put a policy in force\n"
	"  switch OLD FILE [NAME=VALUE...]       put another in its place, with no gap\n"
	"  unload NAME                           take it out of force\n"
	"  list [FILE...]                        loaded policies; what a file offers\n"
	"  status [--vm PID]                     policies, VMs and vCPUs in figures\n"
	"  get NAME [VAR]                        parameters and counters\n"
	"  set NAME VAR=VALUE...                 tune it while it runs\n"
	"  mark, unmark --vm PID --vcpu N        choose a vCPU to throttle\n"
	"  top [INTERVAL [COUNT]]                VMs and vCPUs live\n"
	"  dirty [INTERVAL [COUNT]]              dirty rate, working set, heat map\n"
	"  trace [EVENT...]                      what KVM does, event by event\n"
	"  hist WHAT                             how long it takes, as a histogram\n"
	"  steer --vm PID TAP                    packets to a queue whose vCPU runs\n"
	"  hint --vm PID --port SOCKET           what a guest does not use is not sent\n"
	"  guest                                 in a guest: tell the host what is free\n"
	"  doctor                                what this machine has and lacks\n"
	"  version                               of the tool and of the kvm modules\n"
	"  help [COMMAND]                        this, or what COMMAND does\n"
	"\n"
	"Exit codes:\n"
	"   0  done\n"
	"   1  internal: the tool or the system failed otherwise\n"
	"   2  usage: the command line makes no sense\n"
	"   3  privilege: not root\n"
	"   4  environment: the kernel or its set-up lacks something, or ext_enable is N\n"
	"   5  object: the file cannot be a policy here\n"
	"   6  parameter: no such parameter, or a value it does not take\n"
	"   7  vm: no such VM or vCPU\n"
	"   8  conflict: the place or the name is taken\n"
	"   9  policy: no such policy is loaded\n"
	"  10  refused: the kernel or its verifier said no\n"
	"\n"
	"kvmext COMMAND --help and kvmext(8) say more.";

static int dispatch(int argc, char **argv)
{
	const char *names[ARRAY_SIZE(commands)], *near;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		names[i] = commands[i].name;
		if (!strcmp(argv[0], commands[i].name)) {
			args_page(commands[i].page);
			return commands[i].run(argc, argv);
		}
	}
	near = nearest(argv[0], names, ARRAY_SIZE(names));
	return fail(E_USAGE, near ? str("did you mean '%s'?", near) : "see kvmext help",
		    "there is no command '%s'", argv[0]);
}

static struct argp_child top_children[] = { { .argp = &args_global }, {} };

static struct argp top_argp = { .options = top_options,
				.parser = parse_top,
				.args_doc = top_args_doc,
				.doc = top_doc,
				.children = top_children };

static error_t parse_help(int key, char *arg, struct argp_state *state)
{
	const char **cmd = state->input;

	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	if (*cmd)
		return fail_usage("help", "one COMMAND at a time"), EINVAL;
	*cmd = arg;
	return 0;
}

int cmd_help(int argc, char **argv)
{
	static const char doc[] = "Say what there is, or what COMMAND does.";
	char *cmd = NULL;
	int ret;

	ret = parse_args(argc, argv, NULL, parse_help, "[COMMAND]", doc, &cmd);
	if (ret != OK)
		return ret;
	if (cmd)
		return dispatch(2, (char *[]){ cmd, "--help", NULL });
	show_help(&top_argp, ARGP_HELP_STD_HELP, "kvmext", NULL);
	return OK;
}

int main(int argc, char **argv)
{
	struct top_args a = {};
	error_t err;
	int ret;

	program_begin(argc, argv, NULL);
	argv[0] = "kvmext";
	err = argp_parse(&top_argp, argc, argv, ARGP_IN_ORDER | ARGP_NO_ERRS | ARGP_NO_HELP, NULL,
			 &a);
	ret = args_report(NULL, err);
	if (ret == OK && !a.command)
		ret = fail_usage(NULL, "which command?");
	if (ret == OK)
		ret = dispatch(argc - a.command, argv + a.command);
	return program_end(ret);
}
