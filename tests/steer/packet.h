/* SPDX-License-Identifier: GPL-2.0 */
/* What ping.c sends and guest.c echoes. */
#ifndef __STEER_PACKET_H
#define __STEER_PACKET_H

#include <stdint.h>

#define PORT 7
#define FLOWS 64

/**
 * struct packet - of a burst
 * @sent: CLOCK_MONOTONIC of the sender
 * @flow: which
 * @burst: from 1 on
 * @index: in the burst, from 0 on
 * @cpu: on which CPU of the guest it was received; in the echo
 */
struct packet {
	uint64_t sent;
	uint32_t flow;
	uint32_t burst;
	uint32_t index;
	uint32_t cpu;
};

#endif /* __STEER_PACKET_H */
