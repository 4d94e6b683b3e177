/* SPDX-License-Identifier: GPL-2.0 */
/* What tests of kvm_irq_ops need: local APICs and their handlers, policies. */
#ifndef __TESTS_IRQ_H
#define __TESTS_IRQ_H

#include "tests/kvm/probes/irq_probe.h"
#include "ext.h"
#include "vm.h"

#define PD_APIC 0x6000UL /* page directory of the local APIC's gigabyte */

/* How the local APICs are set up */
enum mode { FLAT, CLUSTER, X2APIC };

/* What handlers do; they may use rax, rcx and rdx. */
/* clang-format off */
#define EOI_XAPIC "	movl $0xfee000b0, %eax\n" \
		  "	movl $0, (%rax)\n"
#define EOI_X2APIC "	movl $0x80b, %ecx\n" \
		   "	xorl %eax, %eax\n" \
		   "	xorl %edx, %edx\n" \
		   "	wrmsr\n"
#define COUNT "	incq %gs:80\n"

#define HANDLER(name, what) ".local " name "\n" \
			    name ": push %rax\n" \
			    "	push %rcx\n" \
			    "	push %rdx\n" \
			    what \
			    "	pop %rdx\n" \
			    "	pop %rcx\n" \
			    "	pop %rax\n" \
			    "	iretq\n"

/*
 * What they count they have sent the EOI of.  Bochs delivers vector 0xff now and then,
 * which nobody sent; that has its EOI, and is not counted.
 */
asm(".pushsection guest_text, \"ax\"\n"
    HANDLER("guest_xapic", EOI_XAPIC COUNT)
    HANDLER("guest_x2apic", EOI_X2APIC COUNT)
    HANDLER("guest_xapic_ff", EOI_XAPIC)
    HANDLER("guest_x2apic_ff", EOI_X2APIC)
    ".popsection\n");
/* clang-format on */
extern const char guest_xapic[] asm("guest_xapic"), guest_x2apic[] asm("guest_x2apic"),
	guest_xapic_ff[] asm("guest_xapic_ff"), guest_x2apic_ff[] asm("guest_x2apic_ff");

struct irq_head {
	__u32 vm;
	__u32 flags;
	char name[32];
};

static inline int irq_policies(void)
{
	return table_policies("irq");
}

/* Open a policy, for one VM. */
static inline int irq_attach(const char *path, pid_t vm, struct bpf_object **obj,
			     struct bpf_link **link)
{
	struct bpf_map *ops;
	int ret = ext_load(path, NULL, NULL, vm, obj, &ops);

	return ret ?: ext_attach(ops, link);
}

/* The policy irq_probe, its knobs and counts */
struct irq_probe {
	struct bpf_object *obj;
	struct bpf_map *ops; /* the table */
	struct bpf_link *link;
	volatile struct irq_probe_knobs *k;
	volatile struct irq_probe_counts *c;
};

static inline int irq_probe_on(struct irq_probe *p, pid_t vm)
{
	int ret = irq_attach("tests/kvm/probes/irq_probe.bpf.o", vm, &p->obj, &p->link);

	if (ret)
		return ret;
	p->ops = bpf_object__find_map_by_name(p->obj, "irq_probe");
	p->k = ext_map_memory(p->obj, ".data");
	p->c = ext_map_memory(p->obj, ".bss");
	return p->k && p->c ? 0 : -ENOMEM;
}

static inline void irq_probe_off(struct irq_probe *p)
{
	bpf_link__destroy(p->link);
	ext_unmap_memory(p->k, sizeof(*p->k));
	ext_unmap_memory(p->c, sizeof(*p->c));
	bpf_object__close(p->obj);
	*p = (struct irq_probe){};
}

/* Not while it runs: KVM waits for it to come out */
static inline int apic(struct vm *vm, int i, enum mode mode, bool disabled)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs s;
	uint32_t *reg;
	int ret;

	if (mode == X2APIC) {
		ret = vm_ioctl(vm->cpu[i].fd, KVM_GET_SREGS, &s);
		s.apic_base |= 0xc00;
		ret = ret ?: vm_ioctl(vm->cpu[i].fd, KVM_SET_SREGS, &s);
		if (ret)
			return ret;
	}
	ret = vm_ioctl(vm->cpu[i].fd, KVM_GET_LAPIC, &lapic);
	if (ret)
		return ret;
	reg = (uint32_t *)lapic.regs;
	if (mode != X2APIC) {
		reg[0xd0 / 4] = (mode == FLAT ? 1U << i : (uint32_t)(i / 2) << 4 | 1U << i % 2)
				<< 24;
		reg[0xe0 / 4] = mode == FLAT ? 0xffffffff : 0x0fffffff;
	}
	reg[0xf0 / 4] = disabled ? 0xff : 0x1ff;
	return vm_ioctl(vm->cpu[i].fd, KVM_SET_LAPIC, &lapic);
}

static inline void irq_gate(struct vm *vm, int vector, const char *handler)
{
	uint64_t *gate = vm->low + VM_IDT + vector * 16, addr = guest_addr(handler);

	gate[0] = (addr & 0xffff) | 8 << 16 | 0x8eULL << 40 | (addr & 0xffff0000) << 32;
	gate[1] = addr >> 32;
}

/* Local APICs of that mode; logical ids: bit i, or bit i % 2 of cluster i / 2. */
static inline int apics(struct vm *vm, enum mode mode, uint32_t disabled)
{
	uint64_t *pdpt = vm->low + VM_PDPT, *pd = vm->low + PD_APIC;
	int ret = 0;

	pdpt[3] = PD_APIC | 0x23;
	pd[0xfee00000 >> 21 & 511] = 0xfee00000 | 0xf3;
	irq_gate(vm, VM_VECTOR, mode == X2APIC ? guest_x2apic : guest_xapic);
	irq_gate(vm, 0xff, mode == X2APIC ? guest_x2apic_ff : guest_xapic_ff);
	/* An interrupt before the first instruction is one that Bochs loses: see guest_main() */
	for (int i = 0; i < vm->ncpus && !ret; i++)
		ret = cpu_do(&vm->cpu[i], OP_NOP, 0, 0) ?: apic(vm, i, mode, disabled & 1U << i);
	return ret;
}

#endif
