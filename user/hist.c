// SPDX-License-Identifier: GPL-2.0
/* kvmext hist: how long things take in KVM, as histograms. */
#include "hook.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "bpf/hist.skel.h"

#define BAR 40

enum what { W_EXIT, W_INJECT, W_WAKEUP, W_BLOCK, W_NR };

static const struct {
	const char *name;
	const char *about;
	const char *point;
} whats[W_NR] = {
	[W_EXIT] = { "exit", "out of the guest", NULL },
	[W_INJECT] = { "inject", "from the injection of an interrupt to the entry",
		       "kvm_inj_virq" },
	[W_WAKEUP] = { "wakeup", "from waking a halted vCPU until it runs", "kvm_vcpu_wakeup" },
	[W_BLOCK] = { "block", "blocked by a throttle policy", "kvm_throttle_block" },
};

struct hist_args {
	struct run run;
	int what;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	const char *names[W_NR], *near;
	struct hist_args *a = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (a->what >= 0)
			return fail_usage("hist", "'%s' is not expected", arg), EINVAL;
		for (int i = 0; i < W_NR; i++) {
			names[i] = whats[i].name;
			if (!strcmp(arg, names[i]))
				a->what = i;
		}
		if (a->what >= 0)
			return 0;
		near = nearest(arg, names, W_NR);
		return fail(E_USAGE,
			    near ? str("did you mean '%s'?", near) :
				   "there are exit, inject, wakeup and block",
			    "there is no histogram '%s'", arg),
		       EINVAL;
	case ARGP_KEY_END:
		if (a->what < 0)
			return fail_usage("hist", "of what? exit, inject, wakeup or block"), EINVAL;
		if (a->run.reason[0] && a->what != W_EXIT)
			return fail_usage("hist", "--reason is for exits"), EINVAL;
		return 0;
	}
	return run_option(&a->run, key, arg);
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "only this VM, by its VMM's process id", 0 },
	{ "vcpu", OPT_VCPU, "N", 0, "only this vCPU", 0 },
	{ "reason", OPT_REASON, "NAME", 0, "only exits for this reason, such as cpuid; repeatable",
	  0 },
	{ "for", OPT_FOR, "SEC", 0, "end after so many seconds; else with Ctrl-C", 0 },
	{}
};

struct row {
	uint64_t key;
	struct hist h;
};

static int by_sum(const void *a, const void *b)
{
	const struct row *ra = a, *rb = b;

	return (ra->h.sum < rb->h.sum) - (ra->h.sum > rb->h.sum);
}

/* What all CPUs counted, the most time first */
static int collect(int map, struct row *rows)
{
	int cpus = libbpf_num_possible_cpus(), n = 0;
	struct hist *per_cpu;
	uint64_t key, *prev = NULL;

	if (cpus <= 0)
		return 0;
	per_cpu = calloc(cpus, sizeof(*per_cpu));
	if (!per_cpu)
		abort();
	for (; n < HIST_KEYS && !bpf_map_get_next_key(map, prev, &key); prev = &rows[n++].key) {
		struct row *r = &rows[n];

		*r = (struct row){ .key = key };
		if (bpf_map_lookup_elem(map, &key, per_cpu))
			continue;
		for (int c = 0; c < cpus; c++) {
			for (int i = 0; i < HIST_SLOTS; i++)
				r->h.slot[i] += per_cpu[c].slot[i];
			r->h.n += per_cpu[c].n;
			r->h.sum += per_cpu[c].sum;
			if (per_cpu[c].max > r->h.max)
				r->h.max = per_cpu[c].max;
		}
	}
	free(per_cpu);
	qsort(rows, n, sizeof(*rows), by_sum);
	return n;
}

static uint64_t slot_from(int i)
{
	return i ? 1ull << i : 0;
}

static void bounds(const struct hist *h, int *first, int *last)
{
	*first = 0;
	*last = HIST_SLOTS - 1;
	while (*first < HIST_SLOTS - 1 && !h->slot[*first])
		++*first;
	while (*last > *first && !h->slot[*last])
		--*last;
}

static void show(const struct hist_args *a, const struct row *r)
{
	char *mean = duration(r->h.n ? r->h.sum / r->h.n : 0), *max = duration(r->h.max);
	uint64_t top = 1;
	int first, last;

	printf("%s%s%s: %" PRIu64 ", mean %s, longest %s\n", whats[a->what].name,
	       a->what == W_EXIT ? " " : "",
	       a->what == W_EXIT ? exit_name(r->key >> 32, r->key) : "", (uint64_t)r->h.n, mean,
	       max);
	free(mean);
	free(max);
	bounds(&r->h, &first, &last);
	for (int i = first; i <= last; i++)
		if (r->h.slot[i] > top)
			top = r->h.slot[i];
	for (int i = first; i <= last && r->h.n; i++) {
		char *from = duration(slot_from(i));
		char *to = i < HIST_SLOTS - 1 ? duration(slot_from(i + 1)) : str("on");
		int len = (r->h.slot[i] * BAR + top - 1) / top;

		printf("  %9s to %9s %10" PRIu64 "  %.*s\n", from, to, (uint64_t)r->h.slot[i], len,
		       "########################################");
		free(from);
		free(to);
	}
}

static void json(const struct hist_args *a, const struct row *rows, int n, uint64_t lost)
{
	j_open(NULL, '{');
	j_str("what", whats[a->what].name);
	j_real("seconds", run_seconds(&a->run));
	j_num("lost", lost);
	j_open("histograms", '[');
	for (int i = 0; i < n; i++) {
		const struct hist *h = &rows[i].h;
		int first, last;

		j_open(NULL, '{');
		if (a->what == W_EXIT) {
			j_str("reason", exit_name(rows[i].key >> 32, rows[i].key));
			j_num("number", (uint32_t)rows[i].key);
			j_str("isa", rows[i].key >> 32 == ISA_VMX ? "vmx" : "svm");
		}
		j_num("count", h->n);
		j_num("sum_ns", h->sum);
		j_num("max_ns", h->max);
		j_open("buckets", '[');
		bounds(h, &first, &last);
		for (int s = first; s <= last && h->n; s++) {
			j_open(NULL, '{');
			j_num("from_ns", slot_from(s));
			if (s < HIST_SLOTS - 1)
				j_num("to_ns", slot_from(s + 1));
			else
				j_str("to_ns", NULL);
			j_num("count", h->slot[s]);
			j_close('}');
		}
		j_close(']');
		j_close('}');
	}
	j_close(']');
	j_close('}');
}

static int choose(const struct hist_args *a, struct hist_bpf *skel)
{
	const char *how, *point = whats[a->what].point;
	enum hook hook = a->what == W_EXIT ? hook_exit(&how) : HOOK_TP_BTF;
	struct bpf_program *p;

	if (point && !hook_tp_btf(point))
		return fail(E_ENV, "kvmext doctor tells what there is",
			    "this kernel has no tracepoint %s", point);
	if (a->what == W_EXIT && hook == HOOK_NONE)
		return fail(E_ENV, "kvmext doctor tells what there is",
			    "this kernel has no tracepoint kvm_exit");
	bpf_object__for_each_program(p, skel->obj) bpf_program__set_autoload(p, false);
	bpf_program__set_autoload(skel->progs.entry, a->what != W_BLOCK);
	bpf_program__set_autoload(skel->progs.exit_btf, a->what == W_EXIT && hook == HOOK_TP_BTF);
	bpf_program__set_autoload(skel->progs.exit_tp, a->what == W_EXIT && hook == HOOK_TP);
	bpf_program__set_autoload(skel->progs.inject, a->what == W_INJECT);
	bpf_program__set_autoload(skel->progs.waking, a->what == W_WAKEUP);
	bpf_program__set_autoload(skel->progs.wakeup, a->what == W_WAKEUP);
	bpf_program__set_autoload(skel->progs.block, a->what == W_BLOCK);
	memcpy((void *)&skel->rodata->filter, &a->run.filter, sizeof(a->run.filter));
	skel->rodata->want_exit = a->what == W_EXIT;
	skel->rodata->want_inject = a->what == W_INJECT;
	return OK;
}

static int hist(struct hist_args *a)
{
	static struct row rows[HIST_KEYS];
	struct hist_bpf *skel;
	uint64_t lost;
	int n, ret;

	log_clear();
	skel = hist_bpf__open();
	if (!skel)
		return load_error("hist");
	ret = choose(a, skel);
	if (ret == OK && hist_bpf__load(skel))
		ret = load_error("hist");
	if (ret == OK && hist_bpf__attach(skel))
		ret = fail(E_REFUSED, "-v shows why", "cannot attach the programs of hist: %s",
			   strerror(errno));
	if (ret != OK) {
		hist_bpf__destroy(skel);
		return ret;
	}
	run_begin(&a->run);
	while (run_on(&a->run, -1))
		;
	hist_bpf__detach(skel);
	n = collect(bpf_map__fd(skel->maps.hists), rows);
	lost = skel->bss->lost;
	if (g.json) {
		json(a, rows, n, lost);
	} else {
		run_end(&a->run);
		for (int i = 0; i < n; i++)
			show(a, &rows[i]);
		say("%s: time %s, over %.1f s", whats[a->what].name, whats[a->what].about,
		    run_seconds(&a->run));
		if (lost)
			fprintf(stderr, "kvmext: %" PRIu64 " times were not counted\n", lost);
	}
	hist_bpf__destroy(skel);
	return OK;
}

int cmd_hist(int argc, char **argv)
{
	static const char doc[] =
		"Count how long something takes until Ctrl-C or --for, and show a histogram.\v"
		"WHAT is exit (out of the guest, by reason), inject (from the injection of an "
		"interrupt to the entry into the guest), wakeup (from the waking of a halted vCPU's "
		"thread until it runs) or block (by a throttle policy; needs kvm_ext's modules).";
	struct hist_args a = {
		.run = { .cmd = "hist", .filter = { .vcpu = NO_VCPU } },
		.what = -1,
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, "WHAT", doc, &a);
	if (ret != OK)
		return ret;
	ret = run_ready(&a.run);
	return ret == OK ? hist(&a) : ret;
}
