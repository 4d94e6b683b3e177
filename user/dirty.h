/* SPDX-License-Identifier: GPL-2.0 */
/* What user/dirty.bpf.c collects and user/dirty.c reads. */
#ifndef __KVMEXT_DIRTY_H
#define __KVMEXT_DIRTY_H

#define DIRTY_CHUNK_SHIFT 6 /* pages of a chunk are bits of a word */

struct dirty_key {
	__u64 kvm; /* struct kvm's address */
	__u64 chunk; /* gfn >> DIRTY_CHUNK_SHIFT */
	__u32 vcpu;
	__u32 tgid;
};

struct dirty_val {
	__u64 bits; /* which pages */
	__u64 n; /* how often one of them got dirty */
};

#endif /* __KVMEXT_DIRTY_H */
