// SPDX-License-Identifier: GPL-2.0
/* kvmext set: tunable parameters of a loaded policy. */
#include <argp.h>
#include <errno.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "out.h"
#include "pin.h"
#include "policy.h"
#include "vars.h"

struct set_args {
	const char *name;
	char **set;
	int n;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct set_args *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (!a->name)
			a->name = arg;
		else if (strchr(arg, '='))
			a->set[a->n++] = arg;
		else
			return fail_usage("set", "'%s' is no NAME=VALUE", arg), EINVAL;
		return 0;
	case ARGP_KEY_END:
		if (!a->n)
			return fail_usage("set", "set what? NAME VAR=VALUE"), EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

int cmd_set(int argc, char **argv)
{
	static const char doc[] =
		"Set tunable parameters of the loaded policy NAME while it runs.\v"
		"All values are checked first: if one is wrong, none is set.";
	struct set_args a = { .set = calloc(argc, sizeof(char *)) };
	struct setting *set;
	struct policies ps;
	struct policy *p;
	struct inside in;
	int ret;

	ret = parse_args(argc, argv, NULL, parse, "NAME VAR=VALUE...", doc, &a);
	if (ret == OK)
		ret = need_privilege();
	/* Not while another tool puts another policy there. */
	if (ret == OK && is_mount(g.bpffs, BPFFS_MAGIC))
		ret = pins_lock();
	if (ret == OK)
		ret = policies_read(&ps);
	if (ret == OK)
		ret = policy_find(&ps, a.name, &p);
	if (ret == OK)
		ret = policy_inside(p, &in);
	if (ret == OK)
		ret = settings_parse(a.name, &in.vars, a.set, a.n, true, &set);
	for (int i = 0; i < a.n && ret == OK; i++)
		if (!in.live[set[i].var->kind])
			ret = fail(E_PARAM, "have whoever loaded it make that map mmapable",
				   "%s's '%s' cannot be set: its section %s cannot be written",
				   a.name, set[i].var->name, section_names[set[i].var->kind]);
	if (ret != OK)
		return ret;
	for (int i = 0; i < a.n; i++)
		var_store(set[i].var, in.sec[set[i].var->kind], set[i].val);
	if (g.json) {
		j_open(NULL, '{');
		j_str("instance", p->instance);
		j_open("set", '{');
		for (int i = 0; i < a.n; i++) {
			if (set[i].var->is_bool)
				j_bool(set[i].var->name, set[i].val);
			else
				j_num(set[i].var->name, set[i].val);
		}
		j_close('}');
		j_close('}');
	}
	return OK;
}
