/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that tells when its interrupts came, by its own TSC: its local APIC, handlers
 * that note the time, and a loop that arms the APIC's timer or turns interrupts off.
 */
#ifndef __TESTS_LATENCY_H
#define __TESTS_LATENCY_H

#include "vm.h"

#define LATE_PD_APIC 0x60000UL /* of the low slot */

enum late_op {
	LATE_TIMER = 100, /* arm the timer with @ticks, write @page, wait for the interrupt */
	LATE_WAIT, /* write @page, wait for an interrupt or NMI */
	LATE_SEND, /* write ICR, @icr, each time that @ticks changes, until @stop */
	LATE_CLI, /* interrupts off: say so, wait for @ticks, write @page, interrupts on */
	LATE_CLI_STREAM, /* interrupts off: say so, wait for @ticks, write until @stop */
};

/* What follows the mailbox of a vCPU in its page */
struct late_box {
	struct vm_box box;
	volatile uint64_t came; /* TSC when the last interrupt or NMI came */
	volatile uint64_t armed; /* TSC when the timer was armed, ICR written, the section begun */
	volatile uint64_t left; /* TSC when the section ended */
	volatile uint64_t ticks;
	volatile uint32_t icr;
	volatile uint32_t icr2;
};

#define LATE_APIC(reg) (*(volatile uint32_t *)(0xfee00000UL + (reg)))

static __guest __attribute__((noreturn)) void guest_late(struct late_box *b)
{
	struct vm_box *box = &b->box;

	(void)*(volatile char *)VM_GDT;
	(void)*(volatile char *)VM_IDT;
	asm volatile("push %%rax\n\tpop %%rax" ::: "memory");
	for (;;) {
		volatile uint64_t *p = (volatile uint64_t *)(VM_MEM + box->first * VM_PAGE);
		uint64_t seen = box->irqs + box->nmis, ticks = b->ticks;
		uint32_t op = box->op, leave = box->leave, a = 0, c = 0;

		if (op == LATE_CLI || op == LATE_CLI_STREAM) {
			asm volatile("cli" ::: "memory");
			box->progress = 1;
			while (b->ticks == ticks && !box->stop)
				;
		}
		if (op == LATE_TIMER) {
			LATE_APIC(0x3e0) = 0xb; /* each tick of the bus */
			LATE_APIC(0x320) = VM_VECTOR; /* once */
		}
		b->armed = vm_rdtsc();
		if (op == LATE_TIMER)
			LATE_APIC(0x380) = b->ticks;
		if (op == LATE_TIMER || op == LATE_WAIT || op == LATE_CLI) {
			*p = box->value;
			if (leave)
				asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
		}
		if (op == LATE_TIMER || op == LATE_WAIT) {
			box->progress = 1;
			while (box->irqs + box->nmis == seen && !box->stop)
				;
		}
		if (op == LATE_SEND) {
			while (!box->stop) {
				if (b->ticks == ticks)
					continue;
				ticks = b->ticks;
				LATE_APIC(0x310) = b->icr2;
				b->armed = vm_rdtsc();
				LATE_APIC(0x300) = b->icr;
				box->progress++;
			}
		}
		if (op == LATE_CLI_STREAM) {
			for (uint64_t i = 0; !box->stop; i = i + 1 < box->count ? i + 1 : 0) {
				p[i * VM_PAGE / 8] = i;
				if (leave)
					asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
				box->progress++;
			}
		}
		b->left = vm_rdtsc();
		asm volatile("sti\n\tnop" ::: "memory");
		box->done++;
		asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory");
	}
}

/* GS points to the mailbox.  These say when, and the interrupt ends at its APIC. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local late_nmi, late_irq\n"
    "late_irq: push %rax\n"
    "	push %rdx\n"
    "	rdtsc\n"
    "	shl $32, %rdx\n"
    "	or %rdx, %rax\n"
    "	mov %rax, %gs:104\n"
    "	incq %gs:80\n"
    "	mov $0xfee000b0, %eax\n"
    "	movl $0, (%rax)\n"
    "	pop %rdx\n"
    "	pop %rax\n"
    "	iretq\n"
    "late_nmi: push %rax\n"
    "	push %rdx\n"
    "	rdtsc\n"
    "	shl $32, %rdx\n"
    "	or %rdx, %rax\n"
    "	mov %rax, %gs:104\n"
    "	incq %gs:72\n"
    "	pop %rdx\n"
    "	pop %rax\n"
    "	iretq\n"
    ".popsection\n");
extern const char late_nmi[] asm("late_nmi"), late_irq[] asm("late_irq");
_Static_assert(offsetof(struct late_box, came) == 104, "the handlers know the offset");

static inline struct late_box *late_box(struct vm_cpu *cpu)
{
	return (struct late_box *)cpu->box;
}

static inline void late_set(struct vm_cpu *cpu, enum late_op op, uint64_t first, uint64_t count)
{
	cpu_set(cpu, (enum vm_op)op, first, count, 1);
}

static inline void late_gate(struct vm *vm, int vector, const char *handler)
{
	uint64_t *gate = vm->low + VM_IDT + vector * 16, addr = guest_addr(handler);

	gate[0] = (addr & 0xffff) | 8 << 16 | 0x8eULL << 40 | (addr & 0xffff0000) << 32;
	gate[1] = addr >> 32;
}

/* The guest's vCPUs run guest_late() from now on: 0, or -errno. */
static inline int late_start(struct vm *vm)
{
	uint64_t *pdpt = vm->low + VM_PDPT, *pd = vm->low + LATE_PD_APIC;
	struct kvm_regs regs;
	int ret = 0;

	pdpt[3] = LATE_PD_APIC | 0x23;
	pd[0xfee00000 >> 21 & 511] = 0xfee00000 | 0xf3;
	late_gate(vm, 2, late_nmi);
	late_gate(vm, VM_VECTOR, late_irq);
	late_gate(vm, 0xff, late_nmi);
	for (int i = 0; i < vm->ncpus && !ret; i++) {
		/* An interrupt before the first instruction is one that Bochs loses. */
		ret = cpu_do(&vm->cpu[i], OP_NOP, 0, 0) ?:
			      vm_ioctl(vm->cpu[i].fd, KVM_GET_REGS, &regs);
		regs.rip = guest_addr(guest_late);
		regs.rsp = VM_STACK + (i + 1) * VM_PAGE - 8;
		regs.rdi = VM_BOX + i * VM_PAGE;
		regs.rflags = 0x202;
		ret = ret						   ?:
			      vm_ioctl(vm->cpu[i].fd, KVM_SET_REGS, &regs) ?:
			      cpu_do(&vm->cpu[i], OP_NOP, 0, 0);
	}
	return ret;
}

#endif
