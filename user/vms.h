/* SPDX-License-Identifier: GPL-2.0 */
/* VMs and vCPUs as user/top.bpf.c counts them. */
#ifndef __KVMEXT_VMS_H
#define __KVMEXT_VMS_H

#include "base.h"

/* Programs that may be missing, each with the figures that hang on it */
enum vms_source {
	SRC_INJECT,
	SRC_WAKEUP,
	SRC_HALT,
	SRC_WAKING,
	SRC_ACCEPT,
	SRC_DIRTY,
	SRC_DESTROY,
	SRC_ASK,
	SRC_BLOCK,
	SRC_RUN,
	SRC_POLICY,
	SOURCES,
};

/* Figures, in the order of struct vm's and struct vcpu's arrays */
enum vms_figure {
	F_EXITS,
	F_GUEST_NS,
	F_OUTSIDE_NS,
	F_HALTED_NS,
	F_READY_NS,
	F_BLOCKED_NS,
	F_DIRTY,
	F_INJECTED,
	F_POSTED,
	F_INJ_N,
	F_INJ_NS,
	F_WAKE_N,
	F_WAKE_NS,
	F_ASKS,
	F_BLOCKS,
	FIGURES,
};

/**
 * struct reason - exits for one reason
 * @isa: whose number @reason is
 * @reason: as kvm_exit has it; with @other, any that has no number of its own here
 * @other: see there
 * @n: exits
 * @ns: from exit to entry
 */
struct reason {
	uint32_t isa;
	uint32_t reason;
	bool other;
	uint64_t n;
	uint64_t ns;
};

#define REASONS_SHOWN 8

/**
 * struct vcpu - a vCPU over the last interval
 * @vm: place of its VM in struct vms
 * @tgid: its VMM
 * @id: its id
 * @tid: the thread that ran it last
 * @total: since it was met
 * @delta: in the last interval
 * @reason: the reasons of the interval, those that took longest first
 * @reasons: how many of these
 * @priv: what vms.c keeps
 */
struct vcpu {
	int vm;
	uint32_t tgid;
	uint32_t id;
	uint32_t tid;
	uint64_t total[FIGURES];
	uint64_t delta[FIGURES];
	struct reason reason[REASONS_SHOWN];
	int reasons;
	struct vcpu_priv *priv;
};

/**
 * struct vm - a VM over the last interval: the sums of its vCPUs
 * @tgid: its VMM
 * @kvm: tells the VMs of one process apart
 * @comm: the VMM's name, or NULL
 * @inhibits: why interrupts do not take the short way, see apicv_text()
 * @first: its vCPUs in struct vms
 * @n: how many
 */
struct vm {
	uint32_t tgid;
	uint64_t kvm;
	char comm[17];
	uint64_t inhibits;
	int first;
	int n;
	uint64_t total[FIGURES];
	uint64_t delta[FIGURES];
	struct reason reason[REASONS_SHOWN];
	int reasons;
};

/**
 * struct vms - all of them at one moment
 * @vm: sorted by process id
 * @vcpu: in the order of their VMs, and by id
 * @at_ns: CLOCK_MONOTONIC
 * @took_ns: length of the interval
 * @lost: exits of vCPUs for which there was no room
 * @silent: this KVM does not tell its exits; these are those to user space
 * @policy_changes: grows when a policy comes, goes or is taken from a VM (SRC_POLICY)
 */
struct vms {
	struct vm *vm;
	int nr_vms;
	struct vcpu *vcpu;
	int nr_vcpus;
	uint64_t at_ns;
	uint64_t took_ns;
	uint64_t lost;
	bool silent;
	uint32_t policy_changes;
};

/* vms_open - attach the programs; OK or the code of what was reported */
int vms_open(void);
void vms_close(void);
/* vms_read - look again; what it returns is good until the next call */
const struct vms *vms_read(void);
/* vms_source - which program serves, or NULL if this kernel has none */
const char *vms_source(enum vms_source src);
/* vms_has - can this figure be had here? */
bool vms_has(enum vms_figure f);

#endif /* __KVMEXT_VMS_H */
