// SPDX-License-Identifier: GPL-2.0
/* What kvmext trace and hist do alike: filters, time, the end. */
#include "tracer.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "event.h"
#include "exitname.h"
#include "hook.h"
#include "host.h"
#include "out.h"
#include "text.h"
#include "vmm.h"

/* The tool looks for events, the clock and the VM at least so often. */
#define LOOK_MS 100
/* And so often whether the VM is still there: its VMM may live on without it. */
#define VM_NS 1000000000ull

static volatile sig_atomic_t stopped;
static int vm_fd = -1;
static bool vm_gone;
static uint64_t begun;

static bool positive(const char *text, double max, double *val)
{
	char *end;

	*val = strtod(text, &end);
	return !*end && end != text && isfinite(*val) && *val > 0 && *val <= max;
}

error_t tracer_option(struct tracer *r, int key, const char *arg)
{
	double v;
	char *end;
	long n;

	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &r->filter.vm))
			return fail_usage(r->cmd, "'%s' is no process id", arg), EINVAL;
		return 0;
	case OPT_VCPU:
		n = strtol(arg, &end, 10);
		if (*end || end == arg || n < 0 || n > INT32_MAX)
			return fail_usage(r->cmd, "'%s' is no vCPU number", arg), EINVAL;
		r->filter.vcpu = n;
		return 0;
	case OPT_REASON:
		for (int i = 0; i < REASONS_MAX; i++)
			if (!r->reason[i]) {
				r->reason[i] = arg;
				return 0;
			}
		return fail_usage(r->cmd, "more than %d reasons", REASONS_MAX), EINVAL;
	case OPT_MIN_US:
		if (!positive(arg, 1e12, &v))
			return fail_usage(r->cmd, "'%s' is no number of microseconds", arg), EINVAL;
		r->filter.min_ns = v * 1000 < 1 ? 1 : v * 1000;
		return 0;
	case OPT_FOR:
		if (!positive(arg, 1e9, &v))
			return fail_usage(r->cmd, "'%s' is no number of seconds", arg), EINVAL;
		r->ns = v * 1e9 < 1 ? 1 : v * 1e9;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

bool is_vmm(uint32_t pid)
{
	static struct {
		uint32_t pid;
		bool is;
		uint64_t ns;
	} known[64];
	size_t i = pid % ARRAY_SIZE(known);
	uint64_t now = clock_ns();

	/* A VM's file is not opened and closed all the time. */
	if (!known[i].ns || known[i].pid != pid || now - known[i].ns > 1000000000) {
		known[i].pid = pid;
		known[i].is = nr_vms(pid) > 0;
		known[i].ns = now;
	}
	return known[i].is;
}

static void stop(int sig)
{
	(void)sig;
	stopped = 1;
}

static int reasons(struct tracer *r)
{
	for (int i = 0; i < REASONS_MAX && r->reason[i]; i++) {
		uint64_t keys[4];
		int have = exit_names_load(), n, ignored;
		const char *near;

		n = exit_reasons(r->reason[i], keys, ARRAY_SIZE(keys));
		if (!n && have != OK)
			return fail(E_ENV, "give its number",
				    "exits have no names here (%s), so '%s' is not known",
				    exit_names_where(&ignored), r->reason[i]);
		near = n ? NULL : exit_name_nearest(r->reason[i]);
		if (!n)
			return fail(E_USAGE,
				    near ? str("did you mean '%s'?", near) :
					   "kvmext hist exit shows those that occur",
				    "no exit is called '%s'", r->reason[i]);
		for (int k = 0; k < n; k++) {
			if (r->filter.nr_reasons == REASONS_MAX)
				return fail_usage(r->cmd, "too many reasons");
			r->filter.reason[r->filter.nr_reasons++] = keys[k];
		}
	}
	return OK;
}

int tracer_ready(struct tracer *r)
{
	int ret;

	ret = need_kvm();
	if (ret == OK) {
		/* The names before the events; without them there are numbers. */
		exit_names_load();
		ret = reasons(r);
	}
	if (ret == OK && r->filter.vm)
		ret = need_vm(r->filter.vm);
	if (ret != OK)
		return ret;
	if (r->filter.vm) {
		vm_fd = syscall(SYS_pidfd_open, r->filter.vm, 0);
		if (vm_fd < 0 && errno == ESRCH)
			return fail(E_VM, "give the process id of a VM that runs",
				    "VM %u has exited", r->filter.vm);
		if (vm_fd < 0)
			return fail(E_INTERNAL, "see ulimit -n",
				    "cannot watch for the end of process %u: %s", r->filter.vm,
				    strerror(errno));
	}
	catch_ends(stop);
	return OK;
}

void tracer_begin(const struct tracer *r)
{
	begun = clock_ns();
	if (r->ns)
		say("%s: watching for %s", r->cmd, duration(r->ns));
	else
		say("%s: watching; Ctrl-C ends it", r->cmd);
	fflush(stdout);
}

/* The process has ended, reaped or not, or has closed its VM; the latter is looked for now and then. */
static bool vm_is_gone(const struct tracer *r, bool exited)
{
	static uint64_t looked;
	uint64_t now = clock_ns();

	if (exited || now - looked < VM_NS)
		return exited;
	looked = now;
	return vm_ended(r->filter.vm);
}

bool tracer_wait(struct tracer *r, int fd)
{
	struct pollfd p[] = { { .fd = fd, .events = POLLIN }, { .fd = vm_fd, .events = POLLIN } };
	int ms = LOOK_MS;

	if (!stopped && r->ns) {
		uint64_t run = clock_ns() - begun, left = run < r->ns ? r->ns - run : 0;

		if (!left)
			stopped = 1;
		else if (left < LOOK_MS * 1000000ull)
			ms = left / 1000000 + 1;
	}
	if (stopped)
		return false;
	poll(p, ARRAY_SIZE(p), ms);
	vm_gone = vm_is_gone(r, vm_fd >= 0 && p[1].revents);
	return !vm_gone;
}

double tracer_seconds(const struct tracer *r)
{
	(void)r;
	return (clock_ns() - begun) / 1e9;
}

void tracer_end(const struct tracer *r)
{
	if (vm_gone)
		say("VM %u has exited", r->filter.vm);
}

void tracer_silent(const struct tracer *r, uint64_t exits)
{
	if (!exits)
		return;
	fflush(stdout);
	fprintf(stderr,
		"kvmext: %s: this KVM does not tell its exits: these are those to user space\n",
		r->cmd);
}

int tracer_load_error(const char *cmd)
{
	int err = errno;

	/* EACCES is the verifier's. */
	if (err == EPERM)
		return fail(E_PRIV, "run it as root", "cannot %s: BPF programs may not be loaded",
			    cmd);
	if (lockdown_bars_reads())
		return fail(
			E_ENV, "boot with lockdown=integrity",
			"%s takes BPF programs that read the kernel's memory, and kernel lockdown (confidentiality) bars that",
			cmd);
	return fail(E_REFUSED, "-v shows why", "cannot load the programs of %s: %s", cmd,
		    strerror(err));
}
