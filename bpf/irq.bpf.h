/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What interrupt policies keep: for each source of interrupts, who took the last.
 *
 * KVM does not say which device an interrupt is of; the guest gave each a vector
 * and a destination, and those tell it well enough.  A guest may invent as many of
 * these as it likes: each VM has room for IRQ_LINES of its own, and a new source
 * then takes the place of an old one of the same VM.
 */
#ifndef __IRQ_BPF_H
#define __IRQ_BPF_H

#include "kvmext.bpf.h"

/* It takes a wake-up by no interrupt: on a CPU, in the guest or about to be. */
#define IRQ_RUNS (KVM_IRQ_IN_GUEST | KVM_IRQ_LOADED)

#define IRQ_WAYS 4
#define IRQ_LINES 128 /* a power of two */
#define IRQ_VMS 16384

/**
 * struct irq_line - a source
 * @source: irq_source(); 0: none
 * @last: index of the candidate that took the last one
 * @vcpu: its vcpu_idx + 1, as the guest may change the set; 0: none yet
 * @turn: interrupts so far
 * @load: see irq_load()
 */
struct irq_line {
	u64 source;
	u32 last;
	u32 vcpu;
	u32 turn;
	struct irq_load {
		u32 load;
		u32 stamp;
	} load;
};

struct irq_vm {
	struct irq_line line[IRQ_LINES];
	u32 victim;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, IRQ_VMS);
	__type(key, u64);
	__type(value, struct irq_vm);
} lines SEC(".maps");

/* What a new one begins as; too large for the stack */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct irq_vm);
} no_lines SEC(".maps");

/* A VM's value in @map, by its address; a copy of @blank's if it has none yet */
static __always_inline void *irq_vm_value(void *map, void *blank, struct kvm *kvm)
{
	u64 key = (u64)kvm;
	u32 zero = 0;
	void *value = bpf_map_lookup_elem(map, &key), *fresh;

	if (value)
		return value;
	fresh = bpf_map_lookup_elem(blank, &zero);
	if (fresh)
		bpf_map_update_elem(map, &key, fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, &key);
}

static __always_inline u64 irq_source(const struct kvm_irq_ctx *irq)
{
	return (u64)irq->dest_id << 32 | irq->vector << 1 | 1;
}

/* 1 if @a is @b, else 0; without a branch, as the verifier looks at each way on from one */
static __always_inline u64 irq_same(u64 a, u64 b)
{
	u64 x = a ^ b, y;

	barrier_var(x);
	y = -x;
	barrier_var(y);
	return ((x | y) >> 63) ^ 1;
}

/* NULL for want of memory: then KVM's own choice will do */
static __always_inline struct irq_line *irq_line(struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct irq_vm *vm = irq_vm_value(&lines, &no_lines, kvm);
	u64 source = irq_source(irq), set, found = 0, at = 0, same, i;
	struct irq_line *line;

	if (!vm)
		return NULL;
	set = ((u32)(source ^ source >> 29) * 0x9e3779b1U) >> 16;
	set *= IRQ_WAYS;
#pragma clang loop unroll(full)
	for (i = 0; i < IRQ_WAYS; i++) {
		same = irq_same(vm->line[(set + i) & (IRQ_LINES - 1)].source, source);
		found |= same;
		at += same * i;
	}
	if (!found) {
		/* Two at a time may take the same place: then one of them begins anew */
		at = vm->victim++ % IRQ_WAYS;
	}
	set = (set + at) & (IRQ_LINES - 1);
	barrier_var(set);
	line = &vm->line[set & (IRQ_LINES - 1)];
	if (!found)
		*line = (struct irq_line){ .source = source };
	return line;
}

/* The candidate that took the last one, if it is one still; else -1 */
static __always_inline s32 irq_last(const struct irq_line *line, const struct kvm_irq_ctx *irq,
				    struct kvm_irq_candidate *c)
{
	u32 vcpu = line->vcpu, last = line->last, i;

	if (!vcpu)
		return -1;
	if (!kvm_irq_look(irq, last, c) && c->vcpu_idx + 1 == vcpu)
		return last;
	bpf_for(i, 0, irq->nr)
		if (!kvm_irq_look(irq, i, c) && c->vcpu_idx + 1 == vcpu)
			return i;
	return -1;
}

static __always_inline void irq_took(struct irq_line *line, u32 i, u32 vcpu_idx)
{
	line->last = i;
	line->vcpu = vcpu_idx + 1;
}

/* Half-lives of a load until now: 64 ms each with HZ=250 */
static __always_inline u32 irq_now(void)
{
	return bpf_jiffies64() >> 4;
}

/* Interrupts of late: older ones count less, half for each half-life */
static __always_inline u32 irq_load(const struct irq_load *l, u32 now)
{
	u32 past = now - l->stamp;

	return past < 32 ? l->load >> past : 0;
}

static __always_inline void irq_load_set(struct irq_load *l, u32 now, u32 load)
{
	l->load = load;
	l->stamp = now;
}

/* For end(): the next VM may have the same address */
static __always_inline void irq_forget(struct kvm *kvm)
{
	u64 key = (u64)kvm;

	bpf_map_delete_elem(&lines, &key);
}

#endif
