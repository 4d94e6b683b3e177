// SPDX-License-Identifier: GPL-2.0
/*
 * What routing an interrupt costs and brings; bench/irq.py runs it and loads the
 * policies.  Prints one line of JSON.
 *
 *	irq count	instructions of one KVM_SIGNAL_MSI and of one irqfd write, where
 *			the TSC counts them (QEMU -icount): the most frequent of 4096
 *	irq latency N	from sending to the handler, by TSC, of N interrupts that both
 *			of two vCPUs may take; on vCPU 1's CPU runs a busy thread
 */
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "vm.h"

#define SAMPLES 4096
#define PD_APIC 0x6000UL

/* The time of arrival goes to the mailbox's @value, then the count. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local guest_stamp\n"
    "guest_stamp: push %rax\n"
    "	push %rdx\n"
    "	rdtsc\n"
    "	shl $32, %rdx\n"
    "	or %rdx, %rax\n"
    "	mov %rax, %gs:48\n"
    "	movl $0xfee000b0, %eax\n"
    "	movl $0, (%rax)\n"
    "	incq %gs:80\n"
    "	pop %rdx\n"
    "	pop %rax\n"
    "	iretq\n"
    ".popsection\n");
extern const char guest_stamp[] asm("guest_stamp");
_Static_assert(offsetof(struct vm_box, value) == 48, "guest_stamp knows the offset");

static void die(const char *what, int err)
{
	fprintf(stderr, "irq: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static void check(const char *what, int ret)
{
	if (ret < 0)
		die(what, ret);
}

/* Flat logical ids, the handler for two vectors, the host's own TSC. */
static void apics(struct vm *vm)
{
	uint64_t *pdpt = vm->low + VM_PDPT, *pd = vm->low + PD_APIC, *idt = vm->low + VM_IDT;
	uint64_t handler = guest_addr(guest_stamp), zero = 0;

	pdpt[3] = PD_APIC | 0x23;
	pd[0xfee00000 >> 21 & 511] = 0xfee00000 | 0xf3;
	for (int v = VM_VECTOR; v < VM_VECTOR + 2; v++) {
		idt[v * 2] = (handler & 0xffff) | 8 << 16 | 0x8eULL << 40 |
			     (handler & 0xffff0000) << 32;
		idt[v * 2 + 1] = handler >> 32;
	}
	for (int i = 0; i < vm->ncpus; i++) {
		struct kvm_device_attr tsc = { .group = KVM_VCPU_TSC_CTRL,
					       .attr = KVM_VCPU_TSC_OFFSET,
					       .addr = (uintptr_t)&zero };
		struct kvm_lapic_state lapic;
		uint32_t *reg = (uint32_t *)lapic.regs;

		check("KVM_GET_LAPIC", vm_ioctl(vm->cpu[i].fd, KVM_GET_LAPIC, &lapic));
		reg[0xd0 / 4] = 1U << i << 24;
		reg[0xe0 / 4] = 0xffffffff;
		reg[0xf0 / 4] = 0x1ff;
		check("KVM_SET_LAPIC", vm_ioctl(vm->cpu[i].fd, KVM_SET_LAPIC, &lapic));
		check("the TSC's offset", vm_ioctl(vm->cpu[i].fd, KVM_SET_DEVICE_ATTR, &tsc));
	}
}

static struct kvm_msi both(int vector)
{
	/* logical, 3; lowest priority */
	return (struct kvm_msi){ .address_lo = 0xfee00000 | 3 << 12 | 1 << 2,
				 .data = vector | 1 << 8 };
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void most(const char *name, uint64_t *v, bool last)
{
	uint64_t best = 0;
	int had = 0;

	qsort(v, SAMPLES, sizeof(*v), compare);
	for (int i = 0, j; i < SAMPLES; i = j) {
		for (j = i; j < SAMPLES && v[j] == v[i]; j++)
			;
		if (j - i > had) {
			had = j - i;
			best = v[i];
		}
	}
	printf("\"%s\": %llu, \"%s_had_it\": %d%s", name, (unsigned long long)best, name, had,
	       last ? "}\n" : ", ");
}

static int irqfd(struct vm *vm, int gsi, int vector)
{
	struct kvm_msi msi = both(vector);
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[1];
	} r = { .head.nr = 1,
		.e[0] = { .gsi = gsi,
			  .type = KVM_IRQ_ROUTING_MSI,
			  .u.msi = { .address_lo = msi.address_lo, .data = msi.data } } };
	struct kvm_irqfd f = { .gsi = gsi };

	check("KVM_SET_GSI_ROUTING", vm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &r));
	f.fd = eventfd(0, EFD_CLOEXEC);
	check("eventfd", f.fd);
	check("KVM_IRQFD", vm_ioctl(vm->fd, KVM_IRQFD, &f));
	return f.fd;
}

/* Nobody runs: what is counted is the way in, to a vCPU that need not be kicked. */
static void count(struct vm *vm)
{
	struct kvm_msi msi = both(VM_VECTOR);
	static uint64_t v[SAMPLES];
	uint64_t one = 1, t;
	int fd;

	printf("{");
	for (int i = -16; i < SAMPLES; i++) {
		t = vm_rdtsc();
		ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
		v[i < 0 ? 0 : i] = vm_rdtsc() - t;
	}
	most("msi", v, false);
	fd = irqfd(vm, 40, VM_VECTOR);
	for (int i = -16; i < SAMPLES; i++) {
		t = vm_rdtsc();
		if (write(fd, &one, 8) != 8)
			die("write", errno);
		v[i < 0 ? 0 : i] = vm_rdtsc() - t;
	}
	most("irqfd", v, true);
}

static void pin(pthread_t t, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check("pinning", -pthread_setaffinity_np(t, sizeof(set), &set));
}

static void *busy(void *arg)
{
	volatile uint64_t n = 0;

	(void)arg;
	for (;;)
		n++;
	return NULL;
}

static uint64_t taken(struct vm *vm)
{
	return vm->cpu[0].box->irqs + vm->cpu[1].box->irqs;
}

static void latency(struct vm *vm, int n)
{
	uint64_t *v = calloc(n, sizeof(*v)), per_ms = vm_ticks_per_ms(), rnd = 88172645463325252ULL;
	struct sched_param rt = { .sched_priority = 1 };
	uint64_t by[2] = {}, sum = 0;
	pthread_t t;
	int lost = 0, got = 0;

	for (int i = 0; i < 2; i++) {
		cpu_set(&vm->cpu[i], OP_SPIN, 0, 0, 0);
		check("a thread", cpu_start(&vm->cpu[i]));
		pin(vm->cpu[i].thread, i);
	}
	check("a thread", -pthread_create(&t, NULL, busy, NULL));
	pin(t, 1);
	/* On the busy CPU, and at any moment: the other goes on undisturbed. */
	pin(pthread_self(), 1);
	check("SCHED_FIFO", -pthread_setschedparam(pthread_self(), SCHED_FIFO, &rt));
	prctl(PR_SET_TIMERSLACK, 1);

	while (!vm->cpu[0].box->progress || !vm->cpu[1].box->progress)
		sleep_ms(10);
	for (int i = 0; i < n; i++) {
		/* KVM's own choice is each of the two in turn. */
		struct kvm_msi msi = both(VM_VECTOR + i % 2);
		uint64_t had[2] = { vm->cpu[0].box->irqs, vm->cpu[1].box->irqs }, sent, end;
		int who;

		sent = vm_rdtsc();
		check("KVM_SIGNAL_MSI", vm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
		end = now_ns() + 10000000000ULL;
		while (taken(vm) == had[0] + had[1] && now_ns() < end) {
			struct timespec ts = { 0, 100000 };

			nanosleep(&ts, NULL);
		}
		if (taken(vm) == had[0] + had[1]) {
			lost++;
			continue;
		}
		who = vm->cpu[1].box->irqs != had[1];
		by[who]++;
		v[got] = vm->cpu[who].box->value - sent;
		sum += v[got++];
		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		{
			struct timespec ts = { 0, 200000 + rnd % 2000000 };

			nanosleep(&ts, NULL);
		}
	}
	qsort(v, got, sizeof(*v), compare);
	if (!got)
		die("none came", 0);
#define US(x) ((double)(x)*1000 / per_ms)
	printf("{\"sent\": %d, \"lost\": %d, \"vcpu0\": %llu, \"vcpu1\": %llu, \"median_us\": %.1f, "
	       "\"p99_us\": %.1f, \"worst_us\": %.1f, \"mean_us\": %.1f}\n",
	       n, lost, (unsigned long long)by[0], (unsigned long long)by[1], US(v[got / 2]),
	       US(v[got * 99 / 100]), US(v[got - 1]), US(sum / got));
	fflush(stdout);
	/* The spinning threads end with us. */
	_exit(0);
}

int main(int argc, char **argv)
{
	struct vm vm;

	if (argc < 2)
		die("count, or latency N", EINVAL);
	check("making a VM", vm_create(&vm, 2, 16, VM_IRQCHIP));
	apics(&vm);
	if (!strcmp(argv[1], "count"))
		count(&vm);
	else
		latency(&vm, argc > 2 ? atoi(argv[2]) : 1000);
	vm_free(&vm);
	return 0;
}
