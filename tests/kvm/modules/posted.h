/* SPDX-License-Identifier: GPL-2.0 */
/* What posted.ko and its test share.  Each open file of /dev/posted is a device. */
#ifndef __TESTS_POSTED_H
#define __TESTS_POSTED_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define POSTED_TARGETS 64

/* One call of irq_set_vcpu_affinity() */
struct posted_target {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u64 desc; /* physical address of the descriptor; 0: no longer posted */
	__u32 vector;
	__u32 pad;
};

/* What POSTED_FIRE came to */
enum posted_how {
	POSTED_REMAPPED, /* it went through the host: the eventfd */
	POSTED_NOTIFIED,
	POSTED_OUTSTANDING, /* posted; a notification is under way already */
	POSTED_SUPPRESSED, /* posted; the vCPU is preempted and wants none */
};

struct posted_state {
	__u32 host_irq;
	__u32 vector;
	__u64 desc; /* whom it is posted to now; 0: remapped */
	__u64 targets; /* calls of irq_set_vcpu_affinity(), the last in @target[i % ...] */
	__u64 fired[4]; /* by enum posted_how */
	__u64 in_a_row; /* most calls of all devices with IRQs off all the while, since last asked */
	struct posted_target target[POSTED_TARGETS];
};

#define POSTED_BIND _IOW('P', 1, __s32) /* become the producer of that eventfd; -1: of none */
#define POSTED_FIRE _IO('P', 2) /* an interrupt: enum posted_how */
#define POSTED_REFUSE _IO('P', 4) /* the IOMMU does not take as many of the next calls */
#define POSTED_STATE _IOR('P', 3, struct posted_state)

#endif
