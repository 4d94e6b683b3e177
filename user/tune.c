// SPDX-License-Identifier: GPL-2.0
/* kvmext get, set: parameters and counters of a loaded policy. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "out.h"
#include "pin.h"
#include "policy.h"
#include "text.h"
#include "vars.h"

/* --- get --- */

struct get_args {
	const char *name;
	const char *var;
};

static error_t parse_get(int key, char *arg, struct argp_state *state)
{
	struct get_args *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (a->var)
			return fail_usage("get", "one VAR at a time, or none for all"), EINVAL;
		*(a->name ? &a->var : &a->name) = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->name)
			return fail_usage("get", "of which policy?"), EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static void json_var(const struct var *v, const struct inside *in)
{
	s128 val = var_load(v, in->sec[v->kind]);

	j_open(NULL, '{');
	j_str("name", v->name);
	if (v->is_bool)
		j_bool("value", val);
	else
		j_num("value", val);
	j_str("type", v->type);
	if (v->param) {
		j_str("when", var_when(v));
		if (!v->is_bool) {
			j_num("min", v->min);
			j_num("max", v->max);
		}
	}
	j_str("unit", v->unit);
	j_str("help", v->help);
	j_close('}');
}

static void show(const struct policy *p, const struct inside *in)
{
	static const struct col cols[] = { { "NAME", false },  { "VALUE", true },
					   { "UNIT", false },  { "WHEN", false },
					   { "RANGE", false }, { "MEANING", false } };
	struct libscols_table *tbl;

	if (g.json) {
		j_open(NULL, '{');
		j_str("instance", p->instance);
		j_str("about", in->about);
		for (int pass = 1; pass >= 0; pass--) {
			j_open(pass ? "params" : "counters", '[');
			for (int i = 0; i < in->vars.n; i++)
				if (in->vars.v[i].param == pass)
					json_var(&in->vars.v[i], in);
			j_close(']');
		}
		j_close('}');
		return;
	}
	if (!in->vars.n) {
		say("policy '%s' has neither parameters nor counters", p->instance);
		return;
	}
	tbl = tbl_new(cols, ARRAY_SIZE(cols));
	for (int i = 0; i < in->vars.n; i++) {
		const struct var *v = &in->vars.v[i];
		char *range = NULL;

		if (v->param)
			range = v->is_bool ? str("on, off") :
					     str("%s to %s", value_text(v->min, false),
						 value_text(v->max, false));
		tbl_row(tbl, ARRAY_SIZE(cols), str("%s", v->name),
			value_text(var_load(v, in->sec[v->kind]), v->is_bool),
			*v->unit ? str("%s", v->unit) : NULL, str("%s", var_when(v)), range,
			str("%s", v->help));
	}
	tbl_print(tbl);
}

int cmd_get(int argc, char **argv)
{
	static const char doc[] =
		"Show the parameters and counters of the loaded policy NAME; with VAR, the value of "
		"that one alone.";
	struct get_args a = {};
	struct policies ps;
	struct policy *p;
	struct inside in;
	struct var *v;
	int ret;

	ret = parse_args(argc, argv, NULL, parse_get, "NAME [VAR]", doc, &a);
	if (ret == OK)
		ret = policies_read(&ps);
	if (ret == OK)
		ret = policy_find(&ps, a.name, &p);
	if (ret == OK)
		ret = policy_inside(p, &in);
	if (ret != OK)
		return ret;
	if (!a.var) {
		show(p, &in);
		return OK;
	}
	v = vars_find(&in.vars, a.var);
	if (!v)
		return fail(E_PARAM, str("see kvmext get %s", a.name),
			    "%s has no parameter or counter '%s'", a.name, a.var);
	if (g.json) {
		json_var(v, &in);
		return OK;
	}
	puts(value_text(var_load(v, in.sec[v->kind]), v->is_bool));
	return OK;
}

/* --- set --- */

struct set_args {
	const char *name;
	char **set;
	int n;
};

static error_t parse_set(int key, char *arg, struct argp_state *state)
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

	ret = parse_args(argc, argv, NULL, parse_set, "NAME VAR=VALUE...", doc, &a);
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
