// SPDX-License-Identifier: GPL-2.0
/* kvmext dirty: dirty rate, writable working set and where in memory it is hot. */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "dirty.h"
#include "hook.h"
#include "host.h"
#include "json.h"
#include "log.h"
#include "look.h"
#include "look_vm.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "tracer.h"
#include "vmm.h"

#include "user/dirty.skel.h"

#define TIMES 60 /* columns of the heat map at most */
#define RANGES 16 /* rows */
#define ALL_VCPUS UINT32_MAX
#define CHUNK_PAGES (1 << DIRTY_CHUNK_SHIFT)
/*
 * What is kept does not grow with the guests' memory: of the pages that ever got dirty, 8 MiB in
 * all are kept one by one; beyond that who has most of them is estimated from 4 KiB.
 */
#define SEEN_MAX (8 << 20)
#define SKETCH_BITS 12
#define SKETCH (1 << SKETCH_BITS)
#define REGIONS 32 /* of which the heat map's rows are made */

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
		if (!*arg)
			return fail_usage("dirty", "--png needs the name of a file"), EINVAL;
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
 * struct seen - 64 pages that ever got dirty
 * @chunk: which, and 1
 * @bits: pages
 */
struct seen {
	uint64_t chunk;
	uint64_t bits;
};

/**
 * struct region - a part of a VM's memory
 * @first: its first chunk >> struct owner's @shift
 * @n: pages dirtied there, for each of the last intervals
 */
struct region {
	uint64_t first;
	uint32_t n[TIMES];
};

/**
 * struct owner - what a vCPU, or a VM, dirtied
 * @key: which, with chunk 0; vcpu is ALL_VCPUS for the VM
 * @n: how often in the interval
 * @now: pages of the interval
 * @ever: pages since the start
 * @seen: these, an open hash; or
 * @sketch: the longest run of zeros in hashes of them, by the hashes' last bits
 * @size: of @seen
 * @used: of these
 * @region: of a VM: where, sorted
 * @regions: how many
 * @shift: a region has 2^shift chunks
 * @logging: of a VM: whether its pages are logged; -1 if that is not known
 */
struct owner {
	struct dirty_key key;
	uint64_t n;
	uint64_t now;
	uint64_t ever;
	struct seen *seen;
	uint8_t *sketch;
	size_t size, used;
	struct region *region;
	int regions;
	int shift;
	int logging;
};

/* Sorted: by VM, vCPU (the VM itself last) */
static struct owner *owners;
static size_t used, room;
static size_t seen_size; /* bytes in all */
static unsigned long times; /* intervals so far */

static int by_owner(const struct dirty_key *p, const struct dirty_key *q)
{
	if (p->tgid != q->tgid)
		return p->tgid < q->tgid ? -1 : 1;
	if (p->kvm != q->kvm)
		return p->kvm < q->kvm ? -1 : 1;
	return p->vcpu < q->vcpu ? -1 : p->vcpu > q->vcpu;
}

/* Good until the next one is asked for */
static struct owner *owner(uint32_t tgid, uint64_t kvm, uint32_t vcpu)
{
	struct dirty_key key = { .kvm = kvm, .vcpu = vcpu, .tgid = tgid };
	size_t lo = 0, hi = used;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (by_owner(&owners[mid].key, &key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < used && !by_owner(&owners[lo].key, &key))
		return &owners[lo];
	if (used == room) {
		room = room ? 2 * room : 64;
		owners = realloc(owners, room * sizeof(*owners));
		if (!owners)
			abort();
	}
	memmove(&owners[lo + 1], &owners[lo], (used++ - lo) * sizeof(*owners));
	owners[lo] = (struct owner){ .key = key, .logging = -1 };
	return &owners[lo];
}

/* --- pages that ever got dirty --- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Flajolet's HyperLogLog; good to 1.6 % */
static void sketch_add(struct owner *o, uint64_t chunk, uint64_t bits)
{
	for (; bits; bits &= bits - 1) {
		uint64_t page = chunk << DIRTY_CHUNK_SHIFT | __builtin_ctzll(bits);
		uint64_t h = mix(page + 0x9e3779b97f4a7c15);
		uint8_t zeros = 1 + __builtin_clzll(h | SKETCH);

		if (o->sketch[h % SKETCH] < zeros)
			o->sketch[h % SKETCH] = zeros;
	}
}

static uint64_t sketch_count(const struct owner *o)
{
	double sum = 0, m = SKETCH, x;
	int empty = 0;

	for (int i = 0; i < SKETCH; i++) {
		sum += 1.0 / (1ull << o->sketch[i]);
		empty += !o->sketch[i];
	}
	x = 0.7213 / (1 + 1.079 / m) * m * m / sum;
	return x < 2.5 * m && empty ? m * log(m / empty) : x;
}

static size_t place(const struct owner *o, uint64_t chunk)
{
	size_t i = mix(chunk) & (o->size - 1);

	while (o->seen[i].chunk && o->seen[i].chunk != chunk + 1)
		i = (i + 1) & (o->size - 1);
	return i;
}

/* Who has most pages is counted by a sketch from here on. */
static void make_sketch(void)
{
	struct owner *o = owners;

	for (size_t i = 1; i < used; i++)
		if (owners[i].size > o->size)
			o = &owners[i];
	o->sketch = calloc(1, SKETCH);
	if (!o->sketch)
		abort();
	for (size_t i = 0; i < o->size; i++)
		if (o->seen[i].chunk)
			sketch_add(o, o->seen[i].chunk - 1, o->seen[i].bits);
	seen_size -= o->size * sizeof(*o->seen);
	free(o->seen);
	o->seen = NULL;
	o->size = o->used = 0;
}

static void grow_seen(struct owner *o)
{
	size_t n = o->size;
	struct seen *old = o->seen;

	o->size = n ? 2 * n : 16;
	o->seen = calloc(o->size, sizeof(*o->seen));
	if (!o->seen)
		abort();
	for (size_t i = 0; i < n; i++)
		if (old[i].chunk)
			o->seen[place(o, old[i].chunk - 1)] = old[i];
	free(old);
	seen_size += (o->size - n) * sizeof(*o->seen);
}

static void add_seen(struct owner *o, uint64_t chunk, uint64_t bits)
{
	struct seen *s;

	if (!o->sketch && 2 * o->used >= o->size)
		grow_seen(o);
	while (seen_size > SEEN_MAX)
		make_sketch();
	if (o->sketch) {
		sketch_add(o, chunk, bits);
		return;
	}
	s = &o->seen[place(o, chunk)];
	o->used += !s->chunk;
	s->chunk = chunk + 1;
	o->ever += __builtin_popcountll(bits & ~s->bits);
	s->bits |= bits;
}

/* --- where --- */

static void merge_regions(struct owner *o)
{
	int n = 0;

	o->shift++;
	for (int i = 0; i < o->regions; i++) {
		struct region *r = &o->region[i];

		r->first >>= 1;
		if (!n || o->region[n - 1].first != r->first) {
			o->region[n++] = *r;
			continue;
		}
		for (int c = 0; c < TIMES; c++)
			o->region[n - 1].n[c] += r->n[c];
	}
	o->regions = n;
}

static void add_region(struct owner *o, uint64_t chunk, uint64_t n)
{
	int i;

	if (!o->region) {
		o->region = calloc(REGIONS, sizeof(*o->region));
		if (!o->region)
			abort();
	}
	for (;;) {
		uint64_t first = chunk >> o->shift;

		for (i = 0; i < o->regions && o->region[i].first < first; i++)
			;
		if (i < o->regions && o->region[i].first == first)
			break;
		if (o->regions == REGIONS) {
			merge_regions(o);
			continue;
		}
		memmove(&o->region[i + 1], &o->region[i], (o->regions++ - i) * sizeof(*o->region));
		o->region[i] = (struct region){ .first = first };
		break;
	}
	o->region[i].n[times % TIMES] += n;
}

static void add(struct owner *o, uint64_t chunk, uint64_t bits, uint64_t n)
{
	o->n += n;
	o->now += __builtin_popcountll(bits);
	add_seen(o, chunk, bits);
}

/* Forget processes that ended. */
static void drop_gone(void)
{
	uint32_t last = 0;
	bool gone = false;
	size_t n = 0;

	for (size_t i = 0; i < used; i++) {
		struct owner *o = &owners[i];

		if (o->key.tgid != last) {
			last = o->key.tgid;
			gone = kill(last, 0) && errno == ESRCH;
		}
		if (!gone) {
			owners[n++] = *o;
			continue;
		}
		seen_size -= o->size * sizeof(*o->seen);
		free(o->seen);
		free(o->sketch);
		free(o->region);
	}
	used = n;
}

/* --- collecting ------------------------------------------------------------------- */

static struct dirty_bpf *skel;
static const char *source;
static bool logged; /* The source is the log. */

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
	bool fentry = hook_has(POINT_DIRTY);
	int err;

	if (!fentry && !hook_has(POINT_FAULT))
		return fail(E_ENV, "see kvmext doctor",
			    "this kernel has neither fentry for KVM nor kvm_page_fault");
	logged = fentry;
	source = fentry ? "the dirty log (fentry/mark_page_dirty_in_slot)" :
			  "write faults (tp_btf/kvm_page_fault), first touches among them";
	log_clear();
	err = load(fentry);
	if (err) {
		errno = -err;
		return tracer_load_error("dirty");
	}
	return OK;
}

/* An interval's worth: as many as the programs have room for */
struct entry {
	struct dirty_key key;
	struct dirty_val val;
};

static struct entry *entries;
static size_t nr_entries;

static int by_place(const void *x, const void *y)
{
	const struct dirty_key *p = &((const struct entry *)x)->key;
	const struct dirty_key *q = &((const struct entry *)y)->key;

	if (p->tgid != q->tgid)
		return p->tgid < q->tgid ? -1 : 1;
	if (p->kvm != q->kvm)
		return p->kvm < q->kvm ? -1 : 1;
	return p->chunk < q->chunk ? -1 : p->chunk > q->chunk;
}

static void add_entries(void)
{
	qsort(entries, nr_entries, sizeof(*entries), by_place);
	for (size_t i = 0, next; i < nr_entries; i = next) {
		const struct dirty_key *k = &entries[i].key;
		uint64_t bits = 0, n = 0;
		struct owner *vm;

		for (next = i; next < nr_entries && !by_place(&entries[i], &entries[next]);
		     next++) {
			const struct entry *e = &entries[next];

			add(owner(k->tgid, k->kvm, e->key.vcpu), k->chunk, e->val.bits, e->val.n);
			bits |= e->val.bits;
			n += e->val.n;
		}
		vm = owner(k->tgid, k->kvm, ALL_VCPUS);
		add(vm, k->chunk, bits, n);
		add_region(vm, k->chunk, n);
	}
}

/* A VM that was never logged is known from here. */
static int see_logging(const struct look_vm *l, void *arg)
{
	bool *any = arg;

	if (!a.vm || l->tgid == a.vm) {
		owner(l->tgid, l->kvm, ALL_VCPUS)->logging =
			l->logging == LOOK_UNKNOWN ? -1 : !!l->logging;
		*any = true;
	}
	return 0;
}

static void collect(void)
{
	struct bpf_map *map = skel->bss->epoch & 1 ? skel->maps.odd : skel->maps.even;
	struct timespec grace = { .tv_nsec = 10000000 };
	static struct dirty_key keys[4096];
	static struct dirty_val vals[4096];
	bool first = true, any = false;
	uint32_t n, token;
	int err;

	if (!entries)
		entries = calloc(bpf_map__max_entries(map), sizeof(*entries));
	if (!entries)
		abort();
	for (size_t i = 0; i < used; i++) {
		owners[i].n = owners[i].now = 0;
		owners[i].logging = -1;
		for (int r = 0; r < owners[i].regions; r++)
			owners[i].region[r].n[times % TIMES] = 0;
	}
	skel->bss->epoch++;
	/* Programs that began before are done by then: they do not sleep. */
	nanosleep(&grace, NULL);
	nr_entries = 0;
	do {
		n = ARRAY_SIZE(keys);
		err = bpf_map_lookup_and_delete_batch(bpf_map__fd(map), first ? NULL : &token,
						      &token, keys, vals, &n, NULL);
		first = false;
		if (err && err != -ENOENT)
			break;
		for (uint32_t i = 0; i < n && nr_entries < bpf_map__max_entries(map); i++)
			if (!a.vm || keys[i].tgid == a.vm)
				entries[nr_entries++] = (struct entry){ keys[i], vals[i] };
	} while (!err);
	add_entries();
	/* Write faults are seen whether they are logged or not. */
	if (logged)
		vms_look(a.vm, see_logging, &any);
	times++;
}

/* --- showing -------------------------------------------------------------------------- */

static uint64_t ever(const struct owner *o)
{
	return o->sketch ? sketch_count(o) : o->ever;
}

/* Nothing was seen of it because nothing can be */
static bool unseen(const struct owner *o)
{
	return !o->logging && !o->n;
}

/* That of the VM with this vCPU */
static const struct owner *vm_of(size_t i)
{
	while (owners[i].key.vcpu != ALL_VCPUS)
		i++;
	return &owners[i];
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

/* The smallest ranges of which there are not too many */
static void heat(const struct owner *o, struct map *m)
{
	*m = (struct map){ .tgid = o->key.tgid, .shift = o->shift };
	for (;; m->shift++) {
		uint64_t last = UINT64_MAX;
		int rows = 0;

		for (int k = 0; k < o->regions; k++) {
			uint64_t first = o->region[k].first >> (m->shift - o->shift);

			rows += first != last;
			last = first;
		}
		if (rows <= RANGES)
			break;
	}
	m->cols = times < TIMES ? times : TIMES;
	for (int k = 0; k < o->regions; k++) {
		uint64_t first = o->region[k].first >> (m->shift - o->shift)
							       << (m->shift + DIRTY_CHUNK_SHIFT);

		if (!m->rows || m->first[m->rows - 1] != first)
			m->first[m->rows++] = first;
		for (int c = 0; c < m->cols; c++) {
			uint64_t *n = &m->n[m->rows - 1][c];

			*n += o->region[k].n[(times - m->cols + c) % TIMES];
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

static const char logging_off[] =
	"dirty logging is off, so what it dirties cannot be seen: it is on while a VM migrates, and in "
	"QEMU with the monitor's calc_dirty_rate -b 10";

static void show(double s, bool with_map)
{
	static const struct col cols[] = {
		{ "VM", true },	   { "VCPU", true },	{ "PAGES/S", true },
		{ "MIB/S", true }, { "SET/MIB", true }, { "EVER/MIB", true },
	};
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));
	bool any = false, off = false;
	struct map m;

	for (size_t i = 0; i < used; i++) {
		const struct owner *o = &owners[i];
		bool no = !o->n && unseen(vm_of(i));
		uint64_t e = ever(o);

		any |= o->n;
		off |= no;
		tbl_row(tbl, ARRAY_SIZE(cols), str("%u", o->key.tgid),
			o->key.vcpu == ALL_VCPUS ? str("all") : str("%u", o->key.vcpu),
			no ? NULL : str("%.0f", o->n / s), no ? NULL : str("%.1f", o->n / s / 256),
			no ? NULL : str("%.1f", o->now / 256.0),
			no && !e ? NULL : str("%s%.1f", o->sketch ? "~" : "", e / 256.0));
	}
	if (used)
		tbl_print(tbl);
	else
		scols_unref_table(tbl);
	if (off)
		printf("-: %s\n", logging_off);
	else if (!any)
		puts("no page got dirty; a VM's pages show while dirty logging is on, as in a "
		     "migration");
	if (skel->bss->lost)
		printf("%lu pages were not counted: no room\n", (unsigned long)skel->bss->lost);
	for (size_t i = 0; with_map && i < used; i++) {
		if (owners[i].key.vcpu != ALL_VCPUS)
			continue;
		heat(&owners[i], &m);
		if (m.max)
			print_map(&m);
	}
}

static void j_maybe(const char *key, bool no, double val, bool real)
{
	if (no)
		j_str(key, NULL);
	else if (real)
		j_real(key, val);
	else
		j_num(key, val);
}

static void j_sum(const struct owner *o, bool no, double s)
{
	uint64_t e = ever(o);

	j_maybe("dirtied", no, o->n, false);
	j_maybe("dirty_per_s", no, o->n / s, true);
	j_maybe("dirty_mib_per_s", no, o->n / s / 256, true);
	j_maybe("set_pages", no, o->now, false);
	j_maybe("ever_pages", no && !e, e, false);
	j_bool("ever_exact", !o->sketch);
}

static void json(double s, uint64_t ns)
{
	struct map m;

	j_open(NULL, '{');
	j_num("interval_ns", ns);
	j_str("source", source);
	j_num("lost", skel->bss->lost);
	j_open("vms", '[');
	for (size_t i = 0; i < used; i++) {
		const struct owner *vm = vm_of(i);

		/* Its vCPUs come first, then the VM itself. */
		j_open(NULL, '{');
		j_num("vm", vm->key.tgid);
		if (vm->logging < 0)
			j_str("logging", NULL);
		else
			j_bool("logging", vm->logging);
		j_open("vcpus", '[');
		for (; &owners[i] < vm; i++) {
			j_open(NULL, '{');
			j_num("id", owners[i].key.vcpu);
			j_sum(&owners[i], !owners[i].n && unseen(vm), s);
			j_close('}');
		}
		j_close(']');
		j_sum(vm, unseen(vm), s);
		heat(vm, &m);
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

/* Better now than after hours.  gnuplot makes the file; until then what is there stays. */
static int need_png(void)
{
	int fd = open(a.png, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	struct stat st;

	if (fd >= 0) {
		close(fd);
		unlink(a.png);
		return OK;
	}
	if (errno == EEXIST && !stat(a.png, &st) && S_ISDIR(st.st_mode))
		errno = EISDIR;
	else if (errno == EEXIST && !faccessat(AT_FDCWD, a.png, W_OK, AT_EACCESS))
		return OK;
	return fail(E_USAGE, "give a file that can be written", "cannot write %s: %s", a.png,
		    strerror(errno));
}

static int picture(void)
{
	const struct owner *best = NULL;
	uint64_t most = 0;
	struct map m;
	FILE *f;

	/* The VM that dirtied most */
	for (size_t i = 0; i < used; i++) {
		uint64_t n = 0;

		for (int k = 0; k < owners[i].regions; k++)
			for (int c = 0; c < TIMES; c++)
				n += owners[i].region[k].n[c];
		if (n > most) {
			most = n;
			best = &owners[i];
		}
	}
	if (!best)
		return fail(E_VM, "dirty logging is on while a VM migrates",
			    "no page got dirty, so there is nothing to draw in %s", a.png);
	heat(best, &m);
	/* Should it end before it has read all */
	signal(SIGPIPE, SIG_IGN);
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
	bool live;
	uint64_t t;
	int ret;

	ret = parse_args(argc, argv, options, parse, "[INTERVAL [COUNT]]", doc, NULL);
	if (ret == OK && a.png && !in_path("gnuplot"))
		ret = fail(E_ENV, "run: apt install gnuplot-nox",
			   "gnuplot, which draws the picture, is not installed");
	if (ret == OK && a.png)
		ret = need_png();
	if (ret == OK)
		ret = need_kvm();
	if (ret == OK && a.vm)
		ret = need_vm(a.vm);
	if (ret == OK)
		ret = start();
	if (ret != OK)
		return ret;
	catch_ends(on_signal);
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
