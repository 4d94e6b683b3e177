// SPDX-License-Identifier: GPL-2.0
/*
 * What routing an interrupt costs and brings; bench/irq.py runs it and loads the
 * policies.  Prints one line of JSON.
 *
 *	irq count	instructions of one KVM_SIGNAL_MSI and of one irqfd write, where
 *			the TSC counts them (QEMU -icount): the most frequent of 4096
 *	irq latency N	from sending to the handler, by TSC, of N interrupts that both
 *			of two vCPUs may take; on vCPU 1's CPU runs a busy thread
 *	irq many N OP	how many of N there are after local APICs and handlers, of vCPUs
 *			that spin or halt; no busy thread, as a vCPU that waits for it
 *			takes milliseconds for each
 *	irq share N	which vCPUs take N interrupts of four sources that any of four
 *			vCPUs may take, all of which run; before, only the first one did.
 *			And the time from sending to the handler
 */

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "irq.h"

#define SAMPLES 4096
#define VECTORS 2 /* from VM_VECTOR on: by KVM's own choice they are one vCPU's each */

/* The time of arrival goes to the mailbox's @value, then the count. */
asm(".pushsection guest_text, \"ax\"\n"
    /* clang-format off */
    HANDLER("guest_stamp",
	    "	rdtsc\n"
	    "	shl $32, %rdx\n"
	    "	or %rdx, %rax\n"
	    "	mov %rax, %gs:48\n"
	    EOI_XAPIC COUNT)
    /* clang-format on */
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

/* Flat logical ids, the handler for the vectors, the host's own TSC. */
static void set_up(struct vm *vm, int ncpus)
{
	uint64_t zero = 0;
	struct kvm_device_attr tsc = { .group = KVM_VCPU_TSC_CTRL,
				       .attr = KVM_VCPU_TSC_OFFSET,
				       .addr = (uintptr_t)&zero };

	check("making a VM", vm_create(vm, ncpus, 16, VM_IRQCHIP));
	check("local APICs", apics(vm, FLAT, 0) ? -EIO : 0);
	for (int v = 0; v < ncpus; v++)
		irq_gate(vm, VM_VECTOR + v, guest_stamp);
	for (int i = 0; i < vm->ncpus; i++)
		check("the TSC's offset", vm_ioctl(vm->cpu[i].fd, KVM_SET_DEVICE_ATTR, &tsc));
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

/* vCPU 0 and 1 on CPU 0 and 1 */
static void start(struct vm *vm, enum vm_op op)
{
	for (int i = 0; i < 2; i++) {
		cpu_set(&vm->cpu[i], op, 0, 0, op == OP_HALT ? 1ULL << 40 : 0);
		check("a thread", cpu_start(&vm->cpu[i]));
		pin(vm->cpu[i].thread, i);
	}
	while (op == OP_SPIN && (!vm->cpu[0].box->progress || !vm->cpu[1].box->progress))
		sleep_ms(10);
}

/* This thread on vCPU 1's CPU, at any moment: the other vCPU goes on undisturbed. */
static void aside(void)
{
	struct sched_param rt = { .sched_priority = 1 };

	pin(pthread_self(), 1);
	check("SCHED_FIFO", -pthread_setschedparam(pthread_self(), SCHED_FIFO, &rt));
	prctl(PR_SET_TIMERSLACK, 1);
}

static uint64_t per_ms; /* ticks of the TSC */

static void sleep_us(unsigned int us)
{
	struct timespec ts = { 0, us * 1000 };

	nanosleep(&ts, NULL);
}

/*
 * Send one, look for who took it: false if nobody did.  At first for @busy ticks, which is
 * enough for a vCPU on the other CPU, then each @ticks: enough for that on this one to be
 * entered meanwhile.
 */
static bool send_one(struct vm *vm, int i, uint64_t busy, uint64_t ticks)
{
	unsigned int us = ticks * 1000 / per_ms;

	/* KVM's own choice is each of the two in turn. */
	struct kvm_msi msi = both(VM_VECTOR + i % VECTORS);
	uint64_t had = taken(vm), end;

	check("KVM_SIGNAL_MSI", vm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	end = vm_rdtsc() + busy;
	while (taken(vm) == had && vm_rdtsc() < end)
		;
	end = now_ns() + 10000000000ULL;
	while (taken(vm) == had && now_ns() < end)
		sleep_us(us);
	return taken(vm) != had;
}

static void latency(struct vm *vm, int n)
{
	uint64_t *v = calloc(n, sizeof(*v)), rnd = 88172645463325252ULL;
	uint64_t by[2] = {}, sum = 0;
	pthread_t t;
	int lost = 0, got = 0;

	start(vm, OP_SPIN);
	check("a thread", -pthread_create(&t, NULL, busy, NULL));
	pin(t, 1);
	aside();
	for (int i = 0; i < n; i++) {
		uint64_t had = vm->cpu[1].box->irqs, sent = vm_rdtsc();
		int who;

		if (!send_one(vm, i, 0, 100000)) {
			lost++;
			continue;
		}
		who = vm->cpu[1].box->irqs != had;
		by[who]++;
		v[got] = vm->cpu[who].box->value - sent;
		sum += v[got++];
		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		sleep_us(200 + rnd % 2000);
	}
	qsort(v, got, sizeof(*v), compare);
	if (!got)
		die("none came", 0);
#define US(x) ((double)(x)*1000 / per_ms)
#define FIGURE(name) "\"" name "_us\": %.1f, \"" name "_ticks\": %llu, "
#define VALUE(x) US(x), (unsigned long long)(x)
	printf("{" FIGURE("median") FIGURE("p99") FIGURE("worst")
		       FIGURE("mean") "\"sent\": %d, "
				      "\"lost\": %d, \"vcpu0\": %llu, \"vcpu1\": %llu}\n",
	       VALUE(v[got / 2]), VALUE(v[got * 99 / 100]), VALUE(v[got - 1]), VALUE(sum / got), n,
	       lost, (unsigned long long)by[0], (unsigned long long)by[1]);
}

/*
 * Each is sent when the one before was taken, and all are counted again a while after the
 * last, as one that is taken twice need not be so at once.
 */
static void many(struct vm *vm, int n, enum vm_op op)
{
	struct bpf_object *obj = ext_open("tests/kvm/probes/irq_accept.bpf.o");
	volatile uint64_t(*by_cpu)[256];
	uint64_t accepted = 0, begun;
	int lost = 0;

	if (!obj || bpf_object__load(obj) ||
	    !bpf_program__attach(bpf_object__find_program_by_name(obj, "accept")))
		die("tests/kvm/probes/irq_accept.bpf.o", errno);
	by_cpu = ext_map_memory(obj, ".bss");
	if (!by_cpu)
		die("its memory", errno);
	start(vm, op);
	aside();
	begun = taken(vm);
	for (int i = 0; i < n && !lost; i++)
		lost += !send_one(vm, i, 5000, 20000);
	sleep_ms(200);
	for (int i = 0; i < 2; i++)
		for (int v = 0; v < VECTORS; v++)
			accepted += by_cpu[i][VM_VECTOR + v];
	printf("{\"sent\": %d, \"lost\": %d, \"accepted\": %llu, \"taken\": %llu, \"vcpu0\": %llu}\n",
	       n, lost, (unsigned long long)accepted, (unsigned long long)(taken(vm) - begun),
	       (unsigned long long)vm->cpu[0].box->irqs);
}

#define SHARE 4

static void spin_on(struct vm *vm, int i)
{
	cpu_set(&vm->cpu[i], OP_SPIN, 0, 0, 0);
	check("a thread", cpu_start(&vm->cpu[i]));
	pin(vm->cpu[i].thread, i);
	while (!vm->cpu[i].box->progress)
		sleep_ms(10);
}

/* Who took it; -1 if nobody did */
static int send_to_any(struct vm *vm, int vector)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000 | 0xf << 12 | 1 << 2,
			       .data = vector | 1 << 8 };
	uint64_t had[SHARE], end = now_ns() + 10000000000ULL;

	for (int i = 0; i < SHARE; i++)
		had[i] = vm->cpu[i].box->irqs;
	check("KVM_SIGNAL_MSI", vm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	do {
		sleep_us(100);
		for (int i = 0; i < SHARE; i++)
			if (vm->cpu[i].box->irqs != had[i])
				return i;
	} while (now_ns() < end);
	return -1;
}

static void share(struct vm *vm, int n)
{
	uint64_t *v = calloc(n, sizeof(*v)), by[SHARE] = {};
	int got = 0;

	spin_on(vm, 0);
	pin(pthread_self(), SHARE);
	prctl(PR_SET_TIMERSLACK, 1);
	/* With these halted or in user space, a policy that looks sends all to the first one */
	for (int i = 0; i < 256; i++)
		if (send_to_any(vm, VM_VECTOR + i % SHARE) < 0)
			break;
	for (int i = 1; i < SHARE; i++)
		spin_on(vm, i);
	for (int i = 0; i < n; i++) {
		uint64_t sent = vm_rdtsc();
		int who = send_to_any(vm, VM_VECTOR + i % SHARE);

		if (who < 0)
			continue;
		by[who]++;
		v[got++] = vm->cpu[who].box->value - sent;
	}
	if (!got)
		die("none came", 0);
	qsort(v, got, sizeof(*v), compare);
	printf("{\"sent\": %d, \"lost\": %d, \"median_us\": %.1f, \"p99_us\": %.1f, \"by_vcpu\": [", n,
	       n - got, (double)v[got / 2] * 1000 / per_ms, (double)v[got * 99 / 100] * 1000 / per_ms);
	for (int i = 0; i < SHARE; i++)
		printf("%s%llu", i ? ", " : "", (unsigned long long)by[i]);
	printf("]}\n");
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 1000;
	struct vm vm;

	if (argc < 2)
		die("count, latency N, share N or many N spin|halt", EINVAL);
	set_up(&vm, strcmp(argv[1], "share") ? 2 : SHARE);
	per_ms = vm_ticks_per_ms();
	if (!strcmp(argv[1], "count"))
		count(&vm);
	else if (!strcmp(argv[1], "latency"))
		latency(&vm, n);
	else if (!strcmp(argv[1], "share"))
		share(&vm, n);
	else
		many(&vm, n, argc > 3 && !strcmp(argv[3], "halt") ? OP_HALT : OP_SPIN);
	fflush(stdout);
	/* The spinning threads end with us. */
	_exit(0);
}
