// SPDX-License-Identifier: GPL-2.0
/* kvmext list: the loaded policies, or what is in policy files. */
#include <argp.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "object.h"
#include "out.h"
#include "policy.h"
#include "text.h"
#include "vars.h"

struct list_args {
	char **file;
	int n;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct list_args *a = state->input;

	if (key != ARGP_KEY_ARG)
		return ARGP_ERR_UNKNOWN;
	a->file[a->n++] = arg;
	return 0;
}

static void json_object(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);

	j_open(NULL, '{');
	j_str("file", o->path);
	j_str("name", o->name);
	j_str("table", o->table->name);
	j_str("about", o->about);
	j_open("ops", '[');
	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;

		if (object_prog(o, m))
			j_str(NULL, btf__str_by_offset(btf, m->name_off));
	}
	j_close(']');
	j_open("params", '[');
	for (int pass = 1; pass >= 0; pass--) {
		for (int i = 0; i < o->vars.n; i++) {
			const struct var *v = &o->vars.v[i];
			s128 val = var_load(v, o->sec[v->kind]);

			if (v->param != pass)
				continue;
			j_open(NULL, '{');
			j_str("name", v->name);
			j_str("type", v->type);
			if (v->param) {
				j_str("when", var_when(v));
				if (v->is_bool) {
					j_bool("default", val);
				} else {
					j_num("default", val);
					j_num("min", v->min);
					j_num("max", v->max);
				}
			}
			j_str("unit", v->unit);
			j_str("help", v->help);
			j_close('}');
		}
		j_close(']');
		if (pass)
			j_open("counters", '[');
	}
	j_close('}');
}

static void show_object(const struct object *o)
{
	static const struct col cols[] = { { "NAME", false },	{ "TYPE", false },
					   { "WHEN", false },	{ "DEFAULT", true },
					   { "RANGE", false },	{ "UNIT", false },
					   { "MEANING", false } };
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));

	print("%s: %s policy '%s'%s%s\n", o->path, o->table->name, o->name, o->about ? ": " : "",
	      o->about ? o->about : "");
	for (int i = 0; i < o->vars.n; i++) {
		const struct var *v = &o->vars.v[i];
		char *range = NULL;

		if (v->is_bool)
			range = str("on, off");
		else if (v->param)
			range = str("%s to %s", value_text(v->min, false),
				    value_text(v->max, false));
		tbl_row(tbl, ARRAY_SIZE(cols), str("%s", v->name), str("%s", v->type),
			str("%s", var_when(v)),
			v->param ? value_text(var_load(v, o->sec[v->kind]), v->is_bool) : NULL,
			v->param ? range : NULL, *v->unit ? str("%s", v->unit) : NULL,
			str("%s", v->help));
	}
	if (o->vars.n)
		tbl_print(tbl);
}

static int list_files(const struct list_args *a)
{
	struct object *o = calloc(a->n, sizeof(*o));
	int ret = OK;

	if (!o)
		abort();
	for (int i = 0; i < a->n && ret == OK; i++)
		ret = object_file(a->file[i], &o[i]);
	/* Root may look at a stranger's file, and nothing more needs root. */
	drop_rights();
	for (int i = 0; i < a->n && ret == OK; i++)
		ret = object_open(&o[i]);
	if (ret != OK)
		return ret;
	if (g.json) {
		j_open(NULL, '{');
		j_open("files", '[');
	}
	for (int i = 0; i < a->n; i++) {
		if (g.json)
			json_object(&o[i]);
		else
			show_object(&o[i]);
	}
	if (g.json) {
		j_close(']');
		j_close('}');
	}
	return OK;
}

static char *age(const struct policies *ps, const struct policy *p)
{
	uint64_t since;

	if (!rec_num(p->rec, "since_ns", &since) || since > ps->st.read_ns)
		return NULL;
	return str("%s ago", duration(ps->st.read_ns - since));
}

static char *field(const struct rec *r, const char *key)
{
	const char *v = rec_str(r, key);

	return v ? str("%s", v) : NULL;
}

/* How many VMs the kernel took it from */
static char *taken(const struct policies *ps, const struct policy *p)
{
	int n = 0;

	for (const struct rec *r = NULL; (r = policy_taken(ps, p, r));)
		n++;
	return n ? str("%d VM%s", n, n > 1 ? "s" : "") : NULL;
}

static void list_loaded(const struct policies *ps)
{
	static const struct col cols[] = { { "NAME", false },  { "TABLE", false },
					   { "VM", true },     { "STATE", false },
					   { "SINCE", true },  { "CALLS", true },
					   { "TAKEN", true },  { "LINK", true },
					   { "PINNED", false } };
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));

	for (int i = 0; i < ps->n; i++) {
		const struct policy *p = &ps->p[i];

		tbl_row(tbl, ARRAY_SIZE(cols), str("%s", p->instance), field(p->rec, "table"),
			p->vm ? str("%u", p->vm) : str("all"), field(p->rec, "state"), age(ps, p),
			field(p->rec, "calls"), taken(ps, p), field(p->rec, "link"),
			str(p->pin_err ? "?" :
			    p->dir     ? "yes" :
					 "no"));
	}
	if (ps->n)
		tbl_print(tbl);
	else
		say("no policy is loaded");
}

int cmd_list(int argc, char **argv)
{
	static const char doc[] =
		"List the loaded policies, whoever loaded them; with FILEs, what policy files offer.";
	struct list_args a = { .file = calloc(argc, sizeof(char *)) };
	struct policies ps;
	int ret;

	ret = parse_args(argc, argv, NULL, parse, "[FILE...]", doc, &a);
	if (ret != OK)
		return ret;
	if (a.n)
		return list_files(&a);
	ret = policies_read(&ps);
	if (ret != OK)
		return ret;
	if (!g.json) {
		list_loaded(&ps);
		return OK;
	}
	j_open(NULL, '{');
	j_open("policies", '[');
	for (int i = 0; i < ps.n; i++) {
		uint64_t since;

		j_open(NULL, '{');
		j_str("instance", ps.p[i].instance);
		rec_json(ps.p[i].rec, "");
		if (rec_num(ps.p[i].rec, "since_ns", &since))
			j_num("age_ns", (s128)ps.st.read_ns - since);
		json_pinned(&ps.p[i]);
		json_taken(&ps, &ps.p[i]);
		j_close('}');
	}
	j_close(']');
	j_close('}');
	return OK;
}
