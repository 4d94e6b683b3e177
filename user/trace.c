// SPDX-License-Identifier: GPL-2.0
/* kvmext trace: what KVM does, event by event. */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "event.h"
#include "exitname.h"
#include "hook.h"
#include "json.h"
#include "log.h"
#include "out.h"
#include "perfetto.h"
#include "table.h"
#include "text.h"
#include "tracer.h"

#include "user/trace.skel.h"

#define BUFFER_KIB 4096 /* of all CPUs together, but so much each at least: */
#define BUFFER_KIB_CPU 256
#define BUFFER_KIB_MAX (1 << 20)

enum group { G_EXIT, G_FAULT, G_DIRTY, G_THROTTLE, G_IRQ, G_ROUTE, G_POLICY, G_NR };

static const char *const group_names[G_NR] = {
	[G_EXIT] = "exit", [G_FAULT] = "fault", [G_DIRTY] = "dirty",   [G_THROTTLE] = "throttle",
	[G_IRQ] = "irq",   [G_ROUTE] = "route", [G_POLICY] = "policy",
};

static const struct {
	const char *name;
	enum group group;
} types[EV_NR] = {
	[EV_EXIT] = { "exit", G_EXIT },
	[EV_FAULT] = { "fault", G_FAULT },
	[EV_DIRTY] = { "dirty", G_DIRTY },
	[EV_MARK] = { "mark", G_THROTTLE },
	[EV_ASK] = { "ask", G_THROTTLE },
	[EV_BLOCK] = { "block", G_THROTTLE },
	[EV_DIRTY_LOG] = { "dirty_log", G_THROTTLE },
	[EV_INJECT] = { "inject", G_IRQ },
	[EV_EXCEPTION] = { "exception", G_IRQ },
	[EV_ACCEPT] = { "accept", G_IRQ },
	[EV_MSI] = { "msi", G_IRQ },
	[EV_WAKEUP] = { "wakeup", G_IRQ },
	[EV_ROUTE] = { "route", G_ROUTE },
	[EV_RETARGET] = { "retarget", G_ROUTE },
	[EV_ATTACH] = { "attach", G_POLICY },
	[EV_UPDATE] = { "update", G_POLICY },
	[EV_DETACH] = { "detach", G_POLICY },
	[EV_EJECT] = { "eject", G_POLICY },
	[EV_TAKE] = { "take", G_POLICY },
};

/* Programs but those of kvm_entry and kvm_exit, and where each is attached */
static const struct {
	const char *prog;
	enum group group;
	enum point_id point;
} progs[] = {
	{ "user_exit", G_EXIT, POINT_USER_EXIT },
	{ "fpu", G_EXIT, POINT_FPU },
	{ "thread_exit", G_EXIT, POINT_THREAD_EXIT },
	{ "fault", G_FAULT, POINT_FAULT },
	{ "dirty_fentry", G_DIRTY, POINT_DIRTY },
	{ "mark", G_THROTTLE, POINT_MARK },
	{ "ask", G_THROTTLE, POINT_ASK },
	{ "block", G_THROTTLE, POINT_BLOCK },
	{ "dirty_log", G_THROTTLE, POINT_DIRTY_LOG },
	{ "inject", G_IRQ, POINT_INJECT },
	{ "exception", G_IRQ, POINT_EXCEPTION },
	{ "accept", G_IRQ, POINT_ACCEPT },
	{ "msi", G_IRQ, POINT_MSI },
	{ "wakeup", G_IRQ, POINT_WAKEUP },
	{ "route", G_ROUTE, POINT_ROUTE },
	{ "retarget", G_ROUTE, POINT_RETARGET },
	{ "attach", G_POLICY, POINT_ATTACH },
	{ "update", G_POLICY, POINT_UPDATE },
	{ "detach", G_POLICY, POINT_DETACH },
	{ "eject", G_POLICY, POINT_EJECT },
	{ "take", G_POLICY, POINT_TAKE },
};

/**
 * struct trace_args - what kvmext trace is asked for, and how far it is
 * @tracer: what trace and hist have in common
 * @groups: bits of the groups of events wanted
 * @perfetto: file to write, or NULL
 * @buffer_kib: size of each CPU's buffer between kernel and tool
 * @shown: events that came through
 * @per_group: the same, of each group
 * @begun: when it began
 */
struct trace_args {
	struct tracer tracer;
	unsigned int groups;
	const char *perfetto;
	unsigned long buffer_kib;
	uint64_t shown;
	uint64_t per_group[G_NR];
	uint64_t begun;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct trace_args *t = state->input;
	const char *near;
	size_t len;
	char *end;

	switch (key) {
	case OPT_PERFETTO:
		t->perfetto = arg;
		return 0;
	case OPT_BUFFER:
		t->buffer_kib = strtoul(arg, &end, 10);
		if (*end || end == arg || t->buffer_kib < 4 || t->buffer_kib > BUFFER_KIB_MAX ||
		    t->buffer_kib & (t->buffer_kib - 1))
			return fail_usage("trace", "'%s' is no power of two from 4 to %d", arg,
					  BUFFER_KIB_MAX),
			       EINVAL;
		return 0;
	case ARGP_KEY_ARG:
		/* "exits" is as good as "exit". */
		len = strlen(arg);
		if (len && arg[len - 1] == 's')
			len--;
		for (int i = 0; i < G_NR; i++)
			if (strlen(group_names[i]) == len && !strncmp(arg, group_names[i], len)) {
				t->groups |= 1 << i;
				return 0;
			}
		near = nearest(arg, group_names, G_NR);
		return fail(E_USAGE,
			    near ? str("did you mean '%s'?", near) :
				   "there are exit, fault, dirty, throttle, irq, route and policy",
			    "there is no event '%s'", arg),
		       EINVAL;
	case ARGP_KEY_END:
		if (!t->tracer.reason[0])
			return 0;
		if (t->groups && !(t->groups & 1 << G_EXIT))
			return fail_usage("trace",
					  "--reason is for exits, which are not asked for"),
			       EINVAL;
		if (!t->groups)
			t->groups = 1 << G_EXIT;
		return 0;
	}
	return tracer_option(&t->tracer, key, arg);
}

static const struct argp_option options[] = {
	TRACER_OPTIONS,
	{ "min-us", OPT_MIN_US, "N", 0, "only what took N microseconds or more", 0 },
	{ "perfetto", OPT_PERFETTO, "FILE", 0,
	  "write a trace for ui.perfetto.dev and chrome://tracing", 0 },
	{ "buffer", OPT_BUFFER, "KIB", 0, "for events that wait for the tool, for each CPU", 0 },
	{}
};

/* --- an event in words --- */

enum kind { TEXT, NUM, HEX, NS };

struct field {
	const char *key;
	enum kind kind;
	const char *text;
	int64_t num;
};

#define FIELDS_MAX 8

static const char *one_of(const char *const *names, size_t n, uint64_t i)
{
	return i < n ? names[i] : "?";
}
#define ONE_OF(names, i) one_of(names, ARRAY_SIZE(names), i)

static int describe(const struct event *ev, struct field f[FIELDS_MAX])
{
	static const char *const marks[] = { "nobody", "policy", "user", "policy and user" };
	static const char *const ends[] = { "timer", "signal", "kick", "off" };
	static const char *const log_events[] = { "start", "stop", "harvest", "ring-reset",
						  "clear" };
	static const char *const modes[] = { "fixed", "lowest", "smi",	"3",
					     "nmi",   "init",	"sipi", "extint" };
	static const char *const kinds[] = { "none", "policy", "answers", "slow" };
	const struct policy_event *pe = (const void *)ev;
	const uint64_t *a = (const uint64_t *)ev->arg;
	int n = 0;

#define FIELD(k, t, s, v) (f[n++] = (struct field){ .key = k, .kind = t, .text = s, .num = v })
	switch (ev->type) {
	case EV_EXIT:
		FIELD("reason", TEXT, exit_name(a[0] >> 32, a[0]), 0);
		if (a[1] == USER_NO_REASON)
			FIELD("user", TEXT, "signal", 0);
		else if (a[1] && a[0] >> 32 != ISA_NONE)
			FIELD("user", TEXT, exit_name(ISA_NONE, a[1] - 1), 0);
		break;
	case EV_FAULT:
		FIELD("gpa", HEX, NULL, a[0]);
		FIELD("error", HEX, NULL, a[1]);
		FIELD("access", TEXT, a[1] & 2 ? "write" : a[1] & 16 ? "execute" : "read", 0);
		break;
	case EV_DIRTY:
		FIELD("gfn", HEX, NULL, a[0]);
		FIELD("slot", NUM, NULL, a[1]);
		break;
	case EV_MARK:
		FIELD("on", NUM, NULL, a[1]);
		FIELD("by", TEXT, ONE_OF(marks, a[0]), 0);
		break;
	case EV_ASK:
		FIELD("answer", NS, NULL, a[1]);
		FIELD("granted", NS, NULL, a[2]);
		FIELD("policy", NUM, NULL, a[0]);
		break;
	case EV_BLOCK:
		FIELD("granted", NS, NULL, a[1]);
		FIELD("end", TEXT, ONE_OF(ends, a[2]), 0);
		FIELD("policy", NUM, NULL, a[0]);
		break;
	case EV_DIRTY_LOG:
		FIELD("kind", TEXT, ONE_OF(log_events, a[0]), 0);
		FIELD("slot", NUM, NULL, a[1]);
		FIELD("dirty", NUM, NULL, a[2]);
		FIELD("pages", NUM, NULL, a[3]);
		break;
	case EV_INJECT:
		FIELD("vector", NUM, NULL, a[0]);
		if (a[1])
			FIELD("soft", NUM, NULL, 1);
		if (a[2])
			FIELD("again", NUM, NULL, 1);
		break;
	case EV_EXCEPTION:
		FIELD("vector", NUM, NULL, a[0]);
		if (a[1])
			FIELD("error", HEX, NULL, a[2]);
		if (a[3])
			FIELD("again", NUM, NULL, 1);
		break;
	case EV_ACCEPT:
		FIELD("vector", NUM, NULL, a[0]);
		FIELD("mode", TEXT, ONE_OF(modes, a[1] >> 8 & 7), 0);
		break;
	case EV_MSI:
		FIELD("vector", NUM, NULL, a[1] & 0xff);
		FIELD("mode", TEXT, ONE_OF(modes, a[1] >> 8 & 7), 0);
		FIELD("dest", NUM, NULL, a[0] >> 12 & 0xff);
		FIELD("address", HEX, NULL, a[0]);
		break;
	case EV_WAKEUP:
		FIELD("slept", NUM, NULL, a[0]);
		FIELD("valid", NUM, NULL, a[1]);
		break;
	case EV_ROUTE:
		FIELD("vector", NUM, NULL, (uint32_t)a[1]);
		FIELD("candidates", NUM, NULL, a[1] >> 32);
		FIELD("answer", NUM, NULL, (int64_t)a[2]);
		FIELD("own", NUM, NULL, (int64_t)a[3]);
		FIELD("policy", NUM, NULL, a[0]);
		break;
	case EV_RETARGET:
		FIELD("vector", NUM, NULL, a[1]);
		FIELD("host_irq", NUM, NULL, a[0]);
		FIELD("was", NUM, NULL, (int64_t)a[2]);
		break;
	case EV_EJECT:
	case EV_TAKE:
		FIELD("kind", TEXT, ONE_OF(kinds, a[2]), 0);
		if (ev->type == EV_EJECT)
			FIELD("code", NUM, NULL, a[3]);
		FIELD("message", TEXT, pe->msg, 0);
		/* fall through */
	default:
		FIELD("name", TEXT, pe->name, 0);
		FIELD("table", TEXT, pe->table, 0);
		FIELD("policy", NUM, NULL, a[0]);
	}
#undef FIELD
	return n;
}

static void show_json(const struct event *ev, const struct field *f, int n)
{
	j_open(NULL, '{');
	j_num("ts_ns", ev->ts);
	j_str("event", types[ev->type].name);
	if (ev->vm)
		j_num("vm", ev->vm);
	else
		j_str("vm", NULL);
	if (ev->vcpu != NO_VCPU)
		j_num("vcpu", ev->vcpu);
	else
		j_str("vcpu", NULL);
	if (ev->dur != NO_DUR)
		j_num("ns", ev->dur);
	for (int i = 0; i < n; i++) {
		char *key = f[i].kind == NS ? str("%s_ns", f[i].key) : NULL;

		if (f[i].kind == TEXT)
			j_str(f[i].key, f[i].text);
		else
			j_num(key ?: f[i].key,
			      f[i].kind == HEX ? (s128)(uint64_t)f[i].num : f[i].num);
		free(key);
	}
	j_close('}');
}

static void show_text(const struct trace_args *t, const struct event *ev, const struct field *f,
		      int n)
{
	int64_t since = (int64_t)(ev->ts - t->begun) / 1000, us = since < 0 ? -since : since;
	char who[32] = "-", d[DURATION_LEN] = "", when[32], *text;

	if (ev->vm && ev->vcpu != NO_VCPU)
		snprintf(who, sizeof(who), "%u/%d", ev->vm, ev->vcpu);
	else if (ev->vm)
		snprintf(who, sizeof(who), "%u", ev->vm);
	else if (ev->vcpu != NO_VCPU)
		snprintf(who, sizeof(who), "-/%d", ev->vcpu);
	if (ev->dur != NO_DUR)
		duration_in(d, sizeof(d), ev->dur);
	else if (ev->type == EV_EXIT)
		strcpy(d, "-");
	snprintf(when, sizeof(when), "%s%" PRId64 ".%06" PRId64, since < 0 ? "-" : "", us / 1000000,
		 us % 1000000);
	printf("%12s %-10s %-9s %9s", when, who, types[ev->type].name, d);
	for (int i = 0; i < n; i++) {
		/* The first of some kinds needs no key. */
		const char *key = i || f[i].kind != TEXT ? f[i].key : "", *eq = *key ? "=" : "";
		const char *gap = i ? " " : "  ";

		switch (f[i].kind) {
		case TEXT:
			if (ev->type < EV_ATTACH) {
				printf("%s%s%s%s", gap, key, eq, f[i].text);
				break;
			}
			/* A policy's name and message are its own idea. */
			text = str("%s", f[i].text);
			printable(text, "");
			printf("%s%s%s%s", gap, key, eq, text);
			free(text);
			break;
		case NUM:
			printf("%s%s=%" PRId64, gap, key, f[i].num);
			break;
		case HEX:
			printf("%s%s=0x%" PRIx64, gap, key, f[i].num);
			break;
		case NS:
			if (f[i].num < 0)
				printf("%s%s=%" PRId64 " ns", gap, key, f[i].num);
			else
				printf("%s%s=%s", gap, key, duration_in(d, sizeof(d), f[i].num));
		}
	}
	putchar('\n');
}

static void show_perfetto(const struct event *ev, const struct field *f, int n)
{
	const char *name = types[ev->type].name;
	char args[512] = "";
	size_t len = 0;

	if (ev->type == EV_EXIT)
		name = f[0].text;
	for (int i = 0; i < n && len < sizeof(args); i++) {
		len += snprintf(args + len, sizeof(args) - len, "%s\"%s\":", i ? "," : "",
				f[i].key);
		if (len >= sizeof(args))
			break;
		if (f[i].kind != TEXT) {
			len += snprintf(args + len, sizeof(args) - len,
					f[i].kind == HEX ? "\"0x%" PRIx64 "\"" : "%" PRId64,
					f[i].num);
			continue;
		}
		/* Quotes and the like have no place in names; a policy's message may have them. */
		len += snprintf(args + len, sizeof(args) - len, "\"%s", f[i].text);
		for (char *p = args + (len < sizeof(args) ? len - strlen(f[i].text) : 0);
		     len < sizeof(args) && *p; p++)
			if (*p == '"' || *p == '\\' || *p < ' ' || *p > '~')
				*p = '?';
		if (len < sizeof(args))
			len += snprintf(args + len, sizeof(args) - len, "\"");
	}
	perfetto_event(ev, group_names[types[ev->type].group], name,
		       len < sizeof(args) ? args : "");
}

static void on_event(struct trace_args *t, const struct event *ev)
{
	struct field f[FIELDS_MAX];
	struct event copy;
	int n;

	/* Sent from an interrupt or a worker: whose process that is says nothing. */
	if ((ev->type == EV_ACCEPT || ev->type == EV_MSI) && !t->tracer.filter.vm &&
	    !is_vmm(ev->vm)) {
		copy = *ev;
		copy.vm = 0;
		ev = &copy;
	}
	n = describe(ev, f);
	t->shown++;
	t->per_group[types[ev->type].group]++;
	if (t->perfetto)
		show_perfetto(ev, f, n);
	else if (g.json)
		show_json(ev, f, n);
	else
		show_text(t, ev, f, n);
}

/* --- the buffers --- */

/*
 * Each CPU has one, in which its events are in order.  What they hold is put together
 * and sorted; an event that came later than the looking began waits for the next time, as
 * others that came before it may not have been seen yet.
 */
struct waiting {
	uint64_t at; /* when it was written: its end */
	uint64_t nr; /* in this order, of the same moment */
	union {
		struct event ev;
		struct policy_event policy;
	};
};

static struct waiting *waiting;
static size_t nr_waiting, max_waiting;
static bool in_order = true; /* as far as they are sorted anyway */

static int on_data(void *ctx, void *data, size_t size)
{
	static uint64_t nr;
	const struct event *ev = data;
	struct waiting *w;

	(void)ctx;
	if (size < sizeof(*ev) || size > sizeof(w->policy) || ev->type >= EV_NR)
		return 0;
	if (nr_waiting == max_waiting) {
		max_waiting = max_waiting ? 2 * max_waiting : 1024;
		waiting = realloc(waiting, max_waiting * sizeof(*waiting));
		if (!waiting)
			abort();
	}
	w = &waiting[nr_waiting++];
	memcpy(&w->policy, data, size);
	w->at = ev->ts + (ev->dur == NO_DUR ? 0 : ev->dur);
	w->nr = nr++;
	if (nr_waiting > 1 && w->at < w[-1].at)
		in_order = false;
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct waiting *x = a, *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->nr < y->nr ? -1 : 1;
}

static void consume(struct trace_args *t, struct ring_buffer *ring, bool last)
{
	uint64_t until = last ? UINT64_MAX : clock_ns();
	size_t i;

	ring_buffer__consume(ring);
	if (!in_order)
		qsort(waiting, nr_waiting, sizeof(*waiting), by_time);
	in_order = true;
	for (i = 0; i < nr_waiting && waiting[i].at <= until; i++)
		on_event(t, &waiting[i].ev);
	nr_waiting -= i;
	memmove(waiting, waiting + i, nr_waiting * sizeof(*waiting));
}

/* A buffer for each CPU */
static struct ring_buffer *make_rings(const struct trace_args *t, const struct trace_bpf *skel)
{
	struct ring_buffer *ring = NULL;

	for (int cpu = 0; cpu < libbpf_num_possible_cpus(); cpu++) {
		int fd = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, t->buffer_kib * 1024,
					NULL);
		int err = fd < 0 ? fd :
				   bpf_map_update_elem(bpf_map__fd(skel->maps.rings), &cpu, &fd, 0);

		if (!err && !ring) {
			ring = ring_buffer__new(fd, on_data, NULL, NULL);
			err = ring ? 0 : -errno;
		} else if (!err) {
			err = ring_buffer__add(ring, fd, on_data, NULL);
		}
		/* The map and libbpf's mapping keep it. */
		if (fd >= 0 && err)
			close(fd);
		if (err) {
			ring_buffer__free(ring);
			errno = -err;
			return NULL;
		}
	}
	return ring;
}

/* --- the programs --- */

/**
 * struct lack - events that there will be none of
 * @group: of this kind
 * @all: of this kind none at all
 * @absent: what this kernel lacks, or what could not be attached to
 * @why: it could not; else NULL
 */
struct lack {
	enum group group;
	bool all;
	char *absent;
	const char *why;
};

/* With --json, until the line that is the first is written */
static struct lack lacks[G_NR + ARRAY_SIZE(progs) + 3];
static int nr_lacks;

static void missing(enum group group, bool all, char *absent, const char *why)
{
	if (g.json)
		lacks[nr_lacks++] = (struct lack){ group, all, absent, why };
	else if (why)
		fprintf(stderr, "kvmext: cannot attach to %s: %s\n", absent, why);
	else
		fprintf(stderr, "kvmext: %s %s events: this kernel lacks %s\n",
			all ? "no" : "not all", group_names[group], absent);
}

static void begin_json(const struct trace_args *t)
{
	j_open(NULL, '{');
	j_open("begin", '{');
	j_num("ts_ns", t->begun);
	j_close('}');
	j_close('}');
	for (int i = 0; i < nr_lacks; i++) {
		j_open(NULL, '{');
		j_open("missing", '{');
		j_str("event", group_names[lacks[i].group]);
		j_bool("all", lacks[i].all);
		j_str("points", lacks[i].absent);
		j_str("error", lacks[i].why);
		j_close('}');
		j_close('}');
	}
}

/* choose - the programs to load; what is not there is said, once for each kind of event */
static unsigned int choose(const struct trace_args *t, struct trace_bpf *skel, enum hook exit_hook)
{
	unsigned int have = 0;
	bool named_threads;

	for (int grp = 0; grp < G_NR; grp++) {
		char *absent = NULL;
		bool any = false;

		if (!(t->groups & 1 << grp))
			continue;
		if (grp == G_EXIT) {
			any = exit_hook != HOOK_NONE;
			if (!any)
				absent = str("tracepoint %s", points[POINT_EXIT].name);
		}
		for (size_t i = 0; i < ARRAY_SIZE(progs); i++) {
			const struct point *point = &points[progs[i].point];
			struct bpf_program *p;
			bool there;

			if (progs[i].group != (enum group)grp)
				continue;
			p = bpf_object__find_program_by_name(skel->obj, progs[i].prog);
			there = hook_has(progs[i].point);
			/* What only a KVM of its own kind needs */
			if (p == skel->progs.fpu && !foreign_kvm())
				continue;
			bpf_program__set_autoload(p, there && (grp != G_EXIT || any));
			if (there && grp != G_EXIT)
				any = true;
			else if (!there)
				absent = str("%s%s%s %s", absent ?: "", absent ? ", " : "",
					     point->kind == FUNCTION ? "fentry for" : "tracepoint",
					     point->name);
		}
		if (absent)
			missing(grp, !any, absent, NULL);
		if (any)
			have |= 1 << grp;
	}
	named_threads = have & (1 << G_EXIT | 1 << G_DIRTY | 1 << G_IRQ);
	bpf_program__set_autoload(skel->progs.entry, named_threads);
	bpf_program__set_autoload(skel->progs.exit_btf,
				  have & 1 << G_EXIT && exit_hook == HOOK_TP_BTF);
	bpf_program__set_autoload(skel->progs.exit_tp, have & 1 << G_EXIT && exit_hook == HOOK_TP);
	return have;
}

static struct trace_bpf *open_skel(const struct trace_args *t)
{
	struct trace_bpf *skel = trace_bpf__open();
	struct bpf_program *p;

	if (!skel)
		return NULL;
	bpf_object__for_each_program(p, skel->obj) bpf_program__set_autoload(p, false);
	memcpy((void *)&skel->rodata->filter, &t->tracer.filter, sizeof(t->tracer.filter));
	skel->rodata->foreign = foreign_kvm();
	skel->rodata->want_exit = t->groups & 1 << G_EXIT;
	skel->rodata->wake_bytes = t->buffer_kib * 1024 / 4;
	bpf_map__set_max_entries(skel->maps.rings, libbpf_num_possible_cpus());
	return skel;
}

/* Entries first: an exit is of use only if the entry after it is seen. */
static struct bpf_link *links[ARRAY_SIZE(progs) + 3];
static int nr_links;

/* The programs of kvm_entry and kvm_exit are those of exits. */
static enum group group_of(const char *prog)
{
	for (size_t i = 0; i < ARRAY_SIZE(progs); i++)
		if (!strcmp(progs[i].prog, prog))
			return progs[i].group;
	return G_EXIT;
}

static int attach(struct trace_bpf *skel)
{
	struct bpf_program *p;

	/* clang-format off */
	bpf_object__for_each_program(p, skel->obj) {
		/* clang-format on */
		if (!bpf_program__autoload(p))
			continue;
		links[nr_links] = bpf_program__attach(p);
		if (links[nr_links])
			nr_links++;
		else
			missing(group_of(bpf_program__name(p)), false,
				str("%s", bpf_program__section_name(p)),
				str("%s", strerror(errno)));
	}
	return nr_links;
}

static void detach(void)
{
	while (nr_links)
		bpf_link__destroy(links[--nr_links]);
}

static void finish(const struct trace_args *t, const struct trace_bpf *skel)
{
	uint64_t lost[G_NR] = {}, all = 0;
	double s = tracer_seconds(&t->tracer);

	for (int i = 0; i < EV_NR; i++) {
		lost[types[i].group] += skel->bss->lost[i];
		all += skel->bss->lost[i];
	}
	if (g.json) {
		j_open(NULL, '{');
		j_open("end", '{');
		j_real("seconds", s);
		j_num("events", t->shown);
		j_num("lost", all);
		j_bool("silent", skel->bss->silent);
		for (int i = 0; i < G_NR; i++) {
			if (!(t->groups & 1 << i))
				continue;
			j_open(group_names[i], '{');
			j_num("events", t->per_group[i]);
			j_num("lost", lost[i]);
			j_close('}');
		}
		j_close('}');
		j_close('}');
		return;
	}
	say("%" PRIu64 " events in %.1f s, %" PRIu64 " lost%s%s", t->shown, s, all,
	    t->perfetto ? "; open in ui.perfetto.dev or chrome://tracing: " : "",
	    t->perfetto ? t->perfetto : "");
	fflush(stdout);
	tracer_silent(&t->tracer, skel->bss->silent);
	if (all)
		fprintf(stderr,
			"kvmext: %" PRIu64 " events were lost; filter more, or give --buffer KIB\n",
			all);
}

static int trace(struct trace_args *t)
{
	const char *how = NULL;
	enum hook exit_hook = hook_exit(&how);
	struct ring_buffer *ring;
	struct trace_bpf *skel;
	int ret = OK;

	log_clear();
	skel = open_skel(t);
	if (!skel)
		return tracer_load_error("trace");
	if (!choose(t, skel, exit_hook)) {
		trace_bpf__destroy(skel);
		return fail(E_ENV, "kvmext doctor tells what there is",
			    "this kernel has none of the events asked for");
	}
	if (trace_bpf__load(skel)) {
		ret = tracer_load_error("trace");
		trace_bpf__destroy(skel);
		return ret;
	}
	ring = make_rings(t, skel);
	if (!ring)
		ret = fail(E_INTERNAL, "give less --buffer",
			   "cannot make the buffers of events: %s", strerror(errno));
	if (ret == OK && !attach(skel))
		ret = fail(E_REFUSED, "-v shows why", "no program of trace could be attached");
	/* It empties the file, so not before there is something to write. */
	if (ret == OK && t->perfetto)
		ret = perfetto_open(t->perfetto);
	if (ret != OK)
		goto out;
	t->begun = clock_ns();
	tracer_begin(&t->tracer);
	if (g.json)
		begin_json(t);
	do {
		consume(t, ring, false);
		/* A full disk does not get better by waiting. */
		if (t->perfetto && !perfetto_flush())
			break;
		fflush(stdout);
	} while (!ferror(stdout) && tracer_wait(&t->tracer, ring_buffer__epoll_fd(ring)));
	/* No more events, then what still waits: the count is of all. */
	detach();
	consume(t, ring, true);
	tracer_end(&t->tracer);
	finish(t, skel);
	if (t->perfetto)
		ret = perfetto_close();
out:
	detach();
	ring_buffer__free(ring);
	trace_bpf__destroy(skel);
	return ret;
}

int cmd_trace(int argc, char **argv)
{
	static const char doc[] =
		"Show what KVM does, event by event: with no EVENT, all of them.\v"
		"Events: exit (how long the vCPU was out of the guest, and why), fault (of the "
		"guest's memory), dirty (pages, while they are logged), throttle (marks, a policy's "
		"answers, blocks, migration rounds), irq (accepted, injected, halts), route (whom a "
		"policy chose for an interrupt) and policy (attached, switched, ejected, taken from a VM). What this kernel does not have is said and left "
		"out.\n\n"
		"--min-us leaves out what has no length. With --json each event is a line, and the "
		"last line has the counts. With --perfetto no event is printed; a run "
		"that is killed leaves a file that can be opened.";
	struct trace_args t = {
		.tracer = { .cmd = "trace", .filter = { .vcpu = NO_VCPU } },
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, "[EVENT...]", doc, &t);
	if (ret != OK)
		return ret;
	if (!t.groups)
		t.groups = (1 << G_NR) - 1;
	if (!t.buffer_kib)
		for (t.buffer_kib = BUFFER_KIB; t.buffer_kib > BUFFER_KIB_CPU; t.buffer_kib /= 2)
			if (t.buffer_kib * libbpf_num_possible_cpus() <= BUFFER_KIB)
				break;
	if (g.json)
		j_lines();
	ret = tracer_ready(&t.tracer);
	return ret == OK ? trace(&t) : ret;
}
