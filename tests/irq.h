/* SPDX-License-Identifier: GPL-2.0 */
/* What tests of kvm_irq_ops need: local APICs and their handlers, policies. */
#ifndef __TESTS_IRQ_H
#define __TESTS_IRQ_H

#include "bpf/irq_probe.h"
#include "ext.h"
#include "vm.h"

#define PD_APIC 0x6000UL /* page directory of the local APIC's gigabyte */

/* How the local APICs are set up */
enum mode { FLAT, CLUSTER, X2APIC };

/*
 * Handlers.  What they count they have sent the EOI of.  Bochs delivers vector 0xff now
 * and then, which nobody sent; that has its EOI, and is not counted.
 */
asm(".pushsection guest_text, \"ax\"\n"
    ".local guest_xapic, guest_x2apic, guest_xapic_ff, guest_x2apic_ff\n"
    "guest_xapic: push %rax\n"
    "	movl $0xfee000b0, %eax\n"
    "	movl $0, (%rax)\n"
    "	incq %gs:80\n"
    "	pop %rax\n"
    "	iretq\n"
    "guest_x2apic: push %rax\n"
    "	push %rcx\n"
    "	push %rdx\n"
    "	movl $0x80b, %ecx\n"
    "	xorl %eax, %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	incq %gs:80\n"
    "	pop %rdx\n"
    "	pop %rcx\n"
    "	pop %rax\n"
    "	iretq\n"
    "guest_xapic_ff: push %rax\n"
    "	movl $0xfee000b0, %eax\n"
    "	movl $0, (%rax)\n"
    "	pop %rax\n"
    "	iretq\n"
    "guest_x2apic_ff: push %rax\n"
    "	push %rcx\n"
    "	push %rdx\n"
    "	movl $0x80b, %ecx\n"
    "	xorl %eax, %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	pop %rdx\n"
    "	pop %rcx\n"
    "	pop %rax\n"
    "	iretq\n"
    ".popsection\n");
extern const char guest_xapic[] asm("guest_xapic"), guest_x2apic[] asm("guest_x2apic"),
	guest_xapic_ff[] asm("guest_xapic_ff"), guest_x2apic_ff[] asm("guest_x2apic_ff");

struct irq_head {
	__u32 vm;
	__u32 flags;
	char name[32];
};

static inline int irq_policies(void)
{
	char *text = ext_read(EXT_STATE), *p = text;
	int n = 0;

	if (!text)
		return -ENOENT;
	for (; (p = strstr(p, "policy table=irq")); p++)
		n += p == text || p[-1] == '\n';
	free(text);
	return n;
}

/* Open a policy, for one VM; the first map of type struct_ops is its table. */
static inline int irq_attach(const char *path, pid_t vm, struct bpf_object **obj,
			     struct bpf_link **link)
{
	struct bpf_map *map, *ops = NULL;
	struct irq_head *head;
	size_t size;
	int ret;

	*obj = ext_open(path);
	if (!*obj)
		return -errno;
	bpf_object__for_each_map(map, *obj) if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
		ops = map;
	head = ops ? bpf_map__initial_value(ops, &size) : NULL;
	if (!head || size < sizeof(*head))
		return -EBADMSG;
	head->vm = vm;
	ret = bpf_object__load(*obj);
	return ret ?: ext_attach(ops, link);
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
	for (int i = 0; i < vm->ncpus && !ret; i++)
		ret = apic(vm, i, mode, disabled & 1U << i);
	return ret;
}

#endif
