/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every kvm_ext policy includes: kernel types, the kfuncs of the tables,
 * and the macros by which a policy says what can be set and read in it.
 *
 * A policy is one object file.  kvmext(8) learns everything about it from BTF:
 * a variable declared with one of the macros below can be listed, read and set
 * by name with no line of user code written for it.  Other globals are the
 * policy's private matter.
 */
#ifndef __KVMEXT_BPF_H
#define __KVMEXT_BPF_H

/* An op's arguments are fixed by its table, and BPF_PROG() adds ctx. */
#pragma clang diagnostic ignored "-Wunused-parameter"

/* The kfuncs are declared below, whatever bpftool finds in BTF. */
#define BPF_NO_KFUNC_PROTOTYPES
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* A macro with arguments is not in BTF. */
#ifndef KVM_SAVE_ANSWER
#define KVM_SAVE_ANSWER(kinds, classes, resumes) \
	((s64)((u64)(u32)(kinds) | (u64)(u8)(classes) << 32 | (u64)(u16)(resumes) << 40))
#endif

#define KVMEXT_TAG(text) __attribute__((btf_decl_tag("kvmext:" text)))

#define __KVMEXT_PARAM(lo, hi, uni, hlp) \
	KVMEXT_TAG("param")              \
	KVMEXT_TAG("min=" #lo)           \
	KVMEXT_TAG("max=" #hi) KVMEXT_TAG("unit=" uni) KVMEXT_TAG("help=" hlp)

/**
 * KVMEXT_PARAM_RO - a parameter fixed when the policy is loaded
 * @type: u8, u16, u32, u64, s8, s16, s32, s64 or bool
 * @name: name of the variable and of the parameter
 * @dflt: its value unless the user gives another
 * @lo: smallest value that may be set, a decimal literal without suffix
 * @hi: largest value that may be set, likewise
 * @unit: "ns", "ms", "pages", "%", ...; "" if it has none
 * @help: one line for people
 *
 * The verifier knows the value: a branch that it rules out costs nothing.
 */
#define KVMEXT_PARAM_RO(type, name, dflt, lo, hi, unit, help) \
	const volatile type name __KVMEXT_PARAM(lo, hi, unit, help) SEC(".rodata") = dflt

/**
 * KVMEXT_PARAM - a parameter that can also be set while the policy runs
 *
 * Arguments as for KVMEXT_PARAM_RO().  The tool stores it with one aligned
 * store from another CPU, so the policy sees the old value or the new one; it
 * should read it once per decision.
 */
#define KVMEXT_PARAM(type, name, dflt, lo, hi, unit, help) \
	volatile type name __KVMEXT_PARAM(lo, hi, unit, help) SEC(".data") = dflt

/**
 * KVMEXT_COUNTER - a number that the policy keeps and kvmext shows
 * @type: as for KVMEXT_PARAM_RO()
 * @name: name of the variable and of the counter
 * @unit: as for KVMEXT_PARAM_RO()
 * @help: one line for people
 *
 * It starts at 0.  Use __sync_fetch_and_add() where vCPUs may meet.
 */
#define KVMEXT_COUNTER(type, name, unit, help)                                            \
	type name KVMEXT_TAG("counter") KVMEXT_TAG("unit=" unit) KVMEXT_TAG("help=" help) \
		SEC(".bss")

/**
 * KVMEXT_ABOUT - what a policy is for, in one line
 *
 * Goes before the table:
 *
 *	KVMEXT_ABOUT("does nothing")
 *	SEC(".struct_ops.link")
 *	struct kvm_throttle_ops noop = { .name = "noop", ... };
 */
#define KVMEXT_ABOUT(text) KVMEXT_TAG("about=" text)

/*
 * kfuncs.  "volatile" is for clang 14: it gives the parameter a debug type of its
 * own, and with it all of struct kvm.  Else a policy that meets struct kvm first
 * in another struct gets but a forward declaration of it in its BTF, and libbpf
 * calls the kfunc incompatible with the kernel's.
 */

/* May be called in every op of kvm_throttle_ops. */
extern int kvm_throttle_mark(volatile struct kvm *kvm, u32 vcpu_idx, bool on) __ksym;
extern int kvm_throttle_stat(volatile struct kvm *kvm, u32 vcpu_idx,
			     struct kvm_throttle_stat *stat) __ksym;
extern u32 kvm_throttle_nr_vcpus(volatile struct kvm *kvm) __ksym;
extern void kvm_throttle_error(volatile struct kvm *kvm, s64 code, const char *msg__str) __ksym;

/* May be called in route() of kvm_irq_ops. */
extern int kvm_irq_look(const struct kvm_irq_ctx *ctx, u32 i,
			struct kvm_irq_candidate *c) __ksym;
extern void kvm_irq_error(const struct kvm_irq_ctx *ctx, s64 code, const char *msg__str) __ksym;

/* May be called in the ops of kvm_dirty_ops; the first in harvest() alone, which has a block. */
extern u64 *kvm_dirty_words(struct kvm_dirty_block *block, const u32 rdwr_buf_size) __ksym;
extern int kvm_dirty_read(volatile struct kvm *kvm, u64 gpa, void *buf, u32 buf__sz) __ksym;
extern int kvm_dirty_read_atomic(volatile struct kvm *kvm, u64 gpa, void *buf, u32 buf__sz) __ksym;
extern u64 kvm_dirty_clock(volatile struct kvm *kvm) __ksym;
extern void kvm_dirty_error(volatile struct kvm *kvm, s64 code, const char *msg__str) __ksym;

/* May be called in SEC("syscall") programs. */
extern int kvm_throttle_mark_pid(u32 pid, u32 vcpu_id, bool on) __ksym;

/* How many bits are set: pages in a word of a dirty log */
static __always_inline u64 kvmext_popcount(u64 v)
{
	v -= (v >> 1) & 0x5555555555555555;
	v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333);
	v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return v * 0x0101010101010101 >> 56;
}

#endif /* __KVMEXT_BPF_H */
