// SPDX-License-Identifier: GPL-2.0
/*
 * kvmext guest: the agent that runs in a guest and keeps the host told which pages are free.
 *
 * user/guest.bpf.c keeps the bits, bpf/free.h has the words on the line.  Map and links are pinned, so
 * that the bits stay right while nobody answers the host; it stops believing them by itself then.
 * A guest that is suspended does not answer either, nor does it allocate.
 */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "guest.h"
#include "host.h"
#include "json.h"
#include "log.h"
#include "out.h"
#include "text.h"

#include "bpf/free.h"
#include "user/guest.skel.h"

#define PAGE 4096
/* Own pace: a look at all bits so often, this much at one go */
#define CHECK_NS 10000000000ull
#define STEP_NS 10000000ull
/* A bit of a page that is on its way in or out is not wrong: that is one that stays so. */
#define TRIES 24
#define TRY_US 50000
#define ZERO_CHUNK (4ull << 20)
#define ZERO_FLOOR_KIB (16ull << 10)
#define ZERO_LOOK_US 20000
#define LISTS "/proc/sys/vm/percpu_pagelist_high_fraction"
/* So much for a CPU, if that is not less than the kernel's least, four batches */
#define LISTS_KIB 1024
#define LISTS_FRACTION_MIN 8
/* A CPU's limit falls by an eighth each time, unless it frees something before. */
#define LISTS_DRAINS 40

enum { OPT_PORT = 0x300, OPT_CHECK, OPT_STOP, OPT_LISTS };

struct guest_args {
	const char *port;
	bool keep_lists;
	bool check;
	bool stop;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct guest_args *a = state->input;

	switch (key) {
	case OPT_PORT:
		a->port = arg;
		return 0;
	case OPT_LISTS:
		a->keep_lists = true;
		return 0;
	case OPT_CHECK:
		a->check = true;
		return 0;
	case OPT_STOP:
		a->stop = true;
		return 0;
	case ARGP_KEY_ARG:
		return fail_usage("guest", "'%s' is not expected", arg), EINVAL;
	case ARGP_KEY_END:
		if (a->check && a->stop)
			return fail_usage("guest", "--check and --stop exclude each other"), EINVAL;
		if ((a->check || a->stop) && (a->port || a->keep_lists))
			return fail_usage("guest",
					  "--port and --keep-lists are for the agent itself"),
			       EINVAL;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option options[] = {
	{ "port", OPT_PORT, "FILE", 0, "the device that leads to the host (" FREE_PORT ")", 0 },
	{ "keep-lists", OPT_LISTS, NULL, 0,
	  "leave the CPUs' own lists of free pages as they are during a migration", 0 },
	{ "check", OPT_CHECK, NULL, 0, "compare the bits with the pages, once", 0 },
	{ "stop", OPT_STOP, NULL, 0, "end it, and take the programs out of the kernel", 0 },
	{}
};

/* --- the port ------------------------------------------------------------------------- */

/**
 * struct port - the line to the host
 * @path: its device
 * @fd: -1 while it cannot be had
 * @waited_ms: for a host, in vain, since one has taken something
 * @in: what came, up to a line's end
 * @len: of it
 */
struct port {
	char *path;
	int fd;
	unsigned int waited_ms;
	char in[256];
	size_t len;
};

/* The device has its name only by udev; sysfs tells it always. */
static char *port_find(void)
{
	static const char top[] = "/sys/class/virtio-ports";
	DIR *dir = opendir(top);
	char *found = NULL;
	struct dirent *e;

	while (dir && !found && (e = readdir(dir))) {
		char *path = str("%s/%s/name", top, e->d_name), name[64] = "";
		FILE *f = fopen(path, "re");

		free(path);
		if (f && fgets(name, sizeof(name), f)) {
			name[strcspn(name, "\n")] = 0;
			if (!strcmp(name, FREE_PORT))
				found = str("/dev/%s", e->d_name);
		}
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* send - a message to the host, as long as there is one that listens */
static __printf(2, 3) void port_send(struct port *p, const char *fmt, ...)
{
	char *text, *at;
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		abort();
	for (at = text; len > 0 && p->fd >= 0;) {
		struct pollfd pfd = { .fd = p->fd, .events = POLLOUT };
		ssize_t n = write(p->fd, at, len);

		if (n > 0) {
			at += n;
			len -= n;
			p->waited_ms = 0;
		} else if (errno == EINTR) {
			continue;
		} else if (errno != EAGAIN || poll(&pfd, 1, 1000) <= 0) {
			/* What is cut off the host asks for again. */
			break;
		} else if (pfd.revents & POLLHUP) {
			/* What a host says may be here before the word that it came. */
			if (p->waited_ms >= 1000)
				break;
			usleep(20000);
			p->waited_ms += 20;
		}
	}
	free(text);
}

/* port_line - the next line that has come, or NULL */
static char *port_line(struct port *p)
{
	static char line[sizeof(p->in)];
	char *end;

	for (;;) {
		ssize_t n;

		end = memchr(p->in, '\n', p->len);
		if (end) {
			size_t len = end - p->in;

			memcpy(line, p->in, len);
			line[len] = 0;
			p->len -= len + 1;
			memmove(p->in, end + 1, p->len);
			return line;
		}
		/* No line is that long. */
		if (p->len == sizeof(p->in))
			p->len = 0;
		n = p->fd < 0 ? -1 : read(p->fd, p->in + p->len, sizeof(p->in) - p->len);
		if (n <= 0)
			return NULL;
		p->len += n;
	}
}

/* --- what this kernel is like --------------------------------------------------------------- */

/* Variables and functions whose addresses are needed, or that tell by being there */
enum sym {
	S_VMEMMAP,
	S_MAX_PFN,
	S_MAX_POSSIBLE_PFN,
	S_INIT_ON_FREE,
	S_POISONING,
	S_DEBUG_PAGEALLOC,
	S_KASAN,
	S_KMSAN,
	SYMS,
};

static const char *const sym_names[SYMS] = {
	[S_VMEMMAP] = "vmemmap_base",
	[S_MAX_PFN] = "max_pfn",
	[S_MAX_POSSIBLE_PFN] = "max_possible_pfn",
	[S_INIT_ON_FREE] = "init_on_free",
	[S_POISONING] = "_page_poisoning_enabled",
	[S_DEBUG_PAGEALLOC] = "_debug_pagealloc_enabled",
	[S_KASAN] = "kasan_report",
	[S_KMSAN] = "kmsan_report",
};

/*
 * Settings under which what is in a free page matters to the guest.  With the first two a page that is
 * taken is believed to hold what was put there when it was freed; the host would give it zeroes (or, if
 * the free page was never sent, what was there before).  debug_pagealloc has pages that are neither free nor
 * in use, and sanitizers keep a shadow of free pages, by which they would report what is no error.
 */
static const struct {
	enum sym sym;
	bool is_key; /* else the symbol alone tells */
	const char *reason;
} contents[] = {
	{ S_INIT_ON_FREE, true, "this kernel zeroes pages as it frees them (init_on_free)" },
	{ S_POISONING, true, "this kernel poisons the pages that it frees (page_poison)" },
	{ S_DEBUG_PAGEALLOC, true, "this kernel guards free pages (debug_pagealloc)" },
	{ S_KASAN, false, "this kernel has KASAN" },
	{ S_KMSAN, false, "this kernel has KMSAN" },
};

/* Attach points by function; without those that are needed the bits could not be right. */
static const struct {
	const char *prog;
	const char *func;
	bool may_lack; /* not in every kernel; then there is nothing to watch */
} hooks[] = {
	{ "taken", "mm_page_alloc_zone_locked", false },
	{ "stolen", "mm_page_alloc_extfrag", false },
	{ "captured", "mm_compaction_end", false },
	{ "drained", "mm_page_pcpu_drain", false },
	{ "compacted", "try_to_compact_pages", false },
	{ "isolated", "__isolate_free_page", false },
	{ "poisoned", "take_page_off_buddy", true },
	{ "offline", "__offline_isolated_pages", true },
	{ "freed", "free_one_page", false },
	{ "putback", "__putback_isolated_page", false },
	{ "on_hibernate", "hibernate", true },
	{ "on_hibernation_snapshot", "hibernation_snapshot", true },
	{ "on_hibernation_restore", "hibernation_restore", true },
	{ "on_kernel_kexec", "kernel_kexec", true },
	{ "on_machine_restart", "machine_restart", false },
	{ "on_machine_emergency_restart", "machine_emergency_restart", false },
};

/*
 * Programs to run, and those that the kernel may leave out when they interrupt themselves: not under
 * zone->lock, or under one that sleeps (PREEMPT_RT).
 */
static const char *const kept_progs[] = { "scan",     "check",	 "again",   "compacted",
					  "poisoned", "offline", "isolated" };
#define KEPT_RUN 3

struct guest {
	struct port port;
	struct guest_bpf *skel;
	int progs[ARRAY_SIZE(kept_progs)];
	int lock;
	char *dir;
	uint64_t addr[SYMS];
	bool there[ARRAY_SIZE(hooks)];
	uint64_t *area;
	size_t bytes;
	volatile struct free_head *head;
	uint64_t pfns;
	const char *reason;
	bool told;
	/* a scan or a check under way, the frame it is at */
	uint64_t scan_at, check_at, next_check;
	uint64_t scan_set;
	bool scanning, checking;
	struct guest_region sum;
	uint64_t moving_until; /* 0 while no migration is near */
	bool keep_lists;
	int zero_fd;
	pid_t zero_pid;
	uint64_t wrong_pfn;
};

static volatile sig_atomic_t stopped;

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
}

static int refuse(struct guest *x, const char *hint, const char *reason)
{
	port_send(&x->port, "refused %s\n", reason);
	return fail(E_ENV, hint, "free pages cannot be told here: %s", reason);
}

static bool file_has(const char *path, const char *text)
{
	char line[4096];
	FILE *f = fopen(path, "re");
	bool has = false;

	while (f && !has && fgets(line, sizeof(line), f))
		has = strstr(line, text);
	if (f)
		fclose(f);
	return has;
}

static void read_syms(struct guest *x)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[512];

	/* "ADDRESS T NAME"; there are many. */
	while (f && fgets(line, sizeof(line), f)) {
		char *name = strchr(line, ' ');

		name = name && name[1] ? strchr(name + 2, ' ') : NULL;
		/* Modules come last. */
		if (!name || strchr(name, '['))
			break;
		name[strcspn(name, "\n")] = 0;
		for (int i = 0; i < SYMS; i++)
			if (!strcmp(name + 1, sym_names[i])) {
				x->addr[i] = strtoull(line, NULL, 16);
				/* Hidden, but there */
				if (!x->addr[i])
					x->addr[i] = 1;
			}
	}
	if (f)
		fclose(f);
}

static int run_prog(int fd, void *ctx, size_t size)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = ctx, .ctx_size_in = size);

	return bpf_prog_test_run_opts(fd, &opts);
}

static bool peek(int fd, uint64_t addr, uint64_t *val)
{
	struct guest_peek p = { .addr = addr };

	if (addr <= 1 || run_prog(fd, &p, sizeof(p)) || p.err)
		return false;
	*val = p.val;
	return true;
}

/* Of a kernel before 5.18 or so this says no, as it has no such enumerator either. */
static bool buddy_type(const struct btf *btf, uint32_t *type)
{
	int id = btf__find_by_name_kind(btf, "pagetype", BTF_KIND_ENUM);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; t && i < btf_vlen(t); i++) {
		const struct btf_enum *e = btf_enum(t) + i;

		if (!strcmp(btf__str_by_offset(btf, e->name_off), "PGTY_buddy")) {
			*type = e->val;
			return true;
		}
	}
	return false;
}

/**
 * learn - find out whether and how the pages of this kernel can be watched
 * @x: the agent; its programs are open then and know the kernel
 *
 * Return: OK or the code of what was reported.
 */
static int learn(struct guest *x)
{
	uint64_t vmemmap, max_pfn, possible, val;
	struct guest_bpf *first;
	struct bpf_program *p;
	uint32_t type, shift;
	struct btf *btf;
	int id, fd, ret;

	if (!file_has("/proc/cpuinfo", " hypervisor"))
		return refuse(x, "run it in a guest; on its host run kvmext hint",
			      "this is no virtual machine");
	btf = btf__load_vmlinux_btf();
	if (!btf)
		return refuse(x, "boot a kernel with CONFIG_DEBUG_INFO_BTF",
			      "this kernel has no BTF");
	id = btf__find_by_name_kind(btf, "page", BTF_KIND_STRUCT);
	if (!buddy_type(btf, &type) || id <= 0)
		return refuse(x, "Linux 6.12 is",
			      "this kernel's free pages are not marked in a way that is known");
	shift = __builtin_ctz(btf__type_by_id(btf, id)->size);
	if (btf__type_by_id(btf, id)->size != 1u << shift)
		return refuse(x, NULL, "the size of this kernel's struct page is no power of 2");
	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		bool tp = !strncmp(hooks[i].func, "mm_", 3);
		char *name = tp ? str("btf_trace_%s", hooks[i].func) : str("%s", hooks[i].func);

		x->there[i] = btf__find_by_name_kind(btf, name,
						     tp ? BTF_KIND_TYPEDEF : BTF_KIND_FUNC) > 0;
		free(name);
		if (!x->there[i] && !hooks[i].may_lack)
			return refuse(x, "it needs a kernel such as Debian's 6.12",
				      str("this kernel cannot be watched at %s", hooks[i].func));
	}
	read_syms(x);
	/* This one is in every kernel. */
	if (x->addr[S_MAX_PFN] <= 1 && !has_cap(CAP_SYSLOG)) {
		char *why =
			str("%s lacks CAP_SYSLOG, and this kernel hides where its variables are",
			    called("guest"));

		port_send(&x->port, "refused %s\n", why);
		return fail(E_PRIV, "give it CAP_SYSLOG", "free pages cannot be told here: %s",
			    why);
	}
	if (x->addr[S_MAX_PFN] <= 1)
		return refuse(x, "see kernel.kptr_restrict",
			      "this kernel hides where its variables are");

	if (lockdown_bars_reads())
		return refuse(x, "boot with lockdown=integrity",
			      "kernel lockdown (confidentiality) keeps BPF from the kernel's memory");
	log_clear();
	first = guest_bpf__open();
	if (!first)
		return fail(E_INTERNAL, "-v shows why", "cannot open the programs of guest: %s",
			    strerror(errno));
	bpf_object__for_each_program(p, first->obj)
		bpf_program__set_autoload(p, !strcmp(bpf_program__name(p), "peek"));
	if (guest_bpf__load(first)) {
		ret = errno;
		return refuse(x, "-v shows why",
			      str("BPF programs cannot be loaded: %s", strerror(ret)));
	}
	fd = bpf_program__fd(first->progs.peek);
	if (!peek(fd, x->addr[S_MAX_PFN], &max_pfn))
		return refuse(x, "is the kernel locked down?",
			      "this kernel's memory cannot be read");
	for (size_t i = 0; i < ARRAY_SIZE(contents); i++) {
		uint64_t addr = x->addr[contents[i].sym];
		bool on = addr;

		/* A static key begins with how often it is enabled, an int. */
		if (on && contents[i].is_key)
			on = !peek(fd, addr, &val) || (uint32_t)val;
		if (on)
			return refuse(x, "it counts on what is in a free page, which is not sent",
				      contents[i].reason);
	}
	if (!peek(fd, x->addr[S_VMEMMAP], &vmemmap))
		return refuse(x, "boot a kernel with CONFIG_RANDOMIZE_MEMORY",
			      "this kernel does not say where its pages are listed");
	/* Room for memory that may be plugged in, as far as firmware tells. */
	if (peek(fd, x->addr[S_MAX_POSSIBLE_PFN], &possible) && possible > max_pfn)
		max_pfn = possible;
	if (max_pfn > (FREE_AREA_PAGES - 1ull) * FREE_PAGE_BITS)
		max_pfn = (FREE_AREA_PAGES - 1ull) * FREE_PAGE_BITS;
	x->pfns = (max_pfn + FREE_PAGE_BITS - 1) / FREE_PAGE_BITS * FREE_PAGE_BITS;
	guest_bpf__destroy(first);
	btf__free(btf);

	x->skel = guest_bpf__open();
	if (!x->skel)
		return fail(E_INTERNAL, "-v shows why", "cannot open the programs of guest: %s",
			    strerror(errno));
	x->skel->rodata->vmemmap = vmemmap;
	x->skel->rodata->page_shift = shift;
	x->skel->rodata->buddy_type = type;
	return OK;
}

/*
 * With tracing of functions off no program at a function runs: nothing else tells us.
 * And there are programs that may be left out.
 */
static const char *distrust(const struct guest *x)
{
	char c = '1';
	int fd = open("/proc/sys/kernel/ftrace_enabled", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &c, 1) != 1)
			c = '1';
		close(fd);
	}
	if (c == '0')
		return "tracing of functions is off (kernel.ftrace_enabled)";
	for (size_t i = KEPT_RUN; x->head && i < ARRAY_SIZE(kept_progs); i++) {
		struct bpf_prog_info info = {};
		uint32_t len = sizeof(info);

		if (x->progs[i] >= 0 && !bpf_prog_get_info_by_fd(x->progs[i], &info, &len) &&
		    info.recursion_misses)
			return "the kernel left out a program that interrupted itself";
	}
	return NULL;
}

/* --- the area ----------------------------------------------------------------------------- */

static char *pin_path(const struct guest *x, const char *kind, const char *name)
{
	return str("%s/%s%s", x->dir, kind, name);
}

/* The folder, and the lock on it: one agent at a time */
static int folder(struct guest *x, bool make, bool wait)
{
	struct stat st;
	int tries = wait ? 50 : 1;

	x->dir = str("%s/kvmext-guest", g.bpffs);
	if (make && mkdir(x->dir, 0700) && errno != EEXIST)
		return fail(E_INTERNAL, NULL, "cannot make %s: %s", x->dir, strerror(errno));
	x->lock = open(x->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (x->lock < 0)
		return fail(E_ENV, str("start %s", called("guest")), "no free pages are kept here: %s: %s",
			    x->dir, strerror(errno));
	if (fstat(x->lock, &st) || st.st_uid != geteuid() || st.st_mode & 022)
		return fail(E_ENV, "remove it, and mount bpffs with mode=0700",
			    "%s is not root's alone", x->dir);
	while (make && flock(x->lock, LOCK_EX | LOCK_NB)) {
		if (!--tries)
			return fail(E_CONFLICT, "end that first", "another %s runs", called("guest"));
		usleep(100000);
	}
	return OK;
}

static void unpin(struct guest *x)
{
	DIR *dir = opendir(x->dir);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (*e->d_name != '.')
			unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(x->dir);
}

static int map_area(struct guest *x, int fd)
{
	struct bpf_map_info info = {};
	uint32_t len = sizeof(info);

	if (bpf_map_get_info_by_fd(fd, &info, &len))
		return -errno;
	x->bytes = info.max_entries * 8ull;
	x->area = mmap(NULL, x->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (x->area == MAP_FAILED) {
		x->area = NULL;
		return -errno;
	}
	x->head = (struct free_head *)x->area;
	return 0;
}

/* adopt - take what an earlier agent left, if it is whole */
static bool adopt(struct guest *x, bool whole)
{
	char *path = pin_path(x, "", "area");
	int fd = bpf_obj_get(path), l;
	bool ok = fd >= 0 && !map_area(x, fd);

	free(path);
	for (size_t i = 0; ok && i < ARRAY_SIZE(kept_progs); i++) {
		path = pin_path(x, "prog_", kept_progs[i]);
		x->progs[i] = bpf_obj_get(path);
		free(path);
		ok = i >= KEPT_RUN || x->progs[i] >= 0;
	}
	for (size_t i = 0; whole && ok && i < ARRAY_SIZE(hooks); i++) {
		if (!x->there[i])
			continue;
		path = pin_path(x, "link_", hooks[i].prog);
		l = bpf_obj_get(path);
		free(path);
		ok = l >= 0;
		close(l);
	}
	if (fd >= 0)
		close(fd);
	if (ok && x->head->magic == FREE_MAGIC) {
		x->pfns = x->head->pfns;
		return true;
	}
	if (x->area)
		munmap(x->area, x->bytes);
	x->area = NULL;
	x->head = NULL;
	return false;
}

static int pin_error(const char *path)
{
	return fail(E_INTERNAL, NULL, "cannot pin %s: %s", path, strerror(errno));
}

static int make_area(struct guest *x)
{
	uint64_t cookie;
	char *path;

	bpf_map__set_max_entries(x->skel->maps.area, FREE_HEAD_WORDS + x->pfns / 64);
	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++)
		if (!x->there[i])
			bpf_program__set_autoload(bpf_object__find_program_by_name(x->skel->obj,
										   hooks[i].prog),
						  false);
	bpf_program__set_autoload(x->skel->progs.peek, false);
	if (guest_bpf__load(x->skel)) {
		int err = errno;

		return refuse(x, "-v shows why",
			      str("its programs cannot be loaded: %s", strerror(err)));
	}
	if (map_area(x, bpf_map__fd(x->skel->maps.area)))
		return fail(E_INTERNAL, NULL, "cannot map the area: %s", strerror(errno));
	path = pin_path(x, "", "area");
	if (bpf_map__pin(x->skel->maps.area, path))
		return pin_error(path);
	for (size_t i = 0; i < ARRAY_SIZE(kept_progs); i++) {
		struct bpf_program *p =
			bpf_object__find_program_by_name(x->skel->obj, kept_progs[i]);

		x->progs[i] = bpf_program__fd(p);
		path = pin_path(x, "prog_", kept_progs[i]);
		if (x->progs[i] >= 0 && bpf_obj_pin(x->progs[i], path))
			return pin_error(path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct bpf_program *p =
			bpf_object__find_program_by_name(x->skel->obj, hooks[i].prog);
		struct bpf_link *link;

		if (!x->there[i])
			continue;
		link = bpf_program__attach(p);
		if (!link) {
			int err = errno;

			return refuse(x, "-v shows why",
				      str("this kernel cannot be watched at %s: %s", hooks[i].func,
					  strerror(err)));
		}
		path = pin_path(x, "link_", hooks[i].prog);
		if (bpf_link__pin(link, path))
			return pin_error(path);
	}
	if (getrandom(&cookie, sizeof(cookie), 0) != sizeof(cookie))
		return fail(E_INTERNAL, NULL, "no random numbers: %s", strerror(errno));
	x->head->pfns = x->pfns;
	x->head->cookie = cookie;
	x->head->seq = 1;
	return OK;
}

static void withdraw(struct guest *x)
{
	__atomic_fetch_or(&x->head->seq, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&x->head->magic, 0, __ATOMIC_SEQ_CST);
}

/*
 * Scans one more region; false when there is none.  The host does not believe the bits meanwhile: one
 * may be set for an instant whose page has just been taken.
 */
static bool scan_step(struct guest *x)
{
	struct guest_region r = { .first = x->scan_at, .end = x->scan_at + GUEST_REGION };

	if (x->scan_at >= x->pfns)
		return false;
	if (!run_prog(x->progs[0], &r, sizeof(r)))
		x->scan_set += r.set;
	x->scan_at += GUEST_REGION;
	return true;
}

static void scan_some(struct guest *x, uint64_t ns)
{
	uint64_t until = clock_ns() + ns, odd = x->head->seq & 1;

	/* Odd already: an agent was killed just here. */
	if (!odd)
		__atomic_fetch_add(&x->head->seq, 1, __ATOMIC_SEQ_CST);
	while (scan_step(x) && clock_ns() < until)
		;
	__atomic_fetch_add(&x->head->seq, 1, __ATOMIC_SEQ_CST);
	x->scanning = x->scan_at < x->pfns;
}

/* check_step - look at one more region; OK, or E_INTERNAL if a bit is wrong and stays so */
static int check_step(struct guest *x)
{
	struct guest_region r = { .first = x->check_at, .end = x->check_at + GUEST_REGION };

	if (run_prog(x->progs[1], &r, sizeof(r)))
		return OK;
	x->check_at += GUEST_REGION;
	x->sum.buddy += r.buddy;
	x->sum.set += r.set;
	x->sum.leaked += r.leaked;
	for (int i = 0; r.wrong && i < TRIES; i++) {
		usleep(i ? TRY_US : 1000);
		run_prog(x->progs[2], &r, sizeof(r));
		r.wrong = 0;
		for (int k = 0; k < GUEST_SUSPECTS; k++)
			if (r.suspect[k]) {
				r.wrong++;
				x->wrong_pfn = r.suspect[k];
			}
	}
	x->sum.wrong += r.wrong;
	return r.wrong ? E_INTERNAL : OK;
}

/* --- what the host asks for ------------------------------------------------------------------ */

/* The frames of the area, by way of our mapping of it */
static bool tell_area(struct guest *x)
{
	size_t pages = x->bytes / PAGE;
	uint64_t *pm = calloc(pages, sizeof(*pm)), first = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ssize_t want = pages * sizeof(*pm);
	char *text = NULL;
	size_t size, run = 0;
	FILE *f = open_memstream(&text, &size);
	bool ok;

	if (!pm || !f)
		abort();
	for (size_t i = 0; i < pages; i++)
		(void)*(volatile uint64_t *)(x->area + i * (PAGE / 8));
	ok = fd >= 0 && pread(fd, pm, want, (uintptr_t)x->area / PAGE * sizeof(*pm)) == want;
	fprintf(f, "area 1 %" PRIx64 " %" PRIu64 " %zu\n", (uint64_t)x->head->cookie, x->pfns,
		pages);
	for (size_t i = 0; ok && i <= pages; i++) {
		uint64_t gfn = i < pages ? pm[i] & ((1ull << 55) - 1) : 0;

		/* Present; without CAP_SYS_ADMIN frames are 0. */
		if (i < pages && (!(pm[i] >> 63) || !gfn))
			ok = false;
		if (run && (i == pages || gfn != first + run)) {
			fprintf(f, "gfn %" PRIu64 " %zu\n", first, run);
			run = 0;
		}
		if (!run)
			first = gfn;
		run++;
	}
	fprintf(f, "end\n");
	fclose(f);
	if (fd >= 0)
		close(fd);
	if (ok)
		port_send(&x->port, "%s", text);
	free(text);
	free(pm);
	return ok;
}

static uint64_t meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0, val;
	char line[128], name[64];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63[^:]: %" SCNu64, name, &val) == 2 && !strcmp(name, key)) {
			kib = val;
			break;
		}
	if (f)
		fclose(f);
	return kib;
}

static int64_t read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	int64_t val = -1;

	if (f && fscanf(f, "%" SCNd64, &val) != 1)
		val = -1;
	if (f)
		fclose(f);
	return val;
}

static bool write_number(const char *path, int64_t val)
{
	FILE *f = fopen(path, "we");
	bool ok = f && fprintf(f, "%" PRId64 "\n", val) > 0;

	if (f && fclose(f))
		ok = false;
	return ok;
}

/*
 * Pages that a CPU keeps for itself count as in use: up to an eighth of memory, shared by the CPUs,
 * which is dirty again as often as they use it.  In a migration they are made to keep less, and give
 * back what they have.
 */
static void lists_short(struct guest *x)
{
	int64_t was = read_number(LISTS);
	int64_t want = meminfo("MemTotal") / LISTS_KIB / sysconf(_SC_NPROCESSORS_ONLN);

	if (want < LISTS_FRACTION_MIN)
		want = LISTS_FRACTION_MIN;
	if (x->keep_lists || x->head->lists || was < 0 || was >= want)
		return;
	x->head->lists_were = was;
	x->head->lists = want;
	if (!write_number(LISTS, want)) {
		x->head->lists = 0;
		x->keep_lists = true;
		say("the CPUs' lists of free pages stay as they are: cannot write " LISTS ": %s",
		    strerror(errno));
		return;
	}
	/* As vmstat's own worker does, which need not run on an idle CPU. */
	for (int i = 0; i < LISTS_DRAINS; i++)
		if (!write_number("/proc/sys/vm/stat_refresh", 1))
			break;
	say("a migration: CPUs keep less free memory for themselves");
}

/* Unless somebody has set it since */
static void lists_restore(struct guest *x)
{
	if (!x->head->lists)
		return;
	if (read_number(LISTS) == (int64_t)x->head->lists &&
	    write_number(LISTS, x->head->lists_were))
		say("no migration: CPUs keep what free memory they will");
	x->head->lists = 0;
}

static void moving(struct guest *x)
{
	if (!x->moving_until)
		lists_short(x);
	x->moving_until = clock_ns() + FREE_MOVING_MS * 1000000ull;
}

/* 4 MiB of memory that was free, if KEEP KiB stay so; aligned, so that it can be of huge pages */
static void *take_chunk(uint64_t keep, bool huge)
{
	size_t room = ZERO_CHUNK * 2;
	char *p, *at;

	/* The cache is not to shrink for this. */
	if (meminfo("MemFree") < keep + (ZERO_CHUNK >> 10) ||
	    meminfo("MemAvailable") < keep + (ZERO_CHUNK >> 10))
		return NULL;
	p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	at = (char *)(((uintptr_t)p + ZERO_CHUNK - 1) & ~(ZERO_CHUNK - 1));
	if (at > p)
		munmap(p, at - p);
	if (at + ZERO_CHUNK < p + room)
		munmap(at + ZERO_CHUNK, p + room - at - ZERO_CHUNK);
	/* A kernel without huge pages has none to be asked for. */
	madvise(at, ZERO_CHUNK, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (madvise(at, ZERO_CHUNK, MADV_POPULATE_WRITE)) {
		munmap(at, ZERO_CHUNK);
		return NULL;
	}
	return at;
}

/* Free memory, in KiB, at which the kernel is content with each zone */
static uint64_t watermarks(void)
{
	FILE *f = fopen("/proc/zoneinfo", "re");
	uint64_t sum = 0, pages;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " high %" SCNu64, &pages) == 1)
			sum += pages * (PAGE >> 10);
	if (f)
		fclose(f);
	return sum;
}

/* Until killed: gives back what the guest needs, before the kernel looks for memory. */
static void hold(void **chunk, uint64_t n, uint64_t keep)
{
	if (setpriority(PRIO_PROCESS, 0, 0))
		errno = 0;
	while (n) {
		usleep(ZERO_LOOK_US);
		if (meminfo("MemFree") > keep / 2)
			continue;
		for (uint64_t freed = 0; n && freed < keep; freed += ZERO_CHUNK >> 10)
			munmap(chunk[--n], ZERO_CHUNK);
	}
}

static void release(struct guest *x)
{
	if (x->zero_fd >= 0)
		close(x->zero_fd);
	x->zero_fd = -1;
	if (x->zero_pid > 0) {
		kill(x->zero_pid, SIGKILL);
		waitpid(x->zero_pid, NULL, 0);
	}
	x->zero_pid = 0;
}

/*
 * Takes free memory, which the kernel zeroes, and holds it until it has been sent: what is used
 * meanwhile is then the rest again and again, rather than one zeroed page after the other.  In a process
 * of its own, the first one to go if memory gets short.  The host's own way would be to discard the pages,
 * but for that it must be the VMM: process_madvise() of 6.12 discards in no other process.  And here
 * there is nothing to undo when a migration is cancelled.
 */
static void zero(struct guest *x, uint64_t keep_mib)
{
	uint64_t keep = keep_mib << 10, floor, max, pages, left, n = 0;
	pid_t agent = getpid();
	int fds[2], oom;
	void **chunk;

	release(x);
	if (pipe2(fds, O_CLOEXEC))
		return;
	x->zero_pid = fork();
	x->zero_fd = fds[0];
	if (x->zero_pid) {
		close(fds[1]);
		return;
	}
	oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != agent || oom < 0 ||
	    write(oom, "1000", 4) != 4)
		_exit(1);
	if (nice(10) < 0)
		errno = 0;
	floor = 2 * watermarks();
	if (floor < ZERO_FLOOR_KIB)
		floor = ZERO_FLOOR_KIB;
	keep = keep > floor ? keep : floor;
	max = meminfo("MemAvailable") / (ZERO_CHUNK >> 10);
	chunk = calloc(max, sizeof(*chunk));
	while (chunk && n < max && (chunk[n] = take_chunk(keep, true)))
		n++;
	/*
	 * What is left lies in crumbs, as huge pages were taken where there were some.  So much in huge
	 * pages given back, and small ones taken instead: the allocator gives crumbs first.
	 */
	left = n;
	for (uint64_t freed = 0; left && freed < keep; freed += ZERO_CHUNK >> 10)
		munmap(chunk[--left], ZERO_CHUNK);
	pages = n * (ZERO_CHUNK / PAGE);
	for (max = n, n = left; n < max && (chunk[n] = take_chunk(keep, false));)
		n++;
	if (write(fds[1], &pages, sizeof(pages)) == sizeof(pages))
		hold(chunk, n, keep);
	_exit(0);
}

static void zero_done(struct guest *x)
{
	uint64_t pages = 0;

	if (read(x->zero_fd, &pages, sizeof(pages)) != sizeof(pages))
		pages = 0;
	close(x->zero_fd);
	x->zero_fd = -1;
	port_send(&x->port, "zeroed %" PRIu64 "\n", pages);
	say("%" PRIu64 " free pages zeroed", pages);
}

static void handle(struct guest *x, const char *line)
{
	uint64_t n;

	if (!strcmp(line, "register")) {
		if (!tell_area(x))
			x->reason =
				"the frames of the area cannot be learnt from /proc/self/pagemap";
		else if (!x->told)
			say("the host has asked for the free pages");
		x->told = true;
	} else if (sscanf(line, "beat %" SCNu64, &n) == 1) {
		port_send(&x->port, "alive %" PRIx64 " %" PRIu64 "\n", (uint64_t)x->head->cookie,
			  n);
	} else if (!strcmp(line, "moving")) {
		moving(x);
	} else if (!strcmp(line, "scan")) {
		/* One that is under way begins anew behind its end. */
		x->scan_at = 0;
		x->scan_set = 0;
		x->scanning = true;
	} else if (sscanf(line, "zero %" SCNu64, &n) == 1 && n <= 1ull << 30) {
		moving(x);
		zero(x, n);
	} else if (!strcmp(line, "release")) {
		release(x);
	}
}

static void serve(struct guest *x)
{
	while (!stopped && !x->reason) {
		struct pollfd p[] = { { .fd = x->port.fd, .events = POLLIN },
				      { .fd = x->zero_fd, .events = POLLIN } };
		const char *line;

		poll(p, 2, x->scanning || x->checking ? 0 : 1000);
		if (x->head->magic != FREE_MAGIC) {
			x->reason = "it has been withdrawn";
			break;
		}
		x->reason = distrust(x);
		while (!x->reason && (line = port_line(&x->port)))
			handle(x, line);
		if (x->moving_until && clock_ns() > x->moving_until) {
			x->moving_until = 0;
			release(x);
			lists_restore(x);
		}
		if (p[1].revents)
			zero_done(x);
		if (p[0].revents & (POLLHUP | POLLERR)) {
			/* No host there: one may come. */
			if (p[0].revents & POLLERR || x->port.fd < 0) {
				close(x->port.fd);
				x->port.fd = open(x->port.path,
						  O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
			}
			usleep(100000);
		}
		if (x->scanning) {
			scan_some(x, STEP_NS);
			if (!x->scanning)
				port_send(&x->port, "scanned %" PRIu64 "\n", x->scan_set);
		} else if (x->checking) {
			uint64_t until = clock_ns() + STEP_NS;

			while (x->check_at < x->pfns && clock_ns() < until)
				if (check_step(x) != OK)
					x->reason = str("frame %" PRIu64
							" is in use and was taken for free",
							x->wrong_pfn);
			x->checking = x->check_at < x->pfns;
			usleep(10000);
		} else if (clock_ns() > x->next_check) {
			x->next_check = clock_ns() + CHECK_NS;
			x->check_at = 0;
			x->checking = true;
		}
	}
}

static void show_state(const struct guest *x, const char *state, const char *reason)
{
	if (g.json) {
		j_lines();
		j_open(NULL, '{');
		j_str("state", state);
		j_num("frames", x->pfns);
		j_num("area_pages", x->bytes / PAGE);
		j_str("cookie", str("%" PRIx64, (uint64_t)x->head->cookie));
		j_num("found", x->scan_set);
		if (reason)
			j_str("reason", reason);
		j_close('}');
		fflush(stdout);
	}
}

static int agent(struct guest *x)
{
	const char *why;
	bool old;
	int ret;

	x->port.fd = open(x->port.path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (x->port.fd < 0)
		return fail(errno == EBUSY ? E_CONFLICT : E_ENV, "is it the right one?",
			    "cannot open %s: %s", x->port.path, strerror(errno));
	ret = learn(x);
	if (ret != OK)
		return ret;
	why = distrust(x);
	if (why)
		return refuse(x, "sysctl kernel.ftrace_enabled=1", why);
	ret = folder(x, true, false);
	if (ret != OK)
		return ret;
	old = adopt(x, true);
	if (!old) {
		unpin(x);
		close(x->lock);
		ret = folder(x, true, false);
		if (ret == OK)
			ret = make_area(x);
		if (ret != OK) {
			unpin(x);
			return ret;
		}
	}
	catch_ends(on_signal);
	signal(SIGPIPE, SIG_IGN);
	scan_some(x, UINT64_MAX / 2);
	x->scanning = false;
	__atomic_store_n(&x->head->magic, FREE_MAGIC, __ATOMIC_SEQ_CST);
	x->next_check = clock_ns() + CHECK_NS;
	say("%s %" PRIu64 " frames, %zu pages; %" PRIu64 " free ones found",
	    old ? "goes on with" : "keeps", x->pfns, x->bytes / PAGE, x->scan_set);
	fflush(stdout);
	show_state(x, old ? "resumed" : "begun", NULL);
	/* As one that was killed has left it */
	lists_restore(x);
	serve(x);
	release(x);
	lists_restore(x);
	withdraw(x);
	port_send(&x->port, "bye %" PRIx64 "\n", (uint64_t)x->head->cookie);
	if (x->reason)
		port_send(&x->port, "refused %s\n", x->reason);
	/* Who did not hear that still reads the area, and is to find it withdrawn. */
	usleep(FREE_LEASE_MS * 1000);
	unpin(x);
	show_state(x, "ended", x->reason);
	if (x->reason && strcmp(x->reason, "it has been withdrawn"))
		return fail(E_INTERNAL, str("%s begins anew", called("guest")),
			    "the free pages are not to be trusted: %s", x->reason);
	say("ended");
	return OK;
}

static int check_once(struct guest *x)
{
	int ret = folder(x, false, false);

	if (ret != OK)
		return ret;
	if (!adopt(x, false))
		return fail(E_ENV, str("start %s", called("guest")),
			    "there is no area here, or it was withdrawn");
	while (x->check_at < x->pfns)
		if (check_step(x) != OK)
			ret = E_INTERNAL;
	if (ret != OK)
		withdraw(x);
	if (g.json && ret == OK) {
		j_open(NULL, '{');
		j_num("frames", x->pfns);
		j_num("free", x->sum.buddy);
		j_num("known", x->sum.set);
		j_num("not_known", x->sum.leaked);
		j_num("wrong", x->sum.wrong);
		j_close('}');
	} else if (ret == OK) {
		say("%" PRIu64 " pages are free, %" PRIu64 " known to be, %" PRIu64
		    " not known to be; none is taken for free that is not",
		    (uint64_t)x->sum.buddy, (uint64_t)x->sum.set, (uint64_t)x->sum.leaked);
	}
	if (ret != OK)
		return fail(E_INTERNAL, "the area is withdrawn; tell us",
			    "%" PRIu64
			    " pages are in use and were taken for free, as frame %" PRIu64,
			    (uint64_t)x->sum.wrong, x->wrong_pfn);
	return OK;
}

static int stop(struct guest *x)
{
	int ret = folder(x, false, false);

	if (ret != OK)
		return ret;
	if (adopt(x, false)) {
		lists_restore(x);
		withdraw(x);
	}
	/* An agent that runs sees it, and unpins. */
	for (int i = 0; i < 50 && flock(x->lock, LOCK_EX | LOCK_NB); i++)
		usleep(100000);
	if (!access(x->dir, F_OK)) {
		usleep(FREE_LEASE_MS * 1000);
		unpin(x);
	}
	if (g.json) {
		j_open(NULL, '{');
		j_bool("ended", true);
		j_close('}');
	}
	say("ended");
	return OK;
}

int cmd_guest(int argc, char **argv)
{
	static const char doc[] =
		"In a guest: keep the host told which pages are free, so that a migration need not send "
		"them, until Ctrl-C.\v"
		"The guest's kernel needs no patch, but BTF (Linux 6.12).  The host asks by a port of "
		"virtio-serial that is called " FREE_PORT
		", with kvmext hint.  If the agent is killed, the "
		"next one goes on where it was.";
	struct guest_args a = {};
	struct guest x = {
		.port.fd = -1, .zero_fd = -1, .lock = -1, .progs = { -1, -1, -1, -1, -1, -1, -1 }
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, NULL, doc, &a);
	if (ret == OK)
		ret = need_caps();
	if (ret == OK)
		ret = need_bpffs();
	if (ret != OK)
		return ret;
	if (a.check)
		return check_once(&x);
	if (a.stop)
		return stop(&x);
	x.keep_lists = a.keep_lists;
	x.port.path = a.port ? str("%s", a.port) : port_find();
	if (!x.port.path)
		return fail(E_ENV, "give the VM a virtserialport with name=" FREE_PORT,
			    "there is no port to the host here");
	return agent(&x);
}
