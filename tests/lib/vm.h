/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Small real KVM guests for tests: 64-bit, no firmware, no devices, one loop
 * that does what its mailbox says.
 *
 * Guest memory: a low slot that is never dirty-logged (page tables, code,
 * stacks, mailboxes), and from VM_MEM on the memory under test.  So what a guest
 * reports about itself never shows in the dirty log, and every page found dirty
 * is one that a test asked for.
 *
 * Functions return 0 (or a count) or -errno; none prints or exits, so that they
 * can be used in threads and in children of a test.
 */
#ifndef __TESTS_VM_H
#define __TESTS_VM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define VM_MAX_CPUS 8
#define VM_PAGE 4096UL

/* Guest-physical layout of the low slot. */
#define VM_LOW_SIZE 0x100000UL
#define VM_PML4 0x1000UL
#define VM_PDPT 0x2000UL
#define VM_PD 0x3000UL
#define VM_GDT 0x4000UL
#define VM_IDT 0x5000UL
#define VM_CODE 0x10000UL
#define VM_BOX 0x30000UL /* one page per vCPU */
#define VM_STACK 0x40000UL /* one page per vCPU */

#define VM_MEM 0x10000000UL
#define VM_SLOT_LOW 0
#define VM_SLOT_MEM 1

#define VM_PORT_DONE 0x10
#define VM_VECTOR 0x40 /* a fixed interrupt the guest counts */

enum vm_op {
	OP_NOP,
	OP_READ, /* read each page once a round */
	OP_WRITE, /* write each page once a round */
	OP_MIX, /* by @seed: read or write pages in random order */
	OP_SPIN, /* count in @progress, touch nothing else */
	OP_HALT, /* halt until an interrupt, @rounds times */
	OP_LDR, /* give the local APIC @seed and @value as logical id in turn */
};

/* vm_create() flags */
#define VM_IRQCHIP (1 << 0)
#define VM_RING (1 << 1) /* dirty ring instead of the dirty bitmap */
#define VM_SHARED (1 << 2) /* memory is shared with children */
#define VM_MANUAL (1 << 3) /* KVM_CLEAR_DIRTY_LOG protects, not GET */
#define VM_LOG (1 << 4) /* start with dirty logging on */
#define VM_NO_MEM (1 << 5) /* the test adds the memory under test itself */
#define VM_PRIVATE (1 << 6) /* may have private memory, see vm_may_be_private() */
#define VM_SPARSE (1 << 7) /* the memory under test is there when it is touched */

#define VM_RING_ENTRIES 2048 /* PML takes 576 as reserve */

/* What a vCPU is to do and how far it is; one page in the low slot. */
struct vm_box {
	volatile uint32_t op;
	volatile uint32_t stop;
	volatile uint64_t first; /* page of the memory under test */
	volatile uint64_t count; /* pages a round */
	volatile uint64_t rounds; /* 0: until @stop */
	volatile uint64_t pause; /* ticks of the TSC between two accesses */
	volatile uint64_t seed;
	volatile uint64_t value; /* page p gets value + p */
	volatile uint64_t progress; /* accesses (or loops) done */
	volatile uint64_t done; /* ops finished */
	volatile uint64_t nmis;
	volatile uint64_t irqs;
	volatile uint64_t leave; /* take an exit after each write */
	volatile uint64_t wrong; /* pages that did not hold what they should */
};

struct vm;

struct vm_cpu {
	struct vm *vm;
	int id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	struct vm_box *box;
	struct kvm_dirty_gfn *ring;
	uint32_t ring_next;
	/* cpu_start() */
	const cpu_set_t *where; /* the thread is to run; NULL: as who starts it */
	pthread_t thread;
	bool started;
	bool retry;
	int ret;
	uint64_t ns;
	volatile bool finished;
};

struct vm {
	int kvm;
	int fd;
	int ncpus;
	unsigned int flags;
	size_t npages;
	void *low;
	uint64_t *mem;
	uint64_t *bitmap;
	struct vm_cpu cpu[VM_MAX_CPUS];
};

/* By how much slower than usual the machine may be: KVMEXT_SLOW, else 1. */
static inline unsigned int patience(void)
{
	const char *slow = getenv("KVMEXT_SLOW");
	unsigned long n = slow ? strtoul(slow, NULL, 10) : 1;

	return n > 0 && n <= 100 ? n : 1;
}

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* The first of the CPUs that the caller may run on, alone. */
static inline int one_cpu(cpu_set_t *set)
{
	int cpu = 0;

	if (sched_getaffinity(0, sizeof(*set), set))
		return -errno;
	while (!CPU_ISSET(cpu, set))
		cpu++;
	CPU_ZERO(set);
	CPU_SET(cpu, set);
	return 0;
}

static inline void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

/* --- what runs in the guest ---------------------------------------------- */

/*
 * Copied into the guest as it is: position independent, no data, no calls out
 * of the section, no vector registers (nothing set up the FPU there).
 */
#define __guest                                                         \
	__attribute__((section("guest_text"), noinline, noclone, used,  \
		       target("general-regs-only"),                     \
		       optimize("no-jump-tables", "no-stack-protector", \
				"no-tree-loop-distribute-patterns")))

extern const char __start_guest_text[], __stop_guest_text[];

/* A macro, as a function for the host is not inlined into one for the guest. */
#define vm_rdtsc()                                              \
	({                                                      \
		uint32_t __lo, __hi;                            \
		asm volatile("rdtsc" : "=a"(__lo), "=d"(__hi)); \
		(uint64_t) __hi << 32 | __lo;                   \
	})

static __guest __attribute__((noreturn)) void guest_main(struct vm_box *box)
{
	/* Bochs loses an interrupt whose delivery finds one of these not mapped yet. */
	(void)*(volatile char *)VM_GDT;
	(void)*(volatile char *)VM_IDT;
	asm volatile("push %%rax\n\tpop %%rax" ::: "memory");

	for (;;) {
		uint32_t op = box->op;
		uint64_t count = box->count, rnd = box->seed;

		if (op == OP_SPIN) {
			while (!box->stop)
				box->progress++;
			op = OP_NOP;
		}
		if (op == OP_HALT) {
			for (uint64_t r = 0; r < box->rounds; r++) {
				asm volatile("hlt");
				box->progress++;
			}
			op = OP_NOP;
		}
		if (op == OP_LDR) {
			for (uint64_t r = 0; !box->stop; r++) {
				*(volatile uint32_t *)0xfee000d0 = r & 1 ? box->value : box->seed;
				box->progress++;
			}
			op = OP_NOP;
		}
		for (uint64_t r = 0; op && !box->stop; r++) {
			if (box->rounds && r >= box->rounds)
				break;
			for (uint64_t i = 0; i < count && !box->stop; i++) {
				uint64_t page = box->first + i;
				bool write = op == OP_WRITE;
				volatile uint64_t *p;

				if (op == OP_MIX) {
					rnd ^= rnd << 13;
					rnd ^= rnd >> 7;
					rnd ^= rnd << 17;
					page = box->first + (rnd >> 8) % count;
					write = rnd & 1;
				}
				p = (volatile uint64_t *)(VM_MEM + page * VM_PAGE);
				if (write)
					*p = box->value + page;
				else
					(void)*p;
				if (write && box->leave) {
					uint32_t a = 0, c = 0;

					asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
				}
				box->progress++;
				if (box->pause) {
					uint64_t start = vm_rdtsc();

					while (vm_rdtsc() - start < box->pause)
						;
				}
			}
		}
		box->done++;
		asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory");
	}
}

/* GS points to the vCPU's mailbox; an interrupt needs no EOI for these tests. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local guest_nmi, guest_irq\n"
    "guest_nmi: incq %gs:72\n"
    "	iretq\n"
    "guest_irq: incq %gs:80\n"
    "	iretq\n"
    ".popsection\n");
extern const char guest_nmi[] asm("guest_nmi"), guest_irq[] asm("guest_irq");
_Static_assert(offsetof(struct vm_box, nmis) == 72, "guest_nmi knows the offset");
_Static_assert(offsetof(struct vm_box, irqs) == 80, "guest_irq knows the offset");

static inline uint64_t guest_addr(const void *text)
{
	return VM_CODE + ((const char *)text - __start_guest_text);
}

/* --- the host's side ------------------------------------------------------ */

static inline int vm_ioctl(int fd, unsigned long cmd, void *arg)
{
	int ret = ioctl(fd, cmd, arg);

	return ret < 0 ? -errno : ret;
}

static inline int vm_set_slot(struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t npages,
			      void *host, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = npages * VM_PAGE,
		.userspace_addr = (uintptr_t)host,
	};

	return vm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r);
}

/* Dirty logging of the memory under test, on or off. */
static inline int vm_log(struct vm *vm, bool on)
{
	return vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, vm->npages, vm->mem,
			   on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

static inline int vm_popcount(const uint64_t *bitmap, size_t npages)
{
	int n = 0;

	for (size_t i = 0; i < (npages + 63) / 64; i++)
		n += __builtin_popcountll(bitmap[i]);
	return n;
}

static inline int vm_get_log(struct vm *vm, uint32_t slot, uint64_t *bitmap)
{
	struct kvm_dirty_log log = { .slot = slot };

	log.dirty_bitmap = bitmap;
	return vm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
}

/* Harvest: pages dirty since the last one.  @vm->bitmap says which. */
static inline int vm_harvest(struct vm *vm)
{
	int ret = vm_get_log(vm, VM_SLOT_MEM, vm->bitmap);

	if (!ret && vm->flags & VM_MANUAL) {
		struct kvm_clear_dirty_log clear = {
			.slot = VM_SLOT_MEM,
			.num_pages = vm->npages,
		};

		clear.dirty_bitmap = vm->bitmap;
		ret = vm_ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear);
	}
	return ret ?: vm_popcount(vm->bitmap, vm->npages);
}

/*
 * The same with a dirty ring: entries taken from it.  Only entries of the
 * memory under test are counted, there are no others (the low slot is not
 * logged).
 */
static inline int vm_harvest_ring(struct vm *vm)
{
	int taken = 0, ret;

	for (int i = 0; i < vm->ncpus; i++) {
		struct vm_cpu *cpu = &vm->cpu[i];

		for (;;) {
			struct kvm_dirty_gfn *e = &cpu->ring[cpu->ring_next % VM_RING_ENTRIES];

			if (__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
				break;
			if (e->offset < vm->npages)
				vm->bitmap[e->offset / 64] |= 1ULL << e->offset % 64;
			__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			cpu->ring_next++;
			taken++;
		}
	}
	ret = vm_ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, NULL);
	return ret < 0 ? ret : ret == taken ? taken : -EUCLEAN;
}

static inline int harvest(struct vm *vm)
{
	return vm->flags & VM_RING ? vm_harvest_ring(vm) : vm_harvest(vm);
}

static inline void vm_tables(struct vm *vm)
{
	uint64_t *pml4 = vm->low + VM_PML4, *pdpt = vm->low + VM_PDPT, *pd = vm->low + VM_PD;
	uint64_t *gdt = vm->low + VM_GDT;
	uint64_t *idt = vm->low + VM_IDT;
	const uint64_t gates[][2] = {
		{ 2, guest_addr(guest_nmi) },
		{ VM_VECTOR, guest_addr(guest_irq) },
	};

	pml4[0] = VM_PDPT | 3;
	pdpt[0] = VM_PD | 3;
	/* Accessed and dirty are set already, so the guest never writes these. */
	for (uint64_t i = 0; i < 512; i++)
		pd[i] = i << 21 | 0xe3;
	pml4[0] |= 0x20;
	pdpt[0] |= 0x20;
	gdt[1] = 0x00af9b000000ffffULL;
	gdt[2] = 0x00cf93000000ffffULL;
	for (size_t i = 0; i < 2; i++) {
		uint64_t addr = gates[i][1];

		idt[gates[i][0] * 2] = (addr & 0xffff) | 8 << 16 | 0x8eULL << 40 |
				       (addr & 0xffff0000) << 32;
		idt[gates[i][0] * 2 + 1] = addr >> 32;
	}
	memcpy(vm->low + VM_CODE, __start_guest_text, __stop_guest_text - __start_guest_text);
}

static inline int cpu_setup(struct vm_cpu *cpu)
{
	struct kvm_segment code = { .base = 0,
				    .limit = ~0U,
				    .selector = 8,
				    .type = 11,
				    .present = 1,
				    .s = 1,
				    .l = 1,
				    .g = 1 };
	struct kvm_segment data = { .base = 0,
				    .limit = ~0U,
				    .selector = 16,
				    .type = 3,
				    .present = 1,
				    .s = 1,
				    .db = 1,
				    .g = 1 };
	struct kvm_segment tss = { .limit = 0x67, .type = 11, .present = 1 };
	struct kvm_segment ldt = { .unusable = 1 };
	struct kvm_regs regs = {
		.rip = guest_addr(guest_main),
		/* As after a call: the ABI has the stack off by 8 at entry. */
		.rsp = VM_STACK + (cpu->id + 1) * VM_PAGE - 8,
		.rdi = VM_BOX + cpu->id * VM_PAGE,
		.rflags = 0x202,
	};
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} * cpuid;
	struct kvm_sregs s;
	int ret;

	cpuid = calloc(1, sizeof(*cpuid));
	cpuid->head.nent = 256;
	ret = vm_ioctl(cpu->vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
	/* Each vCPU's own APIC id, or KVM would have all of them answer to 0. */
	for (uint32_t i = 0; !ret && i < cpuid->head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entry[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0xffffff) | (uint32_t)cpu->id << 24;
		if (e->function == 0xb)
			e->edx = cpu->id;
	}
	if (!ret)
		ret = vm_ioctl(cpu->fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	if (ret)
		return ret;

	ret = vm_ioctl(cpu->fd, KVM_GET_SREGS, &s);
	if (ret)
		return ret;
	s.cs = code;
	s.ds = s.es = s.fs = s.ss = data;
	s.gs = data;
	s.gs.base = VM_BOX + cpu->id * VM_PAGE;
	s.tr = tss;
	s.ldt = ldt;
	s.gdt.base = VM_GDT;
	s.gdt.limit = 3 * 8 - 1;
	s.idt.base = VM_IDT;
	s.idt.limit = 0xfff;
	s.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	s.cr3 = VM_PML4;
	s.cr4 = 0x20; /* PAE */
	s.efer = 0x500; /* LMA, LME */
	ret = vm_ioctl(cpu->fd, KVM_SET_SREGS, &s);
	if (!ret)
		ret = vm_ioctl(cpu->fd, KVM_SET_REGS, &regs);
	if (!ret && cpu->vm->flags & VM_IRQCHIP) {
		struct kvm_lapic_state lapic;

		ret = vm_ioctl(cpu->fd, KVM_SET_MP_STATE, &mp);
		if (!ret)
			ret = vm_ioctl(cpu->fd, KVM_GET_LAPIC, &lapic);
		/* Spurious vector register: software-enable the APIC. */
		lapic.regs[0xf0] = 0xff;
		lapic.regs[0xf1] = 1;
		if (!ret)
			ret = vm_ioctl(cpu->fd, KVM_SET_LAPIC, &lapic);
	}
	return ret;
}

/*
 * Does KVM leave it to the CPU to log writes?  Then a write takes no exit, and KVM sees
 * it at the next one.
 */
static inline bool vm_pml(void)
{
	char c = 0;
	int fd = open("/sys/module/kvm_intel/parameters/pml", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &c, 1) != 1)
			c = 0;
		close(fd);
	}
	return c == 'Y';
}

static inline int vm_add_cpu(struct vm *vm, int id)
{
	struct vm_cpu *cpu = &vm->cpu[id];

	cpu->vm = vm;
	cpu->id = id;
	cpu->box = vm->low + VM_BOX + id * VM_PAGE;
	/* With it, what tests expect of a write that takes an exit holds with PML too. */
	cpu->box->leave = vm_pml();
	cpu->fd = vm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(long)id);
	if (cpu->fd < 0)
		return cpu->fd;
	cpu->run_size = vm_ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	cpu->run = mmap(NULL, cpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (cpu->run == MAP_FAILED)
		return -errno;
	if (vm->flags & VM_RING) {
		cpu->ring = mmap(NULL, VM_RING_ENTRIES * sizeof(*cpu->ring), PROT_READ | PROT_WRITE,
				 MAP_SHARED, cpu->fd, KVM_DIRTY_LOG_PAGE_OFFSET * VM_PAGE);
		if (cpu->ring == MAP_FAILED)
			return -errno;
	}
	return cpu_setup(cpu);
}

static inline void *vm_alloc(struct vm *vm, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_ANONYMOUS | MAP_NORESERVE |
			       (vm->flags & VM_SHARED ? MAP_SHARED : MAP_PRIVATE),
		       -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* 4 KiB pages in the host, present: no fault is for the host's sake. */
	madvise(p, size, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < size && !(vm->flags & VM_SPARSE); i += VM_PAGE)
		*(volatile char *)(p + i) = 0;
	return p;
}

/*
 * Memory first, VM later: a parent that called this with VM_SHARED sees the
 * guest's memory of the child that makes the VM.
 */
static inline int vm_prepare(struct vm *vm, int ncpus, size_t npages, unsigned int flags)
{
	*vm = (struct vm){ .kvm = -1, .fd = -1, .ncpus = ncpus, .npages = npages, .flags = flags };
	for (int i = 0; i < VM_MAX_CPUS; i++)
		vm->cpu[i].fd = -1;
	vm->low = vm_alloc(vm, VM_LOW_SIZE);
	vm->mem = vm_alloc(vm, npages * VM_PAGE);
	vm->bitmap = calloc((npages + 63) / 64, 8);
	if (!vm->low || !vm->mem || !vm->bitmap)
		return -ENOMEM;
	for (int i = 0; i < ncpus; i++)
		vm->cpu[i].box = vm->low + VM_BOX + i * VM_PAGE;
	vm_tables(vm);
	return 0;
}

static inline int vm_enable_cap(struct vm *vm, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap ec = { .cap = cap, .args = { arg } };

	return vm_ioctl(vm->fd, KVM_ENABLE_CAP, &ec);
}

/* Newer than Debian 12's headers */
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_SW_PROTECTED_VM 1L
#endif

/* Whether KVM has VMs with private memory that no hardware guards, which are for tests */
static inline bool vm_may_be_private(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int types = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);

	close(kvm);
	return types > 0 && types & 1 << KVM_X86_SW_PROTECTED_VM;
}

static inline int vm_open(struct vm *vm)
{
	uint64_t identity = 0xfeffc000;
	int ret;

	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		return -errno;
	vm->fd = vm_ioctl(vm->kvm, KVM_CREATE_VM,
			  (void *)(vm->flags & VM_PRIVATE ? KVM_X86_SW_PROTECTED_VM : 0L));
	if (vm->fd < 0)
		return vm->fd;
	/* Intel's needs; harmless elsewhere. */
	vm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	vm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)0xfeffd000L);
	if (vm->flags & VM_IRQCHIP) {
		ret = vm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, NULL);
		if (ret)
			return ret;
	}
	if (vm->flags & VM_RING) {
		ret = vm_enable_cap(vm, KVM_CAP_DIRTY_LOG_RING,
				    VM_RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
		if (ret)
			return ret;
	}
	if (vm->flags & VM_MANUAL) {
		ret = vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
		if (ret)
			return ret;
	}
	ret = vm_set_slot(vm, VM_SLOT_LOW, 0, VM_LOW_SIZE / VM_PAGE, vm->low, 0);
	if (!ret && !(vm->flags & VM_NO_MEM))
		ret = vm_log(vm, vm->flags & VM_LOG);
	for (int i = 0; !ret && i < vm->ncpus; i++)
		ret = vm_add_cpu(vm, i);
	return ret;
}

/* Close the VM (the kernel destroys it then), keep its memory. */
static inline void vm_close(struct vm *vm)
{
	for (int i = 0; i < vm->ncpus; i++) {
		struct vm_cpu *cpu = &vm->cpu[i];

		if (cpu->ring && cpu->ring != MAP_FAILED)
			munmap(cpu->ring, VM_RING_ENTRIES * sizeof(*cpu->ring));
		if (cpu->run && cpu->run != MAP_FAILED)
			munmap(cpu->run, cpu->run_size);
		if (cpu->fd >= 0)
			close(cpu->fd);
		cpu->ring = NULL;
		cpu->run = NULL;
		cpu->fd = -1;
	}
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	vm->fd = vm->kvm = -1;
}

static inline void vm_free(struct vm *vm)
{
	vm_close(vm);
	if (vm->low)
		munmap(vm->low, VM_LOW_SIZE);
	if (vm->mem)
		munmap(vm->mem, vm->npages * VM_PAGE);
	free(vm->bitmap);
	vm->low = vm->mem = NULL;
	vm->bitmap = NULL;
}

static inline int vm_create(struct vm *vm, int ncpus, size_t npages, unsigned int flags)
{
	return vm_prepare(vm, ncpus, npages, flags) ?: vm_open(vm);
}

/* --- vCPUs ---------------------------------------------------------------- */

static inline void cpu_set(struct vm_cpu *cpu, enum vm_op op, uint64_t first, uint64_t count,
			   uint64_t rounds)
{
	struct vm_box *box = cpu->box;

	box->op = op;
	box->stop = 0;
	box->first = first;
	box->count = count;
	box->rounds = rounds;
	box->progress = 0;
}

/*
 * Run until the op is done: 0.  Else -EINTR for a signal, -errno of KVM_RUN, or
 * the number of an exit that no test wants (ring full is one some want).
 */
static inline int cpu_run(struct vm_cpu *cpu)
{
	if (ioctl(cpu->fd, KVM_RUN, NULL) < 0)
		return -errno;
	if (cpu->run->exit_reason == KVM_EXIT_IO && cpu->run->io.port == VM_PORT_DONE)
		return 0;
	return cpu->run->exit_reason;
}

/* Where a vCPU is, for the log of a test that found it somewhere else. */
static inline const char *cpu_text(struct vm_cpu *cpu)
{
	static char text[512];
	struct kvm_regs r = {};
	struct kvm_sregs s = {};
	struct kvm_vcpu_events e = {};

	ioctl(cpu->fd, KVM_GET_REGS, &r);
	ioctl(cpu->fd, KVM_GET_SREGS, &s);
	ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &e);
	snprintf(
		text, sizeof(text),
		"vCPU %d, exit %d: rip %llx rsp %llx rdi %llx rax %llx rcx %llx rdx %llx rflags %llx cr0 %llx cr2 %llx cr3 %llx cr4 %llx efer %llx exception %d %d %x",
		cpu->id, cpu->run->exit_reason, r.rip, r.rsp, r.rdi, r.rax, r.rcx, r.rdx, r.rflags,
		s.cr0, s.cr2, s.cr3, s.cr4, s.efer, e.exception.nr, e.exception.injected,
		e.exception.error_code);
	return text;
}

/* Set and run an op in this thread. */
static inline int cpu_do(struct vm_cpu *cpu, enum vm_op op, uint64_t first, uint64_t count)
{
	cpu_set(cpu, op, first, count, 1);
	return cpu_run(cpu);
}

/* Map every page, then find all of them clean: reads fault no more, writes do. */
static inline int vm_warm(struct vm *vm)
{
	return cpu_do(&vm->cpu[0], OP_WRITE, 0, vm->npages)		       ?:
		       cpu_do(&vm->cpu[vm->ncpus - 1], OP_READ, 0, vm->npages) ?:
										 harvest(vm) < 0;
}

static inline void *cpu_thread(void *arg)
{
	struct vm_cpu *cpu = arg;
	uint64_t t = now_ns();

	do {
		cpu->ret = cpu_run(cpu);
	} while (cpu->ret == -EINTR && cpu->retry);
	cpu->ns = now_ns() - t;
	cpu->finished = true;
	return NULL;
}

/* Run the op that cpu_set() chose in a thread of its own. */
static inline int cpu_start(struct vm_cpu *cpu)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	if (cpu->where)
		pthread_attr_setaffinity_np(&attr, sizeof(*cpu->where), cpu->where);
	cpu->finished = false;
	cpu->started = !pthread_create(&cpu->thread, &attr, cpu_thread, cpu);
	pthread_attr_destroy(&attr);
	return cpu->started ? 0 : -EAGAIN;
}

static inline int cpu_join(struct vm_cpu *cpu)
{
	if (!cpu->started)
		return -ESRCH;
	pthread_join(cpu->thread, NULL);
	cpu->started = false;
	return cpu->ret;
}

static inline int cpu_stop(struct vm_cpu *cpu)
{
	cpu->box->stop = 1;
	return cpu_join(cpu);
}

static inline void vm_sighandler(int sig)
{
	(void)sig;
}

/* SIGUSR1 interrupts KVM_RUN and does nothing else. */
static inline void vm_signals(void)
{
	struct sigaction sa = { .sa_handler = vm_sighandler };

	sigaction(SIGUSR1, &sa, NULL);
}

/* An interrupt by message: @nmi, or the fixed vector the guest counts. */
static inline int vm_msi(struct vm *vm, int cpu, bool nmi)
{
	struct kvm_msi msi = {
		.address_lo = 0xfee00000 | cpu << 12,
		.data = nmi ? 4 << 8 : VM_VECTOR,
	};

	return vm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

/* struct kvm_steal_time of the guest's ABI */
struct vm_steal {
	uint64_t steal;
	uint32_t version;
	uint32_t flags;
	uint8_t preempted;
};

/* Have KVM tell the guest of its steal time in that page of the memory under test. */
static inline int cpu_steal(struct vm_cpu *cpu, uint64_t page)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {
		.head.nmsrs = 1,
		.entry = { .index = 0x4b564d03, .data = (VM_MEM + page * VM_PAGE) | 1 },
	};

	return vm_ioctl(cpu->fd, KVM_SET_MSRS, &msr) == 1 ? 0 : -EIO;
}

/* Is every one of these pages what the guest was told to write there? */
static inline size_t vm_wrong_pages(struct vm *vm, size_t first, size_t count, uint64_t value)
{
	size_t wrong = 0;

	for (size_t i = first; i < first + count; i++)
		wrong += vm->mem[i * (VM_PAGE / 8)] != value + i;
	return wrong;
}

/*
 * Ticks of the TSC in a millisecond.  Measured: an emulator's idea of its rate
 * may be wrong.
 */
static inline uint64_t vm_ticks_per_ms(void)
{
	uint64_t t = now_ns(), tsc = vm_rdtsc();

	sleep_ms(20);
	tsc = vm_rdtsc() - tsc;
	return tsc * 1000000 / (now_ns() - t);
}

#endif /* __TESTS_VM_H */
