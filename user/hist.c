// SPDX-License-Identifier: GPL-2.0
/* kvmext hist: how long things take in KVM, as histograms. */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "event.h"
#include "exitname.h"
#include "hook.h"
#include "json.h"
#include "log.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "tracer.h"

#include "user/hist.skel.h"

#define BAR 40

enum what { W_EXIT, W_INJECT, W_WAKEUP, W_BLOCK, W_IRQ, W_NR };

static const struct {
	const char *name;
	const char *about;
	enum point_id point;
} whats[W_NR] = {
	[W_EXIT] = { "exit", "out of the guest", POINT_EXIT },
	[W_INJECT] = { "inject", "from the injection of an interrupt to the entry", POINT_INJECT },
	[W_WAKEUP] = { "wakeup", "from waking a halted vCPU until it runs", POINT_WAKEUP },
	[W_BLOCK] = { "block", "blocked by a throttle policy", POINT_BLOCK },
	[W_IRQ] = { "irq", "from the coming of an interrupt until its vCPU enters the guest",
		    POINT_ACCEPT },
};

static const char *const irq_states[IRQ_STATES] = {
	[IRQ_GUEST] = "in guest", [IRQ_KVM] = "in KVM",		 [IRQ_HALTED] = "halted",
	[IRQ_READY] = "ready",	  [IRQ_PREEMPTED] = "preempted", [IRQ_USER] = "in VMM",
};

struct hist_args {
	struct tracer tracer;
	int what;
	bool per_vcpu;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	const char *names[W_NR], *near;
	struct hist_args *a = state->input;

	switch (key) {
	case OPT_PER_VCPU:
		a->per_vcpu = true;
		return 0;
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
				   "there are exit, inject, wakeup, block and irq",
			    "there is no histogram '%s'", arg),
		       EINVAL;
	case ARGP_KEY_END:
		if (a->what < 0)
			return fail_usage("hist", "of what? exit, inject, wakeup, block or irq"),
			       EINVAL;
		if (a->tracer.reason[0] && a->what != W_EXIT)
			return fail_usage("hist", "--reason is for exits"), EINVAL;
		/* One that does not run and one that does have nothing in common. */
		a->per_vcpu |= a->what == W_IRQ;
		return 0;
	}
	return tracer_option(&a->tracer, key, arg);
}

static const struct argp_option options[] = { TRACER_OPTIONS,
					      { "per-vcpu", OPT_PER_VCPU, NULL, 0,
						"a histogram for each vCPU", 0 },
					      {} };

/**
 * struct row - a histogram
 * @key: of what
 * @came: with irq: interrupts, also those that came while another waited
 * @h: times
 */
struct row {
	struct hist_key key;
	uint64_t came;
	struct hist h;
};

/* vCPU by vCPU, the most time first; without --per-vcpu all are of one */
static int by_sum(const void *a, const void *b)
{
	const struct row *ra = a, *rb = b;

	if (ra->key.vm != rb->key.vm)
		return ra->key.vm < rb->key.vm ? -1 : 1;
	if (ra->key.vcpu != rb->key.vcpu)
		return ra->key.vcpu < rb->key.vcpu ? -1 : 1;
	return (ra->h.sum < rb->h.sum) - (ra->h.sum > rb->h.sum);
}

struct rows {
	struct row *row;
	int n;
	int room;
};

static struct row *add_row(struct rows *rows, const struct hist_key *key)
{
	struct row *r;

	if (rows->n == rows->room) {
		rows->room = rows->room ? 2 * rows->room : 64;
		rows->row = realloc(rows->row, rows->room * sizeof(*rows->row));
		if (!rows->row)
			abort();
	}
	r = &rows->row[rows->n++];
	*r = (struct row){ .key = *key };
	return r;
}

/* What all CPUs counted, together with --per-vcpu, else each for itself */
static void collect(const struct bpf_map *map, struct rows *rows)
{
	bool per_cpu = bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_HASH;
	int cpus = per_cpu ? libbpf_num_possible_cpus() : 1, fd = bpf_map__fd(map);
	struct hist_key key, *prev = NULL;
	struct hist *part;

	part = calloc(cpus > 0 ? cpus : 1, sizeof(*part));
	if (!part)
		abort();
	for (; !bpf_map_get_next_key(fd, prev, &key); prev = &key) {
		struct row *r;

		if (bpf_map_lookup_elem(fd, &key, part))
			continue;
		r = add_row(rows, &key);
		for (int c = 0; c < cpus; c++) {
			for (int i = 0; i < HIST_SLOTS; i++)
				r->h.slot[i] += part[c].slot[i];
			r->h.n += part[c].n;
			r->h.sum += part[c].sum;
			if (part[c].max > r->h.max)
				r->h.max = part[c].max;
		}
	}
	free(part);
}

static int by_key(const void *a, const void *b)
{
	return memcmp(&((const struct row *)a)->key, &((const struct row *)b)->key,
		      sizeof(struct hist_key));
}

/* How many interrupts came, also in states in which there was no first one */
static void collect_irqs(int map, struct rows *rows)
{
	struct hist_key key, *prev = NULL;
	int known = rows->n;
	struct irq_vcpu v;

	if (known)
		qsort(rows->row, known, sizeof(*rows->row), by_key);
	for (; !bpf_map_get_next_key(map, prev, &key); prev = &key) {
		if (bpf_map_lookup_elem(map, &key, &v))
			continue;
		for (int s = 0; s < IRQ_STATES; s++) {
			struct row want = { .key = {
						    .reason = s, .vm = key.vm, .vcpu = key.vcpu } };
			struct row *r;

			if (!v.came[s])
				continue;
			r = known ? bsearch(&want, rows->row, known, sizeof(want), by_key) : NULL;
			if (!r)
				r = add_row(rows, &want.key);
			r->came = v.came[s];
		}
	}
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

	if (a->per_vcpu)
		printf("%u/%d ", r->key.vm, r->key.vcpu);
	if (a->what == W_IRQ)
		printf("irq, %s: %" PRIu64 " came, %" PRIu64 " as the first, mean %s, longest %s\n",
		       irq_states[r->key.reason % IRQ_STATES], r->came, (uint64_t)r->h.n, mean,
		       max);
	else
		printf("%s%s%s: %" PRIu64 ", mean %s, longest %s\n", whats[a->what].name,
		       a->what == W_EXIT ? " " : "",
		       a->what == W_EXIT ? exit_name(r->key.reason >> 32, r->key.reason) : "",
		       (uint64_t)r->h.n, mean, max);
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

static void json(const struct hist_args *a, const struct row *rows, int n,
		 const struct hist_bpf *skel)
{
	static const char *const isas[] = {
		[ISA_NONE] = "user", [ISA_VMX] = "vmx", [ISA_SVM] = "svm"
	};

	j_open(NULL, '{');
	j_str("what", whats[a->what].name);
	j_real("seconds", tracer_seconds(&a->tracer));
	j_num("lost", skel->bss->lost);
	if (a->what == W_EXIT)
		j_bool("silent", skel->bss->silent);
	if (a->what == W_IRQ)
		j_num("stray", skel->bss->stray);
	j_open("histograms", '[');
	for (int i = 0; i < n; i++) {
		uint64_t reason = rows[i].key.reason;
		const struct hist *h = &rows[i].h;
		int first, last;

		j_open(NULL, '{');
		if (a->what == W_EXIT) {
			j_str("reason", exit_name(reason >> 32, reason));
			j_num("number", (uint32_t)reason);
			j_str("isa", reason >> 32 < ARRAY_SIZE(isas) ? isas[reason >> 32] : NULL);
		}
		if (a->what == W_IRQ) {
			j_str("state", irq_states[reason % IRQ_STATES]);
			j_num("came", rows[i].came);
		}
		if (a->per_vcpu) {
			j_num("vm", rows[i].key.vm);
			j_num("vcpu", rows[i].key.vcpu);
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
	enum point_id point = whats[a->what].point;
	const char *how;
	enum hook hook = a->what == W_EXIT ? hook_exit(&how) : HOOK_TP_BTF;
	struct bpf_program *p;
	bool svm, vmx;

	if (a->what != W_EXIT && !hook_has(point))
		return fail(E_ENV, "kvmext doctor tells what there is",
			    "this kernel has no tracepoint %s", points[point].name);
	if (a->what == W_EXIT && hook == HOOK_NONE)
		return fail(E_ENV, "kvmext doctor tells what there is",
			    "this kernel has no tracepoint %s", points[point].name);
	bpf_object__for_each_program(p, skel->obj) bpf_program__set_autoload(p, false);
	bpf_program__set_autoload(skel->progs.entry, a->what != W_BLOCK);
	bpf_program__set_autoload(skel->progs.exit_btf, a->what == W_EXIT && hook == HOOK_TP_BTF);
	bpf_program__set_autoload(skel->progs.exit_tp, a->what == W_EXIT && hook == HOOK_TP);
	bpf_program__set_autoload(skel->progs.fpu, a->what == W_EXIT && foreign_kvm());
	bpf_program__set_autoload(skel->progs.inject, a->what == W_INJECT);
	bpf_program__set_autoload(skel->progs.waking, a->what == W_WAKEUP);
	bpf_program__set_autoload(skel->progs.wakeup, a->what == W_WAKEUP);
	bpf_program__set_autoload(skel->progs.block, a->what == W_BLOCK);
	/* These know the vCPU, whatever context the interrupt comes from. */
	svm = a->what == W_IRQ && hook_has(POINT_SVM_IRQ);
	vmx = a->what == W_IRQ && hook_has(POINT_VMX_IRQ);
	bpf_program__set_autoload(skel->progs.svm_irq, svm);
	bpf_program__set_autoload(skel->progs.vmx_irq, vmx);
	bpf_program__set_autoload(skel->progs.accept, a->what == W_IRQ && !svm && !vmx);
	memcpy((void *)&skel->rodata->filter, &a->tracer.filter, sizeof(a->tracer.filter));
	skel->rodata->want_exit = a->what == W_EXIT;
	skel->rodata->want_inject = a->what == W_INJECT;
	skel->rodata->want_irq = a->what == W_IRQ;
	skel->rodata->per_vcpu = a->per_vcpu;
	skel->rodata->foreign = foreign_kvm();
	if (a->per_vcpu) {
		bpf_map__set_type(skel->maps.hists, BPF_MAP_TYPE_HASH);
		bpf_map__set_map_flags(skel->maps.hists, BPF_F_NO_PREALLOC);
		bpf_map__set_max_entries(skel->maps.hists, HIST_VCPU_KEYS);
	}
	return OK;
}

static int hist(struct hist_args *a)
{
	struct rows rows = {};
	struct hist_bpf *skel;
	int ret;

	log_clear();
	skel = hist_bpf__open();
	if (!skel)
		return tracer_load_error("hist");
	ret = choose(a, skel);
	if (ret == OK && hist_bpf__load(skel))
		ret = tracer_load_error("hist");
	if (ret == OK && hist_bpf__attach(skel))
		ret = fail(E_REFUSED, "-v shows why", "cannot attach the programs of hist: %s",
			   strerror(errno));
	if (ret != OK) {
		hist_bpf__destroy(skel);
		return ret;
	}
	tracer_begin(&a->tracer);
	while (tracer_wait(&a->tracer, -1))
		;
	hist_bpf__detach(skel);
	collect(skel->maps.hists, &rows);
	if (a->what == W_IRQ)
		collect_irqs(bpf_map__fd(skel->maps.irqs), &rows);
	if (rows.n)
		qsort(rows.row, rows.n, sizeof(*rows.row), by_sum);
	if (g.json) {
		json(a, rows.row, rows.n, skel);
	} else {
		tracer_end(&a->tracer);
		for (int i = 0; i < rows.n; i++)
			show(a, &rows.row[i]);
		say("%s: time %s, over %.1f s", whats[a->what].name, whats[a->what].about,
		    tracer_seconds(&a->tracer));
		tracer_silent(&a->tracer, skel->bss->silent);
		if (skel->bss->stray)
			fprintf(stderr,
				"kvmext: %" PRIu64
				" interrupts came from elsewhere, and their vCPU is "
				"not known\n",
				(uint64_t)skel->bss->stray);
		if (skel->bss->lost)
			fprintf(stderr, "kvmext: %" PRIu64 " times were not counted\n",
				(uint64_t)skel->bss->lost);
	}
	free(rows.row);
	hist_bpf__destroy(skel);
	return OK;
}

int cmd_hist(int argc, char **argv)
{
	static const char doc[] =
		"Count how long something takes until Ctrl-C or --for, and show a histogram.\v"
		"WHAT is exit (out of the guest, by reason), inject (from the injection of an "
		"interrupt to the entry into the guest), wakeup (from the waking of a halted vCPU's "
		"thread until it runs), block (by a throttle policy; needs kvm_ext's modules) or irq "
		"(from the coming of an interrupt until its vCPU enters the guest, for each vCPU by "
		"what it did when the interrupt came).";
	struct hist_args a = {
		.tracer = { .cmd = "hist", .filter = { .vcpu = NO_VCPU } },
		.what = -1,
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, "WHAT", doc, &a);
	if (ret != OK)
		return ret;
	ret = tracer_ready(&a.tracer);
	return ret == OK ? hist(&a) : ret;
}
