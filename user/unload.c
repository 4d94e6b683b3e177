// SPDX-License-Identifier: GPL-2.0
/* kvmext unload: take a policy out of force. */
#include "kvmext.h"

#include <errno.h>
#include <unistd.h>

static error_t parse(int key, char *arg, struct argp_state *state)
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

	ret = parse_args(argc, argv, NULL, parse, "NAME", doc, &name);
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
