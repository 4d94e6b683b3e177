// SPDX-License-Identifier: GPL-2.0
/* kvmext top: VMs and vCPUs live, full-screen, as lines or as JSON. */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <ncurses.h>
/* Ours is an exit code of the same value. */
#undef OK
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "exitname.h"
#include "hook.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "look.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "vmm.h"
#include "vms.h"

enum { OPT_BATCH = 'b', OPT_SORT = 's', OPT_FILTER = 'f', OPT_UNFOLD = 'u' };

enum sort {
	BY_EXITS,
	BY_OUTSIDE,
	BY_HALTED,
	BY_READY,
	BY_BLOCKED,
	BY_DIRTY,
	BY_IRQS,
	BY_VM,
	SORTS
};

static const char *const sort_names[SORTS] = {
	[BY_EXITS] = "exits",	  [BY_OUTSIDE] = "outside", [BY_HALTED] = "halted",
	[BY_READY] = "ready",	  [BY_BLOCKED] = "blocked", [BY_DIRTY] = "dirty",
	[BY_IRQS] = "interrupts", [BY_VM] = "vm",
};

struct top_args {
	int n;
	uint64_t interval_ns;
	unsigned long count;
	uint32_t vm;
	bool batch;
	bool unfold;
	enum sort sort;
	char filter[32];
};

static struct top_args a = { .interval_ns = 1000000000 };
static struct state st;
static unsigned long state_reads;
static uint64_t missed; /* moments at which there was to be a look, and was none */
static volatile sig_atomic_t stopped;

static error_t parse(int key, char *arg, struct argp_state *state)
{
	const char *near;

	(void)state;
	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &a.vm))
			return fail_usage("top", "'%s' is no process id", arg), EINVAL;
		return 0;
	case OPT_BATCH:
		a.batch = true;
		return 0;
	case OPT_UNFOLD:
		a.unfold = true;
		return 0;
	case OPT_FILTER:
		snprintf(a.filter, sizeof(a.filter), "%s", arg);
		return 0;
	case OPT_SORT:
		for (int i = 0; i < SORTS; i++)
			if (!strcmp(arg, sort_names[i])) {
				a.sort = i;
				return 0;
			}
		near = nearest(arg, sort_names, SORTS);
		return fail_usage("top", "'%s' is nothing to sort by%s%s%s", arg,
				  near ? ", did you mean '" : "", near ?: "", near ? "'?" : ""),
		       EINVAL;
	case ARGP_KEY_ARG:
		return parse_every("top", a.n++, arg, &a.interval_ns, &a.count);
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{ "batch", OPT_BATCH, NULL, 0, "plain lines, no full screen", 0 },
	{ "vm", OPT_VM, "PID", 0, "only this VM, by its VMM's process id", 0 },
	{ "sort", OPT_SORT, "KEY", 0,
	  "by exits (default), outside, halted, ready, blocked, dirty, interrupts or vm", 0 },
	{ "filter", OPT_FILTER, "TEXT", 0, "VMs whose process id, name or policy has TEXT", 0 },
	{ "unfold", OPT_UNFOLD, NULL, 0, "show vCPUs from the start", 0 },
	{}
};

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
}

/* --- figures ---------------------------------------------------------------- */

/**
 * struct row - a VM, or with @v one of its vCPUs
 * @vm: VM
 * @v: vCPU or NULL
 * @delta: figures of the interval
 * @total: and since it was met
 * @cpus: how many vCPUs these are the sum of
 */
struct row {
	const struct vm *vm;
	const struct vcpu *v;
	const uint64_t *delta;
	const uint64_t *total;
	int cpus;
};

static struct row row(const struct vm *vm, const struct vcpu *v)
{
	return (struct row){ vm, v, v ? v->delta : vm->delta, v ? v->total : vm->total,
			     v ? 1 : vm->n };
}

/* All of these: a number, or negative for one that cannot be had */
static double per_s(const struct vms *s, const struct row *r, enum vms_figure f)
{
	return vms_has(f) && s->took_ns ? r->delta[f] * 1e9 / s->took_ns : -1;
}

/* Share of its time, for a VM the mean of its vCPUs */
static double share(const struct vms *s, const struct row *r, enum vms_figure f)
{
	double x = vms_has(f) && s->took_ns ? (double)r->delta[f] / s->took_ns / r->cpus : -1;

	return x > 1 ? 1 : x;
}

/* Of the time that is accounted for: a vCPU is met in the midst of an interval. */
static double outside(const struct row *r)
{
	double out = r->delta[F_OUTSIDE_NS], in = r->delta[F_GUEST_NS];

	return out + in > 0 ? out / (out + in) : -1;
}

static double mean_us(const struct row *r, enum vms_figure ns, enum vms_figure n)
{
	return vms_has(ns) && r->delta[n] ? r->delta[ns] / 1e3 / r->delta[n] : -1;
}

/*
 * VMs of which no memslot is logged, by the address of their struct kvm, sorted: how much
 * they dirty is not known.
 */
static uint64_t *unlogged;
static size_t nr_unlogged, max_unlogged;

static int by_address(const void *x, const void *y)
{
	uint64_t p = *(const uint64_t *)x, q = *(const uint64_t *)y;

	return p < q ? -1 : p > q;
}

static int add_unlogged(const struct look_vm *l, void *arg)
{
	(void)arg;
	if (l->logging)
		return 0;
	if (nr_unlogged == max_unlogged) {
		max_unlogged = max_unlogged ? 2 * max_unlogged : 64;
		unlogged = realloc(unlogged, max_unlogged * sizeof(*unlogged));
		if (!unlogged)
			abort();
	}
	unlogged[nr_unlogged++] = l->kvm;
	return 0;
}

static void read_logging(void)
{
	nr_unlogged = 0;
	if (!vms_has(F_DIRTY))
		return;
	vms_look(a.vm, add_unlogged, NULL);
	qsort(unlogged, nr_unlogged, sizeof(*unlogged), by_address);
}

static double dirty_per_s(const struct vms *s, const struct row *r)
{
	if (!r->vm->delta[F_DIRTY] && nr_unlogged &&
	    bsearch(&r->vm->kvm, unlogged, nr_unlogged, sizeof(*unlogged), by_address))
		return -1;
	return per_s(s, r, F_DIRTY);
}

static double mib_per_s(const struct vms *s, const struct row *r)
{
	double pages = dirty_per_s(s, r);

	return pages < 0 ? pages : pages / 256;
}

/*
 * Policies of VMs, by process id.  Reading the state file takes the lock under which VMs
 * come and go, so it is read when something has changed, not each time.
 */
struct in_charge {
	uint32_t pid;
	int table;
	const char *name;
};

static struct in_charge *in_charge;
static int nr_in_charge;
static bool policies_known = true; /* or the state file could not be read */

static int by_pid(const void *x, const void *y)
{
	const struct in_charge *p = x, *q = y;

	if (p->pid != q->pid)
		return p->pid < q->pid ? -1 : 1;
	return p->table - q->table;
}

/* The table whose record of a VM this is, or -1 */
static int vm_table(const struct rec *r)
{
	size_t len = strlen(r->kind);

	if (rec_is(r, "vm"))
		return 0;
	if (len < 4 || strcmp(r->kind + len - 3, "_vm"))
		return -1;
	for (int i = 0; i < nr_tables; i++)
		if (strlen(tables[i].name) == len - 3 && !strncmp(r->kind, tables[i].name, len - 3))
			return i;
	return -1;
}

static void index_policies(void)
{
	in_charge = realloc(in_charge, (st.n + 1) * sizeof(*in_charge));
	if (!in_charge)
		abort();
	nr_in_charge = 0;
	for (int i = 0; i < st.n; i++) {
		int table = vm_table(&st.rec[i]);
		const char *name = table >= 0 ? rec_str(&st.rec[i], "policy") : NULL;

		if (name)
			in_charge[nr_in_charge++] =
				(struct in_charge){ rec_u64(&st.rec[i], "pid"), table,
						    strcmp(name, "-") ? name : NULL };
	}
	qsort(in_charge, nr_in_charge, sizeof(*in_charge), by_pid);
}

/* The first of a VM, NULL: the state file did not have it. */
static const struct in_charge *first_of(uint32_t pid)
{
	int lo = 0, hi = nr_in_charge;

	while (lo < hi) {
		int mid = (lo + hi) / 2;

		if (in_charge[mid].pid < pid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < nr_in_charge && in_charge[lo].pid == pid ? &in_charge[lo] : NULL;
}

/* The policy of a table in charge of a VM; NULL if none is, or if this kernel has none. */
static const char *policy_of(const struct vm *vm, int table)
{
	const struct in_charge *c = first_of(vm->tgid);

	for (; c && c < in_charge + nr_in_charge && c->pid == vm->tgid; c++)
		if (c->table == table && c->name)
			return c->name;
	return NULL;
}

/* Those of all tables, as kvmext list names them: the table is said but for the first. */
static const char *policies_of(const struct vm *vm, char *to, size_t size)
{
	*to = 0;
	for (int i = 0; i < nr_tables; i++) {
		const char *p = policy_of(vm, i);
		size_t len = strlen(to);

		if (p)
			snprintf(to + len, size - len, "%s%s%s%s", len ? "," : "",
				 i ? tables[i].name : "", i ? ":" : "", p);
	}
	return to;
}
#define POLICIES_LEN 160

static bool tables_here(void)
{
	static int known = -1;

	if (known < 0) {
		known = 0;
		for (int i = 0; i < nr_tables; i++)
			known |= kvm_has_table(&tables[i]);
	}
	return known;
}

/* A VM that came since the file was read; each one once */
static bool vm_is_new(const struct vms *s)
{
	static uint64_t *old;
	static int nr_old;
	bool is_new = s->nr_vms > nr_old;

	for (int i = 0, k = 0; i < s->nr_vms && !is_new; i++) {
		while (k < nr_old && old[k] != s->vm[i].kvm)
			k++;
		is_new = k == nr_old;
	}
	old = realloc(old, (s->nr_vms + 1) * sizeof(*old));
	if (!old)
		abort();
	for (nr_old = 0; nr_old < s->nr_vms; nr_old++)
		old[nr_old] = s->vm[nr_old].kvm;
	return is_new;
}

/* Policies are known where the patches are; elsewhere this stays empty. */
static void read_policies(const struct vms *s)
{
	/* Should there be changes that are not told */
	const uint64_t every = vms_source(SRC_POLICY) ? 60000000000ull : 5000000000ull;
	static uint32_t changes;
	static uint64_t read_ns;
	static bool on;
	bool is_new = vm_is_new(s), is_on, was;

	if (!tables_here())
		return;
	is_on = !kill_switch_on();
	if (read_ns && !is_new && is_on == on && changes == s->policy_changes &&
	    clock_ns() - read_ns < every)
		return;
	changes = s->policy_changes;
	read_ns = clock_ns();
	on = is_on;
	state_free(&st);
	/* An error in the midst of samples would be read as one of them. */
	was = fail_mute(true);
	policies_known = state_read(&st) == OK;
	fail_mute(was);
	index_policies();
	state_reads++;
}

static bool wanted(const struct vm *vm)
{
	char text[64 + POLICIES_LEN], names[POLICIES_LEN];

	if (a.vm && vm->tgid != a.vm)
		return false;
	snprintf(text, sizeof(text), "%u %s %s", vm->tgid, vm->comm,
		 policies_of(vm, names, sizeof(names)));
	return !*a.filter || strcasestr(text, a.filter);
}

static const char *reason_name(const struct reason *r)
{
	return r->other ? "other" : exit_name(r->isa, r->reason);
}

/* --- rows and columns --------------------------------------------------------- */

/* Those from COL_FIRST on can be scrolled away. */
enum {
	COL_VM,
	COL_NAME,
	COL_FIRST,
	COL_EXITS = COL_FIRST,
	COL_OUT,
	COL_HALTED,
	COL_READY,
	COL_BLOCKED,
	COL_DIRTY,
	COL_MIB,
	COL_INJECTED,
	COL_POSTED,
	COL_WAKE,
	COL_INJECT,
	COL_POLICY,
	COL_ASKS,
	COL_BLOCKS,
	COL_TOP_EXITS,
	COLS_ALL,
};

static const struct {
	const char *head;
	int width; /* negative: flush left */
} cols[COLS_ALL] = {
	[COL_VM] = { "VM", 8 },
	[COL_NAME] = { "NAME", -15 },
	[COL_EXITS] = { "EXITS/S", 8 },
	[COL_OUT] = { "OUT", 6 },
	[COL_HALTED] = { "HALTED", 6 },
	[COL_READY] = { "READY", 6 },
	[COL_BLOCKED] = { "BLOCKED", 7 },
	[COL_DIRTY] = { "DIRTY/S", 8 },
	[COL_MIB] = { "MIB/S", 7 },
	[COL_INJECTED] = { "INJ/S", 7 },
	[COL_POSTED] = { "POST/S", 7 },
	[COL_WAKE] = { "WAKE/US", 8 },
	[COL_INJECT] = { "INJECT/US", 9 },
	[COL_POLICY] = { "POLICY", -12 }, /* at least */
	[COL_ASKS] = { "ASKS/S", 7 },
	[COL_BLOCKS] = { "BLOCKS/S", 8 },
	[COL_TOP_EXITS] = { "TOP EXITS (SHARE OF TIME)", -40 },
};

/* As the names of those that are shown need */
static int policy_width;

static int by_sort(const void *x, const void *y)
{
	static const enum vms_figure key[SORTS] = {
		[BY_EXITS] = F_EXITS,	 [BY_OUTSIDE] = F_GUEST_NS,   [BY_HALTED] = F_HALTED_NS,
		[BY_READY] = F_READY_NS, [BY_BLOCKED] = F_BLOCKED_NS, [BY_DIRTY] = F_DIRTY,
		[BY_IRQS] = F_INJECTED,
	};
	const struct row *p = x, *q = y;
	double d = 0;

	if (a.sort == BY_OUTSIDE)
		d = (double)p->delta[F_GUEST_NS] / p->cpus - (double)q->delta[F_GUEST_NS] / q->cpus;
	else if (a.sort == BY_IRQS)
		d = (double)(q->delta[F_INJECTED] + q->delta[F_POSTED]) -
		    (double)(p->delta[F_INJECTED] + p->delta[F_POSTED]);
	else if (a.sort != BY_VM)
		d = (double)q->delta[key[a.sort]] - (double)p->delta[key[a.sort]];
	if (d)
		return d < 0 ? -1 : 1;
	if (p->vm != q->vm)
		return p->vm < q->vm ? -1 : 1;
	return p->v < q->v ? -1 : p->v > q->v;
}

/* VMs that are unfolded; those that are not when all are */
static struct {
	uint32_t tgid;
	uint64_t kvm;
} unfolded[256];
static int nr_unfolded;

static int find_unfolded(const struct vm *vm)
{
	for (int i = 0; i < nr_unfolded; i++)
		if (unfolded[i].tgid == vm->tgid && unfolded[i].kvm == vm->kvm)
			return i;
	return -1;
}

static bool is_unfolded(const struct vm *vm)
{
	return a.unfold != (find_unfolded(vm) >= 0);
}

static void toggle(const struct vm *vm)
{
	int i = find_unfolded(vm);

	if (i >= 0)
		unfolded[i] = unfolded[--nr_unfolded];
	else if (nr_unfolded < (int)ARRAY_SIZE(unfolded)) {
		unfolded[nr_unfolded].tgid = vm->tgid;
		unfolded[nr_unfolded++].kvm = vm->kvm;
	}
}

/* The rows to show, in order; the caller frees them. */
static struct row *rows(const struct vms *s, bool all, int *n)
{
	struct row *vm = calloc(s->nr_vms + 1, sizeof(*vm)), *out;
	int nr = 0;

	out = calloc(s->nr_vms + s->nr_vcpus + 1, sizeof(*out));
	if (!vm || !out)
		abort();
	for (int i = 0; i < s->nr_vms; i++)
		if (wanted(&s->vm[i]))
			vm[nr++] = row(&s->vm[i], NULL);
	qsort(vm, nr, sizeof(*vm), by_sort);
	policy_width = -cols[COL_POLICY].width;
	for (int i = 0; i < nr; i++) {
		char names[POLICIES_LEN];
		int len = strlen(policies_of(vm[i].vm, names, sizeof(names)));

		if (len > policy_width)
			policy_width = len < 48 ? len : 48;
	}
	*n = 0;
	for (int i = 0; i < nr; i++) {
		const struct vm *m = vm[i].vm;
		int first = *n + 1;

		out[(*n)++] = vm[i];
		if (!all && !is_unfolded(m))
			continue;
		for (int k = m->first; k < m->first + m->n; k++)
			out[(*n)++] = row(m, &s->vcpu[k]);
		qsort(&out[first], *n - first, sizeof(*out), by_sort);
	}
	free(vm);
	return out;
}

static void number(char *to, size_t size, double x, const char *fmt)
{
	if (x < 0)
		snprintf(to, size, "-");
	else
		snprintf(to, size, fmt, x);
}

static void cell(const struct vms *s, const struct row *r, int col, char *to, size_t size)
{
	const struct reason *top = r->v ? r->v->reason : r->vm->reason;
	int n = r->v ? r->v->reasons : r->vm->reasons;
	char names[POLICIES_LEN];

	switch (col) {
	case COL_VM:
		snprintf(to, size, "%u", r->vm->tgid);
		break;
	case COL_NAME:
		if (r->v)
			snprintf(to, size, "  vcpu %u", r->v->id);
		else
			snprintf(to, size, "%s", *r->vm->comm ? r->vm->comm : "-");
		break;
	case COL_EXITS:
		number(to, size, per_s(s, r, F_EXITS), "%.0f");
		break;
	case COL_OUT:
		number(to, size, 100 * outside(r), "%.1f%%");
		break;
	case COL_HALTED:
		number(to, size, 100 * share(s, r, F_HALTED_NS), "%.1f%%");
		break;
	case COL_READY:
		number(to, size, 100 * share(s, r, F_READY_NS), "%.1f%%");
		break;
	case COL_BLOCKED:
		number(to, size, 100 * share(s, r, F_BLOCKED_NS), "%.1f%%");
		break;
	case COL_DIRTY:
		number(to, size, dirty_per_s(s, r), "%.0f");
		break;
	case COL_MIB:
		number(to, size, mib_per_s(s, r), "%.1f");
		break;
	case COL_INJECTED:
		number(to, size, per_s(s, r, F_INJECTED), "%.0f");
		break;
	case COL_POSTED:
		number(to, size, per_s(s, r, F_POSTED), "%.0f");
		break;
	case COL_WAKE:
		number(to, size, mean_us(r, F_WAKE_NS, F_WAKE_N), "%.1f");
		break;
	case COL_INJECT:
		number(to, size, mean_us(r, F_INJ_NS, F_INJ_N), "%.1f");
		break;
	case COL_POLICY:
		policies_of(r->vm, names, sizeof(names));
		snprintf(to, size, "%s", r->v ? "" : *names ? names : "-");
		break;
	case COL_ASKS:
		number(to, size, per_s(s, r, F_ASKS), "%.0f");
		break;
	case COL_BLOCKS:
		number(to, size, per_s(s, r, F_BLOCKS), "%.0f");
		break;
	case COL_TOP_EXITS:
		*to = 0;
		for (int i = 0; i < n && i < 3; i++) {
			size_t len = strlen(to);

			snprintf(to + len, size - len, "%s%s %.1f%%", i ? ", " : "",
				 reason_name(&top[i]),
				 s->took_ns ? 100.0 * top[i].ns / s->took_ns / r->cpus : 0);
		}
		if (!n)
			snprintf(to, size, "-");
		break;
	}
}

/* A line of cells; with @skip columns after the name left out */
static void line(const struct vms *s, const struct row *r, int skip, char *to, size_t size)
{
	size_t len = 0;

	for (int c = 0; c < COLS_ALL && len < size - 1; c++) {
		char text[160];
		int w = c == COL_POLICY ? -policy_width : cols[c].width;

		if (c >= COL_FIRST && c < COL_FIRST + skip)
			continue;
		if (r)
			cell(s, r, c, text, sizeof(text));
		else
			snprintf(text, sizeof(text), "%s", cols[c].head);
		/* The width of "%*s" is in bytes. */
		w += ((int)strlen(text) - text_width(text)) * (w < 0 ? -1 : 1);
		len += snprintf(to + len, size - len, "%s%*s", c ? " " : "", w, text);
	}
	if (len >= size)
		len = size - 1;
	while (len && to[len - 1] == ' ')
		to[--len] = 0;
}

/*
 * Why interrupts do not take the short way, with the VMs of which that is true: a line
 * for each set of reasons.  Returns false when there are no more.
 */
static bool inhibit_note(const struct vms *s, int *next, char *to, size_t size)
{
	int n = 0, len;

	for (; *next < s->nr_vms; ++*next) {
		const struct vm *vm = &s->vm[*next];
		const char *why = apicv_text(vm->inhibits);
		bool before = false;

		if (!why || !*why || !wanted(vm))
			continue;
		for (int i = 0; i < *next && !before; i++)
			before = s->vm[i].inhibits == vm->inhibits && wanted(&s->vm[i]);
		if (before)
			continue;
		len = snprintf(to, size, "APICv or AVIC is inhibited (%s):", why);
		for (int i = *next; i < s->nr_vms; i++)
			if (s->vm[i].inhibits == vm->inhibits && wanted(&s->vm[i]) && n++ < 4)
				len += snprintf(to + len, size - len, " %u", s->vm[i].tgid);
		if (n > 4)
			snprintf(to + len, size - len, " and %d more", n - 4);
		++*next;
		return true;
	}
	return false;
}

static const char silent_note[] = "this KVM tells only its exits to user space";
static const char unknown_note[] = "policies are not known: kvmext list says why";

/* --- lines and JSON -------------------------------------------------------------- */

static void batch(const struct vms *s)
{
	char text[512], when[16];
	time_t t = time(NULL);
	struct tm tm;
	struct row *r;
	int n, note = 0;

	strftime(when, sizeof(when), "%H:%M:%S", localtime_r(&t, &tm));
	printf("%s  %d VMs, %d vCPUs", when, s->nr_vms, s->nr_vcpus);
	if (s->lost)
		printf(", %lu exits of vCPUs beyond the room for them", s->lost);
	if (s->silent)
		printf(", %s", silent_note);
	if (!policies_known)
		printf(", %s", unknown_note);
	if (missed)
		printf(", %" PRIu64 " intervals missed", missed);
	putchar('\n');
	r = rows(s, false, &n);
	line(s, NULL, 0, text, sizeof(text));
	puts(text);
	for (int i = 0; i < n; i++) {
		line(s, &r[i], 0, text, sizeof(text));
		puts(text);
	}
	while (inhibit_note(s, &note, text, sizeof(text)))
		puts(text);
	putchar('\n');
	free(r);
}

static void j_figure(const char *key, double x)
{
	if (x < 0)
		j_str(key, NULL);
	else
		j_real(key, x);
}

static void j_row(const struct vms *s, const struct row *r)
{
	static const char *const names[FIGURES] = {
		[F_EXITS] = "exits",
		[F_GUEST_NS] = "guest_ns",
		[F_OUTSIDE_NS] = "outside_ns",
		[F_HALTED_NS] = "halted_ns",
		[F_READY_NS] = "ready_ns",
		[F_BLOCKED_NS] = "blocked_ns",
		[F_DIRTY] = "dirty",
		[F_INJECTED] = "injected",
		[F_POSTED] = "posted",
		[F_INJ_N] = "injection_latency_n",
		[F_INJ_NS] = "injection_latency_ns",
		[F_WAKE_N] = "wake_latency_n",
		[F_WAKE_NS] = "wake_latency_ns",
		[F_ASKS] = "asks",
		[F_BLOCKS] = "blocks",
	};
	const struct reason *top = r->v ? r->v->reason : r->vm->reason;
	int n = r->v ? r->v->reasons : r->vm->reasons;

	j_figure("exits_per_s", per_s(s, r, F_EXITS));
	j_figure("outside_share", outside(r));
	j_figure("halted_share", share(s, r, F_HALTED_NS));
	j_figure("ready_share", share(s, r, F_READY_NS));
	j_figure("blocked_share", share(s, r, F_BLOCKED_NS));
	j_figure("dirty_per_s", dirty_per_s(s, r));
	j_figure("dirty_mib_per_s", mib_per_s(s, r));
	j_figure("injected_per_s", per_s(s, r, F_INJECTED));
	j_figure("posted_per_s", per_s(s, r, F_POSTED));
	j_figure("wake_latency_us", mean_us(r, F_WAKE_NS, F_WAKE_N));
	j_figure("injection_latency_us", mean_us(r, F_INJ_NS, F_INJ_N));
	j_figure("asks_per_s", per_s(s, r, F_ASKS));
	j_figure("blocks_per_s", per_s(s, r, F_BLOCKS));
	j_open("reasons", '[');
	for (int i = 0; i < n; i++) {
		j_open(NULL, '{');
		j_str("reason", reason_name(&top[i]));
		j_num("n", top[i].n);
		j_num("ns", top[i].ns);
		j_close('}');
	}
	j_close(']');
	j_open("total", '{');
	for (int i = 0; i < FIGURES; i++) {
		if (vms_has(i))
			j_num(names[i], r->total[i]);
		else
			j_str(names[i], NULL);
	}
	j_close('}');
}

/* "apicv_inhibited": null if that is not known, else the reasons */
static void j_inhibits(const struct vm *vm)
{
	const char *why = apicv_text(vm->inhibits);
	char *list, *next, *name;

	if (!why) {
		j_str("apicv_inhibited", NULL);
		return;
	}
	list = next = str("%s", why);
	j_open("apicv_inhibited", '[');
	while (*why && (name = strsep(&next, ",")))
		j_str(NULL, name);
	j_close(']');
	free(list);
}

static void json(const struct vms *s)
{
	static const char *const names[SOURCES] = {
		[SRC_INJECT] = "inject", [SRC_WAKEUP] = "wakeup",   [SRC_HALT] = "halt",
		[SRC_WAKING] = "waking", [SRC_ACCEPT] = "accept",   [SRC_DIRTY] = "dirty",
		[SRC_ASK] = "ask",	 [SRC_DESTROY] = "destroy", [SRC_BLOCK] = "block",
		[SRC_RUN] = NULL,	 [SRC_POLICY] = "policy",
	};
	const struct row *r;
	struct row *all;
	int n;

	all = rows(s, true, &n);
	j_open(NULL, '{');
	j_num("at_ns", s->at_ns);
	j_num("interval_ns", s->took_ns);
	j_num("lost", s->lost);
	j_num("missed", missed);
	j_num("state_reads", state_reads);
	j_bool("silent", s->silent);
	j_bool("policies_known", policies_known);
	j_open("hooks", '{');
	j_str("exit", s->silent ? vms_source(SRC_RUN) : "tp_btf/kvm_exit");
	for (int i = 0; i < SOURCES; i++)
		if (names[i])
			j_str(names[i], vms_source(i));
	j_close('}');
	j_open("vms", '[');
	for (r = all; r < all + n;) {
		j_open(NULL, '{');
		j_num("vm", r->vm->tgid);
		j_str("name", *r->vm->comm ? r->vm->comm : NULL);
		j_str("policy", policy_of(r->vm, 0));
		j_open("policies", '{');
		for (int i = 0; i < nr_tables; i++)
			j_str(tables[i].name, policy_of(r->vm, i));
		j_close('}');
		j_inhibits(r->vm);
		j_row(s, r);
		j_open("vcpus", '[');
		for (r++; r < all + n && r->v; r++) {
			j_open(NULL, '{');
			j_num("id", r->v->id);
			j_num("tid", r->v->tid);
			j_row(s, r);
			j_close('}');
		}
		j_close(']');
		j_close('}');
	}
	j_close(']');
	j_close('}');
	free(all);
}

/*
 * The next moment at which to look.  Moments that went by while we were stopped, or while
 * nobody read what we wrote, are left out, and counted: nothing could be told of them.
 */
static uint64_t next_look(uint64_t next)
{
	uint64_t now = clock_ns();

	next += a.interval_ns;
	if (now <= next)
		return next;
	missed += (now - next) / a.interval_ns + 1;
	return next + ((now - next) / a.interval_ns + 1) * a.interval_ns;
}

static int run_lines(void)
{
	uint64_t next = clock_ns();

	j_lines();
	for (unsigned long i = 0; !stopped && (!a.count || i < a.count); i++) {
		const struct vms *s;
		struct timespec ts;

		next = next_look(next);
		ts = (struct timespec){ next / 1000000000, next % 1000000000 };
		while (!stopped &&
		       clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
			;
		if (stopped)
			break;
		s = vms_read();
		read_logging();
		read_policies(s);
		if (g.json)
			json(s);
		else
			batch(s);
		if (fflush(stdout) || vm_ended(a.vm))
			break;
	}
	return OK;
}

/* --- the screen ------------------------------------------------------------------- */

/**
 * struct screen - what is seen
 * @tgid: the selected row: its VM
 * @kvm: likewise
 * @id: and its vCPU, or -1
 * @sel: where it is in the list
 * @top: the first row that is seen
 * @skip: columns scrolled out to the left
 * @paused: figures stand still
 * @help: help is shown
 * @typing: keys go into the filter
 */
static struct screen {
	uint32_t tgid;
	uint64_t kvm;
	int64_t id;
	int sel;
	int top;
	int skip;
	bool paused;
	bool help;
	bool typing;
} sc;

static const char *const help[] = {
	"s      sort by the next key, S by the one before",
	"/      filter: VMs whose process id, name or policy has the text; Enter ends, Esc clears",
	"Enter  unfold or fold the VM in the selected line, u all of them",
	"p      pause and go on (Space too)",
	"Up, Down, PgUp, PgDn      select a line; below the list are its exits",
	"Left, Right               scroll columns",
	"h      this help, q quit",
	"",
	"OUT      share of time outside the guest; the next three are part of it",
	"HALTED   the guest had nothing to do (HLT, polling included)",
	"READY    the vCPU's thread was runnable and another had the CPU",
	"BLOCKED  kept from running by a throttle policy, which was asked ASKS/S and blocked BLOCKS/S",
	"DIRTY/S  pages that got dirty in the log (logging is on while a VM migrates)",
	"INJ/S    interrupts that KVM injected; POST/S given to APICv or AVIC",
	"WAKE/US  from a halted vCPU's wake-up to its entry; INJECT/US from an interrupt to its injection",
	"-        cannot be had on this kernel, or nothing happened to measure, or is not logged",
};

static void put(int y, int attr, const char *text)
{
	attrset(attr);
	mvaddnstr(y, 0, text, COLS);
	if (attr & A_REVERSE)
		mvchgat(y, 0, -1, attr, 0, NULL);
	attrset(A_NORMAL);
}

static void detail(const struct vms *s, const struct row *r, int y, int lines)
{
	const struct reason *top = r->v ? r->v->reason : r->vm->reason;
	int n = r->v ? r->v->reasons : r->vm->reasons;
	char text[160];

	snprintf(text, sizeof(text), "%-28s %10s %8s %10s", "EXIT", "/S", "TIME", "MEAN/US");
	put(y++, A_BOLD, text);
	for (int i = 0; i < n && i < lines - 1; i++) {
		snprintf(text, sizeof(text), "%-28s %10.0f %7.1f%% %10.1f", reason_name(&top[i]),
			 top[i].n * 1e9 / s->took_ns, 100.0 * top[i].ns / s->took_ns / r->cpus,
			 top[i].n ? top[i].ns / 1e3 / top[i].n : 0);
		put(y++, A_NORMAL, text);
	}
}

static void select_row(const struct row *r)
{
	sc.tgid = r->vm->tgid;
	sc.kvm = r->vm->kvm;
	sc.id = r->v ? (int64_t)r->v->id : -1;
}

static void draw(const struct vms *s)
{
	int n, list, below, y = 0, note = 0;
	char text[512];
	struct row *r;

	erase();
	r = rows(s, false, &n);
	snprintf(text, sizeof(text), "kvmext top  %d VMs, %d vCPUs  every %.1f s  by %s%s%s%s",
		 s->nr_vms, s->nr_vcpus, a.interval_ns / 1e9, sort_names[a.sort],
		 *a.filter ? "  filter: " : "", a.filter, sc.paused ? "  PAUSED" : "");
	put(y++, A_BOLD, text);
	if (s->lost) {
		snprintf(text, sizeof(text), "%lu exits of vCPUs beyond the room for them",
			 s->lost);
		put(y++, A_BOLD, text);
	}
	if (s->silent)
		put(y++, A_BOLD, silent_note);
	if (!policies_known)
		put(y++, A_BOLD, unknown_note);
	while (y < 4 && inhibit_note(s, &note, text, sizeof(text)))
		put(y++, A_NORMAL, text);
	if (sc.help) {
		for (size_t i = 0; i < ARRAY_SIZE(help) && y < LINES - 1; i++)
			put(y++, A_NORMAL, help[i]);
		goto foot;
	}

	/* The selection stays with its VM or vCPU, wherever that is sorted to. */
	for (int i = 0; i < n; i++)
		if (r[i].vm->tgid == sc.tgid && r[i].vm->kvm == sc.kvm &&
		    (r[i].v ? (int64_t)r[i].v->id : -1) == sc.id)
			sc.sel = i;
	if (sc.sel >= n)
		sc.sel = n ? n - 1 : 0;
	if (n)
		select_row(&r[sc.sel]);

	below = LINES > 16 ? 7 : 0;
	list = LINES - y - 2 - below;
	if (list < 1)
		list = 1;
	if (sc.sel < sc.top)
		sc.top = sc.sel;
	if (sc.sel >= sc.top + list)
		sc.top = sc.sel - list + 1;
	if (sc.top > n - list)
		sc.top = n > list ? n - list : 0;
	line(s, NULL, sc.skip, text, sizeof(text));
	put(y++, A_REVERSE, text);
	for (int i = sc.top; i < n && i < sc.top + list; i++) {
		line(s, &r[i], sc.skip, text, sizeof(text));
		put(y++, i == sc.sel ? A_REVERSE : A_NORMAL, text);
	}
	if (!n)
		put(y, A_NORMAL, s->nr_vms ? "no VM passes the filter" : "no VM ran yet");
	else if (below && s->took_ns)
		detail(s, &r[sc.sel], LINES - 1 - below, below);
foot:
	if (sc.typing)
		snprintf(text, sizeof(text), "filter: %s_", a.filter);
	else
		snprintf(text, sizeof(text),
			 "s sort  / filter  Enter unfold  u all  p pause  h help  q quit");
	put(LINES - 1, A_DIM, text);
	free(r);
	refresh();
}

static void move_to(const struct vms *s, int by)
{
	struct row *r;
	int n;

	r = rows(s, false, &n);
	sc.sel += by;
	if (sc.sel >= n)
		sc.sel = n - 1;
	if (sc.sel < 0)
		sc.sel = 0;
	if (n)
		select_row(&r[sc.sel]);
	free(r);
}

static void unfold(const struct vms *s)
{
	struct row *r;
	int n;

	r = rows(s, false, &n);
	if (sc.sel < n) {
		/* Folded from one of its vCPUs, the VM is selected. */
		toggle(r[sc.sel].vm);
		sc.tgid = r[sc.sel].vm->tgid;
		sc.kvm = r[sc.sel].vm->kvm;
		sc.id = -1;
	}
	free(r);
}

static void type(int key)
{
	size_t len = strlen(a.filter);

	if (key == '\n' || key == '\r' || key == KEY_ENTER) {
		sc.typing = false;
	} else if (key == 27) {
		*a.filter = 0;
		sc.typing = false;
	} else if (key == KEY_BACKSPACE || key == 127 || key == '\b') {
		if (len)
			a.filter[len - 1] = 0;
	} else if (key >= ' ' && key < 127 && len < sizeof(a.filter) - 1) {
		a.filter[len] = key;
		a.filter[len + 1] = 0;
	}
}

/* Returns true if that was to quit. */
static bool press(const struct vms *s, int key)
{
	if (sc.typing) {
		type(key);
		return false;
	}
	switch (key) {
	case 'q':
	case 'Q':
		return true;
	case 's':
		a.sort = (a.sort + 1) % SORTS;
		break;
	case 'S':
		a.sort = (a.sort + SORTS - 1) % SORTS;
		break;
	case '/':
		sc.typing = true;
		break;
	case '\n':
	case '\r':
	case KEY_ENTER:
		unfold(s);
		break;
	case 'u':
		a.unfold = !a.unfold;
		nr_unfolded = 0;
		break;
	case 'p':
	case ' ':
		sc.paused = !sc.paused;
		break;
	case 'h':
	case '?':
		sc.help = !sc.help;
		break;
	case KEY_UP:
	case 'k':
		move_to(s, -1);
		break;
	case KEY_DOWN:
	case 'j':
		move_to(s, 1);
		break;
	case KEY_PPAGE:
		move_to(s, -(LINES / 2));
		break;
	case KEY_NPAGE:
		move_to(s, LINES / 2);
		break;
	case KEY_RIGHT:
		if (sc.skip < COLS_ALL - COL_FIRST - 1)
			sc.skip++;
		break;
	case KEY_LEFT:
		if (sc.skip)
			sc.skip--;
		break;
	}
	return false;
}

static int run_screen(void)
{
	const struct vms *s = vms_read();
	uint64_t next = clock_ns() + a.interval_ns;
	unsigned long shown = 0;
	bool quit = false;
	SCREEN *scr;

	scr = newterm(NULL, stdout, stdin);
	if (!scr)
		return fail(E_ENV, "set TERM, or use --batch", "this terminal (TERM=%s) is unknown",
			    getenv("TERM") ?: "");
	/* newterm() took some of them for its own, which would end the process. */
	catch_ends(on_signal);
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	set_escdelay(50);
	curs_set(0);
	read_logging();
	read_policies(s);
	while (!stopped && !quit && !vm_ended(a.vm)) {
		uint64_t now;
		int key;

		draw(s);
		now = clock_ns();
		timeout(next > now ? (next - now) / 1000000 + 1 : 0);
		key = getch();
		if (key != ERR)
			quit = press(s, key);
		if (stopped || quit || clock_ns() < next)
			continue;
		next = clock_ns() + a.interval_ns;
		if (sc.paused)
			continue;
		s = vms_read();
		read_logging();
		read_policies(s);
		if (a.count && ++shown >= a.count) {
			draw(s);
			break;
		}
	}
	endwin();
	delscreen(scr);
	return OK;
}

int cmd_top(int argc, char **argv)
{
	static const char doc[] =
		"Show VMs and, unfolded, vCPUs live: exits and time outside the guest, halts, waits "
		"and blocks, dirty pages, interrupts, latencies and the policy in charge.\v"
		"INTERVAL is in seconds (1), COUNT how often to look (no end). With --json there is an "
		"object a line for each interval. Works on any kernel with BTF; a figure that "
		"this kernel cannot give is '-', in JSON null. Keys: h shows them.";
	int ret;

	ret = parse_args(argc, argv, options, parse, "[INTERVAL [COUNT]]", doc, NULL);
	if (ret == OK)
		ret = need_kvm();
	if (ret == OK && a.vm)
		ret = need_vm(a.vm);
	if (ret == OK)
		ret = vms_open();
	if (ret != OK)
		return ret;
	exit_names_load();
	catch_ends(on_signal);
	ret = g.json || a.batch || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO) ? run_lines() :
										     run_screen();
	vms_close();
	if (ret == OK && vm_ended(a.vm))
		say("VM %u has exited", a.vm);
	return ret;
}
