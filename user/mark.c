// SPDX-License-Identifier: GPL-2.0
/* kvmext mark, unmark: choose a vCPU for the throttle by hand. */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "log.h"
#include "out.h"
#include "text.h"
#include "vmm.h"

#include "user/mark.skel.h"

struct mark_args {
	const char *cmd;
	uint32_t vm;
	long vcpu;
};

/* As the program in user/mark.bpf.c declares it. */
struct mark_ctx {
	uint32_t pid;
	uint32_t vcpu_id;
	uint32_t on;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct mark_args *a = state->input;
	char *end;

	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &a->vm))
			return fail_usage(a->cmd, "'%s' is no process id", arg), EINVAL;
		return 0;
	case OPT_VCPU:
		a->vcpu = strtol(arg, &end, 10);
		if (*end || end == arg || a->vcpu < 0 || a->vcpu > INT32_MAX)
			return fail_usage(a->cmd, "'%s' is no vCPU number", arg), EINVAL;
		return 0;
	case ARGP_KEY_ARG:
		return fail_usage(a->cmd, "'%s' is not expected", arg), EINVAL;
	case ARGP_KEY_END:
		if (!a->vm || a->vcpu < 0)
			return fail_usage(a->cmd, "--vm PID and --vcpu N are both needed"), EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "the VM, by its VMM's process id", 0 },
	{ "vcpu", OPT_VCPU, "N", 0, "the vCPU, by its id in KVM (QEMU: its number)", 0 },
	{}
};

static int run(const struct mark_args *a, bool on)
{
	struct mark_ctx ctx = { .pid = a->vm, .vcpu_id = a->vcpu, .on = on };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
	struct mark_bpf *skel;
	const char *log;
	int err;

	log_clear();
	skel = mark_bpf__open_and_load();
	if (!skel) {
		err = errno;
		log = log_text();
		if (strstr(log, "not found in kernel or module BTFs"))
			return fail(E_ENV, "use the kvm modules that this tool was built with",
				    "this kernel has no kvm_throttle_mark_pid()");
		if (err == EPERM || err == EACCES)
			return fail(E_PRIV, "run it as root", "cannot %s: not permitted", a->cmd);
		return fail(E_REFUSED, "-v shows why", "cannot load the program that marks: %s",
			    strerror(err));
	}
	err = bpf_prog_test_run_opts(bpf_program__fd(skel->progs.mark), &opts);
	mark_bpf__destroy(skel);
	if (err)
		return fail(E_INTERNAL, "try again; see dmesg",
			    "cannot run the program that marks: %s", strerror(-err));
	switch ((int)opts.retval) {
	case 0:
		return OK;
	case -ESRCH:
		return fail(E_VM, "see kvmext status", "cannot %s: process %u has no VM any more",
			    a->cmd, a->vm);
	case -ENOENT:
		return fail(E_VM, str("see kvmext status --vm %u", a->vm), "VM %u has no vCPU %ld",
			    a->vm, a->vcpu);
	case -ENOTUNIQ:
		return fail(E_VM, "let a policy mark", "process %u has several VMs", a->vm);
	}
	return fail(E_REFUSED, "see kvmext doctor", "cannot %s vCPU %ld of VM %u: %s", a->cmd,
		    a->vcpu, a->vm, strerror(-(int)opts.retval));
}

static int mark(int argc, char **argv, const char *doc, bool on)
{
	struct mark_args a = { .cmd = on ? "mark" : "unmark", .vcpu = -1 };
	int ret;

	ret = parse_args(argc, argv, options, parse, "", doc, &a);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK)
		ret = need_kernel();
	if (ret == OK)
		ret = need_vm(a.vm);
	if (ret == OK)
		ret = run(&a, on);
	if (ret != OK)
		return ret;
	if (g.json) {
		j_open(NULL, '{');
		j_num("vm", a.vm);
		j_num("vcpu", a.vcpu);
		j_bool("marked", on);
		j_close('}');
	}
	say("%sed vCPU %ld of VM %u", a.cmd, a.vcpu, a.vm);
	return OK;
}

int cmd_mark(int argc, char **argv)
{
	return mark(
		argc, argv,
		"Mark a vCPU: the throttle policy in charge is asked to block it when it writes.\v"
		"A policy may mark and unmark vCPUs itself and so undo this.",
		true);
}

int cmd_unmark(int argc, char **argv)
{
	return mark(argc, argv, "Take the mark off a vCPU: it is not blocked any more.", false);
}
