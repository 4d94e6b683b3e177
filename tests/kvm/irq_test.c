// SPDX-License-Identifier: GPL-2.0
/*
 * A policy is asked about the right interrupts. Its answers cannot send an interrupt to
 * a vCPU that the guest did not allow. No interrupt is lost or taken twice.
 *
 * Each interrupt is waited for, until the guest has sent its EOI, before the next
 * is sent, so that two do not become one in an IRR.  What KVM's local APICs accepted
 * is counted, and has to be what was sent, vCPU by vCPU.  What the guest counts may
 * be more: in QEMU's SVM about one in 3000 comes twice, on stock KVM and to a fixed
 * destination as well.
 *
 * Machines: amd; intel
 */
#include "harness.h"
#include "irq.h"

#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define CPUS 4
/* As in kvm.ko */
#define OWN (-1)
enum { IN_GUEST = 1, LOADED = 2, PREEMPTED = 4, HALTED = 8, READY = 16 };

/* How an interrupt gets in */
enum via { MSI, IRQFD, PIN };

FIXTURE(irq)
{
	struct vm vm;
	pid_t pid;
	int kmsg;
	struct irq_probe p;
	struct bpf_object *accept;
	struct bpf_link *accept_link;
	volatile uint64_t(*accepted)[256]; /* by vCPU id and vector */
	uint64_t before[CPUS];
	int fd; /* eventfd of GSI 40 */
	volatile bool quit;
	volatile bool unplugged; /* vCPU 3 */
	volatile uint64_t sent; /* by sender() */
};

/* End what a vCPU does, out of a halt too */
static int end(struct vm_cpu *cpu)
{
	cpu->box->stop = 1;
	cpu->box->rounds = 0;
	vm_msi(cpu->vm, cpu->id, true);
	return cpu_join(cpu);
}

FIXTURE_SETUP(irq)
{
	self->pid = getpid();
	self->fd = -1;
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	ASSERT_EQ(0, irq_policies());
	vm_signals();
	prctl(PR_SET_TIMERSLACK, 1);
	self->accept = ext_open("tests/kvm/probes/irq_accept.bpf.o");
	ASSERT_NE(NULL, self->accept);
	ASSERT_EQ(0, bpf_object__load(self->accept))
	{
		TH_LOG("%s", ext_log);
	}
	self->accept_link =
		bpf_program__attach(bpf_object__find_program_by_name(self->accept, "accept"));
	ASSERT_NE(NULL, self->accept_link);
	self->accepted = ext_map_memory(self->accept, ".bss");
	ASSERT_NE(NULL, self->accepted);
	ASSERT_EQ(0, vm_create(&self->vm, CPUS, 16, VM_IRQCHIP | VM_SHARED));
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid))
	{
		TH_LOG("%s", ext_log);
	}
}

FIXTURE_TEARDOWN(irq)
{
	for (int i = 0; i < CPUS; i++) {
		if (self->vm.cpu[i].started)
			end(&self->vm.cpu[i]);
	}
	if (self->fd >= 0)
		close(self->fd);
	irq_probe_off(&self->p);
	bpf_link__destroy(self->accept_link);
	bpf_object__close(self->accept);
	vm_free(&self->vm);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, irq_policies());
}

static int spin(FIXTURE_DATA(irq) * self, int cpu)
{
	cpu_set(&self->vm.cpu[cpu], OP_SPIN, 0, 0, 0);
	return cpu_start(&self->vm.cpu[cpu]) ?: !WAIT(self->vm.cpu[cpu].box->progress, 5000);
}

/* Halted they take an interrupt soonest, however many share a CPU. */
static int halt(FIXTURE_DATA(irq) * self, int cpu)
{
	cpu_set(&self->vm.cpu[cpu], OP_HALT, 0, 0, 1ULL << 40);
	return cpu_start(&self->vm.cpu[cpu]);
}

static int halt_all(FIXTURE_DATA(irq) * self)
{
	int ret = 0;

	for (int i = 0; i < self->vm.ncpus && !ret; i++)
		ret = halt(self, i);
	return ret;
}

/* --- sending --------------------------------------------------------------- */

struct kind {
	enum via via;
	unsigned int dest;
	bool logical;
	bool lowest; /* delivery mode */
	bool hint; /* redirection hint of an MSI */
	bool level;
	int pin; /* PIN */
};

static struct kvm_msi msi_of(struct kind k)
{
	return (struct kvm_msi){
		.address_lo = 0xfee00000 | k.dest << 12 | k.hint << 3 | k.logical << 2,
		.data = VM_VECTOR | k.lowest << 8 | (k.level ? 3 << 14 : 0),
	};
}

/*
 * GSI 40 is the MSI.  The pins go to the IOAPIC alone: by KVM's own table GSI 8
 * also goes to the PIC, which would interrupt the first vCPU with a vector of its own.
 */
static int set_routing(FIXTURE_DATA(irq) * self, struct kind k)
{
	struct kvm_msi msi = msi_of(k);
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[3];
	} r = {
		.head.nr = 3,
		.e[0] = { .gsi = 40,
			  .type = KVM_IRQ_ROUTING_MSI,
			  .u.msi = { .address_lo = msi.address_lo, .data = msi.data } },
		.e[1] = { .gsi = 8,
			  .type = KVM_IRQ_ROUTING_IRQCHIP,
			  .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = 8 } },
		.e[2] = { .gsi = 20,
			  .type = KVM_IRQ_ROUTING_IRQCHIP,
			  .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = 20 } },
	};

	return vm_ioctl(self->vm.fd, KVM_SET_GSI_ROUTING, &r);
}

/* Prepare for send(): the GSI's route, the IOAPIC's pin. */
static int program(FIXTURE_DATA(irq) * self, struct kind k)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_irqfd irqfd = { .gsi = 40 };
	int ret;

	ret = set_routing(self, k);
	if (ret)
		return ret;
	if (k.via == IRQFD) {
		if (self->fd >= 0)
			return 0;
		self->fd = eventfd(0, EFD_CLOEXEC);
		irqfd.fd = self->fd;
		return vm_ioctl(self->vm.fd, KVM_IRQFD, &irqfd);
	}
	if (k.via == MSI)
		return 0;
	ret = vm_ioctl(self->vm.fd, KVM_GET_IRQCHIP, &chip);
	if (ret)
		return ret;
	chip.chip.ioapic.redirtbl[k.pin].bits = (uint64_t)k.dest << 56 | k.level << 15 |
						k.logical << 11 | k.lowest << 8 | VM_VECTOR;
	return vm_ioctl(self->vm.fd, KVM_SET_IRQCHIP, &chip);
}

static int send(FIXTURE_DATA(irq) * self, struct kind k)
{
	struct kvm_irq_level line = { .irq = k.pin, .level = 1 };
	struct kvm_msi msi = msi_of(k);
	int ret;

	switch (k.via) {
	case MSI:
		ret = vm_ioctl(self->vm.fd, KVM_SIGNAL_MSI, &msi);
		return ret < 0 ? ret : 0;
	case IRQFD:
		return eventfd_write(self->fd, 1) ? -errno : 0;
	case PIN:
		ret = vm_ioctl(self->vm.fd, KVM_IRQ_LINE_STATUS, &line);
		/* The status came back in the place of the number. */
		line = (struct kvm_irq_level){ .irq = k.pin };
		return ret < 0 ? ret : vm_ioctl(self->vm.fd, KVM_IRQ_LINE, &line);
	}
	return -EINVAL;
}

static uint64_t taken(FIXTURE_DATA(irq) * self)
{
	uint64_t n = 0;

	for (int i = 0; i < self->vm.ncpus; i++)
		n += self->vm.cpu[i].box->irqs;
	return n;
}

static uint64_t accepted(FIXTURE_DATA(irq) * self)
{
	uint64_t n = 0;

	for (int i = 0; i < CPUS; i++)
		n += self->accepted[i][VM_VECTOR];
	return n;
}

/* A line that is up yet at the EOI is delivered once more, as on a busy machine. */
static bool may_repeat(struct kind k)
{
	return k.via == PIN && k.level;
}

/*
 * Send @n, each when the one before was taken by @copies vCPUs; how many local
 * APICs accepted, if the guest took all.  In between it sleeps, as the vCPUs need its CPU.
 */
static int fire(FIXTURE_DATA(irq) * self, struct kind k, int n, int copies)
{
	uint64_t had = taken(self), was = accepted(self);
	int ret = program(self, k);

	for (int i = 0; i < CPUS; i++)
		self->before[i] = self->accepted[i][VM_VECTOR];
	for (int i = 0; i < n && !ret; i++) {
		ret = send(self, k);
		for (int j = 0; j < 20 && taken(self) - had < (uint64_t)(i + 1) * copies; j++)
			nanosleep(&(struct timespec){ 0, 50000 }, NULL);
		if (!ret && !WAIT(taken(self) - had >= (uint64_t)(i + 1) * copies, 10000))
			ret = -ETIMEDOUT;
	}
	/* While a line is up it delivers anew: the last is not to be the next kind's. */
	if (!ret && may_repeat(k)) {
		if (!WAIT(taken(self) - had >= accepted(self) - was, 10000))
			ret = -ETIMEDOUT;
		sleep_ms(1);
	}
	return ret ?: (int)(accepted(self) - was);
}

static int got(FIXTURE_DATA(irq) * self, int cpu)
{
	return self->accepted[cpu][VM_VECTOR] - self->before[cpu];
}

/* --- the candidate set ------------------------------------------------------ */

/* Each of @set has its turn, and nobody else gets anything. */
#define EXPECT_TURNS(k_, set_)                                                             \
	do {                                                                               \
		struct kind __k = (k_);                                                    \
		unsigned int __set = (set_), __nr = __builtin_popcount(__set);             \
		uint64_t __asked = self->p.c->asked;                                       \
		self->p.k->how = IRQ_PROBE_TURN;                                           \
		EXPECT_EQ(12, fire(self, __k, 12, 1));                                     \
		EXPECT_EQ(12, self->p.c->asked - __asked);                                 \
		EXPECT_EQ(__nr, self->p.c->nr);                                            \
		EXPECT_EQ(__set, self->p.c->set);                                          \
		EXPECT_EQ(-ENOENT, self->p.c->beyond);                                     \
		EXPECT_EQ(VM_VECTOR, self->p.c->vector);                                   \
		EXPECT_EQ(__k.dest, self->p.c->dest_id);                                   \
		EXPECT_EQ(0, self->p.c->flags);                                            \
		for (int __i = 0; __i < CPUS; __i++)                                       \
			EXPECT_EQ(__set & 1U << __i ? 12 / (int)__nr : 0, got(self, __i)); \
	} while (0)

/* Nobody is asked; each of @set gets each of them (one in all if @one), none is lost. */
#define EXPECT_NOT_ASKED(k_, set_, one)                                                   \
	do {                                                                              \
		struct kind __k = (k_);                                                   \
		unsigned int __set = (set_), __n = (one) ? 1 : __builtin_popcount(__set); \
		uint64_t __asked = self->p.c->asked;                                      \
		int __all = fire(self, __k, 6, __n), __sum = 0;                           \
		int __want = 6 * (int)__n;                                                \
		if (may_repeat(__k) && __all > __want)                                    \
			__want = __all;                                                   \
		EXPECT_EQ(__want, __all);                                                 \
		EXPECT_EQ(0, self->p.c->asked - __asked);                                 \
		for (int __i = 0; __i < CPUS; __i++) {                                    \
			__sum += got(self, __i);                                          \
			if (!(__set & 1U << __i)) {                                       \
				EXPECT_EQ(0, got(self, __i));                             \
			} else if (!(one)) {                                              \
				EXPECT_EQ(6, got(self, __i));                             \
			}                                                                 \
		}                                                                         \
		EXPECT_EQ(__all, __sum);                                                  \
	} while (0)

TEST_F_TIMEOUT(irq, flat, 100)
{
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	for (enum via via = MSI; via <= IRQFD; via++) {
		EXPECT_TURNS(((struct kind){ .via = via, .dest = 6, .logical = 1, .lowest = 1 }),
			     6);
		EXPECT_TURNS(((struct kind){ .via = via, .dest = 0xd, .logical = 1, .hint = 1 }),
			     0xd);
		/* Bits of nobody are no candidates. */
		EXPECT_TURNS(((struct kind){ .via = via, .dest = 0xf5, .logical = 1, .lowest = 1 }),
			     5);
	}
}

TEST_F_TIMEOUT(irq, cluster, 100)
{
	ASSERT_EQ(0, apics(&self->vm, CLUSTER, 0));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(((struct kind){ .dest = 0x03, .logical = 1, .lowest = 1 }), 3);
	EXPECT_TURNS(((struct kind){ .via = IRQFD, .dest = 0x13, .logical = 1, .lowest = 1 }), 0xc);
	EXPECT_NOT_ASKED(((struct kind){ .dest = 0x12, .logical = 1, .lowest = 1 }), 8, false);
	EXPECT_NOT_ASKED(((struct kind){ .dest = 0x13, .logical = 1 }), 0xc, false);
}

TEST_F_TIMEOUT(irq, x2apic, 100)
{
	ASSERT_EQ(0, apics(&self->vm, X2APIC, 0));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(((struct kind){ .dest = 6, .logical = 1, .lowest = 1 }), 6);
	EXPECT_TURNS(((struct kind){ .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 }), 0xf);
	EXPECT_TURNS(((struct kind){ .via = PIN, .pin = 20, .dest = 3, .logical = 1, .lowest = 1 }),
		     3);
	EXPECT_NOT_ASKED(((struct kind){ .dest = 2 }), 4, false);
	EXPECT_NOT_ASKED(((struct kind){ .dest = 6, .logical = 1 }), 6, false);
}

TEST_F_TIMEOUT(irq, broadcast, 100)
{
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(((struct kind){ .dest = 0xff, .logical = 1, .lowest = 1 }), 0xf);
	EXPECT_TURNS(((struct kind){ .via = IRQFD, .dest = 0xff, .logical = 1, .lowest = 1 }), 0xf);
	EXPECT_NOT_ASKED(((struct kind){ .dest = 0xff, .logical = 1 }), 0xf, false);
	/* KVM makes a fixed one of it. */
	EXPECT_NOT_ASKED(((struct kind){ .dest = 0xff, .lowest = 1 }), 0xf, false);
}

TEST_F_TIMEOUT(irq, never_moved, 100)
{
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	self->p.k->how = IRQ_PROBE_TURN;
	for (enum via via = MSI; via <= IRQFD; via++) {
		/* one destination, however it is written */
		EXPECT_NOT_ASKED(((struct kind){ .via = via, .dest = 2 }), 4, false);
		EXPECT_NOT_ASKED(((struct kind){ .via = via, .dest = 2, .lowest = 1 }), 4, false);
		EXPECT_NOT_ASKED(((struct kind){ .via = via, .dest = 2, .hint = 1 }), 4, false);
		EXPECT_NOT_ASKED(
			((struct kind){ .via = via, .dest = 4, .logical = 1, .lowest = 1 }), 4,
			false);
		/* to each of several */
		EXPECT_NOT_ASKED(((struct kind){ .via = via, .dest = 7, .logical = 1 }), 7, false);
		/* level-triggered */
		EXPECT_NOT_ASKED(
			((struct kind){
				.via = via, .dest = 7, .logical = 1, .lowest = 1, .level = 1 }),
			7, true);
	}
	EXPECT_NOT_ASKED(
		((struct kind){
			.via = PIN, .pin = 20, .dest = 7, .logical = 1, .lowest = 1, .level = 1 }),
		7, true);
	EXPECT_NOT_ASKED(((struct kind){ .via = PIN, .pin = 20, .dest = 7, .logical = 1 }), 7,
			 false);
}

TEST_F_TIMEOUT(irq, ioapic, 100)
{
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(
		((struct kind){ .via = PIN, .pin = 20, .dest = 0xe, .logical = 1, .lowest = 1 }),
		0xe);
	/*
	 * The RTC's: KVM waits for the EOI of whoever got it, and drops what comes
	 * before.  One lost EOI, and none of the rest would come.
	 */
	EXPECT_TURNS(
		((struct kind){ .via = PIN, .pin = 8, .dest = 0xf, .logical = 1, .lowest = 1 }),
		0xf);
}

TEST_F_TIMEOUT(irq, disabled_apics, 100)
{
	struct kind k = { .dest = 0xe, .logical = 1, .lowest = 1 };

	ASSERT_EQ(0, apics(&self->vm, FLAT, 4));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(k, 0xa);
	k.via = IRQFD;
	EXPECT_TURNS(k, 0xa);
	/* The slow path, too. */
	k.dest = 0xff;
	k.via = MSI;
	self->p.k->how = IRQ_PROBE_TURN;
	EXPECT_EQ(12, fire(self, k, 12, 1));
	EXPECT_EQ(0xb, self->p.c->set);
	EXPECT_EQ(0, got(self, 2));
	/* One that is left is no choice. */
	EXPECT_NOT_ASKED(
		((struct kind){ .via = PIN, .pin = 20, .dest = 2, .logical = 1, .lowest = 1 }), 2,
		false);
}

/* --- what a policy sees ----------------------------------------------------- */

TEST_F_TIMEOUT(irq, states, 100)
{
	struct kind k = { .dest = 0xf, .logical = 1, .lowest = 1 };
	struct vm_cpu *cpu = self->vm.cpu;
	uint32_t all = 0;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	/* 0 spins, 1 is halted, 2 and 3 are in user space */
	ASSERT_EQ(0, spin(self, 0));
	cpu_set(&cpu[1], OP_HALT, 0, 0, 1000);
	ASSERT_EQ(0, cpu_start(&cpu[1]));
	self->p.k->how = IRQ_PROBE_VCPU;
	self->p.k->answer = 0;
	/* Until the vCPU is halted; and 0 may be preempted at any one moment. */
	EXPECT_TRUE(WAIT((fire(self, k, 1, 1), self->p.c->state[1] & HALTED), 3000));
	for (int i = 0; i < 200 && !(all & IN_GUEST); i++) {
		EXPECT_EQ(1, fire(self, k, 1, 1));
		all |= self->p.c->state[0];
		EXPECT_EQ(0, self->p.c->state[0] & HALTED);
		EXPECT_EQ(0, self->p.c->state[2]);
		EXPECT_EQ(0, self->p.c->state[3]);
	}
	EXPECT_EQ(IN_GUEST | LOADED, all & (IN_GUEST | LOADED));
	/* 0 while it never left its CPU */
	EXPECT_LT(self->p.c->since_ns[0], now_ns());
	EXPECT_LE(0, self->p.c->cpu[0]);

	/* It wakes for one that is sent there. */
	self->p.k->answer = 1;
	EXPECT_EQ(1, fire(self, k, 1, 1));
	EXPECT_EQ(1, got(self, 1));

	/* What waits for 2, who does not run: one vector, once in its IRR. */
	self->p.k->answer = 2;
	ASSERT_EQ(0, send(self, k));
	self->p.k->answer = 0;
	EXPECT_EQ(1, fire(self, k, 1, 1));
	EXPECT_EQ(1, self->p.c->pending[2]);
	EXPECT_EQ(0, self->p.c->pending[3]);
	/* And it is not moved: 2 takes it when it runs. */
	ASSERT_EQ(0, spin(self, 2));
	EXPECT_TRUE(WAIT(cpu[2].box->irqs, 10000));
	EXPECT_LT(0, self->p.c->runs[2]);
	EXPECT_EQ(0, self->p.c->off_wrong);
}

/*
 * The n-th of the CPUs that the harness may run on, alone; the test itself may have narrowed
 * its own.  NULL if there is none.
 */
static const cpu_set_t *nth_cpu(int n)
{
	static cpu_set_t set[CPUS];
	cpu_set_t all;
	int cpu = -1;

	sched_getaffinity(getppid(), sizeof(all), &all);
	if (n >= CPU_COUNT(&all))
		return NULL;
	for (int i = 0; i <= n;)
		i += CPU_ISSET(++cpu, &all) ? 1 : 0;
	CPU_ZERO(&set[n]);
	CPU_SET(cpu, &set[n]);
	return &set[n];
}

/* Who sends is on the CPU of a vCPU that would run. */
TEST_F_TIMEOUT(irq, preempted, 100)
{
	struct kind k = { .dest = 3, .logical = 1, .lowest = 1 };
	struct vm_cpu *cpu = self->vm.cpu;
	uint64_t begun;

	if (!nth_cpu(1))
		SKIP(return, "one CPU only");
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu_set_t), nth_cpu(0)));
	cpu[0].where = nth_cpu(0);
	cpu[1].where = nth_cpu(1);
	ASSERT_EQ(0, spin(self, 0));
	ASSERT_EQ(0, halt(self, 1));
	self->p.k->how = IRQ_PROBE_VCPU;
	self->p.k->answer = 1;
	EXPECT_TRUE(WAIT((fire(self, k, 1, 1), self->p.c->state[1] & HALTED), 3000));
	for (int i = 0; i < 20; i++) {
		begun = now_ns();
		sleep_ms(3);
		EXPECT_EQ(1, fire(self, k, 1, 1));
		EXPECT_EQ(1, got(self, 1));
		EXPECT_EQ(PREEMPTED | READY, self->p.c->state[0]);
		EXPECT_TRUE(CPU_ISSET(self->p.c->cpu[0], nth_cpu(0)));
		EXPECT_TRUE(CPU_ISSET(self->p.c->cpu[1], nth_cpu(1)));
		EXPECT_LT(begun, self->p.c->since_ns[0]);
		EXPECT_GT(now_ns(), self->p.c->since_ns[0]);
	}
	EXPECT_LE(20, self->p.c->runs[1]);
	EXPECT_EQ(0, self->p.c->off_wrong);
	EXPECT_LT(0, self->p.c->away_ns[0]);
	EXPECT_GT(1000 * MS, self->p.c->away_ns[0]);
}

/* --- when a policy is told ---------------------------------------------------- */

/* run() is for threads that left their CPU, not for each trip to user space. */
TEST_F_TIMEOUT(irq, trips_are_not_told, 100)
{
	uint64_t was = 0, told = 0;

	for (int i = 0; i < 4; i++)
		was += self->p.c->runs[i];
	for (int i = 0; i < 500; i++)
		ASSERT_EQ(0, cpu_do(&self->vm.cpu[0], OP_NOP, 0, 0));
	for (int i = 0; i < 4; i++)
		told += self->p.c->runs[i];
	EXPECT_GT(250, told - was);
	EXPECT_EQ(0, self->p.c->off_wrong);
}

/* No op is called with a run queue's lock held: one that wakes would hang the host. */
TEST_F_TIMEOUT(irq, run_may_wake, 100)
{
	volatile uint64_t *woken;
	struct bpf_object *obj;
	struct bpf_link *link;

	irq_probe_off(&self->p);
	ASSERT_EQ(0, irq_attach("tests/kvm/probes/irq_wake.bpf.o", self->pid, &obj, &link))
	{
		TH_LOG("%s", ext_log);
	}
	woken = ext_variable(obj, ".bss", "woken");
	ASSERT_NE(NULL, woken);
	for (int i = 0; i < CPUS; i++)
		ASSERT_EQ(0, spin(self, i));
	EXPECT_TRUE(WAIT(*woken >= 100, 20000));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

static bool map_empty(struct bpf_object *obj, const char *name)
{
	uint64_t key[2];

	return bpf_map__get_next_key(bpf_object__find_map_by_name(obj, name), NULL, key,
				     sizeof(key[0])) == -ENOENT;
}

/* Not a word after end(), though the vCPUs of a VM that ends are loaded and put. */
TEST_F_TIMEOUT(irq, nothing_after_the_end, 100)
{
	struct bpf_object *obj = NULL;
	struct bpf_link *link = NULL;
	uint64_t ends;

	irq_probe_off(&self->p);
	vm_free(&self->vm);
	for (int pass = 0; pass < 2; pass++) {
		ASSERT_EQ(0, pass ? irq_attach("bpf/run_first.bpf.o", 0, &obj, &link) :
				    irq_probe_on(&self->p, 0));
		ends = pass ? 0 : self->p.c->ends;
		for (int i = 0; i < 10; i++) {
			if (!pass)
				self->p.c->ended = 0;
			ASSERT_EQ(0, vm_create(&self->vm, CPUS, 16, VM_IRQCHIP | VM_SHARED));
			ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
			ASSERT_EQ(0, halt_all(self));
			sleep_ms(20);
			for (int c = 0; c < CPUS; c++)
				ASSERT_EQ(0, end(&self->vm.cpu[c]));
			vm_free(&self->vm);
			if (!pass)
				EXPECT_EQ(i + 1, self->p.c->ends - ends);
		}
		if (pass) {
			EXPECT_TRUE(map_empty(obj, "lines"));
			EXPECT_TRUE(map_empty(obj, "vms"));
			bpf_link__destroy(link);
			bpf_object__close(obj);
		} else {
			EXPECT_LT(0, self->p.c->runs[2]);
			EXPECT_EQ(0, self->p.c->late);
			irq_probe_off(&self->p);
		}
	}
	ASSERT_EQ(0, vm_create(&self->vm, CPUS, 16, VM_IRQCHIP | VM_SHARED));
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

TEST_F_TIMEOUT(irq, own_choice, 100)
{
	struct kind k = { .dest = 7, .logical = 1, .lowest = 1 };
	int cpu = VM_VECTOR % 3;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	self->p.k->how = IRQ_PROBE_OWN;
	EXPECT_EQ(10, fire(self, k, 10, 1));
	EXPECT_EQ(10, got(self, cpu));
	EXPECT_EQ(10, self->p.c->asked);
	EXPECT_EQ(cpu, self->p.c->own);
	/* As with no policy */
	irq_probe_off(&self->p);
	EXPECT_EQ(10, fire(self, k, 10, 1));
	EXPECT_EQ(10, got(self, cpu));
}

TEST_F_TIMEOUT(irq, counts, 100)
{
	struct kind k = { .dest = 6, .logical = 1, .lowest = 1 };
	char match[64];
	int own;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	self->p.k->how = IRQ_PROBE_TURN;
	EXPECT_EQ(20, fire(self, k, 20, 1));
	own = self->p.c->own + 1;
	snprintf(match, sizeof(match), "pid=%d id=%d", self->pid, own);
	EXPECT_EQ(10, ext_num("irq_vcpu", match, "kept"));
	EXPECT_EQ(0, ext_num("irq_vcpu", match, "routed"));
	snprintf(match, sizeof(match), "pid=%d id=%d", self->pid, 3 - own);
	EXPECT_EQ(0, ext_num("irq_vcpu", match, "kept"));
	EXPECT_EQ(10, ext_num("irq_vcpu", match, "routed"));
	snprintf(match, sizeof(match), "pid=%d", self->pid);
	EXPECT_TRUE(ext_is("irq_vm", match, "policy", "irq_probe"));
	EXPECT_EQ(0, policy_num("irq_probe", "invalid"));
	EXPECT_LE(20, policy_num("irq_probe", "calls"));
}

/* --- bad policies ------------------------------------------------------------ */

TEST_F_TIMEOUT(irq, wrong_answers_eject, 100)
{
	struct kind k = { .dest = 6, .logical = 1, .lowest = 1 };
	static const int32_t wrong[] = { 2, -2, INT32_MAX, INT32_MIN, 32 };
	int own;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	self->p.k->how = IRQ_PROBE_INDEX;
	for (int i = 0; i < 63; i++) {
		self->p.k->answer = wrong[i % 5];
		EXPECT_EQ(1, fire(self, k, 1, 1));
		own = self->p.c->own + 1;
		EXPECT_EQ(1, got(self, own));
	}
	EXPECT_EQ(63, policy_num("irq_probe", "invalid"));
	EXPECT_TRUE(policy_is("irq_probe", "active"));
	EXPECT_EQ(1, fire(self, k, 1, 1));
	EXPECT_TRUE(policy_is("irq_probe", "ejected"));
	EXPECT_TRUE(policy_has("irq_probe", "kind", "answers"));
	/* From now on KVM alone. */
	EXPECT_EQ(10, fire(self, k, 10, 1));
	EXPECT_EQ(10, got(self, own));
	EXPECT_EQ(64, self->p.c->asked);
}

TEST_F_TIMEOUT(irq, gives_up, 100)
{
	struct kind k = { .via = IRQFD, .dest = 6, .logical = 1, .lowest = 1 };
	char dump[256];

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	self->p.k->error = 1;
	EXPECT_EQ(5, fire(self, k, 5, 1));
	EXPECT_EQ(1, self->p.c->asked);
	EXPECT_TRUE(policy_is("irq_probe", "ejected"));
	EXPECT_TRUE(policy_has("irq_probe", "kind", "policy"));
	EXPECT_EQ(7, policy_num("irq_probe", "code"));
	EXPECT_TRUE(policy_has("irq_probe", "msg", "irq_probe: the first error"));
	/* An eventfd's waiters are told with IRQs off. */
	ext_get("policy", "name=irq_probe", "dump", dump, sizeof(dump));
	EXPECT_NE(NULL, strstr(dump, "irqs=off"));
}

static bool on_machine(const char *name)
{
	const char *machine = getenv("KVMEXT_MACHINE");

	return machine && !strcmp(machine, name);
}

/* Does the guest take one twice now and then?  See above. */
static bool doubles(void)
{
	return on_machine("amd");
}

/* For 20 s, 10 s where a second takes several, or KVMEXT_IRQ_SECONDS */
TEST_F_TIMEOUT(irq, random_answers, 200)
{
	const char *text = getenv("KVMEXT_IRQ_SECONDS");
	uint64_t end = now_ns() + (text ? atoi(text) : on_machine("intel") ? 10 : 20) * 1000 * MS;
	uint64_t sent = 0, rnd = 88172645463325252ULL;
	int lost = 0, n;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	while (now_ns() < end && !lost) {
		struct kind k = { .logical = 1, .lowest = 1, .via = sent & 1 ? IRQFD : MSI };

		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		k.dest = 1 + (rnd >> 8) % 15;
		/* Wild answers eject; then it is put in charge again. */
		self->p.k->how = rnd % 64 ? IRQ_PROBE_RANDOM : IRQ_PROBE_WILD;
		n = fire(self, k, 1, 1);
		lost = n != 1;
		EXPECT_EQ(1, n)
		{
			TH_LOG("to 0x%x: %d %d %d %d", k.dest, got(self, 0), got(self, 1),
			       got(self, 2), got(self, 3));
		}
		for (int i = 0; i < CPUS; i++)
			if (!(k.dest & 1U << i))
				EXPECT_EQ(0, got(self, i));
		sent++;
		if (self->p.c->wild >= 60) {
			irq_probe_off(&self->p);
			ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
		}
	}
	EXPECT_EQ(sent, accepted(self));
	EXPECT_LE(sent, taken(self));
	/* It is not to hide a policy's doing. */
	EXPECT_GE(doubles() ? sent / 200 + 2 : 0, taken(self) - sent);
	TH_LOG("%llu interrupts, each accepted once; the guest took %llu twice",
	       (unsigned long long)sent, (unsigned long long)(taken(self) - sent));
}

/* --- while it is at work ------------------------------------------------------ */

static void *switcher(void *arg)
{
	FIXTURE_DATA(irq) *self = arg;

	while (!self->quit) {
		struct kind k = { .via = IRQFD, .logical = 1, .lowest = 1, .dest = 3 };

		set_routing(self, k);
		k.dest = 0xc;
		set_routing(self, k);
		k.dest = 4;
		set_routing(self, k);
	}
	return NULL;
}

TEST_F_TIMEOUT(irq, affinity_changes, 100)
{
	struct kind k = { .via = IRQFD, .dest = 3, .logical = 1, .lowest = 1 };
	uint64_t had, was;
	pthread_t t;
	int i;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	ASSERT_EQ(0, program(self, k));
	self->p.k->how = IRQ_PROBE_TURN;
	pthread_create(&t, NULL, switcher, self);
	had = taken(self);
	was = accepted(self);
	for (i = 0; i < 500; i++) {
		if (send(self, k) || !WAIT(taken(self) - had >= (uint64_t)i + 1, 10000))
			break;
	}
	self->quit = true;
	pthread_join(t, NULL);
	EXPECT_EQ(500, i);
	EXPECT_EQ(500, accepted(self) - was);
	EXPECT_EQ(0, policy_num("irq_probe", "invalid"));
}

/* The guest gives its local APICs other logical ids, and others again. */
TEST_F_TIMEOUT(irq, logical_ids_change, 100)
{
	struct kind k = { .via = IRQFD, .dest = 0xff, .logical = 1, .lowest = 1 };
	uint64_t asked, writes = 0;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	for (int i = 0; i < CPUS; i++) {
		struct vm_box *box = self->vm.cpu[i].box;

		box->seed = 1U << i << 24;
		/* vCPU 0's stays, so that there is always somebody */
		box->value = (i ? 1U << (i + CPUS) : 1) << 24;
		cpu_set(&self->vm.cpu[i], OP_LDR, 0, 0, 0);
		ASSERT_EQ(0, cpu_start(&self->vm.cpu[i]));
		ASSERT_TRUE(WAIT(box->progress, 5000));
	}
	self->p.k->how = IRQ_PROBE_RANDOM;
	/* All of them, by either id */
	EXPECT_EQ(200, fire(self, k, 200, 1));
	EXPECT_EQ(200, self->p.c->asked);
	EXPECT_EQ(CPUS, self->p.c->nr);
	/* vCPU 0, and who of the others has that id now */
	asked = self->p.c->asked;
	k.dest = 0xf;
	EXPECT_EQ(200, fire(self, k, 200, 1));
	EXPECT_LT(0, self->p.c->asked - asked);
	EXPECT_EQ(0, policy_num("irq_probe", "invalid"));
	for (int i = 0; i < CPUS; i++)
		writes += self->vm.cpu[i].box->progress;
	TH_LOG("%llu changes, 400 interrupts, %llu of the last 200 with a choice",
	       (unsigned long long)writes, (unsigned long long)(self->p.c->asked - asked));
}

TEST_F_TIMEOUT(irq, detach_under_load, 100)
{
	struct kind k = { .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 };
	int i, n = 0;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	for (i = 0; i < 10; i++) {
		self->p.k->how = IRQ_PROBE_TURN;
		n += fire(self, k, 20, 1);
		bpf_link__destroy(self->p.link);
		self->p.link = NULL;
		n += fire(self, k, 5, 1);
		ASSERT_EQ(0, ext_attach(self->p.ops, &self->p.link));
	}
	EXPECT_EQ(250, n);
	EXPECT_EQ(200, self->p.c->asked);
	/* The kill switch, and back */
	EXPECT_EQ(0, ext_enable(false));
	EXPECT_EQ(5, fire(self, k, 5, 1));
	EXPECT_EQ(200, self->p.c->asked);
	EXPECT_EQ(0, ext_enable(true));
	EXPECT_EQ(5, fire(self, k, 5, 1));
	EXPECT_EQ(205, self->p.c->asked);
}

TEST_F_TIMEOUT(irq, killed_loader, 100)
{
	struct kind k = { .dest = 0xf, .logical = 1, .lowest = 1 };
	struct bpf_object *obj;
	struct bpf_link *link;
	pid_t child;
	int i;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	irq_probe_off(&self->p);
	child = fork();
	if (!child) {
		if (irq_attach("bpf/spread.bpf.o", getppid(), &obj, &link))
			_exit(1);
		pause();
		_exit(0);
	}
	ASSERT_TRUE(WAIT(irq_policies() == 1, 10000));
	EXPECT_EQ(8, fire(self, k, 8, 1));
	for (i = 0; i < CPUS; i++)
		EXPECT_EQ(2, got(self, i));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	EXPECT_TRUE(WAIT(irq_policies() == 0, 10000));
	EXPECT_EQ(8, fire(self, k, 8, 1));
	EXPECT_EQ(8, got(self, VM_VECTOR % CPUS));
}

/* A vCPU is unplugged: its thread ends, its local APIC is off. */
TEST_F_TIMEOUT(irq, unplug, 100)
{
	struct kind k = { .via = IRQFD, .dest = 0xc, .logical = 1, .lowest = 1 };

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	EXPECT_TURNS(k, 0xc);
	ASSERT_EQ(0, end(&self->vm.cpu[3]));
	ASSERT_EQ(0, apic(&self->vm, 3, FLAT, true));
	k.dest = 0xe;
	EXPECT_TURNS(k, 6);
	EXPECT_EQ(0, got(self, 3));
	/* And plugged in again */
	ASSERT_EQ(0, apic(&self->vm, 3, FLAT, false));
	ASSERT_EQ(0, halt(self, 3));
	EXPECT_TURNS(k, 0xe);
}

static void *sender(void *arg)
{
	FIXTURE_DATA(irq) *self = arg;
	struct kind k = { .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 };

	while (!self->quit) {
		uint64_t had = taken(self), was = self->accepted[3][VM_VECTOR];

		/* What vCPU 3 has when it goes, nobody takes. */
		if (send(self, k) ||
		    !WAIT(taken(self) > had ||
				  (self->unplugged && self->accepted[3][VM_VECTOR] > was),
			  10000))
			return NULL;
		self->sent++;
	}
	return self;
}

/* It goes and comes back while interrupts are sent to whoever is there. */
TEST_F_TIMEOUT(irq, unplug_under_load, 100)
{
	struct kind k = { .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 };
	uint64_t was, begun, others = 0;
	pthread_t t;
	void *ret;

	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	ASSERT_EQ(0, program(self, k));
	self->p.k->how = IRQ_PROBE_TURN;
	pthread_create(&t, NULL, sender, self);
	for (int i = 0; i < 10; i++) {
		was = self->accepted[3][VM_VECTOR];
		EXPECT_TRUE(WAIT(self->accepted[3][VM_VECTOR] >= was + 3, 10000));
		self->unplugged = true;
		ASSERT_EQ(0, end(&self->vm.cpu[3]));
		ASSERT_EQ(0, apic(&self->vm, 3, FLAT, true));
		/* One may be on its way. */
		sleep_ms(5);
		was = self->accepted[3][VM_VECTOR];
		begun = self->sent;
		EXPECT_TRUE(WAIT(self->sent >= begun + 10, 10000));
		EXPECT_EQ(was, self->accepted[3][VM_VECTOR]);
		EXPECT_EQ(7, self->p.c->set);
		ASSERT_EQ(0, apic(&self->vm, 3, FLAT, false));
		ASSERT_EQ(0, halt(self, 3));
		self->unplugged = false;
	}
	self->quit = true;
	pthread_join(t, &ret);
	EXPECT_EQ(self, ret);
	EXPECT_EQ(self->sent, accepted(self));
	EXPECT_EQ(0, policy_num("irq_probe", "invalid"));
	for (int i = 0; i < 3; i++)
		others += self->accepted[i][VM_VECTOR];
	EXPECT_LE(others, taken(self));
	TH_LOG("%llu sent, %llu of them to vCPU 3", (unsigned long long)self->sent,
	       (unsigned long long)self->accepted[3][VM_VECTOR]);
}

/* VMs that are killed in the midst of it, and what is left of them. */
TEST_F_TIMEOUT(irq, vm_killed, 100)
{
	struct kind k = { .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 };
	struct bpf_object *obj;
	struct bpf_link *link;

	irq_probe_off(&self->p);
	vm_free(&self->vm);
	ASSERT_EQ(0, irq_attach("bpf/run_first.bpf.o", 0, &obj, &link));
	for (int i = 0; i < 10; i++) {
		pid_t child = fork();

		if (!child) {
			/* A VM belongs to the process that made it. */
			if (vm_create(&self->vm, CPUS, 16, VM_IRQCHIP) ||
			    apics(&self->vm, FLAT, 0) || halt_all(self) || program(self, k))
				_exit(1);
			for (;;)
				send(self, k);
		}
		sleep_ms(300 + i * 37);
		EXPECT_EQ(0, kill(child, SIGKILL));
		EXPECT_EQ(child, waitpid(child, NULL, 0));
	}
	EXPECT_TRUE(policy_is("run_first", "active"));
	EXPECT_EQ(0, policy_num("run_first", "invalid"));
	/* It forgot them: nothing of them is in its maps. */
	EXPECT_TRUE(WAIT(map_empty(obj, "lines") && map_empty(obj, "vms"), 5000));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	ASSERT_EQ(0, vm_create(&self->vm, CPUS, 16, VM_IRQCHIP | VM_SHARED));
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

/* --- the policies -------------------------------------------------------------- */

static int fire_policy(FIXTURE_DATA(irq) * self, const char *path, int n, int *moves)
{
	struct kind k = { .via = IRQFD, .dest = 0xf, .logical = 1, .lowest = 1 };
	struct bpf_object *obj;
	struct bpf_link *link;
	int ret, last = -1;

	ret = irq_attach(path, self->pid, &obj, &link);
	if (ret)
		return ret;
	*moves = 0;
	for (int i = 0; i < n && fire(self, k, 1, 1) == 1; i++) {
		ret++;
		for (int cpu = 0; cpu < CPUS; cpu++) {
			if (!got(self, cpu))
				continue;
			*moves += last >= 0 && last != cpu;
			last = cpu;
		}
	}
	if (policy_num("spread", "invalid") > 0 || policy_num("sticky", "invalid") > 0 ||
	    policy_num("run_first", "invalid") > 0)
		ret = -EBADE;
	bpf_link__destroy(link);
	bpf_object__close(obj);
	return ret;
}

TEST_F_TIMEOUT(irq, shipped_policies, 100)
{
	int moves, took = 0;

	irq_probe_off(&self->p);
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	/* 0 is in user space and KVM's own choice; 2 spins; 1 and 3 are halted */
	ASSERT_EQ(0, VM_VECTOR % CPUS);
	ASSERT_EQ(0, spin(self, 2));
	cpu_set(&self->vm.cpu[1], OP_HALT, 0, 0, 1000000);
	cpu_set(&self->vm.cpu[3], OP_HALT, 0, 0, 1000000);
	ASSERT_EQ(0, cpu_start(&self->vm.cpu[1]));
	ASSERT_EQ(0, cpu_start(&self->vm.cpu[3]));
	sleep_ms(200);

	/* If 2 is off its CPU just as it is looked at, 0 may be chosen, which nobody runs: once more. */
	for (int i = 0; i < 3 && took < 100; i++) {
		uint64_t stuck = self->accepted[0][VM_VECTOR];

		took = fire_policy(self, "bpf/run_first.bpf.o", 100, &moves);
		TH_LOG("run_first: %d moves, %d taken, vCPU 2 took %llu so far", moves, took,
		       (unsigned long long)self->accepted[2][VM_VECTOR]);
		EXPECT_EQ(stuck + (took < 100), self->accepted[0][VM_VECTOR]);
	}
	EXPECT_EQ(100, took);
	/* 2 may be preempted now and then; nearly all are its own */
	EXPECT_LT(60, self->accepted[2][VM_VECTOR]);

	ASSERT_EQ(0, spin(self, 0));
	EXPECT_EQ(100, fire_policy(self, "bpf/sticky.bpf.o", 100, &moves));
	TH_LOG("sticky: %d moves", moves);
	EXPECT_GT(50, moves);
	EXPECT_EQ(100, fire_policy(self, "bpf/spread.bpf.o", 100, &moves));
	EXPECT_EQ(99, moves);

	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

static int map_entries(struct bpf_object *obj, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, name);
	uint64_t key, *at = NULL;
	int n = 0;

	while (!bpf_map__get_next_key(map, at, &key, sizeof(key))) {
		at = &key;
		n++;
	}
	return n;
}

/* One guest has more sources than there could be room for; the other one's are known all the same. */
TEST_F_TIMEOUT(irq, one_guest_fills_no_map, 100)
{
	static const char *const name[] = { "spread", "sticky", "run_first" };
	struct kind k = { .dest = 0xf, .logical = 1, .lowest = 1 };
	struct bpf_object *obj;
	struct bpf_link *link;
	char path[64];
	struct vm bad;
	int sources;

	irq_probe_off(&self->p);
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, halt_all(self));
	for (int p = 0; p < 3; p++) {
		snprintf(path, sizeof(path), "bpf/%s.bpf.o", name[p]);
		ASSERT_EQ(0, irq_attach(path, 0, &obj, &link));
		ASSERT_EQ(0, vm_create(&bad, CPUS, 16, VM_IRQCHIP | VM_SHARED));
		ASSERT_EQ(0, apics(&bad, FLAT, 0));
		sources = 0;
		/* Any two of the four or more; not the vectors that are counted below */
		for (unsigned int dest = 3; dest < 255; dest++) {
			if (__builtin_popcount(dest & 0xf) < 2)
				continue;
			for (int vector = 0x50; vector < 0xb8; vector++) {
				struct kvm_msi msi = msi_of((struct kind){
					.dest = dest, .logical = 1, .lowest = 1 });

				msi.data = vector | 1 << 8;
				ASSERT_LE(0, vm_ioctl(bad.fd, KVM_SIGNAL_MSI, &msi));
				sources++;
			}
		}
		EXPECT_LE(16384, sources);
		EXPECT_GE(2, map_entries(obj, "lines"));
		EXPECT_EQ(40, fire(self, k, 40, 1));
		EXPECT_EQ(2, map_entries(obj, "lines"));
		/* In turn, or all to one; KVM's own choice is one as well, but another here */
		if (p == 0) {
			for (int i = 0; i < CPUS; i++)
				EXPECT_EQ(10, got(self, i));
		}
		vm_free(&bad);
		EXPECT_EQ(1, map_entries(obj, "lines"));
		bpf_link__destroy(link);
		bpf_object__close(obj);
	}
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

/* A CPU that the vCPUs may not have, for who sends: it is to preempt none.  False if there is none. */
static bool aside(void)
{
	cpu_set_t all, set;

	sched_getaffinity(getppid(), sizeof(all), &all);
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (!CPU_ISSET(cpu, &all))
			return !sched_setaffinity(0, sizeof(set), &set);
	}
	return false;
}

/* When one vCPU alone ran all sources went to it; when others run as well they are shared out. */
TEST_F_TIMEOUT(irq, sources_do_not_pile_up, 100)
{
	enum { SOURCES = 4, N = 200 };
	struct kvm_msi msi = msi_of((struct kind){ .dest = 6, .logical = 1, .lowest = 1 });
	uint64_t had[2][SOURCES], to[2], all;
	struct bpf_object *obj;
	struct bpf_link *link;

	if (!nth_cpu(1) || !aside())
		SKIP(return, "no CPU for who sends beside those of two vCPUs");
	irq_probe_off(&self->p);
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	for (int v = 1; v < SOURCES; v++)
		irq_gate(&self->vm, VM_VECTOR + v, guest_xapic);
	self->vm.cpu[1].where = nth_cpu(0);
	self->vm.cpu[2].where = nth_cpu(1);
	ASSERT_EQ(0, irq_attach("bpf/run_first.bpf.o", self->pid, &obj, &link));
	for (int both = 0; both < 2; both++) {
		ASSERT_EQ(0, spin(self, both + 1));
		for (int pass = 0; pass < 2; pass++) {
			for (int v = 0; v < SOURCES; v++)
				for (int i = 0; i < 2; i++)
					had[i][v] = self->accepted[i + 1][VM_VECTOR + v];
			for (int i = 0; i < N * SOURCES; i++) {
				uint64_t irqs = taken(self);

				msi.data = (VM_VECTOR + i % SOURCES) | 1 << 8;
				ASSERT_LE(0, vm_ioctl(self->vm.fd, KVM_SIGNAL_MSI, &msi));
				ASSERT_TRUE(WAIT(taken(self) > irqs, 10000));
			}
		}
		all = to[0] = to[1] = 0;
		for (int i = 0; i < 2; i++)
			for (int v = 0; v < SOURCES; v++)
				to[i] += self->accepted[i + 1][VM_VECTOR + v] - had[i][v];
		all = to[0] + to[1];
		TH_LOG("%d vCPUs run: %llu and %llu of %llu", both + 1, (unsigned long long)to[0],
		       (unsigned long long)to[1], (unsigned long long)all);
		EXPECT_EQ(N * SOURCES, all);
		if (!both) {
			EXPECT_LE(all * 95 / 100, to[0]);
		} else {
			EXPECT_LE(all / 4, to[0]);
			EXPECT_LE(all / 4, to[1]);
		}
	}
	EXPECT_EQ(0, policy_num("run_first", "invalid"));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

static int prefer(struct vm_cpu *cpu, bool on)
{
	struct sched_param p = { .sched_priority = on };

	return pthread_setschedparam(cpu->thread, on ? SCHED_FIFO : SCHED_OTHER, &p);
}

/* Two vCPUs on one CPU, the other one in turn running at each interrupt: it would always move. */
TEST_F_TIMEOUT(irq, moves_within_budget, 100)
{
	struct kind k = { .via = IRQFD, .dest = 6, .logical = 1, .lowest = 1 };
	volatile uint64_t *refused;
	volatile uint32_t *budget;
	struct bpf_object *obj;
	struct bpf_link *link;
	int last = 0;

	if (!nth_cpu(1))
		SKIP(return, "one CPU only");
	irq_probe_off(&self->p);
	ASSERT_EQ(0, apics(&self->vm, FLAT, 0));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(cpu_set_t), nth_cpu(0)));
	for (int i = 1; i <= 2; i++) {
		self->vm.cpu[i].where = nth_cpu(1);
		ASSERT_EQ(0, spin(self, i));
	}
	ASSERT_EQ(0, program(self, k));
	ASSERT_EQ(0, irq_attach("bpf/run_first.bpf.o", self->pid, &obj, &link));
	budget = ext_variable(obj, ".data", "budget");
	refused = ext_variable(obj, ".bss", "over_budget");
	ASSERT_NE(NULL, budget);
	ASSERT_NE(NULL, refused);
	for (int pass = 0; pass < 2; pass++) {
		uint64_t begun = now_ns(), seconds, moves = 0;
		int n = pass ? 40 : 20;

		if (pass)
			*budget = 3;
		for (int i = 0; i < n; i++) {
			struct vm_cpu *runs = &self->vm.cpu[1 + i % 2];
			uint64_t had = taken(self), had2 = self->accepted[2][VM_VECTOR], was;
			int who;

			was = runs->box->progress;
			ASSERT_EQ(0, prefer(runs, true));
			ASSERT_TRUE(WAIT(runs->box->progress != was, 5000));
			ASSERT_EQ(0, send(self, k));
			ASSERT_EQ(0, prefer(runs, false));
			ASSERT_TRUE(WAIT(taken(self) > had, 10000));
			who = self->accepted[2][VM_VECTOR] > had2 ? 2 : 1;
			moves += last && who != last;
			last = who;
		}
		seconds = now_ns() / 1000 / MS - begun / 1000 / MS + 1;
		if (pass) {
			EXPECT_GE(3 * seconds, moves);
			EXPECT_LT(0, *refused);
		} else {
			EXPECT_EQ(n - 1, moves);
			EXPECT_EQ(0, *refused);
		}
		TH_LOG("%d interrupts, %llu moves, %llu refused in %llu s", n,
		       (unsigned long long)moves, (unsigned long long)*refused,
		       (unsigned long long)seconds);
	}
	bpf_link__destroy(link);
	bpf_object__close(obj);
	ASSERT_EQ(0, irq_probe_on(&self->p, self->pid));
}

TEST_MAIN
