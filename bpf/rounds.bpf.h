/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What policies make of a VM's dirty-log events: migration rounds.
 *
 * A VMM harvests all memslots once a round, in an order of its own.  So a round
 * begins when the largest memslot is harvested again.  Largest, as a VMM may
 * harvest a small one, such as a frame buffer, also when nothing migrates.
 */
#ifndef __ROUNDS_BPF_H
#define __ROUNDS_BPF_H

#include "kvmext.bpf.h"

/* VMs of which rounds are known at a time; one takes memory while it logs */
#define ROUNDS_VMS 16384

/**
 * struct rounds - one per VM, in a map
 * @slot: the one whose harvest begins a round
 * @npages: its size, pages
 * @round: rounds begun since logging began; 0: none yet
 * @start_ns: when this one began, CLOCK_MONOTONIC
 * @dirty: pages harvested in this one: what the VMM has to send in it
 * @last_dirty: the same for the round before
 * @last_ns: how long the round before took
 */
struct rounds {
	u32 slot;
	u64 npages;
	u64 round;
	u64 start_ns;
	u64 dirty;
	u64 last_dirty;
	u64 last_ns;
};

/**
 * rounds_vm - a VM's state in a policy's map, made if it is not there
 * @map: from VM to what begins with struct rounds
 * @kvm: the VM
 * @fresh: what it is at first
 *
 * Return: the state; NULL if the map is full.
 */
static __always_inline void *rounds_vm(void *map, struct kvm *kvm, const void *fresh)
{
	u64 key = (u64)kvm;
	void *vm = bpf_map_lookup_elem(map, &key);

	if (!vm) {
		bpf_map_update_elem(map, &key, fresh, BPF_NOEXIST);
		vm = bpf_map_lookup_elem(map, &key);
	}
	return vm;
}

/**
 * rounds_over - whether with this event nothing is logged any more
 *
 * A guest that moves a BAR of memory turns one memslot's log off and on; what
 * is logged in all says whether that was the last.
 */
static __always_inline bool rounds_over(const struct kvm_throttle_dirty_log *ev)
{
	return ev->event == KVM_THROTTLE_LOG_STOP && !ev->logged_slots;
}

/**
 * rounds_harvest - take in one KVM_THROTTLE_HARVEST event
 *
 * Return: true if a new round began with it; then last_dirty and last_ns are
 * those of the round that ended, once @round is 2 or more.
 */
static __always_inline bool rounds_harvest(struct rounds *r, const struct kvm_throttle_dirty_log *ev)
{
	/* Another address space (x86: SMM) is the same memory once more */
	if (ev->slot >> 16)
		return false;
	if (ev->npages > r->npages) {
		r->npages = ev->npages;
		r->slot = ev->slot;
		r->round = 0;
	}
	if (ev->slot != r->slot) {
		r->dirty += ev->dirty;
		return false;
	}
	r->last_dirty = r->dirty;
	r->last_ns = ev->now_ns - r->start_ns;
	r->dirty = ev->dirty;
	r->start_ns = ev->now_ns;
	r->round++;
	return true;
}

#endif /* __ROUNDS_BPF_H */
