// SPDX-License-Identifier: GPL-2.0
/*
 * guest - init of a guest whose free pages are told to the host.
 *
 * It mounts what kvmext wants, loads /m/NAME for each NAME in /m/order and obeys lines on the serial
 * line; each is answered by a line "guest: done NAME ..." (or "guest: error ..."):
 *
 *   agent [ARG...]      kvmext guest ARG..., in the background
 *   signal N            to that, and the wait for its end
 *   exec PROGRAM ARG..  and its exit status
 *   write FILE TEXT     into a file of sysfs or procfs
 *   stat, lists         free pages, and those in the CPUs' own lists, as /proc/zoneinfo has them
 *   vmstat NAME         that line of /proc/vmstat
 *   read FILE           the number that is there
 *   frag N              N MiB in crumbs, then huge pages
 *   anon, thp, file, spawn N   N MiB (processes) at once taken, written and freed
 *   hold N              N MiB that are kept, with contents to verify
 *   storm N             N threads that take, check, write and free memory, from here on
 *   build N             N processes that do what a build does, from here on
 *   calm                storm and build end
 *   verify              every page that is held is looked at; what was wrong so far
 *   restart, kexec      the end: by a reset, and by another kernel, which says "guest: another kernel"
 *
 * With arguments it is a load: cost fault|file|spawn|build ROUNDS.
 *
 * A page that is taken must be zero; one that was written must be what was written, also on
 * the other side of a migration.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "init.h"

#define PAGE 4096
#define MIB (1ul << 20)
#define WORDS 32
#define BUILDS 8
#define TOOL "/kvmext"

static pid_t agent, builds[BUILDS];
static atomic_int storming;
static _Atomic uint64_t pages, bad, not_zero, killed;
static uint64_t *held;
static uint64_t held_pages;

/* --- memory whose contents are known --- */

static uint64_t word(uint64_t seed, uint64_t page, int i)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + page * 0xbf58476d1ce4e5b9ull + i;

	x ^= x >> 31;
	return x * 0x94d049bb133111ebull | 1;
}

static void *take(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Every 8th word, the first and the last among them: what is lost is lost by the page. */
static void fill(uint64_t *p, uint64_t n, uint64_t seed)
{
	for (uint64_t k = 0; k < n; k++, p += PAGE / 8) {
		for (int i = 0; i < PAGE / 8; i += 8)
			p[i] = word(seed, k, i);
		p[PAGE / 8 - 1] = word(seed, k, PAGE / 8 - 1);
	}
}

static void check(const uint64_t *p, uint64_t n, uint64_t seed)
{
	for (uint64_t k = 0; k < n; k++, p += PAGE / 8) {
		int wrong = p[PAGE / 8 - 1] != word(seed, k, PAGE / 8 - 1);

		for (int i = 0; i < PAGE / 8; i += 8)
			wrong |= p[i] != word(seed, k, i);
		bad += wrong;
	}
	pages += n;
}

static void check_zero(const uint64_t *p, uint64_t n)
{
	for (uint64_t k = 0; k < n; k++, p += PAGE / 8) {
		uint64_t any = 0;

		for (int i = 0; i < PAGE / 8; i += 8)
			any |= p[i] | p[i + 7];
		not_zero += !!any;
	}
}

/* --- storms --- */

static void once(uint64_t n, uint64_t seed, int huge)
{
	uint64_t *p = take(n * PAGE);

	if (!p)
		return;
	madvise(p, n * PAGE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	check_zero(p, n);
	fill(p, n, seed);
	check(p, n, seed);
	munmap(p, n * PAGE);
}

static void *storm(void *arg)
{
	uint64_t seed = (uintptr_t)arg << 32, r = (uintptr_t)arg;
	struct {
		uint64_t *p, n, seed;
	} kept[64] = {};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((uintptr_t)arg % sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (storming) {
		int k = (r = r * 6364136223846793005ull + 1442695040888963407ull) >> 58;
		uint64_t n = 1 + (r >> 40) % 256;

		/* What was written some time ago, before a switch-over maybe */
		if (kept[k].p) {
			check(kept[k].p, kept[k].n, kept[k].seed);
			munmap(kept[k].p, kept[k].n * PAGE);
		}
		kept[k].p = take(n * PAGE);
		kept[k].n = n;
		kept[k].seed = ++seed;
		if (!kept[k].p)
			continue;
		madvise(kept[k].p, n * PAGE, MADV_NOHUGEPAGE);
		check_zero(kept[k].p, n);
		fill(kept[k].p, n, seed);
	}
	for (int k = 0; k < 64; k++)
		if (kept[k].p) {
			check(kept[k].p, kept[k].n, kept[k].seed);
			munmap(kept[k].p, kept[k].n * PAGE);
		}
	return NULL;
}

static pthread_t threads[64];
static int nr_threads;

static void storm_begin(int n)
{
	storming = 1;
	for (; nr_threads < n && nr_threads < 64; nr_threads++)
		if (pthread_create(&threads[nr_threads], NULL, storm,
				   (void *)(uintptr_t)(nr_threads + 1)))
			die("starting a thread");
}

/* One file of a source tree compiled: a process, some MiB, a file that is read and one that is written */
static void compile(int seed)
{
	char name[64], buf[16384];
	pid_t pid = fork();
	int fd;

	if (!pid) {
		execl("/proc/self/exe", "init", "compile", NULL);
		_exit(1);
	}
	snprintf(name, sizeof(name), "/tmp/%d.%d", getpid(), seed % 64);
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	memset(buf, seed, sizeof(buf));
	for (int i = 0; i < 8; i++)
		if (write(fd, buf, sizeof(buf)) < 0)
			break;
	close(fd);
	waitpid(pid, NULL, 0);
}

static void build_begin(int n)
{
	for (int i = 0; i < n && i < BUILDS; i++) {
		builds[i] = fork();
		if (builds[i])
			continue;
		for (int k = 0;; k++)
			compile(k);
	}
}

static void calm(void)
{
	storming = 0;
	while (nr_threads)
		pthread_join(threads[--nr_threads], NULL);
	for (int i = 0; i < BUILDS; i++)
		if (builds[i] > 0) {
			kill(builds[i], SIGKILL);
			waitpid(builds[i], NULL, 0);
			builds[i] = 0;
		}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/* A child that takes that much and ends */
static void in_child(void (*fn)(uint64_t), uint64_t n)
{
	pid_t pid = fork();

	if (!pid) {
		fn(n);
		_exit(bad || not_zero);
	}
	int status = 1;

	waitpid(pid, &status, 0);
	/* Without memory it is killed, which is nothing to us. */
	if (WIFEXITED(status))
		bad += !!WEXITSTATUS(status);
	else
		killed++;
}

static void anon(uint64_t mib)
{
	once(mib * MIB / PAGE, mib, 0);
}

static void thp(uint64_t mib)
{
	once(mib * MIB / PAGE, mib, 1);
}

static void file(uint64_t mib)
{
	static char buf[1 << 16];
	int fd = open("/tmp/file", O_RDWR | O_CREAT | O_TRUNC, 0644);

	for (uint64_t n = 0; n < mib * 16; n++)
		if (write(fd, buf, sizeof(buf)) < 0)
			break;
	close(fd);
	unlink("/tmp/file");
}

/*
 * Memory in crumbs, and then huge pages wanted: the task has to compact for them, and may get
 * what is freed meanwhile past the lists.
 */
static void frag(uint64_t mib)
{
	uint64_t n = mib * MIB / PAGE;
	char *p = take(n * PAGE);

	if (!p)
		return;
	madvise(p, n * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < n; i++)
		p[i * PAGE] = 1;
	for (uint64_t i = 0; i < n; i++)
		if (i % 8)
			madvise(p + i * PAGE, PAGE, MADV_DONTNEED);
	for (int i = 0; i < 3; i++)
		thp(mib / 2);
}

static void spawn(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		compile(i);
}

/* --- commands --- */

static int run(char **argv, int wait)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		execv(argv[0], argv);
		_exit(127);
	}
	if (!wait)
		return pid;
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static long kernel_sum(const char *path, const char *fmt)
{
	FILE *f = fopen(path, "r");
	char line[256];
	long sum = 0, n;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, fmt, &n) == 1)
			sum += n;
	if (f)
		fclose(f);
	return sum;
}

/* As small as a kernel can be: says that it runs, and resets */
asm(".pushsection .rodata\n"
    "other_kernel:\n"
    "	leaq	4f(%rip), %rsi\n"
    "1:	movw	$0x3fd, %dx\n"
    "	inb	%dx, %al\n"
    "	testb	$0x20, %al\n"
    "	jz	1b\n"
    "	lodsb\n"
    "	testb	%al, %al\n"
    "	jz	2f\n"
    "	movw	$0x3f8, %dx\n"
    "	outb	%al, %dx\n"
    "	jmp	1b\n"
    "2:	movw	$0xcf9, %dx\n"
    "	movb	$6, %al\n"
    "	outb	%al, %dx\n"
    "3:	hlt\n"
    "	jmp	3b\n"
    "4:	.asciz	\"guest: another kernel\\n\"\n"
    "other_kernel_end:\n"
    ".popsection\n");
extern const char other_kernel[], other_kernel_end[];

static void kexec(void)
{
	struct kexec_segment seg = {
		.buf = other_kernel,
		.bufsz = other_kernel_end - other_kernel,
		.mem = (void *)(64 * MIB),
		.memsz = PAGE,
	};

	if (syscall(SYS_kexec_load, seg.mem, 1ul, &seg, (unsigned long)KEXEC_ARCH_DEFAULT))
		say("guest: error kexec_load: %s\n", strerror(errno));
	else
		reboot(LINUX_REBOOT_CMD_KEXEC);
}

static void obey(char *line)
{
	char *words[WORDS] = {}, *save;
	long n;
	int k = 0;

	for (char *w = strtok_r(line, " \r", &save); w && k < WORDS - 2;
	     w = strtok_r(NULL, " \r", &save))
		words[k++] = w;
	if (!k)
		return;
	n = words[1] ? atol(words[1]) : 0;
	if (!strcmp(words[0], "agent")) {
		char *argv[WORDS] = { TOOL, "guest" };

		memcpy(argv + 2, words + 1, (WORDS - 2) * sizeof(*argv));
		agent = run(argv, 0);
	} else if (!strcmp(words[0], "signal")) {
		int status = 0;

		kill(agent, n);
		waitpid(agent, &status, 0);
		n = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	} else if (!strcmp(words[0], "exec")) {
		n = run(words + 1, 1);
	} else if (!strcmp(words[0], "write") && k == 3) {
		int fd = open(words[1], O_WRONLY);

		n = fd < 0 || write(fd, words[2], strlen(words[2])) < 0 ? errno : 0;
		close(fd);
	} else if (!strcmp(words[0], "stat")) {
		n = kernel_sum("/proc/zoneinfo", " nr_free_pages %ld");
	} else if (!strcmp(words[0], "lists")) {
		n = kernel_sum("/proc/zoneinfo", " count: %ld");
	} else if (!strcmp(words[0], "vmstat") && k == 2) {
		char fmt[64];

		snprintf(fmt, sizeof(fmt), "%.50s %%ld", words[1]);
		n = kernel_sum("/proc/vmstat", fmt);
	} else if (!strcmp(words[0], "read") && k == 2) {
		n = kernel_sum(words[1], "%ld");
	} else if (!strcmp(words[0], "frag")) {
		in_child(frag, n);
	} else if (!strcmp(words[0], "anon")) {
		in_child(anon, n);
	} else if (!strcmp(words[0], "thp")) {
		in_child(thp, n);
	} else if (!strcmp(words[0], "file")) {
		in_child(file, n);
	} else if (!strcmp(words[0], "spawn")) {
		in_child(spawn, n);
	} else if (!strcmp(words[0], "hold")) {
		held_pages = n * MIB / PAGE;
		held = take(held_pages * PAGE);
		if (!held)
			die("taking memory");
		fill(held, held_pages, 1);
	} else if (!strcmp(words[0], "storm")) {
		storm_begin(n);
	} else if (!strcmp(words[0], "build")) {
		build_begin(n);
	} else if (!strcmp(words[0], "calm")) {
		calm();
	} else if (!strcmp(words[0], "verify")) {
		check(held, held_pages, 1);
	} else if (!strcmp(words[0], "restart")) {
		reboot(RB_AUTOBOOT);
	} else if (!strcmp(words[0], "kexec")) {
		kexec();
		return;
	} else if (!strcmp(words[0], "off")) {
		reboot(RB_POWER_OFF);
	} else {
		say("guest: error no command %s\n", words[0]);
		return;
	}
	say("guest: done %s %ld pages=%lu bad=%lu not_zero=%lu\n", words[0], n, pages, bad,
	    not_zero);
}

static void mounted(const char *type, const char *where)
{
	mkdir(where, 0755);
	if (mount(type, where, type, 0, NULL) && errno != EBUSY)
		die(where);
}

/* --- what the agent costs --- */

/* The worst there is: nothing but taking pages, one by one, and giving all back */
static void load_fault(void)
{
	/* More than a CPU may put by */
	char *p = take(192 * MIB);

	if (!p)
		return;
	madvise(p, 192 * MIB, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 192 * MIB; i += PAGE)
		p[i] = 1;
	munmap(p, 192 * MIB);
}

static void load_file(void)
{
	file(192);
}

static void load_spawn(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (!pid) {
			execl("/proc/self/exe", "init", "nothing", NULL);
			_exit(1);
		}
		waitpid(pid, NULL, 0);
	}
}

static void load_build(void)
{
	for (int i = 0; i < 10; i++)
		compile(i);
}

static long cpu_us(void)
{
	struct rusage a, b;

	getrusage(RUSAGE_SELF, &a);
	getrusage(RUSAGE_CHILDREN, &b);
	return (a.ru_utime.tv_sec + a.ru_stime.tv_sec + b.ru_utime.tv_sec + b.ru_stime.tv_sec) *
		       1000000 +
	       a.ru_utime.tv_usec + a.ru_stime.tv_usec + b.ru_utime.tv_usec + b.ru_stime.tv_usec;
}

/* Microseconds of CPU time: thousands of instructions in a machine that counts them */
static int cost(const char *what, int rounds)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} loads[] = { { "fault", load_fault },
		      { "file", load_file },
		      { "spawn", load_spawn },
		      { "build", load_build } };

	for (size_t i = 0; i < sizeof(loads) / sizeof(*loads); i++) {
		long begun;

		if (strcmp(loads[i].name, what))
			continue;
		loads[i].fn();
		begun = cpu_us();
		for (int k = 0; k < rounds; k++)
			loads[i].fn();
		printf("%s %ld\n", what, cpu_us() - begun);
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	static char line[1024];
	struct termios t;
	size_t len = 0;

	if (argc > 1 && !strcmp(argv[1], "compile")) {
		/* Not zero-filled only: what was written is looked at again. */
		once(1024, getpid(), 0);
		return bad || not_zero;
	}
	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	if (argc > 3 && !strcmp(argv[1], "cost"))
		return cost(argv[2], atoi(argv[3]));
	mounted("proc", "/proc");
	mounted("sysfs", "/sys");
	mounted("devtmpfs", "/dev");
	mounted("bpf", "/sys/fs/bpf");
	mounted("tmpfs", "/tmp");
	/* raw: nothing is echoed */
	if (!tcgetattr(0, &t)) {
		cfmakeraw(&t);
		t.c_oflag |= OPOST | ONLCR;
		tcsetattr(0, TCSANOW, &t);
	}
	load_modules();
	say("guest: up\n");
	for (;;) {
		ssize_t n = read(0, line + len, 1);

		if (n != 1)
			die("reading the serial line");
		if (line[len] != '\n') {
			len += len < sizeof(line) - 1;
			continue;
		}
		line[len] = 0;
		len = 0;
		obey(line);
	}
	(void)argv;
}
