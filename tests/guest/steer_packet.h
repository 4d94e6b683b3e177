/* SPDX-License-Identifier: GPL-2.0 */
/* What ping.c sends and guest.c echoes. */
#ifndef __STEER_PACKET_H
#define __STEER_PACKET_H

#include <stdint.h>

#define PORT 7
#define FLOWS 64

/**
 * struct packet - one
 * @sent: CLOCK_MONOTONIC of the sender
 * @number: from 0 on
 * @cpu: on which CPU of the guest it was received; in the echo
 * @order: as how many'th of all; in the echo
 */
struct packet {
	uint64_t sent;
	uint32_t number;
	uint32_t cpu;
	uint64_t order;
};

#endif /* __STEER_PACKET_H */
