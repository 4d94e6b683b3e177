// SPDX-License-Identifier: GPL-2.0
/* kvmext status: policies, VMs and vCPUs, with rates over a short sample. */
#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "out.h"
#include "policy.h"
#include "table.h"
#include "text.h"
#include "vmm.h"

#define INTERVAL_DEFAULT_MS 200
#define INTERVAL_MAX_MS 60000

struct status_args {
	uint32_t vm;
	unsigned long interval_ms;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct status_args *a = state->input;
	char *end;

	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &a->vm))
			return fail_usage("status", "'%s' is no process id", arg), EINVAL;
		return 0;
	case OPT_INTERVAL:
		a->interval_ms = strtoul(arg, &end, 10);
		if (*end || end == arg || a->interval_ms > INTERVAL_MAX_MS)
			return fail_usage("status", "the interval '%s' is not 0 to %d ms", arg,
					  INTERVAL_MAX_MS),
			       EINVAL;
		return 0;
	case ARGP_KEY_ARG:
		return fail_usage("status", "'%s' is not expected", arg), EINVAL;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "only this VM, by its VMM's process id", 0 },
	{ "interval", OPT_INTERVAL, "MS", 0,
	  "take rates over so many milliseconds (200); 0: no rates", 0 },
	{}
};

static uint64_t dirty(const struct rec *r)
{
	return rec_u64(r, "dirty_write") + rec_u64(r, "dirty_pml") + rec_u64(r, "dirty_map") +
	       rec_u64(r, "dirty_host");
}

/* A process may have several VMs; a VM's vCPUs follow it in the state file. */
static const struct rec *next_vcpu(const struct state *st, const struct rec *r)
{
	r++;
	return r < st->rec + st->n && rec_is(r, "vcpu") ? r : NULL;
}

/* The same VM in an earlier reading: a process may have several. */
static const struct rec *find_vm(const struct state *before, const struct state *now,
				 const struct rec *vm)
{
	uint64_t pid = rec_u64(vm, "pid");
	int nth = 0;

	for (const struct rec *p = now->rec; p < vm; p++)
		nth += rec_is(p, "vm") && rec_u64(p, "pid") == pid;
	for (const struct rec *p = before->rec; p < before->rec + before->n; p++)
		if (rec_is(p, "vm") && rec_u64(p, "pid") == pid && !nth--)
			return p;
	return NULL;
}

/*
 * The vCPU @r in an earlier reading, of which @p is the VM or the vCPU found last: both
 * readings have a VM's vCPUs in the same order, so all are found in one go.
 */
static const struct rec *find_vcpu(const struct state *before, const struct rec **p,
				   const struct rec *r)
{
	uint64_t idx = rec_u64(r, "idx");

	for (const struct rec *v = *p; v && (v = next_vcpu(before, v));)
		if (rec_u64(v, "idx") == idx)
			return *p = v;
	return NULL;
}

/**
 * struct rate - what a vCPU did between two readings
 * @known: both readings have it
 * @logged: what it dirties is seen
 * @pages: pages dirtied in a second
 * @blocked: share of the time that it was blocked
 */
struct rate {
	bool known;
	bool logged;
	double pages;
	double blocked;
};

static struct rate rate(const struct state *before, const struct state *now, const struct rec *vm,
			const struct rec *r, const struct rec **last)
{
	const struct rec *b = find_vcpu(before, last, r);
	uint64_t logging;
	double ns = now->read_ns - before->read_ns;
	struct rate rt = {};

	/* Counters start again when the table's last policy goes. */
	if (!b || ns <= 0 || dirty(b) > dirty(r) ||
	    rec_u64(b, "blocked_ns") > rec_u64(r, "blocked_ns"))
		return rt;
	rt.known = true;
	rt.logged = !rec_num(vm, "logging", &logging) || logging || dirty(r) != dirty(b);
	rt.pages = (dirty(r) - dirty(b)) * 1e9 / ns;
	rt.blocked = (rec_u64(r, "blocked_ns") - rec_u64(b, "blocked_ns")) / ns;
	return rt;
}

static char *field(const struct rec *r, const char *key)
{
	const char *v = rec_str(r, key);

	return v ? str("%s", v) : NULL;
}

static char *time_field(const struct rec *r, const char *key)
{
	uint64_t ns;

	return rec_num(r, key, &ns) ? duration(ns) : NULL;
}

static const char *yes(const struct rec *r, const char *key)
{
	const char *v = rec_str(r, key);

	return v ? strcmp(v, "0") ? "yes" : "no" : "-";
}

static void show_policy(const struct policies *ps, const struct policy *p)
{
	const struct rec *r = p->rec;
	const char *state = rec_str(r, "state"), *msg = rec_str(r, "msg");
	const char *dump = rec_str(r, "dump");
	uint64_t since;

	print("policy '%s' (%s, for %s): %s", p->instance, rec_str(r, "table") ?: "-",
	      p->vm ? str("VM %u", p->vm) : "every VM", state ? state : "-");
	if (rec_num(r, "since_ns", &since) && since <= ps->st.read_ns)
		print(" since %s", duration(ps->st.read_ns - since));
	print(", %s calls", rec_str(r, "calls") ?: "-");
	if (rec_u64(r, "invalid"))
		print(", %s invalid answers", rec_str(r, "invalid"));
	if (rec_u64(r, "clamped"))
		print(", %s answers clamped", rec_str(r, "clamped"));
	if (rec_u64(r, "slow"))
		print(", %s slow calls", rec_str(r, "slow"));
	print("\n");
	if (state && !strcmp(state, "ejected")) {
		print("  ejected for: %s, code %s: %s\n", rec_str(r, "kind") ?: "-",
		      rec_str(r, "code") ?: "-", msg && *msg ? msg : "no message");
		if (dump && *dump)
			print("  %s\n", dump);
	}
	for (const struct rec *t = NULL; (t = policy_taken(ps, p, t));)
		print("  taken from VM %s for: %s: %s; KVM decides there until the policy is "
		      "loaded or switched anew\n",
		      rec_str(t, "vm") ?: "-", rec_str(t, "kind") ?: "-", rec_str(t, "msg") ?: "-");
	if (state && !strcmp(state, "vm-gone"))
		print("  its VM has exited: kvmext unload %s\n", p->instance);
}

static void show_vm(const struct state *before, const struct state *now, const struct rec *vm)
{
	static const struct col cols[] = {
		{ "VCPU", true },    { "MARKED", false }, { "BLOCKS", true }, { "BLOCKED", true },
		{ "LONGEST", true }, { "NOW", true },	  { "DIRTY", true },  { "PAGES/S", true },
	};
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));
	const struct rec *last = find_vm(before, now, vm);
	uint64_t pid = rec_u64(vm, "pid");
	char *comm = proc_comm(pid);
	int n = 0;

	print("VM %lu (%s): policy %s, %s vCPUs, dirty logging %s, %s harvests, %s ring resets, "
	      "%s pages last\n",
	      pid, comm ? comm : "-", rec_str(vm, "policy") ?: "-", rec_str(vm, "vcpus") ?: "-",
	      !rec_str(vm, "logging") ? "-" :
	      rec_u64(vm, "logging")  ? "on" :
					"off",
	      rec_str(vm, "harvests") ?: "-", rec_str(vm, "ring_resets") ?: "-",
	      rec_str(vm, "last_dirty") ?: "-");
	for (const struct rec *r = next_vcpu(now, vm); r; r = next_vcpu(now, r)) {
		struct rate rt = rate(before, now, vm, r, &last);

		tbl_row(tbl, ARRAY_SIZE(cols), field(r, "id"), str("%s", yes(r, "marked")),
			field(r, "blocks"), time_field(r, "blocked_ns"),
			time_field(r, "longest_ns"),
			rt.known ? str("%.0f %%", 100 * rt.blocked) : NULL, str("%lu", dirty(r)),
			rt.known && rt.logged ? str("%.0f", rt.pages) : NULL);
		n++;
	}
	if (n)
		tbl_print(tbl);
}

/* Records of the table named "TABLE_vm" and, after each, "TABLE_vcpu" */
static bool of_table(const struct rec *r, const struct table *t, const char *what)
{
	size_t len = strlen(t->name);

	return !strncmp(r->kind, t->name, len) && r->kind[len] == '_' &&
	       !strcmp(r->kind + len + 1, what);
}

/*
 * What a table other than the first tells of a VM and its vCPUs: whatever it is,
 * as the kernel names it.  A VM that it has no policy for is left out.
 */
static void show_table(const struct state *now, const struct rec *vm, const struct table *t)
{
	struct libscols_table *tbl = NULL;
	const struct rec *r = vm;
	int n = 0;

	print("VM %lu, %s:", rec_u64(vm, "pid"), t->name);
	for (int i = 0; i < vm->n; i++)
		if (strcmp(vm->key[i], "pid"))
			print(" %s %s", vm->key[i], vm->val[i]);
	print("\n");
	/* All but "pid", which comes first; each has the same keys. */
	while (++r < now->rec + now->n && of_table(r, t, "vcpu") && r->n > 1) {
		if (!tbl) {
			struct col cols[ARRAY_SIZE(r->key)];

			n = r->n - 1;
			for (int i = 0; i < n; i++) {
				char *key = str("%s", r->key[i + 1]);

				for (char *c = key; *c; c++)
					*c = toupper(*c);
				cols[i] = (struct col){ key, true };
			}
			tbl = tbl_new(cols, n);
		}
		if (r->n - 1 == n)
			tbl_row_of(tbl, n, r->val + 1);
	}
	if (tbl)
		tbl_print(tbl);
}

static bool wanted(const struct status_args *a, const struct rec *r)
{
	return !a->vm || rec_u64(r, "pid") == a->vm;
}

static void show(const struct status_args *a, const struct state *before, const struct policies *ps)
{
	for (int i = 0; i < ps->n; i++)
		if (!a->vm || !ps->p[i].vm || ps->p[i].vm == a->vm)
			show_policy(ps, &ps->p[i]);
	if (!ps->n)
		puts("no policy is loaded");
	if (kill_switch_on())
		puts("the kill switch is thrown: no policy is asked (echo Y > " KILL_SWITCH ")");
	for (int i = 0; i < ps->st.n; i++)
		if (rec_is(&ps->st.rec[i], "vm") && wanted(a, &ps->st.rec[i]))
			show_vm(before, &ps->st, &ps->st.rec[i]);
	for (int t = 1; t < nr_tables; t++)
		for (int i = 0; i < ps->st.n; i++)
			if (of_table(&ps->st.rec[i], &tables[t], "vm") &&
			    wanted(a, &ps->st.rec[i]) &&
			    strcmp(rec_str(&ps->st.rec[i], "policy") ?: "-", "-"))
				show_table(&ps->st, &ps->st.rec[i], &tables[t]);
}

static void json_table(const struct status_args *a, const struct state *now, const struct table *t)
{
	j_open(t->name, '[');
	for (int i = 0; i < now->n; i++) {
		const struct rec *r = &now->rec[i];
		const char *policy = rec_str(r, "policy");

		if (!of_table(r, t, "vm") || !wanted(a, r))
			continue;
		j_open(NULL, '{');
		rec_json(r, " policy vcpus ");
		j_str("policy", policy && strcmp(policy, "-") ? policy : NULL);
		j_open("vcpus", '[');
		while (++r < now->rec + now->n && of_table(r, t, "vcpu")) {
			j_open(NULL, '{');
			rec_json(r, " pid ");
			j_close('}');
		}
		j_close(']');
		j_close('}');
	}
	j_close(']');
}

static void json(const struct status_args *a, const struct state *before, const struct policies *ps)
{
	const struct state *now = &ps->st;

	j_open(NULL, '{');
	j_bool("enabled", !kill_switch_on());
	j_num("interval_ns", a->interval_ms ? now->read_ns - before->read_ns : 0);
	j_open("policies", '[');
	for (int i = 0; i < ps->n; i++) {
		if (a->vm && ps->p[i].vm && ps->p[i].vm != a->vm)
			continue;
		j_open(NULL, '{');
		j_str("instance", ps->p[i].instance);
		rec_json(ps->p[i].rec, "");
		json_pinned(&ps->p[i]);
		json_taken(ps, &ps->p[i]);
		j_close('}');
	}
	j_close(']');
	j_open("vms", '[');
	for (int i = 0; i < now->n; i++) {
		const struct rec *vm = &now->rec[i], *last;

		if (!rec_is(vm, "vm") || !wanted(a, vm))
			continue;
		last = find_vm(before, now, vm);
		j_open(NULL, '{');
		rec_json(vm, " policy vcpus ");
		j_str("policy",
		      strcmp(rec_str(vm, "policy") ?: "-", "-") ? rec_str(vm, "policy") : NULL);
		j_open("vcpus", '[');
		for (const struct rec *r = next_vcpu(now, vm); r; r = next_vcpu(now, r)) {
			struct rate rt = rate(before, now, vm, r, &last);

			j_open(NULL, '{');
			rec_json(r, " pid marked ");
			j_bool("marked", rec_u64(r, "marked"));
			j_num("dirty", dirty(r));
			if (rt.known) {
				if (rt.logged)
					j_real("dirty_per_s", rt.pages);
				else
					j_str("dirty_per_s", NULL);
				j_real("blocked_share", rt.blocked);
			}
			j_close('}');
		}
		j_close(']');
		j_close('}');
	}
	j_close(']');
	for (int t = 1; t < nr_tables; t++)
		json_table(a, now, &tables[t]);
	j_close('}');
}

int cmd_status(int argc, char **argv)
{
	static const char doc[] =
		"Show the policies and, for each VM and vCPU, marks, blocks and dirty pages.\v"
		"NOW (share of time blocked) and PAGES/S are taken over a sample of 200 ms, or "
		"what --interval says. All else is since the first policy was attached.";
	struct status_args a = { .interval_ms = INTERVAL_DEFAULT_MS };
	struct state before = {};
	struct policies ps;
	int ret;

	ret = parse_args(argc, argv, options, parse, "", doc, &a);
	if (ret == OK)
		ret = need_privilege();
	if (ret == OK && a.interval_ms)
		ret = state_read(&before);
	if (ret != OK)
		return ret;
	if (a.interval_ms && (!a.vm || rec_find(&before, "vm", "pid", a.vm))) {
		struct timespec ts = { a.interval_ms / 1000, a.interval_ms % 1000 * 1000000 };

		nanosleep(&ts, NULL);
	}
	ret = policies_read(&ps);
	if (ret != OK)
		return ret;
	if (a.vm && !rec_find(&ps.st, "vm", "pid", a.vm)) {
		ret = need_vm(a.vm);
		return ret != OK ? ret :
				   fail(E_VM, "see kvmext status for all VMs",
					"the kernel knows no VM of process %u", a.vm);
	}
	if (g.json)
		json(&a, &before, &ps);
	else
		show(&a, &before, &ps);
	return OK;
}
