// SPDX-License-Identifier: GPL-2.0
/* kvmext load, switch, unload: bring a policy into force, change it, take it out. */
#include <argp.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "object.h"
#include "out.h"
#include "pin.h"
#include "policy.h"
#include "refusal.h"
#include "text.h"
#include "vars.h"
#include "vmm.h"

/*
 * All that can be refused before anything changes: the file, the values, then privilege,
 * kernel and bpffs.
 */
static int ready(const char *path, char *const *args, int n, struct object *o, struct setting **set)
{
	int ret = object_file(path, o);

	if (ret == OK)
		ret = object_open(o);
	if (ret == OK)
		ret = settings_parse(o->name, &o->vars, args, n, false, set);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK)
		ret = need_kernel();
	if (ret == OK)
		ret = need_bpffs();
	return ret;
}

/* Into the kernel, with these values; not in force yet */
static int bring_in(struct object *o, const struct setting *set, int n, const char *doing,
		    uint32_t vm)
{
	int ret = object_fits(o), err;

	if (ret != OK)
		return ret;
	object_set(o, set, n);
	err = object_load(o, vm);
	if (err)
		return load_refused(o, vm, err);
	err = object_fill(o);
	return err ? link_refused(o, doing, vm, err) : OK;
}

/* --- load --- */

struct load_args {
	const char *file;
	uint32_t vm;
	char **set;
	int n;
};

static error_t parse_load(int key, char *arg, struct argp_state *state)
{
	struct load_args *a = state->input;

	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &a->vm))
			return fail_usage("load", "'%s' is no process id", arg), EINVAL;
		return 0;
	case ARGP_KEY_ARG:
		if (!a->file)
			a->file = arg;
		else if (strchr(arg, '='))
			a->set[a->n++] = arg;
		else
			return fail_usage("load", "'%s' is no NAME=VALUE", arg), EINVAL;
		return 0;
	case ARGP_KEY_END:
		if (!a->file)
			return fail_usage("load", "which FILE?"), EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option load_options[] = {
	{ "vm", OPT_VM, "PID", 0, "for this VM only, by its VMM's process id", 0 },
	{}
};

static bool gone(const struct policies *ps, const char *instance)
{
	for (int i = 0; i < ps->n; i++) {
		const char *state = rec_str(ps->p[i].rec, "state");

		if (!strcmp(ps->p[i].instance, instance) && state && !strcmp(state, "vm-gone"))
			return true;
	}
	return false;
}

static int attach(struct object *o, const char *instance, uint32_t vm)
{
	struct bpf_link_info info = {};
	uint32_t len = sizeof(info);
	int link, ret;

	ret = pins_new(o, instance);
	if (ret != OK)
		return ret;
	link = bpf_link_create(object_ops_fd(o), 0, BPF_STRUCT_OPS, NULL);
	if (link < 0) {
		pins_drop_new(instance);
		return link_refused(o, "load", vm, link);
	}
	/* In force from here on; until it is pinned it goes when we go. */
	ret = pins_new_link(instance, link);
	if (ret == OK)
		ret = pins_commit(instance);
	if (ret != OK) {
		bpf_link_detach(link);
		pins_drop_new(instance);
		return ret;
	}
	bpf_link_get_info_by_fd(link, &info, &len);
	if (g.json) {
		j_open(NULL, '{');
		j_str("loaded", instance);
		j_str("table", o->table->name);
		j_num("vm", vm);
		j_num("link", info.id);
		j_close('}');
	}
	say("loaded '%s' for %s", o->name, vm ? str("VM %u", vm) : "every VM");
	return OK;
}

int cmd_load(int argc, char **argv)
{
	static const char doc[] =
		"Load the policy in FILE and put it in force, for every VM or for one.\v"
		"NAME=VALUE gives a parameter another value than its default. "
		"kvmext list FILE shows a file's parameters.";
	struct load_args a = { .set = calloc(argc, sizeof(char *)) };
	struct setting *set;
	struct policies ps;
	struct object o;
	char *instance;
	int ret;

	ret = parse_args(argc, argv, load_options, parse_load, "FILE [NAME=VALUE...]", doc, &a);
	if (ret != OK)
		return ret;
	ret = ready(a.file, a.set, a.n, &o, &set);
	if (ret == OK && a.vm)
		ret = need_vm(a.vm);
	if (ret != OK)
		return ret;
	if (kill_switch_on())
		return link_refused(&o, "load", a.vm, -EPERM);

	ret = pins_lock();
	if (ret != OK)
		return ret;
	instance = instance_name(o.table->name, o.name, a.vm);
	if (pins_exists(instance)) {
		ret = policies_read(&ps);
		if (ret != OK)
			return ret;
		/* One whose VM is gone only waits for someone to read its end. */
		if (!gone(&ps, instance))
			return fail(E_CONFLICT,
				    str("use kvmext switch %s %s, or kvmext unload %s first",
					instance, a.file, instance),
				    "a policy '%s' is loaded already", instance);
	}
	ret = bring_in(&o, set, a.n, "load", a.vm);
	return ret == OK ? attach(&o, instance, a.vm) : ret;
}

/* --- switch --- */

struct switch_args {
	const char *old;
	const char *file;
	char **set;
	int n;
};

static error_t parse_switch(int key, char *arg, struct argp_state *state)
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

static int exchange(struct object *o, const struct policy *old, const char *instance)
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
		return link_refused(o, "switch to", old->vm, err);
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

	ret = parse_args(argc, argv, NULL, parse_switch, "OLD FILE [NAME=VALUE...]", doc, &a);
	if (ret != OK)
		return ret;
	ret = ready(a.file, a.set, a.n, &o, &set);
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
		return link_refused(&o, "switch to", old->vm, -EPERM);
	instance = instance_name(o.table->name, o.name, old->vm);
	if (strcmp(instance, old->instance) && pins_exists(instance))
		return fail(E_CONFLICT, str("unload it first: kvmext unload %s", instance),
			    "a policy '%s' is loaded already", instance);
	ret = bring_in(&o, set, a.n, "switch to", old->vm);
	return ret == OK ? exchange(&o, old, instance) : ret;
}

/* --- unload --- */

static error_t parse_unload(int key, char *arg, struct argp_state *state)
{
	const char **name = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (*name)
			return fail_usage("unload", "one NAME at a time"), EINVAL;
		*name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!*name)
			return fail_usage("unload", "which policy?"), EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

int cmd_unload(int argc, char **argv)
{
	static const char doc[] = "Take the policy NAME out of force and forget it.";
	const char *name = NULL;
	struct policies ps;
	struct policy *p;
	int ret, link, err;

	ret = parse_args(argc, argv, NULL, parse_unload, "NAME", doc, &name);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK && is_mount(g.bpffs, BPFFS_MAGIC))
		ret = pins_lock();
	if (ret == OK)
		ret = policies_read(&ps);
	if (ret == OK)
		ret = policy_find(&ps, name, &p);
	if (ret == OK)
		ret = policy_pins(p);
	if (ret != OK)
		return ret;

	link = bpf_link_get_fd_by_id(p->link_id);
	if (link < 0 && link != -ENOENT)
		return fail(E_ENV, "try again", "cannot get at the link of '%s': %s", name,
			    strerror(-link));
	if (link < 0)
		return fail(E_POLICY, "see kvmext list", "the link of '%s' is gone", name);
	/*
	 * Others may hold the link too, so dropping the pins would not do.  A link
	 * whose policy is not in force any more may refuse; then the pins are all.
	 */
	err = bpf_link_detach(link);
	if (err && !p->dir)
		return fail(E_REFUSED, "end the program that loaded it", "cannot unload '%s': %s",
			    name, strerror(-err));
	close(link);
	if (p->dir)
		ret = pins_remove(p->dir);
	if (ret != OK)
		return ret;
	if (g.json) {
		j_open(NULL, '{');
		j_str("unloaded", name);
		j_close('}');
	}
	say("unloaded '%s'", name);
	return OK;
}
