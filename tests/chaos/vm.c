// SPDX-License-Identifier: GPL-2.0
/*
 * A VM for the chaos test:
 *
 *   vm NCPUS KIND    bitmap, manual or ring; and with an interrupt controller in the
 *                    kernel: irqchip, as in ring,irqchip; apic-off, where it stays off
 *
 * Each vCPU goes round its own pages in an order that changes each time, checks
 * that each is as it left it, writes it anew and keeps a checksum.  Commands come
 * on standard input, one a line; each is answered by "ok ..." or "bad TEXT".  In
 * between the dirty log is harvested as a migrating VMM does.
 */
#include <poll.h>

#include "tests/lib/vm.h"

#define CPU_PAGES 64 /* a power of two */
#define LAST (VM_PAGE / 8 - 1)
#define BURST 16 /* pages between two halts of the guest */
#define HALT_MS 10
#define HARVEST_MS 20
#define ROUNDS_MAX 8

/* What follows the mailbox in its page */
struct chaos {
	struct vm_box box;
	volatile uint64_t round; /* from 1 on */
	volatile uint64_t next; /* pages of this round that are done */
	volatile uint64_t sum; /* of all that is in the pages */
	volatile uint64_t wrong; /* pages found other than left */
	volatile uint64_t wrong_page, wrong_found, wrong_wanted;
};

static struct vm vm;
static unsigned int vm_flags;
static volatile bool halt; /* vCPUs are to leave the guest, and their threads to end */
static bool logging;
static bool irqchip;
static char last_command[128] = "none";
static const char *volatile broken; /* why a vCPU will not run any more */
static uint64_t written[VM_MAX_CPUS]; /* pages that mmio() wrote, a bit each; CPU_PAGES are 64 */

#define TAG(round, page) (((round)*0x9e3779b97f4a7c15ULL ^ (page)*0xc2b2ae3d27d4eb4fULL) | 1)
/* The i-th page of a round: the step is odd, so all are visited. */
#define NTH(round, i) (((i) * (2 * (round) + 1) + (round)) & (CPU_PAGES - 1))

static __guest __attribute__((noreturn)) void guest_chaos(struct chaos *c)
{
	for (;; c->round++, c->next = 0) {
		uint64_t round = c->round;

		while (c->next < CPU_PAGES) {
			uint64_t page = c->box.first + NTH(round, c->next);
			uint64_t was = TAG(round - 1, page), now = TAG(round, page);
			volatile uint64_t *p = (volatile uint64_t *)(VM_MEM + page * VM_PAGE);
			uint64_t first = p[0], last = p[LAST], start;

			if (first != was || last != ~was) {
				c->wrong++;
				c->wrong_page = page;
				c->wrong_found = first != was ? first : last;
				c->wrong_wanted = first != was ? was : ~was;
			}
			p[0] = now;
			p[LAST] = ~now;
			c->sum += now - was;
			c->next++;
			c->box.progress++;
			start = vm_rdtsc();
			while (vm_rdtsc() - start < c->box.pause)
				;
			/* Not all of the CPU: others are to get on too. */
			if (c->box.progress % BURST == 0)
				asm volatile("hlt" ::: "memory");
			while (c->box.stop) {
				c->box.done++;
				asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0)
					     : "memory");
			}
		}
	}
}

static struct chaos *chaos(int i)
{
	return (struct chaos *)vm.cpu[i].box;
}

/* With an interrupt controller the halt is KVM's, and what ends it an interrupt. */
static void wake(void)
{
	for (int i = 0; irqchip && i < vm.ncpus; i++)
		vm_msi(&vm, i, true);
}

/* Sleep, as sleep_ms(), and have the guest get on meanwhile. */
static void nap(unsigned int ms)
{
	while (ms) {
		unsigned int n = ms < HALT_MS ? ms : HALT_MS;

		sleep_ms(n);
		wake();
		ms -= n;
	}
}

/* --- vCPUs ----------------------------------------------------------------- */

/*
 * The slot is away: be the memory.  It is the same memory, so the guest cannot
 * tell, be the slot back at any moment.
 */
static bool mmio(struct kvm_run *run)
{
	uint64_t at = run->mmio.phys_addr - VM_MEM;

	if (at >= vm.npages * VM_PAGE || at + run->mmio.len > vm.npages * VM_PAGE)
		return false;
	if (run->mmio.is_write) {
		memcpy((char *)vm.mem + at, run->mmio.data, run->mmio.len);
		/* The slot, and its log, may be long back. */
		__atomic_fetch_or(&written[at / VM_PAGE / 64], 1ULL << at / VM_PAGE % 64,
				  __ATOMIC_SEQ_CST);
	} else {
		memcpy(run->mmio.data, (char *)vm.mem + at, run->mmio.len);
	}
	return true;
}

static void *vcpu_main(void *arg)
{
	static char text[1024];
	struct vm_cpu *cpu = arg;
	bool mid = false; /* KVM_RUN has something to complete */
	int ret;

	/* At a halt too: state is whole only when nothing is to be completed. */
	while (!halt || mid) {
		ret = cpu_run(cpu);
		mid = false;
		if (ret == -EINTR)
			continue;
		if (ret == KVM_EXIT_HLT) {
			/* No interrupt controller, so the VMM's to wait out. */
			if (!halt)
				usleep(HALT_MS * 1000);
			continue;
		}
		if (!ret) {
			if (!halt)
				sleep_ms(1);
			mid = true;
		} else if (ret == KVM_EXIT_MMIO && mmio(cpu->run)) {
			mid = true;
		} else if (ret == KVM_EXIT_DIRTY_RING_FULL) {
			sleep_ms(1);
		} else {
			snprintf(text, sizeof(text),
				 "KVM_RUN gave %d at %llu ms, last command '%s': %s", ret,
				 (unsigned long long)(now_ns() / 1000000), last_command,
				 cpu_text(cpu));
			broken = text;
			break;
		}
	}
	return NULL;
}

static int vcpus_start(void)
{
	int ret = 0;

	halt = false;
	for (int i = 0; !ret && i < vm.ncpus; i++) {
		vm.cpu[i].run->immediate_exit = 0;
		ret = pthread_create(&vm.cpu[i].thread, NULL, vcpu_main, &vm.cpu[i]);
		vm.cpu[i].started = !ret;
	}
	return -ret;
}

static void vcpus_halt(void)
{
	halt = true;
	for (int i = 0; i < vm.ncpus; i++) {
		vm.cpu[i].run->immediate_exit = 1;
		if (vm.cpu[i].started)
			pthread_kill(vm.cpu[i].thread, SIGUSR1);
	}
	for (int i = 0; i < vm.ncpus; i++) {
		if (vm.cpu[i].started)
			pthread_join(vm.cpu[i].thread, NULL);
		vm.cpu[i].started = false;
	}
}

/* --- commands -------------------------------------------------------------- */

static int harvest_new(void)
{
	int ret;

	/* A ring only adds to the bitmap. */
	memset(vm.bitmap, 0, (vm.npages + 63) / 64 * 8);
	ret = harvest(&vm);
	/* What the VMM wrote itself it has to know itself. */
	for (int i = 0; i < vm.ncpus; i++)
		vm.bitmap[i] |= __atomic_exchange_n(&written[i], 0, __ATOMIC_SEQ_CST);
	return ret;
}

static int set_log(bool on)
{
	int ret = vm_log(&vm, on);

	if (!ret)
		logging = on;
	return ret;
}

/* Take the slot away from under the guest for that long. */
static int slot_away(unsigned int ms)
{
	int ret = vm_set_slot(&vm, VM_SLOT_MEM, VM_MEM, 0, vm.mem, 0);

	if (ret)
		return ret;
	nap(ms);
	return set_log(logging);
}

/* The same vCPUs in a new VM, with the memory there is. */
static int vm_anew(void)
{
	struct kvm_regs regs[VM_MAX_CPUS];
	struct kvm_sregs sregs[VM_MAX_CPUS];
	struct kvm_vcpu_events events[VM_MAX_CPUS];
	int ret = 0;

	for (int i = 0; !ret && i < vm.ncpus; i++)
		ret = vm_ioctl(vm.cpu[i].fd, KVM_GET_REGS, &regs[i])	       ?:
			      vm_ioctl(vm.cpu[i].fd, KVM_GET_SREGS, &sregs[i]) ?:
			      vm_ioctl(vm.cpu[i].fd, KVM_GET_VCPU_EVENTS, &events[i]);
	if (ret)
		return ret;
	vm_close(&vm);
	for (int i = 0; i < vm.ncpus; i++)
		vm.cpu[i].ring_next = 0;
	ret = vm_open(&vm);
	for (int i = 0; !ret && i < vm.ncpus; i++)
		ret = vm_ioctl(vm.cpu[i].fd, KVM_SET_SREGS, &sregs[i])	     ?:
			      vm_ioctl(vm.cpu[i].fd, KVM_SET_REGS, &regs[i]) ?:
			      vm_ioctl(vm.cpu[i].fd, KVM_SET_VCPU_EVENTS, &events[i]);
	if (!ret)
		ret = set_log(logging);
	return ret ?: vcpus_start();
}

static size_t copy_dirty(uint64_t *to)
{
	size_t n = 0;

	for (size_t i = 0; i < vm.npages; i++) {
		if (vm.bitmap[i / 64] & 1ULL << i % 64) {
			memcpy((char *)to + i * VM_PAGE, (char *)vm.mem + i * VM_PAGE, VM_PAGE);
			n++;
		}
	}
	return n;
}

/*
 * Live migration, with no other process for a destination: pre-copy by the dirty
 * log, halt, the rest, and on in a new VM on the copy.  -EILSEQ if the log missed
 * a page.
 */
static int migrate(unsigned int round_ms, int *rounds, int *last)
{
	uint64_t *to = vm_alloc(&vm, vm.npages * VM_PAGE), *was = vm.mem;
	size_t size = vm.npages * VM_PAGE;
	bool log = logging;
	int ret;

	if (!to)
		return -ENOMEM;
	/* Off and on: nothing that is dirty already is forgotten by a copy of all. */
	ret = set_log(false) ?: set_log(true);
	memcpy(to, vm.mem, size);
	for (*rounds = 0; !ret && *rounds < ROUNDS_MAX; (*rounds)++) {
		nap(round_ms);
		ret = harvest_new();
		if (ret < 0)
			break;
		*last = copy_dirty(to);
		ret = 0;
		if (*last < 8)
			break;
	}
	vcpus_halt();
	if (!ret) {
		ret = harvest_new();
		if (ret >= 0) {
			*last = copy_dirty(to);
			ret = memcmp(to, vm.mem, size) ? -EILSEQ : 0;
		}
	}
	if (ret) {
		munmap(to, size);
		vcpus_start();
		return ret;
	}
	logging = log;
	vm.mem = to;
	ret = vm_anew();
	munmap(was, size);
	return ret;
}

static void flood(int n)
{
	for (int i = 0; i < n; i++) {
		pthread_kill(vm.cpu[i % vm.ncpus].thread, SIGUSR1);
		if (i % 64 == 63)
			sched_yield();
	}
}

/* Interrupts for all vCPUs, as fast as they go. */
static void irqs(int n)
{
	for (int i = 0; i < n; i++) {
		vm_msi(&vm, i % vm.ncpus, true);
		if (i % 64 == 63)
			sched_yield();
	}
}

static void progress(const char *what)
{
	printf("ok %s", what);
	for (int i = 0; i < vm.ncpus; i++)
		printf(" %llu", (unsigned long long)vm.cpu[i].box->progress);
	putchar('\n');
}

/* The guest at a stop between two pages: what it says against what is there. */
static void verify(void)
{
	for (int i = 0; i < vm.ncpus; i++)
		chaos(i)->box.stop = 1;
	/* Each says that it is between two pages, and does nothing else then. */
	for (int i = 0; i < vm.ncpus; i++)
		while (!chaos(i)->box.done && !broken)
			nap(5);
	vcpus_halt();
	for (int i = 0; i < vm.ncpus; i++) {
		struct chaos *c = chaos(i);
		uint64_t sum = 0, tag;

		for (uint64_t n = 0; n < CPU_PAGES; n++) {
			uint64_t page = c->box.first + NTH(c->round, n);
			uint64_t *p = vm.mem + page * (VM_PAGE / 8);

			tag = TAG(c->round - (n >= c->next), page);
			sum += p[0];
			if (p[0] != tag || p[LAST] != ~tag) {
				printf("bad vCPU %d: page %llu has %llx %llx and not %llx %llx\n",
				       i, (unsigned long long)page, (unsigned long long)p[0],
				       (unsigned long long)p[LAST], (unsigned long long)tag,
				       (unsigned long long)~tag);
				return;
			}
		}
		if (sum != c->sum || c->wrong) {
			printf("bad vCPU %d: sum %llx, of the guest %llx; %llu pages it found wrong, the last %llu with %llx for %llx\n",
			       i, (unsigned long long)sum, (unsigned long long)c->sum,
			       (unsigned long long)c->wrong, (unsigned long long)c->wrong_page,
			       (unsigned long long)c->wrong_found,
			       (unsigned long long)c->wrong_wanted);
			return;
		}
	}
	printf("ok verified");
	for (int i = 0; i < vm.ncpus; i++)
		printf(" %llx", (unsigned long long)chaos(i)->sum);
	putchar('\n');
}

static void command(char *line)
{
	int arg = 0, ret, rounds = 0, last = 0;
	char word[16] = "";

	sscanf(line, "%15s %d", word, &arg);
	if (!broken)
		snprintf(last_command, sizeof(last_command), "%s %d", word, arg);
	if (broken) {
		printf("bad %s\n", broken);
	} else if (!strcmp(word, "progress")) {
		progress(word);
	} else if (!strcmp(word, "flood")) {
		flood(arg);
		progress(word);
	} else if (!strcmp(word, "irqs")) {
		irqs(arg);
		progress(word);
	} else if (!strcmp(word, "log")) {
		/* Off for that long. */
		ret = set_log(false);
		nap(arg);
		ret = ret ?: set_log(true);
		printf(ret ? "bad log: %s\n" : "ok log\n", strerror(-ret));
	} else if (!strcmp(word, "slot")) {
		ret = slot_away(arg);
		printf(ret ? "bad slot: %s\n" : "ok slot\n", strerror(-ret));
	} else if (!strcmp(word, "migrate")) {
		ret = migrate(arg, &rounds, &last);
		if (ret)
			printf("bad migrate: %s\n",
			       ret == -EILSEQ ?
				       "the copy differs: a write is not in the dirty log" :
				       strerror(-ret));
		else
			printf("ok migrate %d rounds, %d pages at the end\n", rounds, last);
	} else if (!strcmp(word, "anew")) {
		vcpus_halt();
		ret = vm_anew();
		printf(ret ? "bad anew: %s\n" : "ok anew\n", strerror(-ret));
	} else if (!strcmp(word, "verify")) {
		verify();
	} else {
		printf("bad command '%s'\n", word);
	}
	fflush(stdout);
}

/* A VM like this keeps the static branch on that any APIC which is off turns on. */
static int apic_off(void)
{
	struct kvm_lapic_state lapic;
	int ret = vm_ioctl(vm.cpu[0].fd, KVM_GET_LAPIC, &lapic);

	/* Spurious vector register: bit 8 is "on". */
	lapic.regs[0xf1] = 0;
	return ret ?: vm_ioctl(vm.cpu[0].fd, KVM_SET_LAPIC, &lapic);
}

int main(int argc, char **argv)
{
	int ncpus = argc == 3 ? atoi(argv[1]) : 0, ret;
	struct pollfd in = { .fd = 0, .events = POLLIN };
	char line[128];

	if (ncpus < 1 || ncpus > VM_MAX_CPUS)
		return 2;
	irqchip = strstr(argv[2], "irqchip") || strstr(argv[2], "apic-off");
	vm_flags = (strstr(argv[2], "ring")   ? VM_RING :
		    strstr(argv[2], "manual") ? VM_MANUAL :
						0) |
		   (irqchip ? VM_IRQCHIP : 0);
	vm_signals();
	logging = true;
	ret = vm_create(&vm, ncpus, (size_t)ncpus * CPU_PAGES, vm_flags | VM_LOG);
	for (int i = 0; !ret && i < ncpus; i++) {
		struct chaos *c = chaos(i);
		struct kvm_regs regs;

		c->box.first = (uint64_t)i * CPU_PAGES;
		c->box.pause = 20000;
		c->round = 1;
		for (uint64_t page = c->box.first; page < c->box.first + CPU_PAGES; page++) {
			vm.mem[page * (VM_PAGE / 8)] = TAG(0, page);
			vm.mem[page * (VM_PAGE / 8) + LAST] = ~TAG(0, page);
			c->sum += TAG(0, page);
		}
		ret = vm_ioctl(vm.cpu[i].fd, KVM_GET_REGS, &regs);
		regs.rip = guest_addr(guest_chaos);
		if (!ret)
			ret = vm_ioctl(vm.cpu[i].fd, KVM_SET_REGS, &regs);
	}
	if (strstr(argv[2], "apic-off"))
		ret = ret ?: apic_off();
	else
		ret = ret ?: vcpus_start();
	if (ret) {
		printf("bad start: %s\n", strerror(-ret));
		return 1;
	}
	progress("ready");
	fflush(stdout);
	for (;;) {
		ret = poll(&in, 1, HARVEST_MS);
		if (ret > 0) {
			/* One line at a time is written to us. */
			if (!fgets(line, sizeof(line), stdin))
				return 0;
			command(line);
		} else if (!ret && logging && !halt && harvest_new() < 0 && !broken) {
			broken = "cannot harvest";
		}
		wake();
	}
}
