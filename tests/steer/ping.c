// SPDX-License-Identifier: GPL-2.0
/*
 * ping - send bursts of packets to the guest, and time the echoes
 *
 *   ping FLOWS SECONDS PACKETS BURST_US PACKET_US
 *
 * About every BURST_US a burst of PACKETS, PACKET_US apart, of the next flow.  The
 * moments are drawn at random around that, lest they go along with the host's tick.
 * Prints one JSON object: times in microseconds there and back, and how many packets
 * each CPU of the guest got.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "packet.h"

#define CPUS 8
#define PACKETS_MAX 1000000

static int fds[FLOWS], flows;
static uint32_t rtt[PACKETS_MAX];
static uint64_t got, per_cpu[CPUS];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* Take in echoes until then. */
static void receive(uint64_t until)
{
	struct pollfd p[FLOWS];
	struct packet in;

	for (;;) {
		uint64_t now = now_ns();
		struct timespec left = {};

		if (now < until)
			left.tv_nsec = (until - now) % 1000000000;
		if (now < until)
			left.tv_sec = (until - now) / 1000000000;
		for (int i = 0; i < flows; i++)
			p[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
		if (ppoll(p, flows, &left, NULL) <= 0 && now >= until)
			return;
		for (int i = 0; i < flows; i++) {
			if (!p[i].revents || recv(fds[i], &in, sizeof(in), MSG_DONTWAIT) != sizeof(in))
				continue;
			if (got < PACKETS_MAX)
				rtt[got++] = (now_ns() - in.sent) / 1000;
			per_cpu[in.cpu % CPUS]++;
		}
	}
}

static int less(const void *a, const void *b)
{
	return (*(const uint32_t *)a > *(const uint32_t *)b) -
	       (*(const uint32_t *)a < *(const uint32_t *)b);
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	static uint32_t burst;
	uint64_t sent = 0, end;
	int packets;

	if (argc != 6 || (flows = atoi(argv[1])) < 1 || flows > FLOWS) {
		fprintf(stderr, "ping FLOWS SECONDS PACKETS BURST_US PACKET_US\n");
		return 2;
	}
	packets = atoi(argv[3]);
	inet_aton("10.9.0.2", &to.sin_addr);
	for (int i = 0; i < flows; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (connect(fds[i], (struct sockaddr *)&to, sizeof(to))) {
			perror("connect");
			return 1;
		}
	}
	/* So that no two runs have a burst of the same number */
	burst = now_ns() >> 20;
	srandom(1);
	end = now_ns() + atof(argv[2]) * 1e9;
	while (now_ns() < end && sent + packets < PACKETS_MAX) {
		int f = ++burst % flows;

		for (int i = 0; i < packets; i++) {
			struct packet out = { now_ns(), f, burst, i, 0 };

			sent += send(fds[f], &out, sizeof(out), 0) == sizeof(out);
			if (i < packets - 1)
				receive(now_ns() + atoi(argv[5]) * 1000ull);
		}
		receive(now_ns() + atoi(argv[4]) * (500ull + random() % 1000));
	}
	receive(now_ns() + 1000000000);
	qsort(rtt, got, sizeof(*rtt), less);
	printf("{\"sent\": %lu, \"got\": %lu, \"median_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"per_cpu\": [",
	       sent, got, got ? rtt[got / 2] : 0, got ? rtt[got * 99 / 100] : 0,
	       got ? rtt[got - 1] : 0);
	for (int c = 0; c < CPUS; c++)
		printf("%s%lu", c ? ", " : "", per_cpu[c]);
	printf("]}\n");
	return 0;
}
