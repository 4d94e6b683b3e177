// SPDX-License-Identifier: GPL-2.0
/*
 * What an exit costs: the TSC as the guest sees it round one exiting instruction,
 * for each kind in the table below.  Where the TSC counts the host's instructions
 * (QEMU -icount), that is how many the host takes from exit to entry.
 *
 * Prints a line of JSON per kind: the most frequent count of all iterations, as a
 * timer interrupt of the host lands in a few of them; how many had it; the least; and
 * the most frequent counts with how many had each.
 * And the mean over ROUNDS times as many: what else runs on this CPU meanwhile, such as
 * a tracer that reads its events, is in that.
 *
 *	exits [-r ROUNDS] [-m] [-x] [KIND...]	all kinds, or these
 *	exits -w	guests that compute and now and then exit: what of all is the guest's work
 *	exits -l	a thread that sleeps on the CPU of a vCPU: how late it is woken
 *
 * With -m the middle iteration begins with a mark for Bochs's debugger.  With -x the guest
 * has another XCR0 and PKRU than the host, and if a policy has a say in its exits a last
 * line has how often these were written for it, and how often not.
 */
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "vm.h"

#define N 4096
#define SAMPLES 0x50000UL /* in the low slot, behind the stacks of the vCPUs */
_Static_assert(SAMPLES >= VM_STACK + VM_MAX_CPUS * VM_PAGE, "the stacks end before");
_Static_assert(SAMPLES + N * 4 <= VM_LOW_SIZE, "the samples fit");

#define SETTLE_MS 1300

#define PORT_USER 0x20f /* nobody's: KVM_EXIT_IO */
#define PORT_PIC_MASK 0x21 /* of the PIC in the kernel, reads have no effect */
#define PORT_EVENTFD 0x220
#define MSR_KVM_POLL_CONTROL 0x4b564d05 /* KVM keeps the value, does nothing else */
#define MSR_APIC_BASE 0x1b
#define MSR_SELF_IPI 0x83f
#define MSR_TSC_DEADLINE 0x6e0
#define APIC_LVTT 0x320
#define APIC_LVTT_DEADLINE_MASKED 0x500ec
#define CPUID_1_ECX_DEADLINE (1U << 24)
#define CR4_OSXSAVE (1UL << 18)
#define CR4_PKE (1UL << 22)

/* --- in the guest ----------------------------------------------------------- */

/*
 * Ticks of @set, which puts the operands in their places, and @insn, which exits;
 * and of @set alone.  The address of the iteration comes in rdi.
 */
#define PROBE(name, set, insn)                    \
	asm(".pushsection guest_text, \"ax\"\n"   \
	    "probe_" #name ": push %rbx\n"        \
	    "rdtsc\n"                             \
	    "mov %eax, %esi\n" set "\n" insn "\n" \
	    "rdtsc\n"                             \
	    "sub %esi, %eax\n"                    \
	    "pop %rbx\n"                          \
	    "ret\n"                               \
	    "base_" #name ": push %rbx\n"         \
	    "rdtsc\n"                             \
	    "mov %eax, %esi\n" set "\n"           \
	    "rdtsc\n"                             \
	    "sub %esi, %eax\n"                    \
	    "pop %rbx\n"                          \
	    "ret\n"                               \
	    ".popsection\n");                     \
	extern const char probe_##name[] asm("probe_" #name), base_##name[] asm("base_" #name)

#define XSTR(x) #x
#define STR(x) XSTR(x)
#define SET_PORT(port) "mov $" STR(port) ", %edx"
#define SET_MSR(msr, low) "mov $" STR(msr) ", %ecx; mov $" STR(low) ", %eax; xor %edx, %edx"
/* In 2^32 ticks: it never comes */
#define SET_DEADLINE "rdtsc; inc %edx; mov $" STR(MSR_TSC_DEADLINE) ", %ecx"

PROBE(cpuid, "xor %eax, %eax; xor %ecx, %ecx", "cpuid");
PROBE(io_kernel, SET_PORT(PORT_PIC_MASK), "in %dx, %al");
PROBE(ioeventfd, SET_PORT(PORT_EVENTFD), "out %al, %dx");
PROBE(msr_write, SET_MSR(MSR_KVM_POLL_CONTROL, 1), "wrmsr");
PROBE(self_ipi, SET_MSR(MSR_SELF_IPI, VM_VECTOR), "wrmsr");
PROBE(io_user, SET_PORT(PORT_USER), "out %al, %dx");
PROBE(write, "", "movb $1, (%rdi)");
PROBE(deadline, SET_DEADLINE, "wrmsr");
PROBE(mixed, "",
      SET_PORT(PORT_EVENTFD) "; out %al, %dx;" SET_PORT(
	      PORT_PIC_MASK) "; in %dx, %al;" SET_DEADLINE
			     "; wrmsr;" SET_PORT(
				     PORT_USER) "; out %al, %dx; xor %eax, %eax; xor %ecx, %ecx; cpuid");

#define MIX 16 /* probes in turn */

/* What the guest is to do; where its mailbox would be. */
struct job {
	uint64_t probe[MIX]; /* guest addresses of the probes */
	uint64_t addr; /* its argument in the first iteration */
	uint64_t step; /* added for the next one */
	uint64_t ticks; /* of all iterations together */
	uint64_t mark; /* the iteration before which to tell a debugger */
	uint64_t work; /* turns of a loop of two instructions before each probe */
};

static __guest uint64_t ticks(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static __guest __attribute__((noreturn)) void guest_job(volatile struct job *job)
{
	volatile uint32_t *sample = (void *)SAMPLES;

	for (;;) {
		uint64_t addr = job->addr, step = job->step, mark = job->mark, begin = ticks();
		uint64_t work = job->work;

		for (int i = 0; i < N; i++, addr += step) {
			/* To Bochs a breakpoint, to a CPU nothing */
			if ((uint64_t)i == mark)
				asm volatile("xchg %bx, %bx");
			for (uint64_t turn = work; turn; turn--)
				asm volatile("");
			sample[i] = ((uint32_t(*)(uint64_t))job->probe[i % MIX])(addr);
		}
		job->ticks = ticks() - begin;
		asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory");
	}
}

/* --- the host's side ---------------------------------------------------------- */

/* All that KVM has for its guests, as VMMs do: CPUID looks for its leaf in this. */
static int set_cpuid(int vcpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .head.nent = 256 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), ret;

	if (kvm < 0)
		return -errno;
	ret = vm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	/* This one is for VMMs to say, who know whose the APIC is */
	for (uint32_t i = 0; !ret && i < cpuid.head.nent; i++)
		if (cpuid.entries[i].function == 1)
			cpuid.entries[i].ecx |= CPUID_1_ECX_DEADLINE;
	if (!ret)
		ret = vm_ioctl(vcpu, KVM_SET_CPUID2, &cpuid);
	close(kvm);
	return ret;
}

static int setup(struct vm *vm)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} x2apic = {
		.head.nmsrs = 1,
		/* BSP, enabled, x2APIC */
		.entry = { .index = MSR_APIC_BASE, .data = 0xfee00d00 },
	};
	struct kvm_ioeventfd ioeventfd = {
		.addr = PORT_EVENTFD,
		.len = 1,
		.flags = KVM_IOEVENTFD_FLAG_PIO,
	};
	struct kvm_regs regs;
	int ret;

	ret = vm_create(vm, 1, N, VM_LOG | VM_IRQCHIP) ?: set_cpuid(vm->cpu[0].fd);
	if (ret)
		return ret;
	if (vm_ioctl(vm->cpu[0].fd, KVM_SET_MSRS, &x2apic) != 1)
		return -EIO;
	ioeventfd.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (ioeventfd.fd < 0)
		return -errno;
	ret = vm_ioctl(vm->fd, KVM_IOEVENTFD, &ioeventfd) ?:
		      vm_ioctl(vm->cpu[0].fd, KVM_GET_REGS, &regs);
	if (ret)
		return ret;
	regs.rip = guest_addr(guest_job);
	/* No interrupt is taken: what a self-IPI costs is its own. */
	regs.rflags = 2;
	return vm_ioctl(vm->cpu[0].fd, KVM_SET_REGS, &regs);
}

/* XCR0 of x87 alone, which no host has; PKRU, where there is one, is 0 in a new vCPU */
static int own_xstate(int vcpu)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 1 };
	struct kvm_sregs sregs;
	int ret = vm_ioctl(vcpu, KVM_GET_SREGS, &sregs);

	if (ret)
		return ret;
	sregs.cr4 |= CR4_OSXSAVE | CR4_PKE;
	if (vm_ioctl(vcpu, KVM_SET_SREGS, &sregs)) {
		sregs.cr4 &= ~CR4_PKE;
		ret = vm_ioctl(vcpu, KVM_SET_SREGS, &sregs);
	}
	return ret ?: vm_ioctl(vcpu, KVM_SET_XCRS, &xcrs);
}

struct saved {
	unsigned long swapped, kept, resumed, exits;
};

/* What the kernel tells of our only vCPU.  1 if a policy has a say in it. */
static int get_saved(struct saved *s)
{
	FILE *f = fopen("/sys/kernel/debug/kvm/ext/state", "r");
	char line[4096], mine[64], *p;
	unsigned long r, e;
	int ret = 0;

	*s = (struct saved){};
	snprintf(mine, sizeof(mine), "save_vcpu pid=%d ", getpid());
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, mine, strlen(mine)) || strstr(line, " asks=0 "))
			continue;
		p = strstr(line, " swapped=");
		if (!p || sscanf(p, " swapped=%lu kept=%lu", &s->swapped, &s->kept) != 2)
			ret = -EPROTO;
		for (p = p ? strstr(p, " other=") : NULL; p; p = strchr(p + 1, ' ')) {
			if (sscanf(p, " %*[^=]=%lu/%lu", &r, &e) != 2)
				ret = -EPROTO;
			s->resumed += r;
			s->exits += e;
		}
		ret = ret ?: 1;
	}
	if (f)
		fclose(f);
	return ret;
}

static int print_saved(void)
{
	struct saved s;
	int ret = get_saved(&s);

	if (ret > 0)
		printf("{\"swapped\": %lu, \"kept\": %lu, \"resumed\": %lu, \"exits\": %lu}\n",
		       s.swapped, s.kept, s.resumed, s.exits);
	return ret < 0 ? ret : 0;
}

static uint64_t mark = -1, work;
static bool marked, xstate;

static int run_mix(struct vm *vm, const char *const mix[MIX], uint64_t step)
{
	struct vm_cpu *cpu = &vm->cpu[0];
	struct job *job = (struct job *)cpu->box;
	int ret;

	for (int i = 0; i < MIX; i++)
		job->probe[i] = guest_addr(mix[i]);
	job->addr = VM_MEM;
	job->step = step;
	job->mark = mark;
	job->work = work;
	memset(vm->low + SAMPLES, 0, N * 4);
	for (;;) {
		ret = cpu_run(cpu);
		if (ret != KVM_EXIT_IO || cpu->run->io.port != PORT_USER)
			return ret;
	}
}

static int run_probe(struct vm *vm, const char *probe, uint64_t step)
{
	const char *mix[MIX];

	for (int i = 0; i < MIX; i++)
		mix[i] = probe;
	return run_mix(vm, mix, step);
}

/* --- kinds of exits ----------------------------------------------------------- */

/* Before every run of a probe. */
static int no_page_mapped(struct vm *vm)
{
	/* A slot that goes takes its mappings along. */
	return vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, 0, vm->mem, 0) ?: vm_log(vm, true);
}

static int every_page_protected(struct vm *vm)
{
	int ret = run_probe(vm, probe_write, VM_PAGE);

	if (!ret)
		ret = vm_harvest(vm);
	return ret == N ? 0 : ret < 0 ? ret : -EUCLEAN;
}

#define KIND(text, insn, ...)                                                         \
	{                                                                             \
		.name = text, .probe = probe_##insn, .base = base_##insn, __VA_ARGS__ \
	}

static const struct kind {
	const char *name;
	const char *probe, *base;
	uint64_t step; /* between two iterations' addresses in the memory under test */
	int (*prepare)(struct vm *vm);
	bool not_pml; /* with PML it takes no exit */
} kinds[] = {
	KIND("cpuid", cpuid),
	KIND("io_kernel", io_kernel),
	KIND("ioeventfd", ioeventfd),
	KIND("msr_write", msr_write),
	KIND("self_ipi", self_ipi),
	KIND("io_user", io_user),
	KIND("first_write", write, .step = VM_PAGE, .prepare = no_page_mapped),
	KIND("write_protect", write, .step = VM_PAGE, .prepare = every_page_protected,
	     .not_pml = true),
};
#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))

/* --- counting ----------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

#define TOPS 5

struct top {
	uint32_t value;
	int had;
};

/* The most frequent samples, most frequent first; the least one. */
static void most(struct vm *vm, struct top tops[TOPS], uint32_t *min)
{
	uint32_t *s = vm->low + SAMPLES;
	static struct top all[N];
	int n = 0;

	qsort(s, N, sizeof(*s), compare);
	memset(all, 0, sizeof(all));
	*min = s[0];
	for (int i = 0; i < N; i++) {
		if (i && s[i] != s[i - 1])
			n++;
		all[n].value = s[i];
		all[n].had++;
	}
	/* Of two that are as frequent, the lesser one, every time */
	for (int i = 0; i < TOPS; i++) {
		int best = 0;

		for (int j = 1; j <= n; j++)
			if (all[j].had > all[best].had)
				best = j;
		tops[i] = all[best];
		all[best].had = 0;
	}
}

static int measure(struct vm *vm, const struct kind *k, int rounds)
{
	const struct job *job = (struct job *)vm->cpu[0].box;
	uint64_t base_ticks, ticks = 0;
	struct top base[TOPS], with[TOPS];
	uint32_t min;
	int ret;

	mark = -1;
	ret = run_probe(vm, k->base, k->step);
	if (marked)
		mark = N / 2;
	if (ret)
		return ret;
	most(vm, base, &min);
	base_ticks = job->ticks;
	for (int i = 0; i < rounds; i++) {
		ret = k->prepare ? k->prepare(vm) : 0;
		if (!ret)
			ret = run_probe(vm, k->probe, k->step);
		if (ret)
			return ret;
		ticks += job->ticks - base_ticks;
	}
	most(vm, with, &min);
	printf("{\"kind\": \"%s%s\", \"count\": %u, \"iterations\": %d, \"had_it\": %d, \"least\": %u, "
	       "\"mean\": %.1f, \"of\": %lu, \"counts\": [",
	       k->name, xstate ? "_xstate" : "", with[0].value - base[0].value, N, with[0].had,
	       min - base[0].value, (double)ticks / N / rounds, (unsigned long)N * rounds);
	for (int i = 0; i < TOPS && with[i].had; i++)
		printf("%s[%u, %d]", i ? ", " : "", with[i].value - base[0].value, with[i].had);
	printf("]}\n");
	return 0;
}

/* --- guests that do something in between ----------------------------------------- */

#define ALL(p)                                                 \
	{                                                      \
		p, p, p, p, p, p, p, p, p, p, p, p, p, p, p, p \
	}

static const struct load {
	const char *name;
	const char *mix[MIX];
	uint64_t work;
	bool fresh; /* another page each time, that the guest has not touched before */
} loads[] = {
	{ "cpuid", ALL(probe_cpuid), 500, false },
	{ "timer", ALL(probe_deadline), 1000, false },
	{ "io", ALL(probe_ioeventfd), 1000, false },
	{ "mixed", ALL(probe_mixed), 5000, false },
	/*
	 * As while a kernel is built: programs come and go, so half of all exits are pages
	 * that are touched first; the scheduler's timer; a disk's doorbells and its driver's
	 * other registers; each program begins with CPUID.
	 */
	{ "build",
	  { probe_write, probe_deadline, probe_write, probe_ioeventfd, probe_write, probe_cpuid,
	    probe_write, probe_deadline, probe_write, probe_io_kernel, probe_write, probe_deadline,
	    probe_write, probe_ioeventfd, probe_write, probe_io_user },
	  6000,
	  true },
	{ "compute", ALL(base_cpuid), 4000, false },
};

static int use_deadline(int vcpu)
{
	struct kvm_lapic_state lapic;
	uint32_t lvtt = APIC_LVTT_DEADLINE_MASKED;
	int ret = vm_ioctl(vcpu, KVM_GET_LAPIC, &lapic);

	memcpy(lapic.regs + APIC_LVTT, &lvtt, sizeof(lvtt));
	return ret ?: vm_ioctl(vcpu, KVM_SET_LAPIC, &lapic);
}

static int run_load(struct vm *vm, const struct load *l)
{
	int ret = l->fresh ? no_page_mapped(vm) : 0;

	work = l->work;
	return ret ?: run_mix(vm, l->mix, l->fresh ? VM_PAGE : 0);
}

/*
 * Instructions of the guest's work, and all others that passed meanwhile: the host's and
 * the few that make the guest exit.  Once for a policy to learn, then what counts.
 */
static int run_loads(struct vm *vm)
{
	const struct job *job = (struct job *)vm->cpu[0].box;
	int ret = use_deadline(vm->cpu[0].fd);
	struct saved before, after;

	for (size_t i = 0; !ret && i < sizeof(loads) / sizeof(loads[0]); i++) {
		uint64_t guest = 2 * 2 * N * loads[i].work, all = 0;

		ret = run_load(vm, &loads[i]);
		if (!ret && get_saved(&before) < 0)
			ret = -EPROTO;
		for (int round = 0; !ret && round < 2; round++) {
			ret = run_load(vm, &loads[i]);
			all += job->ticks;
		}
		if (!ret && get_saved(&after) < 0)
			ret = -EPROTO;
		if (!ret)
			printf("{\"load\": \"%s\", \"guest\": %lu, \"host\": %ld, \"resumed\": %lu, \"exits\": %lu}\n",
			       loads[i].name, guest, (long)(all - guest),
			       after.resumed - before.resumed, after.exits - before.exits);
	}
	if (ret)
		fprintf(stderr, "exits: -w: error %d; %s\n", ret, cpu_text(&vm->cpu[0]));
	return ret ? 1 : 0;
}

/* --- who waits for the CPU meanwhile ---------------------------------------------- */

#define TRACING "/sys/kernel/tracing/"
#define WAKES 1500
#define WAKE_TICKS 50000 /* between two of them, and up to as much again */

struct sleeper {
	int policy;
	long khz; /* of the TSC */
	volatile bool finished;
	int ret;
	uint64_t want[WAKES], got[WAKES]; /* CLOCK_MONOTONIC, ns */
};

/* Sleeps, in a phase of its own each time, and notes when it runs again */
static void *sleeper(void *arg)
{
	struct sched_param param = { .sched_priority = 10 };
	struct sleeper *s = arg;
	uint32_t seed = 1;

	if (s->policy == SCHED_FIFO)
		s->ret = sched_setscheduler(0, s->policy, &param) ? -errno : 0;
	else
		s->ret = prctl(PR_SET_TIMERSLACK, 1) ? -errno : 0;
	for (int i = 0; !s->ret && i < WAKES; i++) {
		struct timespec ts;

		seed = seed * 1103515245 + 12345;
		s->want[i] =
			now_ns() + (WAKE_TICKS + (seed >> 8) % WAKE_TICKS) * 1000000ULL / s->khz;
		ts.tv_sec = s->want[i] / 1000000000;
		ts.tv_nsec = s->want[i] % 1000000000;
		s->ret = -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		s->got[i] = now_ns();
	}
	s->finished = true;
	return NULL;
}

static int put(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/*
 * When the kernel's timer interrupt came, for each of the sleeps: what it is late is how
 * long interrupts were off, or their controller did not get round to it.
 */
static int interrupts(const struct sleeper *s, uint64_t *late)
{
	FILE *f = fopen(TRACING "trace", "r");
	char line[1024];
	int i = 0;

	if (!f)
		return -errno;
	while (i < WAKES && fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "function=hrtimer_wakeup now=");
		unsigned long now;

		if (!p || sscanf(p, "function=hrtimer_wakeup now=%lu", &now) != 1)
			continue;
		/* Not of somebody else's sleep */
		if (now >= s->want[i] && now <= s->got[i]) {
			late[i] = now - s->want[i];
			i++;
		}
	}
	fclose(f);
	return i == WAKES ? 0 : -ENODATA;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void print_late(const char *what, uint64_t *ns, long khz)
{
	qsort(ns, WAKES, sizeof(*ns), by_size);
	printf(", \"%s\": {\"median\": %lu, \"p99\": %lu, \"max\": %lu}", what,
	       ns[WAKES / 2] * khz / 1000000, ns[WAKES * 99 / 100] * khz / 1000000,
	       ns[WAKES - 1] * khz / 1000000);
}

/* A guest of nothing but exits, and a thread that now and then wants its CPU */
static int run_latency(struct vm *vm)
{
	static const struct {
		const char *name;
		const char *probe;
		int policy;
	} ways[] = {
		{ "cpuid, SCHED_FIFO", probe_cpuid, SCHED_FIFO },
		{ "cpuid, SCHED_OTHER", probe_cpuid, SCHED_OTHER },
		{ "io, SCHED_FIFO", probe_ioeventfd, SCHED_FIFO },
		{ "io, SCHED_OTHER", probe_ioeventfd, SCHED_OTHER },
	};
	static struct sleeper s;
	static uint64_t late[WAKES];
	long khz = ioctl(vm->cpu[0].fd, KVM_GET_TSC_KHZ, NULL);
	int ret = khz > 0 ? 0 : -EIO;
	struct kvm_regs regs = {};
	pthread_t thread;
	cpu_set_t one;

	/* Bochs keeps the host's interrupts from a guest that has its own off; no CPU does */
	if (!ret)
		ret = vm_ioctl(vm->cpu[0].fd, KVM_GET_REGS, &regs);
	regs.rflags |= 0x200;
	if (!ret)
		ret = vm_ioctl(vm->cpu[0].fd, KVM_SET_REGS, &regs);
	if (one_cpu(&one) < 0 || sched_setaffinity(0, sizeof(one), &one))
		ret = -errno;
	for (size_t i = 0; !ret && i < sizeof(ways) / sizeof(ways[0]); i++) {
		/* For a policy to learn */
		for (int round = 0; !ret && round < 16; round++)
			ret = run_probe(vm, ways[i].probe, 0);
		s = (struct sleeper){ .policy = ways[i].policy, .khz = khz };
		ret = ret								   ?:
			      put(TRACING "trace", "")					   ?:
			      put(TRACING "events/timer/hrtimer_expire_entry/enable", "1") ?:
			      -pthread_create(&thread, NULL, sleeper, &s);
		if (ret)
			break;
		while (!ret && !s.finished)
			ret = run_probe(vm, ways[i].probe, 0);
		pthread_join(thread, NULL);
		ret = ret								   ?:
			      s.ret							   ?:
			      put(TRACING "events/timer/hrtimer_expire_entry/enable", "0") ?:
			      interrupts(&s, late);
		if (ret)
			break;
		printf("{\"latency\": \"%s\"", ways[i].name);
		print_late("interrupt", late, khz);
		for (int j = 0; j < WAKES; j++)
			late[j] = s.got[j] - s.want[j];
		print_late("wakeup", late, khz);
		printf("}\n");
	}
	if (ret)
		fprintf(stderr, "exits: -l: error %d; %s\n", ret, cpu_text(&vm->cpu[0]));
	return ret ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct vm vm;
	int rounds = 1, ret;
	bool loaded = false, latency = false;

	while ((ret = getopt(argc, argv, "r:mxwl")) != -1) {
		switch (ret) {
		case 'r':
			rounds = atoi(optarg);
			break;
		case 'm':
			marked = true;
			break;
		case 'x':
			xstate = true;
			break;
		case 'w':
			loaded = true;
			break;
		case 'l':
			latency = true;
			break;
		default:
			return 1;
		}
	}
	argc -= optind - 1;
	argv += optind - 1;
	if (rounds < 1) {
		fprintf(stderr, "exits: at least one round\n");
		return 1;
	}
	ret = setup(&vm) ?: xstate ? own_xstate(vm.cpu[0].fd) : 0;
	if (ret) {
		fprintf(stderr, "exits: cannot make a VM: %s\n", strerror(-ret));
		return 1;
	}
	/*
	 * KVM patches out the check for APICs that software disabled a second after the last
	 * one was enabled, here in setup(): some six instructions less for an exit.  Where the
	 * clock is slow that was in the middle of the counting, which then had two counts.
	 */
	sleep_ms(SETTLE_MS);
	if (loaded || latency)
		return loaded ? run_loads(&vm) : run_latency(&vm);
	for (int a = 1; a < argc; a++) {
		bool known = false;

		for (size_t i = 0; i < NKINDS; i++)
			known |= !strcmp(argv[a], kinds[i].name);
		if (!known) {
			fprintf(stderr, "exits: no kind of exit is called %s\n", argv[a]);
			return 1;
		}
	}
	for (size_t i = 0; i < NKINDS; i++) {
		bool wanted = argc == 1 && !(kinds[i].not_pml && vm_pml());

		for (int a = 1; a < argc; a++)
			wanted |= !strcmp(argv[a], kinds[i].name);
		if (!wanted)
			continue;
		ret = measure(&vm, &kinds[i], rounds);
		if (ret) {
			fprintf(stderr, "exits: %s: error %d; %s\n", kinds[i].name, ret,
				cpu_text(&vm.cpu[0]));
			return 1;
		}
	}
	ret = xstate ? print_saved() : 0;
	vm_free(&vm);
	if (ret)
		fprintf(stderr, "exits: the state file has another form\n");
	return ret ? 1 : 0;
}
