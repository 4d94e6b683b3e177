// SPDX-License-Identifier: GPL-2.0
/*
 * A VM that leaves the guest a known number of times, for the tests of tracers.
 * Real mode, so that it runs on any KVM.
 *
 *   vmexits VCPUS CPUIDS OUTS SLOWS MS HALTS
 *
 * vCPU i runs CPUID (i + 1) * CPUIDS times, writes OUTS times to a port that user
 * space answers at once, SLOWS times to one that it answers after MS, and halts
 * HALTS times until an interrupt, sent MS after it halted at the earliest.
 *
 * Prints "ready", waits for a line on stdin, runs, prints KVM's own counts
 * ("vcpu N NAME VALUE"), then "done", and waits for the end of stdin.
 */
#include "tests/lib/vm.h"

#define CODE 0x1000
#define STACK 0x8000
#define PORT_OUT 0x11
#define PORT_SLOW 0x12
#define IRQ 1
#define VECTOR (0x20 + IRQ)
#define HANDLER 0x600

static int fd_kvm, fd_vm, nr_vcpus;
static uint8_t *mem;
static unsigned int cpuids, outs, slows, ms, halts;

struct vcpu {
	int id, fd;
	struct kvm_run *run;
	pthread_t thread;
	volatile bool done;
	bool failed;
};

static struct vcpu vcpus[VM_MAX_CPUS];

static uint8_t *bytes(uint8_t *p, const char *hex)
{
	for (; *hex; hex += hex[2] ? 3 : 2)
		*p++ = strtoul(hex, NULL, 16);
	return p;
}

/* mov esi, n; body; dec esi; jnz body */
static uint8_t *loop(uint8_t *p, unsigned int n, const char *body)
{
	uint8_t *top;

	if (!n)
		return p;
	p = bytes(p, "66 be");
	memcpy(p, &n, 4);
	top = p += 4;
	p = bytes(p, body);
	p = bytes(p, "66 4e 75");
	*p = top - (p + 1);
	return p + 1;
}

static void code(int id)
{
	uint8_t *p = mem + CODE + id * 0x200;

	p = loop(p, cpuids * (id + 1), "66 31 c0 0f a2");
	p = loop(p, outs, "e6 11");
	p = loop(p, slows, "e6 12");
	if (halts && !id) {
		/* The PIC: vectors from 0x20, no EOI needed, IRQ 1 alone. */
		p = bytes(p, "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 03 e6 21 b0 fd e6 21 fb");
		p = loop(p, halts, "f4");
	}
	bytes(p, "fa e6 10 f4");
}

static int make(struct vcpu *v)
{
	struct kvm_regs regs = { .rip = CODE + v->id * 0x200, .rsp = STACK, .rflags = 2 };
	struct kvm_sregs s;
	int size;

	v->fd = vm_ioctl(fd_vm, KVM_CREATE_VCPU, (void *)(long)v->id);
	if (v->fd < 0)
		return v->fd;
	size = vm_ioctl(fd_kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	v->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED || ioctl(v->fd, KVM_GET_SREGS, &s))
		return -errno;
	s.cs.base = s.ds.base = s.es.base = s.ss.base = 0;
	s.cs.selector = s.ds.selector = s.es.selector = s.ss.selector = 0;
	if (ioctl(v->fd, KVM_SET_SREGS, &s) || ioctl(v->fd, KVM_SET_REGS, &regs))
		return -errno;
	/* With an irqchip, all but the first wait for their INIT. */
	if (halts)
		ioctl(v->fd, KVM_SET_MP_STATE,
		      &(struct kvm_mp_state){ .mp_state = KVM_MP_STATE_RUNNABLE });
	return 0;
}

static void *run(void *arg)
{
	struct vcpu *v = arg;

	while (!v->done && !v->failed) {
		if (ioctl(v->fd, KVM_RUN, NULL)) {
			v->failed = errno != EINTR;
		} else if (v->run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "vmexits: exit %d\n", v->run->exit_reason);
			v->failed = true;
		} else if (v->run->io.port == PORT_SLOW) {
			sleep_ms(ms);
		} else if (v->run->io.port == VM_PORT_DONE) {
			v->done = true;
		}
	}
	v->done = true;
	return NULL;
}

/* Until the vCPU is done: an interrupt that comes too early ends no halt, but no harm. */
static void *interrupt(void *arg)
{
	(void)arg;
	while (!vcpus[0].done) {
		struct kvm_irq_level l = { .irq = IRQ, .level = 1 };

		sleep_ms(ms);
		ioctl(fd_vm, KVM_IRQ_LINE, &l);
		l.level = 0;
		ioctl(fd_vm, KVM_IRQ_LINE, &l);
	}
	return NULL;
}

static void stats(struct vcpu *v)
{
	static const char *const wanted[] = { "exits",	     "io_exits",
					      "halt_exits",  "irq_injections",
					      "halt_wakeup", "halt_successful_poll" };
	int fd = vm_ioctl(v->fd, KVM_GET_STATS_FD, NULL);
	struct kvm_stats_header h;
	struct kvm_stats_desc *d;

	if (fd < 0 || pread(fd, &h, sizeof(h), 0) != sizeof(h))
		return;
	d = malloc(sizeof(*d) + h.name_size);
	for (uint32_t i = 0; i < h.num_desc; i++) {
		size_t size = sizeof(*d) + h.name_size;
		uint64_t val;

		if (pread(fd, d, size, h.desc_offset + i * size) != (ssize_t)size ||
		    pread(fd, &val, 8, h.data_offset + d->offset) != 8)
			break;
		for (size_t w = 0; w < sizeof(wanted) / sizeof(*wanted); w++)
			if (!strcmp(d->name, wanted[w]))
				printf("vcpu %d %s %llu\n", v->id, d->name,
				       (unsigned long long)val);
	}
	free(d);
	close(fd);
}

static int make_vm(void)
{
	uint64_t identity = 0xfeffc000;
	struct kvm_userspace_memory_region r = { .memory_size = 0x10000 };

	fd_kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd_kvm < 0)
		return -errno;
	fd_vm = vm_ioctl(fd_kvm, KVM_CREATE_VM, NULL);
	if (fd_vm < 0)
		return fd_vm;
	vm_ioctl(fd_vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	vm_ioctl(fd_vm, KVM_SET_TSS_ADDR, (void *)0xfeffd000L);
	if (halts && ioctl(fd_vm, KVM_CREATE_IRQCHIP, NULL))
		return -errno;
	mem = mmap(NULL, r.memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r.userspace_addr = (uintptr_t)mem;
	if (ioctl(fd_vm, KVM_SET_USER_MEMORY_REGION, &r))
		return -errno;
	mem[HANDLER] = 0xcf;
	mem[VECTOR * 4] = HANDLER & 0xff;
	mem[VECTOR * 4 + 1] = HANDLER >> 8;
	for (int i = 0; i < nr_vcpus; i++) {
		int ret;

		vcpus[i].id = i;
		code(i);
		ret = make(&vcpus[i]);
		if (ret)
			return ret;
	}
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t irq;
	bool failed = false;
	int ret;

	if (argc != 7)
		return 2;
	nr_vcpus = atoi(argv[1]);
	cpuids = atoi(argv[2]);
	outs = atoi(argv[3]);
	slows = atoi(argv[4]);
	ms = atoi(argv[5]);
	halts = atoi(argv[6]);
	if (nr_vcpus < 1 || nr_vcpus > VM_MAX_CPUS)
		return 2;
	ret = make_vm();
	if (ret) {
		fprintf(stderr, "vmexits: cannot make a VM: %s\n", strerror(-ret));
		return 4;
	}
	puts("ready");
	fflush(stdout);
	while ((ret = getchar()) != '\n' && ret != EOF)
		;
	for (int i = 0; i < nr_vcpus; i++)
		pthread_create(&vcpus[i].thread, NULL, run, &vcpus[i]);
	if (halts)
		pthread_create(&irq, NULL, interrupt, NULL);
	for (int i = 0; i < nr_vcpus; i++) {
		pthread_join(vcpus[i].thread, NULL);
		failed |= vcpus[i].failed;
	}
	if (halts)
		pthread_join(irq, NULL);
	for (int i = 0; i < nr_vcpus; i++)
		stats(&vcpus[i]);
	puts(failed ? "failed" : "done");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return failed;
}
