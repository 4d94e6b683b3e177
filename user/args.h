/* SPDX-License-Identifier: GPL-2.0 */
/* Arguments: the options of every command, and what several commands take. */
#ifndef __KVMEXT_ARGS_H
#define __KVMEXT_ARGS_H

#include <argp.h>

#include "base.h"

/* Keys of options that have no letter. */
enum {
	OPT_BPFFS = 0x100,
	OPT_DEBUGFS,
	OPT_HELP,
	OPT_USAGE,
	OPT_INTERVAL,
	OPT_VCPU,
	OPT_VM,
};

/**
 * parse_args - parse a command's arguments, global options included
 * @argc: arguments, the command's name first
 * @argv: likewise
 * @options: the command's own options, or NULL
 * @parser: called for those options and for ARGP_KEY_ARG; ARGP_ERR_UNKNOWN if not its own
 * @args_doc: what follows the options
 * @doc: help
 * @input: handed to @parser as state->input
 *
 * Return: OK or E_USAGE, which is then already reported.
 */
int parse_args(int argc, char **argv, const struct argp_option *options, argp_parser_t parser,
	       const char *args_doc, const char *doc, void *input);
/* args_global - the options of every command, for those who call argp themselves */
extern const struct argp args_global;
/* args_page - kvmext-@page(8) has the command that runs; its help says so */
void args_page(const char *page);
/* show_help - argp_help() and the page, as a JSON document with --json; it does not exit */
void show_help(const struct argp *argp, unsigned int flags, char *name, const char *page);
/* args_report - say what argp could not make sense of, if @err says that there was something */
int args_report(const char *cmd, error_t err);
/**
 * parse_every - the arguments [INTERVAL [COUNT]]
 * @cmd: the command
 * @n: which one it is, from 0
 * @arg: its text
 * @ns: INTERVAL
 * @count: COUNT
 *
 * Return: 0, or EINVAL, which is then already reported.
 */
error_t parse_every(const char *cmd, int n, const char *arg, uint64_t *ns, unsigned long *count);
/* parse_pid - a process id; 0, or -1 */
int parse_pid(const char *text, uint32_t *pid);

#endif /* __KVMEXT_ARGS_H */
