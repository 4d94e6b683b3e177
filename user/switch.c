// SPDX-License-Identifier: GPL-2.0
/* kvmext switch: another policy in the place of one, with no gap. */
#include "kvmext.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct switch_args {
	const char *old;
	const char *file;
	char **set;
	int n;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct switch_args *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (!a->old)
			a->old = arg;
		else if (!a->file)
			a->file = arg;
		else if (strchr(arg, '='))
			a->set[a->n++] = arg;
		else
			return fail_usage("switch", "'%s' is no NAME=VALUE", arg), EINVAL;
		return 0;
	case ARGP_KEY_END:
		if (!a->file)
			return fail_usage("switch", a->old ? "to which FILE?" :
							     "from which policy, to which FILE?"),
			       EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int commit(struct object *o, const struct policy *old, const char *instance)
{
	struct bpf_link_info info;
	int link = pins_get_link(old->dir, &info), ret, err;

	if (link < 0 && link != -ENOENT)
		return fail(E_ENV, "try again", "cannot read the link of '%s': %s", old->instance,
			    strerror(-link));
	if (link < 0)
		return fail(E_POLICY, "see kvmext list", "the link of '%s' is gone", old->instance);
	/* The link is in both folders when it changes hands: one of them is right. */
	ret = pins_new(o, instance);
	if (ret != OK)
		return ret;
	ret = pins_new_link(instance, link);
	if (ret != OK) {
		pins_drop_new(instance);
		return ret;
	}
	err = bpf_link_update(link, object_ops_fd(o), NULL);
	if (err) {
		pins_drop_new(instance);
		return link_error(o, "switch to", old->vm, err);
	}
	/* Now the new one is in force, whatever becomes of us. */
	ret = pins_commit(instance);
	if (ret == OK && strcmp(instance, old->instance))
		ret = pins_remove(old->dir);
	if (ret != OK)
		return ret;
	if (g.json) {
		j_open(NULL, '{');
		j_str("switched", old->instance);
		j_str("loaded", instance);
		j_str("table", o->table->name);
		j_num("vm", old->vm);
		j_num("link", info.id);
		j_close('}');
	}
	say("switched '%s' to '%s'", old->instance, instance);
	return OK;
}

int cmd_switch(int argc, char **argv)
{
	static const char doc[] =
		"Put the policy in FILE in the place of the loaded policy OLD, at once: no moment is "
		"without a policy. If it fails, OLD stays as it is.\v"
		"The new policy has the defaults of FILE and the values given here; nothing is "
		"taken over from OLD.";
	struct switch_args a = { .set = calloc(argc, sizeof(char *)) };
	struct setting *set;
	struct policies ps;
	struct policy *old;
	struct object o;
	const char *table;
	char *instance;
	int ret;

	ret = parse_args(argc, argv, NULL, parse, "OLD FILE [NAME=VALUE...]", doc, &a);
	if (ret != OK)
		return ret;
	ret = object_ready(a.file, a.set, a.n, &o, &set);
	if (ret == OK)
		ret = pins_lock();
	if (ret == OK)
		ret = policies_read(&ps);
	if (ret == OK)
		ret = policy_find(&ps, a.old, &old);
	if (ret == OK)
		ret = policy_pins(old);
	if (ret != OK)
		return ret;
	if (!old->dir)
		return fail(E_CONFLICT, "unload it first, or have its owner do it",
			    "'%s' was not loaded by kvmext but by another program", a.old);
	table = rec_str(old->rec, "table");
	if (table && strcmp(table, o.table->name))
		return fail(E_CONFLICT, "load it beside the other",
			    "'%s' is a %s policy, %s is for %s", a.old, table, a.file,
			    o.table->name);
	if (kill_switch_on())
		return link_error(&o, "switch to", old->vm, -EPERM);
	instance = instance_name(o.table->name, o.name, old->vm);
	if (strcmp(instance, old->instance) && pins_exists(instance))
		return fail(E_CONFLICT, str("unload it first: kvmext unload %s", instance),
			    "a policy '%s' is loaded already", instance);
	object_set(&o, set, a.n);
	ret = object_load(&o, old->vm);
	return ret == OK ? commit(&o, old, instance) : ret;
}
