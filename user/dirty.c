// SPDX-License-Identifier: GPL-2.0
/* kvmext dirty: dirty rate, writable working set and where in memory it is hot. */
#include "hook.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "dirty.h"

#include "bpf/dirty.skel.h"

#define TIMES 60 /* columns of the heat map at most */
#define RANGES 16 /* rows */
#define ALL_VCPUS UINT32_MAX
#define CHUNK_PAGES (1 << DIRTY_CHUNK_SHIFT)

enum { OPT_PNG = 0x180 };

struct dirty_args {
	int n;
	uint64_t interval_ns;
	unsigned long count;
	uint32_t vm;
	const char *png;
};

static struct dirty_args a = { .interval_ns = 1000000000 };
static volatile sig_atomic_t stopped;

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)state;
	switch (key) {
	case OPT_VM:
		if (parse_pid(arg, &a.vm))
			return fail_usage("dirty", "'%s' is no process id", arg), EINVAL;
		return 0;
	case OPT_PNG:
		/* gnuplot reads commands line by line, the name in one of them. */
		for (const char *p = arg; *p; p++)
			if ((unsigned char)*p < ' ')
				return fail_usage("dirty", "a file name with control characters"),
				       EINVAL;
		a.png = arg;
		return 0;
	case ARGP_KEY_ARG:
		return parse_every("dirty", a.n++, arg, &a.interval_ns, &a.count);
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "only this VM, by its VMM's process id", 0 },
	{ "png", OPT_PNG, "FILE", 0, "write the heat map as a picture at the end (gnuplot)", 0 },
	{}
};

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
}

/* --- what was seen -------------------------------------------------------------- */

/**
 * struct chunk - 64 pages of a VM, as one vCPU or all together dirtied them
 * @key: which; with vcpu ALL_VCPUS for the VM
 * @now: pages of the interval
 * @ever: pages since the start
 * @n: how often in the interval
 * @hist: the same for the last intervals, of VMs only
 */
struct chunk {
	struct dirty_key key;
	uint64_t now;
	uint64_t ever;
	uint64_t n;
	uint32_t *hist;
};

/* An open hash, then sorted for reading: by VM, vCPU (the VM itself last), place */
static struct chunk *table;
static size_t size, used;
static struct chunk **sorted;
static unsigned long times; /* intervals so far */

static size_t place(const struct dirty_key *k)
{
	uint64_t h = (k->kvm ^ k->chunk * 0x9e3779b97f4a7c15) + k->vcpu;
	size_t i;

	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9;
	h ^= h >> 32;
	for (i = h & (size - 1); table[i].key.kvm; i = (i + 1) & (size - 1))
		if (!memcmp(&table[i].key, k, sizeof(*k)))
			break;
	return i;
}

static struct chunk *chunk(const struct dirty_key *k)
{
	struct chunk *c;

	if (2 * used >= size) {
		struct chunk *old = table;
		size_t n = size;

		size = size ? 2 * size : 4096;
		table = calloc(size, sizeof(*table));
		if (!table)
			abort();
		for (size_t i = 0; i < n; i++)
			if (old[i].key.kvm)
				table[place(&old[i].key)] = old[i];
		free(old);
	}
	c = &table[place(k)];
	if (!c->key.kvm) {
		c->key = *k;
		used++;
		if (k->vcpu == ALL_VCPUS) {
			c->hist = calloc(TIMES, sizeof(*c->hist));
			if (!c->hist)
				abort();
		}
	}
	return c;
}

static void add(const struct dirty_key *k, const struct dirty_val *v)
{
	struct dirty_key all = *k;
	struct chunk *c;

	if (a.vm && k->tgid != a.vm)
		return;
	c = chunk(k);
	c->now |= v->bits;
	c->ever |= v->bits;
	c->n += v->n;
	all.vcpu = ALL_VCPUS;
	c = chunk(&all);
	c->now |= v->bits;
	c->ever |= v->bits;
	c->n += v->n;
	c->hist[times % TIMES] += v->n;
}

static int by_key(const void *x, const void *y)
{
	const struct dirty_key *p = &(*(struct chunk **)x)->key, *q = &(*(struct chunk **)y)->key;

	if (p->tgid != q->tgid)
		return p->tgid < q->tgid ? -1 : 1;
	if (p->kvm != q->kvm)
		return p->kvm < q->kvm ? -1 : 1;
	if (p->vcpu != q->vcpu)
		return p->vcpu < q->vcpu ? -1 : 1;
	return p->chunk < q->chunk ? -1 : p->chunk > q->chunk;
}

static bool same_owner(const struct chunk *c, const struct chunk *d)
{
	return c->key.kvm == d->key.kvm && c->key.tgid == d->key.tgid && c->key.vcpu == d->key.vcpu;
}

/* Forget processes that ended. */
static void drop_gone(void)
{
	struct chunk *old = table;
	size_t n = size;
	uint32_t last = 0;
	bool gone = false;

	table = calloc(size ?: 1, sizeof(*table));
	if (!table)
		abort();
	used = 0;
	for (size_t i = 0; i < n; i++) {
		if (!old[i].key.kvm)
			continue;
		if (old[i].key.tgid != last) {
			last = old[i].key.tgid;
			gone = kill(last, 0) && errno == ESRCH;
		}
		if (gone) {
			free(old[i].hist);
			continue;
		}
		table[place(&old[i].key)] = old[i];
		used++;
	}
	free(old);
}

static void sort(void)
{
	size_t n = 0;

	free(sorted);
	sorted = calloc(used + 1, sizeof(*sorted));
	if (!sorted)
		abort();
	for (size_t i = 0; i < size; i++)
		if (table[i].key.kvm)
			sorted[n++] = &table[i];
	qsort(sorted, n, sizeof(*sorted), by_key);
}

/* --- collecting ------------------------------------------------------------------- */

static struct dirty_bpf *skel;
static const char *source;

static int load(bool fentry)
{
	skel = dirty_bpf__open();
	if (!skel)
		return -errno;
	bpf_program__set_autoload(skel->progs.dirty_log, fentry);
	bpf_program__set_autoload(skel->progs.dirty_fault, !fentry);
	return dirty_bpf__load(skel) ?: dirty_bpf__attach(skel);
}

static int start(void)
{
	bool fentry = hook_fentry("kvm", "mark_page_dirty_in_slot");
	int err;

	if (!fentry && !hook_tp_btf("kvm_page_fault"))
		return fail(E_ENV, "see kvmext doctor",
			    "this kernel has neither fentry for KVM nor kvm_page_fault");
	source = fentry ? "the dirty log (fentry/mark_page_dirty_in_slot)" :
			  "write faults (tp_btf/kvm_page_fault), first touches among them";
	log_clear();
	err = load(fentry);
	if (err)
		return fail(err == -EPERM ? E_PRIV : E_REFUSED, "-v shows why",
			    "cannot load the programs that see dirty pages: %s", strerror(-err));
	return OK;
}

static void collect(void)
{
	struct bpf_map *map = skel->bss->epoch & 1 ? skel->maps.odd : skel->maps.even;
	struct timespec grace = { .tv_nsec = 10000000 };
	static struct dirty_key keys[4096];
	static struct dirty_val vals[4096];
	uint32_t n, token;
	bool first = true;
	int err;

	for (size_t i = 0; i < size; i++) {
		table[i].now = table[i].n = 0;
		if (table[i].hist)
			table[i].hist[times % TIMES] = 0;
	}
	skel->bss->epoch++;
	/* Programs that began before are done by then: they do not sleep. */
	nanosleep(&grace, NULL);
	do {
		n = ARRAY_SIZE(keys);
		err = bpf_map_lookup_and_delete_batch(bpf_map__fd(map), first ? NULL : &token,
						      &token, keys, vals, &n, NULL);
		first = false;
		if (err && err != -ENOENT)
			break;
		for (uint32_t i = 0; i < n; i++)
			add(&keys[i], &vals[i]);
	} while (!err);
	times++;
}

/* --- showing -------------------------------------------------------------------------- */

struct sum {
	uint64_t n;
	uint64_t now;
	uint64_t ever;
};

/* Sum over the chunks of one owner; returns the first of the next. */
static size_t sum(size_t i, struct sum *s)
{
	size_t k;

	*s = (struct sum){};
	for (k = i; k < used && same_owner(sorted[i], sorted[k]); k++) {
		s->n += sorted[k]->n;
		s->now += __builtin_popcountll(sorted[k]->now);
		s->ever += __builtin_popcountll(sorted[k]->ever);
	}
	return k;
}

/**
 * struct map - the heat map of one VM: ranges of gfns by intervals
 * @tgid: VM
 * @shift: a range has 2^shift chunks
 * @rows: how many ranges
 * @cols: how many intervals, the last one the newest
 * @first: each range's first gfn
 * @n: pages dirtied
 * @max: the greatest of @n
 */
struct map {
	uint32_t tgid;
	int shift;
	int rows;
	int cols;
	uint64_t first[RANGES];
	uint64_t n[RANGES][TIMES];
	uint64_t max;
};

/* The VM whose chunks begin at @i: the smallest ranges of which there are not too many */
static void heat(size_t i, struct map *m)
{
	size_t end = i;

	*m = (struct map){ .tgid = sorted[i]->key.tgid };
	while (end < used && same_owner(sorted[i], sorted[end]))
		end++;
	for (;; m->shift++) {
		uint64_t last = UINT64_MAX;
		int rows = 0;

		for (size_t k = i; k < end; k++) {
			rows += sorted[k]->key.chunk >> m->shift != last;
			last = sorted[k]->key.chunk >> m->shift;
		}
		if (rows <= RANGES)
			break;
	}
	m->cols = times < TIMES ? times : TIMES;
	for (size_t k = i; k < end; k++) {
		uint64_t first = sorted[k]->key.chunk >> m->shift << (m->shift + DIRTY_CHUNK_SHIFT);

		if (!m->rows || m->first[m->rows - 1] != first)
			m->first[m->rows++] = first;
		for (int c = 0; c < m->cols; c++) {
			uint64_t *n = &m->n[m->rows - 1][c];

			*n += sorted[k]->hist[(times - m->cols + c) % TIMES];
			if (*n > m->max)
				m->max = *n;
		}
	}
}

static void print_map(const struct map *m)
{
	static const char *const blocks[] = { " ", "░", "▒", "▓", "█" };
	static const char *const plain[] = { " ", ".", ":", "-", "=", "+", "*", "#", "%", "@" };
	bool fine = isatty(STDOUT_FILENO) && out_utf8();
	const char *const *shade = fine ? blocks : plain;
	int shades = fine ? ARRAY_SIZE(blocks) : ARRAY_SIZE(plain);
	uint64_t pages = (uint64_t)CHUNK_PAGES << m->shift;

	printf("VM %u: pages dirtied, a row for %lu pages (%.4g MiB), a column for %.4g s, '%s' is "
	       "%lu\n",
	       m->tgid, pages, pages / 256.0, a.interval_ns / 1e9, shade[shades - 1], m->max);
	for (int r = 0; r < m->rows; r++) {
		printf("gfn %#12lx |", m->first[r]);
		for (int c = 0; c < m->cols; c++) {
			uint64_t n = m->n[r][c];

			/* A little is not nothing. */
			fputs(shade[n ? 1 + (n * (shades - 1) - 1) / m->max : 0], stdout);
		}
		puts("|");
	}
}

static void show(double s, bool with_map)
{
	static const struct col cols[] = {
		{ "VM", true },	   { "VCPU", true },	{ "PAGES/S", true },
		{ "MIB/S", true }, { "SET/MIB", true }, { "EVER/MIB", true },
	};
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));
	size_t i, next;
	struct sum x;
	bool any = false;

	for (i = 0; i < used; i = next) {
		next = sum(i, &x);
		any |= x.n;
		tbl_row(tbl, ARRAY_SIZE(cols), str("%u", sorted[i]->key.tgid),
			sorted[i]->key.vcpu == ALL_VCPUS ? str("all") :
							   str("%u", sorted[i]->key.vcpu),
			str("%.0f", x.n / s), str("%.1f", x.n / s / 256),
			str("%.1f", x.now / 256.0), str("%.1f", x.ever / 256.0));
	}
	if (used)
		tbl_print(tbl);
	else
		scols_unref_table(tbl);
	if (!any)
		puts("no page got dirty; a VM's pages show while dirty logging is on, as in a "
		     "migration");
	if (skel->bss->lost)
		printf("%lu pages were not counted: no room\n", (unsigned long)skel->bss->lost);
	for (i = 0; with_map && i < used; i = next) {
		struct map m;

		next = sum(i, &x);
		if (sorted[i]->key.vcpu != ALL_VCPUS)
			continue;
		heat(i, &m);
		if (m.max)
			print_map(&m);
	}
}

static void j_sum(const struct sum *x, double s)
{
	j_num("dirtied", x->n);
	j_real("dirty_per_s", x->n / s);
	j_real("dirty_mib_per_s", x->n / s / 256);
	j_num("set_pages", x->now);
	j_num("ever_pages", x->ever);
}

static void json(double s, uint64_t ns)
{
	size_t i, k, next;
	struct sum x;
	struct map m;

	j_open(NULL, '{');
	j_num("interval_ns", ns);
	j_str("source", source);
	j_num("lost", skel->bss->lost);
	j_open("vms", '[');
	for (i = 0; i < used; i = next) {
		/* Its vCPUs come first, then the VM itself. */
		j_open(NULL, '{');
		j_num("vm", sorted[i]->key.tgid);
		j_open("vcpus", '[');
		for (next = i; sorted[next]->key.vcpu != ALL_VCPUS; next = k) {
			k = sum(next, &x);
			j_open(NULL, '{');
			j_num("id", sorted[next]->key.vcpu);
			j_sum(&x, s);
			j_close('}');
		}
		j_close(']');
		k = sum(next, &x);
		j_sum(&x, s);
		heat(next, &m);
		j_open("ranges", '[');
		for (int r = 0; r < m.rows; r++) {
			if (!m.n[r][m.cols - 1])
				continue;
			j_open(NULL, '{');
			j_num("gfn", m.first[r]);
			j_num("pages", (uint64_t)CHUNK_PAGES << m.shift);
			j_num("dirtied", m.n[r][m.cols - 1]);
			j_close('}');
		}
		j_close(']');
		j_close('}');
		next = k;
	}
	j_close(']');
	j_close('}');
}

/* --- the picture --------------------------------------------------------------------- */

static bool in_path(const char *prog)
{
	char *path = str("%s", getenv("PATH") ?: "/usr/bin:/bin"), *next = path, *dir;
	bool found = false;

	while (!found && (dir = strsep(&next, ":"))) {
		char *file = str("%s/%s", *dir ? dir : ".", prog);

		found = !access(file, X_OK);
		free(file);
	}
	free(path);
	return found;
}

static int picture(void)
{
	uint64_t most = 0;
	size_t best = used, next;
	struct map m;
	FILE *f;

	/* The VM that dirtied most */
	for (size_t i = 0; i < used; i = next) {
		uint64_t n = 0;
		struct sum x;

		next = sum(i, &x);
		if (sorted[i]->key.vcpu != ALL_VCPUS)
			continue;
		for (size_t k = i; k < next; k++)
			for (int c = 0; c < TIMES; c++)
				n += sorted[k]->hist[c];
		if (n > most) {
			most = n;
			best = i;
		}
	}
	if (best == used)
		return fail(E_VM, "dirty logging is on while a VM migrates",
			    "no page got dirty, so there is nothing to draw in %s", a.png);
	heat(best, &m);
	f = popen("gnuplot", "w");
	if (!f)
		return fail(E_INTERNAL, NULL, "cannot run gnuplot: %s", strerror(errno));
	fputs("set terminal pngcairo size 1000,500\nset output '", f);
	for (const char *p = a.png; *p; p++)
		fputs(*p == '\'' ? "''" : (char[]){ *p, 0 }, f);
	fprintf(f, "'\nset title 'VM %u: pages dirtied'\nset xlabel 'interval of %g s'\n", m.tgid,
		a.interval_ns / 1e9);
	fprintf(f, "set ylabel 'gfn'\nset cblabel 'pages'\nset cbrange [0:%lu]\n", m.max ?: 1);
	fprintf(f,
		"set style fill solid noborder\nset xrange [-0.5:%g]\nset yrange [-0.5:%g]\nset ytics (",
		m.cols - 0.5, m.rows - 0.5);
	for (int r = 0; r < m.rows; r++)
		fprintf(f, "%s'%#lx' %d", r ? ", " : "", m.first[r], r);
	/* Boxes: gnuplot draws an image of two rows and columns at least. */
	fputs(")\nplot '-' using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with boxxyerror "
	      "linecolor palette notitle\n",
	      f);
	for (int r = 0; r < m.rows; r++)
		for (int c = 0; c < m.cols; c++)
			fprintf(f, "%d %d %lu\n", c, r, m.n[r][c]);
	fputs("e\n", f);
	if (pclose(f))
		return fail(E_INTERNAL, "its own message is above", "gnuplot could not draw %s",
			    a.png);
	say("wrote %s", a.png);
	return OK;
}

int cmd_dirty(int argc, char **argv)
{
	static const char doc[] =
		"Show how fast VMs and vCPUs dirty their memory, how much of it, and where.\v"
		"INTERVAL is in seconds (1), COUNT how often to look (no end). SET is what got dirty "
		"in the interval, the writable working set; EVER since the start. The heat map comes "
		"each time on a terminal, at the end elsewhere. With --json there is an object a line "
		"for each interval. Pages get dirty in the log while dirty logging is on, as in a "
		"migration; no policy is needed for this.";
	struct sigaction sa = { .sa_handler = on_signal };
	bool live;
	uint64_t t;
	int ret;

	ret = parse_args(argc, argv, options, parse, "[INTERVAL [COUNT]]", doc, NULL);
	if (ret == OK && a.png && !in_path("gnuplot"))
		ret = fail(E_ENV, "run: apt install gnuplot-nox",
			   "gnuplot, which draws the picture, is not installed");
	if (ret == OK)
		ret = need_kvm();
	if (ret == OK && a.vm)
		ret = need_vm(a.vm);
	if (ret == OK)
		ret = start();
	if (ret != OK)
		return ret;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	j_lines();
	live = !g.json && isatty(STDOUT_FILENO);
	t = clock_ns();
	say("source: %s", source);
	while (!stopped) {
		struct timespec ts = { a.interval_ns / 1000000000, a.interval_ns % 1000000000 };
		uint64_t now, ns;
		bool last;

		fflush(stdout);
		nanosleep(&ts, NULL);
		drop_gone();
		collect();
		now = clock_ns();
		ns = now - t;
		t = now;
		sort();
		last = stopped || (a.count && times >= a.count) || vm_ended(a.vm);
		/* Back to the upper left corner; what is left over below is erased. */
		if (live)
			printf("\033[H\033[2J");
		if (g.json)
			json(ns / 1e9, ns);
		else
			show(ns / 1e9, live || last);
		if (fflush(stdout) || last)
			break;
		if (!live && !g.json)
			putchar('\n');
	}
	ret = a.png ? picture() : OK;
	dirty_bpf__destroy(skel);
	return ret;
}
