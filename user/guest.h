/* SPDX-License-Identifier: GPL-2.0 */
/* What user/guest.bpf.c and kvmext guest agree on. */
#ifndef __KVMEXT_GUEST_H
#define __KVMEXT_GUEST_H

#define FREE_HEAD_WORDS 512
#define FREE_WORD(member) (__builtin_offsetof(struct free_head, member) / 8)
#define GUEST_MAX_ORDER 10
/* Frames at one go; a buddy is never in two of them */
#define GUEST_REGION 8192
#define GUEST_SUSPECTS 16

/**
 * struct guest_region - what the programs scan, check and again are given and give
 * @first: frame, a multiple of GUEST_REGION
 * @end: behind the last one
 * @buddy: frames in the buddy allocator
 * @set: bits that are set (check), that were not and now are (scan)
 * @leaked: frames in the buddy allocator without a bit
 * @wrong: bits of frames that are in use
 * @suspect: these frames, the first of them
 */
struct guest_region {
	__u64 first;
	__u64 end;
	__u64 buddy;
	__u64 set;
	__u64 leaked;
	__u64 wrong;
	__u64 suspect[GUEST_SUSPECTS];
};

/**
 * struct guest_peek - what the program peek is given and gives
 * @addr: of a variable of the kernel
 * @val: the 8 bytes there
 * @err: whether they cannot be read
 */
struct guest_peek {
	__u64 addr;
	__u64 val;
	__s64 err;
};

#endif /* __KVMEXT_GUEST_H */
