/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What interrupt policies keep: for each source of interrupts, who took the last.
 *
 * KVM does not say which device an interrupt is of; the guest gave each a vector
 * and a destination, and those tell it well enough.
 */
#ifndef __IRQ_BPF_H
#define __IRQ_BPF_H

#include "kvmext.bpf.h"

/* It takes a wake-up by no interrupt: on a CPU, in the guest or about to be. */
#define IRQ_RUNS (KVM_IRQ_IN_GUEST | KVM_IRQ_LOADED)

struct irq_source {
	u64 kvm;
	u32 vector;
	u32 dest_id;
};

/**
 * struct irq_line - a source
 * @turn: interrupts so far
 * @last: index of the candidate that took the last one
 * @vcpu: its vcpu_idx + 1, as the guest may change the set; 0: none yet
 */
struct irq_line {
	u32 turn;
	u32 last;
	u32 vcpu;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct irq_source);
	__type(value, struct irq_line);
} lines SEC(".maps");

/* NULL if the map is full: then KVM's own choice will do */
static __always_inline struct irq_line *irq_line(struct kvm *kvm, const struct kvm_irq_ctx *irq)
{
	struct irq_source key = {
		.kvm = (u64)kvm,
		.vector = irq->vector,
		.dest_id = irq->dest_id,
	};
	struct irq_line *line = bpf_map_lookup_elem(&lines, &key), fresh = {};

	if (!line) {
		bpf_map_update_elem(&lines, &key, &fresh, BPF_NOEXIST);
		line = bpf_map_lookup_elem(&lines, &key);
	}
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

static long irq_drop_line(void *map, struct irq_source *key, struct irq_line *line, u64 *kvm)
{
	if (key->kvm == *kvm)
		bpf_map_delete_elem(map, key);
	return 0;
}

/* For end(): the next VM may have the same address */
static __always_inline void irq_forget(struct kvm *kvm)
{
	u64 key = (u64)kvm;

	bpf_for_each_map_elem(&lines, irq_drop_line, &key, 0);
}

#endif
