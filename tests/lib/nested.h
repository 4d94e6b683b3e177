/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that is a small hypervisor itself, on AMD: the VMCB of its guest, and VMRUN.
 */
#ifndef __TESTS_NESTED_H
#define __TESTS_NESTED_H

#include "vm.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#ifndef __packed
#define __packed __attribute__((packed))
#endif
#ifndef BIT
#define BIT(n) (1U << (n))
#endif
#include "kvm/include/x86_64/svm.h"

/* The hypervisor's in the low slot, of its vCPU alone */
#define VMCB 0x50000UL
#define HSAVE 0x51000UL
#define NESTED_STACK 0x52000UL
#define TABLES 0x53000UL /* four pages: of the nested guest, or nested paging's */
/* Where the nested guest sees the memory under test */
#define NESTED_MEM 0x40000000UL

#define MSR_HSAVE 0xc0010117
#define EFER_SVME 0x1000
#define EXIT_VMMCALL 0x81

_Static_assert(offsetof(struct vmcb, save) == 0x400, "the format is the CPU's");
_Static_assert(offsetof(struct vmcb, save.rip) == 0x578, "the format is the CPU's");

/* guest_vmrun(vmcb, box): the nested guest has its own RAX, RSP and RIP alone. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local guest_vmrun\n"
    "guest_vmrun:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	mov %rdi, %rax\n"
    "	mov %rsi, %rdi\n"
    "	vmrun %rax\n"
    "	stgi\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n"
    ".popsection\n");
extern void guest_vmrun(struct vmcb *vmcb, void *box) asm("guest_vmrun");

/* low as it is, NESTED_MEM to VM_MEM; every level may be written by user mode */
static inline void nested_tables(struct vm *vm)
{
	uint64_t *pml4 = vm->low + TABLES, *pdpt = vm->low + TABLES + VM_PAGE;
	uint64_t *pd0 = vm->low + TABLES + 2 * VM_PAGE, *pd1 = vm->low + TABLES + 3 * VM_PAGE;

	pml4[0] = (TABLES + VM_PAGE) | 0x27;
	pdpt[0] = (TABLES + 2 * VM_PAGE) | 0x27;
	pdpt[1] = (TABLES + 3 * VM_PAGE) | 0x27;
	pd0[0] = 0xe7;
	for (uint64_t at = 0; at < vm->npages * VM_PAGE; at += 1 << 21)
		pd1[at >> 21] = (VM_MEM + at) | 0xe7;
}

/* For a guest that begins at @text */
static inline void nested_vmcb(struct vm *vm, const void *text, bool npt)
{
	struct vmcb *vmcb = vm->low + VMCB;
	struct vmcb_save_area *s = &vmcb->save;

	vmcb->control.intercept = 1ULL << INTERCEPT_VMRUN | 1ULL << INTERCEPT_VMMCALL |
				  1ULL << INTERCEPT_SHUTDOWN;
	vmcb->control.asid = 1;
	s->cs = (struct vmcb_seg){ .selector = 8, .attrib = 0xa9b, .limit = ~0U };
	s->ds = s->es = s->ss = (struct vmcb_seg){ .selector = 16, .attrib = 0xc93, .limit = ~0U };
	s->gdtr = (struct vmcb_seg){ .base = VM_GDT, .limit = 3 * 8 - 1 };
	s->idtr = (struct vmcb_seg){ .base = VM_IDT, .limit = 0xfff };
	s->efer = 0x500 | EFER_SVME;
	s->cr0 = 0x80000033;
	s->cr4 = 0x20;
	s->rflags = 2;
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->g_pat = 0x0007040600070406ULL;
	s->rip = guest_addr(text);
	s->rsp = NESTED_STACK + VM_PAGE - 8;
	nested_tables(vm);
	s->cr3 = TABLES;
	if (npt) {
		/* Then the guest's own tables map one to one, all of the low 1 GiB ... */
		vmcb->control.nested_ctl = SVM_NESTED_CTL_NP_ENABLE;
		vmcb->control.nested_cr3 = TABLES;
		/* ... and the one above it, by tables that it shares with nested paging's. */
		s->cr3 = VM_PML4;
		((uint64_t *)(vm->low + VM_PDPT))[1] = (TABLES + 4 * VM_PAGE) | 0x23;
		for (uint64_t i = 0; i < 512; i++)
			((uint64_t *)(vm->low + TABLES + 4 * VM_PAGE))[i] =
				(NESTED_MEM + (i << 21)) | 0xe3;
	}
}

/* What this host offers a guest: 0 if it has no such leaf. */
static inline uint32_t nested_supported(struct vm *vm, uint32_t leaf, bool edx)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *cpuid = calloc(1, sizeof(*cpuid));
	uint32_t value = 0;

	cpuid->head.nent = 256;
	if (!vm_ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		for (uint32_t i = 0; i < cpuid->head.nent; i++)
			if (cpuid->entry[i].function == leaf)
				value = edx ? cpuid->entry[i].edx : cpuid->entry[i].ecx;
	free(cpuid);
	return value;
}

static inline int nested_start(struct vm_cpu *cpu, const void *text)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	int ret = vm_ioctl(cpu->fd, KVM_GET_SREGS, &s) ?: vm_ioctl(cpu->fd, KVM_GET_REGS, &r);

	s.efer |= EFER_SVME;
	r.rip = guest_addr(text);
	r.rsp = VM_STACK + (cpu->id + 1) * VM_PAGE - 8;
	r.rdi = VM_BOX + cpu->id * VM_PAGE;
	return ret ?: vm_ioctl(cpu->fd, KVM_SET_SREGS, &s) ?: vm_ioctl(cpu->fd, KVM_SET_REGS, &r);
}

#endif
