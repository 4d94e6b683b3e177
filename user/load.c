// SPDX-License-Identifier: GPL-2.0
/* kvmext load: bring a policy into force. */
#include "kvmext.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct load_args {
	const char *file;
	uint32_t vm;
	char **set;
	int n;
};

static error_t parse(int key, char *arg, struct argp_state *state)
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

static const struct argp_option options[] = { { "vm", OPT_VM, "PID", 0,
						"for this VM only, by its VMM's process id", 0 },
					      {} };

/* Who has the place that a policy for @vm would take, or NULL. */
static const char *holder(const struct object *o, uint32_t vm)
{
	struct policies ps;
	bool was;
	int ret;

	if (access(str("%s/kvm/ext/state", g.debugfs), R_OK))
		return NULL;
	/* It only makes an error clearer; its own errors are not of interest. */
	was = fail_mute(true);
	ret = policies_read(&ps);
	fail_mute(was);
	for (int i = 0; ret == OK && i < ps.n; i++) {
		const char *table = rec_str(ps.p[i].rec, "table");
		const char *state = rec_str(ps.p[i].rec, "state");

		if (ps.p[i].vm == vm && table && !strcmp(table, o->table->name) &&
		    !(state && !strcmp(state, "vm-gone")))
			return ps.p[i].instance;
	}
	return NULL;
}

int link_error(const struct object *o, const char *doing, uint32_t vm, int err)
{
	const char *other, *line;
	char *place = vm ? str("VM %u", vm) : str("every VM");

	switch (err) {
	case -ESRCH:
		return fail(E_VM, "see kvmext status, or give another process id",
			    "cannot %s '%s' for %s: the VM is gone, or never was", doing, o->name,
			    place);
	case -ENOTUNIQ:
		return fail(E_VM, "a policy for every VM can be loaded without --vm",
			    "process %u has several VMs, so it does not name one", vm);
	case -EEXIST:
	case -EBUSY:
		other = holder(o, vm);
		return fail(E_CONFLICT,
			    str("use kvmext switch %s %s, or kvmext unload %s first",
				other ? other : "OLD", o->path, other ? other : "OLD"),
			    "cannot %s '%s': %s has the policy '%s' already", doing, o->name, place,
			    other ? other : "of someone else");
	case -EPERM:
	case -EACCES:
		if (kill_switch_on())
			return fail(E_ENV, "to allow them: echo Y > " KILL_SWITCH,
				    "cannot %s '%s': the kill switch keeps all policies off", doing,
				    o->name);
		return fail(E_PRIV, "run it as root", "cannot %s '%s': not permitted", doing,
			    o->name);
	case -EOPNOTSUPP:
		return fail(
			E_REFUSED,
			"run the VMM without a dirty ring; a protected guest cannot have one",
			"cannot %s '%s': %s has a dirty ring, which is read past KVM, or memory that KVM may not read",
			doing, o->name, place);
	case -EINVAL:
		return fail(E_REFUSED, "check .flags of its table, and dmesg",
			    "cannot %s '%s': the kernel finds its table invalid", doing, o->name);
	}
	line = strerror(-err);
	return fail(E_REFUSED, "see dmesg", "cannot %s '%s': %s", doing, o->name, line);
}

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
		return link_error(o, "load", vm, link);
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

	ret = parse_args(argc, argv, options, parse, "FILE [NAME=VALUE...]", doc, &a);
	if (ret != OK)
		return ret;
	ret = object_ready(a.file, a.set, a.n, &o, &set);
	if (ret == OK && a.vm)
		ret = need_vm(a.vm);
	if (ret != OK)
		return ret;
	if (kill_switch_on())
		return link_error(&o, "load", a.vm, -EPERM);

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
	object_set(&o, set, a.n);
	ret = object_load(&o, a.vm);
	return ret == OK ? attach(&o, instance, a.vm) : ret;
}
