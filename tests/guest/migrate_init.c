// SPDX-License-Identifier: GPL-2.0
/*
 * guest - the only program of the guest that live-migrates (its init).
 *
 * It is a load that is known exactly and a witness that checks itself: some
 * vCPUs dirty memory at a rate that was asked for, the others compute, and
 * every page can be told right from wrong at any time, so that after a
 * migration the guest says whether its memory arrived whole.
 *
 * Kernel command line:
 *   load.rate=40      MiB/s dirtied by all writers together, one write per 4 KiB page
 *   load.ws=64        MiB written over by all writers together
 *   load.writers=1    threads that write, on vCPU 0..n-1; every other vCPU computes
 *   load.cpus=2       vCPUs used
 *   load.pattern=seq  seq: round and round; rand: every page drawn at random
 *   load.free=14      MiB left free; the rest of RAM is filled, because a guest
 *                     whose RAM is zero pages is sent for next to nothing
 *
 * How fast a writer is: it wakes every SLICE_NS and writes what is due since it
 * last woke, and never more than BACKLOG_NS worth of it. So it makes good what a
 * late wake-up costs (a host thread on the same CPU, a fault that took long), and
 * what a throttle takes beyond that is lost to it, as it is to a program bound by
 * its CPU: after a long block there is no burst. The same rule for every throttle,
 * of fine grain or coarse.
 *
 * Output, on the serial line:
 *   guest: up ...                          parsed the command line
 *   guest: load running ...                every page was written once
 *   guest: t=3 w=30720 c=1234 bad=0        each second: pages written, rounds computed,
 *                                          pages found wrong so far
 *   guest: memory ok|BAD ...               the answer to the byte 'v' on the serial line
 *   guest: error ...                       and then the guest halts
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))
#define MIB (1UL << 20)
#define SLICE_NS 2000000L
#define BACKLOG_NS 8000000L
#define MAX_CPUS 16
#define MAX_FILL 4096

/* What a writer owns. Its generations lie apart from its pages, and their sum
 * apart from both: losing any one of the three shows.
 */
struct writer {
	uint8_t *mem;
	uint32_t *gen;
	size_t pages;
	size_t base; /* number of its first page */
	double rate; /* pages a second */
	uint64_t rng;
	_Atomic uint64_t written;
	_Atomic uint64_t bad;
	_Atomic int verify; /* 1: asked for, 0: done */
	size_t verified;
	char pad[64];
};

struct compute {
	_Atomic uint64_t rounds;
	char pad[120];
};

static long o_rate = 40, o_ws = 64, o_writers = 1, o_cpus = 2, o_free = 14;
static int o_rand;
static struct writer writers[MAX_CPUS];
static struct compute computes[MAX_CPUS];
static uint8_t *fill[MAX_FILL];
static size_t fills;
static pthread_barrier_t filled;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Body of page n: differs in every word, cheap to make and to check. */
static uint64_t body(size_t n)
{
	return (n + 1) * 0x9e3779b97f4a7c15ULL;
}

static uint64_t stamp(size_t n, uint32_t gen)
{
	return ((uint64_t)n << 32 | gen) ^ 0x6b766d5f65787421ULL;
}

static void page_make(void *p, size_t n, uint32_t gen)
{
	uint64_t *w = p, v = body(n);

	w[0] = stamp(n, gen);
	for (size_t k = 1; k < WORDS; k++)
		w[k] = v += 0xbf58476d1ce4e5b9ULL;
}

static int page_bad(const void *p, size_t n, uint32_t gen)
{
	const uint64_t *w = p;
	uint64_t v = body(n), diff = w[0] ^ stamp(n, gen);

	for (size_t k = 1; k < WORDS; k++)
		diff |= w[k] ^ (v += 0xbf58476d1ce4e5b9ULL);
	return diff != 0;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("pinning a thread (is load.cpus above -smp?)");
}

static void verify(struct writer *w)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < w->pages; i++) {
		sum += w->gen[i];
		if (page_bad(w->mem + i * PAGE, w->base + i, w->gen[i]))
			w->bad++;
	}
	if (sum != w->written)
		w->bad++;
	w->verified = w->pages;
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	uint64_t last, now, due;
	double owed = 0;
	size_t at = 0;

	pin(w - writers);
	for (size_t i = 0; i < w->pages; i++)
		page_make(w->mem + i * PAGE, w->base + i, 0);
	pthread_barrier_wait(&filled);

	for (last = now_ns();; last = now) {
		uint64_t wake = (now_ns() / SLICE_NS + 1) * SLICE_NS;
		struct timespec ts = { wake / 1000000000, wake % 1000000000 };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		if (w->verify) {
			verify(w);
			w->verify = 0;
		}
		now = now_ns();
		due = now - last < BACKLOG_NS ? now - last : BACKLOG_NS;
		owed += due * w->rate / 1e9;
		for (; owed >= 1; owed--) {
			size_t i = at;
			uint64_t *p;

			if (o_rand) {
				w->rng ^= w->rng << 13;
				w->rng ^= w->rng >> 7;
				w->rng ^= w->rng << 17;
				i = (w->rng >> 20) % w->pages;
			} else if (++at == w->pages) {
				at = 0;
			}
			p = (uint64_t *)(w->mem + i * PAGE);
			if (*p != stamp(w->base + i, w->gen[i]))
				w->bad++;
			*(volatile uint64_t *)p = stamp(w->base + i, ++w->gen[i]);
			w->written++;
		}
	}
	return NULL;
}

static void *compute_main(void *arg)
{
	struct compute *c = arg;
	uint64_t x = 88172645463325252ULL;

	pin(c - computes);
	for (;;) {
		for (int i = 0; i < 100000; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		/* x must be used, or the loop is nothing; it is never 0 */
		c->rounds += x != 0;
	}
	return NULL;
}

static long option(const char *cmdline, const char *name, long dflt)
{
	const char *p = strstr(cmdline, name);

	return p ? strtol(p + strlen(name), NULL, 10) : dflt;
}

static void setup(void)
{
	char cmdline[2048] = "";
	struct termios t;
	int fd;

	mkdir("/proc", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) && errno != EBUSY)
		die("mounting /proc");
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, cmdline, sizeof(cmdline) - 1) < 0)
		die("reading /proc/cmdline");
	close(fd);
	o_rate = option(cmdline, "load.rate=", o_rate);
	o_ws = option(cmdline, "load.ws=", o_ws);
	o_writers = option(cmdline, "load.writers=", o_writers);
	o_cpus = option(cmdline, "load.cpus=", o_cpus);
	o_free = option(cmdline, "load.free=", o_free);
	o_rand = !!strstr(cmdline, "load.pattern=rand");
	if (o_cpus < 1 || o_cpus > MAX_CPUS || o_writers < 1 || o_writers > o_cpus ||
	    o_ws < o_writers || o_rate < 1) {
		errno = EINVAL;
		die("load.* on the kernel command line");
	}
	/* raw: a single byte is a command, and nothing is echoed */
	if (!tcgetattr(0, &t)) {
		cfmakeraw(&t);
		t.c_oflag |= OPOST | ONLCR;
		tcsetattr(0, TCSANOW, &t);
	}
}

/* Take all memory but o_free and write it, so that sending it costs something. */
static void fill_ram(void)
{
	struct sysinfo si;

	while (fills < MAX_FILL && !sysinfo(&si) &&
	       (uint64_t)si.freeram * si.mem_unit > (o_free + 1) * MIB) {
		uint8_t *p =
			mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			break;
		for (size_t i = 0; i < MIB / PAGE; i++)
			page_make(p + i * PAGE, (fills << 32) + i, 1);
		fill[fills++] = p;
	}
}

static void report_memory(void)
{
	uint64_t bad = 0, pages = 0;

	for (int i = 0; i < o_writers; i++)
		writers[i].verify = 1;
	for (size_t f = 0; f < fills; f++)
		for (size_t i = 0; i < MIB / PAGE; i++, pages++)
			bad += page_bad(fill[f] + i * PAGE, (f << 32) + i, 1);
	for (int i = 0; i < o_writers; i++) {
		while (writers[i].verify)
			usleep(10000);
		bad += writers[i].bad;
		pages += writers[i].verified;
	}
	say("guest: memory %s pages=%lu bad=%lu\n", bad ? "BAD" : "ok", pages, bad);
}

int main(void)
{
	pthread_t thread;
	struct sysinfo si;
	size_t per;

	setup();
	sysinfo(&si);
	say("guest: up rate=%ld ws=%ld writers=%ld cpus=%ld pattern=%s free=%luMiB\n", o_rate, o_ws,
	    o_writers, o_cpus, o_rand ? "rand" : "seq", si.freeram * si.mem_unit / MIB);
	if (si.freeram * (uint64_t)si.mem_unit < (o_ws + o_free / 2) * MIB) {
		errno = ENOMEM;
		die("the working set (load.ws) does not fit, give the guest more memory");
	}
	/* This thread prints; a writer's vCPU may be throttled, the last one computes. */
	pin(o_cpus - 1);

	pthread_barrier_init(&filled, NULL, o_writers + 1);
	per = o_ws * MIB / PAGE / o_writers;
	for (int i = 0; i < o_writers; i++) {
		struct writer *w = &writers[i];

		w->pages = per;
		w->base = per * i;
		w->rate = (double)o_rate * MIB / PAGE / o_writers;
		w->rng = 0x2545f4914f6cdd1dULL * (i + 1);
		w->mem = mmap(NULL, per * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
		w->gen = mmap(NULL, per * sizeof(*w->gen), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (w->mem == MAP_FAILED || w->gen == MAP_FAILED)
			die("mapping the working set");
		if (pthread_create(&thread, NULL, writer_main, w))
			die("starting a writer");
	}
	pthread_barrier_wait(&filled);
	fill_ram();
	for (int i = o_writers; i < o_cpus; i++)
		if (pthread_create(&thread, NULL, compute_main, &computes[i]))
			die("starting a compute thread");
	say("guest: load running fill=%luMiB\n", fills);

	for (uint64_t start = now_ns(), next = start;;) {
		struct pollfd in = { .fd = 0, .events = POLLIN };
		uint64_t now = now_ns(), w = 0, c = 0, bad = 0;
		char key;

		if (now < next) {
			if (poll(&in, 1, (next - now) / 1000000 + 1) > 0 && read(0, &key, 1) == 1 &&
			    key == 'v')
				report_memory();
			continue;
		}
		for (int i = 0; i < o_cpus; i++) {
			w += writers[i].written;
			bad += writers[i].bad;
			c += computes[i].rounds;
		}
		/* guest time, in milliseconds, so that a rate can be had from two lines */
		say("guest: t=%lu w=%lu c=%lu bad=%lu\n", (now - start) / 1000000, w, c, bad);
		/* the next whole second: after a long stop, one line and not one per second lost */
		next = now + 1000000000 - (now - start) % 1000000000;
	}
}
