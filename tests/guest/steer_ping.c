// SPDX-License-Identifier: GPL-2.0
/*
 * ping - send bursts of packets to the guest, and time the echoes
 *
 *   ping FLOWS SECONDS PACKETS BURST_US PACKET_US GAP_US
 *
 * About every BURST_US a burst of PACKETS, PACKET_US apart, of the next flow.  The
 * moments are drawn at random around that, lest they go along with the host's tick.
 * Prints one JSON object: times in microseconds there and back, how many packets each
 * CPU of the guest got, and of the pairs of packets that followed each other within
 * GAP_US, how many were received on two CPUs ("split") or the wrong way round
 * ("disorder").  A packet reached the host's driver at some time between the two
 * looks at the clock around its send(), so pairs are those that certainly were as
 * near as that.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "steer_packet.h"

#define CPUS 8
#define PACKETS_MAX 200000

/**
 * struct sent - a packet
 * @before: when it was to be sent
 * @after: when it had been
 * @order: when the guest got it, 0: it did not
 * @cpu: and where
 * @index: in its burst
 */
struct sent {
	uint64_t before;
	uint64_t after;
	uint64_t order;
	uint32_t cpu;
	uint32_t index;
};

static int fds[FLOWS], flows;
static struct sent sent[PACKETS_MAX];
static uint32_t rtt[PACKETS_MAX];
static uint64_t nr, got, twice, per_cpu[CPUS];

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
			if (!p[i].revents ||
			    recv(fds[i], &in, sizeof(in), MSG_DONTWAIT) != sizeof(in))
				continue;
			/* Of a run before this one, or an echo that came twice */
			if (in.number >= nr || sent[in.number].before != in.sent ||
			    sent[in.number].order) {
				twice++;
				continue;
			}
			sent[in.number].order = in.order;
			sent[in.number].cpu = in.cpu;
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
	uint64_t end, pairs = 0, split = 0, disorder = 0, gap;
	int packets, burst = 0;

	if (argc != 7 || (flows = atoi(argv[1])) < 1 || flows > FLOWS) {
		fprintf(stderr, "ping FLOWS SECONDS PACKETS BURST_US PACKET_US GAP_US\n");
		return 2;
	}
	packets = atoi(argv[3]);
	gap = atoi(argv[6]) * 1000ull;
	inet_aton("10.9.0.2", &to.sin_addr);
	for (int i = 0; i < flows; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (connect(fds[i], (struct sockaddr *)&to, sizeof(to))) {
			perror("connect");
			return 1;
		}
	}
	srandom(1);
	end = now_ns() + atof(argv[2]) * 1e9;
	while (now_ns() < end && nr + packets <= PACKETS_MAX) {
		int f = ++burst % flows;

		for (int i = 0; i < packets; i++) {
			struct packet out = { .sent = now_ns(), .number = nr };

			sent[nr] = (struct sent){ .before = out.sent, .index = i };
			nr++;
			if (send(fds[f], &out, sizeof(out), 0) != sizeof(out)) {
				perror("send");
				return 1;
			}
			sent[nr - 1].after = now_ns();
			if (i < packets - 1)
				receive(now_ns() + atoi(argv[5]) * 1000ull);
		}
		receive(now_ns() + atoi(argv[4]) * (500ull + random() % 1000));
	}
	for (end = now_ns() + 2000000000; got < nr && now_ns() < end;)
		receive(now_ns() + 10000000);
	for (uint64_t i = 1; i < nr; i++) {
		const struct sent *a = &sent[i - 1], *b = &sent[i];

		if (!b->index || !a->order || !b->order || b->after - a->before >= gap)
			continue;
		pairs++;
		split += a->cpu != b->cpu;
		disorder += a->order > b->order;
	}
	qsort(rtt, got, sizeof(*rtt), less);
	printf("{\"sent\": %lu, \"got\": %lu, \"twice\": %lu, \"pairs\": %lu, \"split\": %lu, \"disorder\": %lu, ",
	       nr, got, twice, pairs, split, disorder);
	printf("\"median_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"per_cpu\": [",
	       got ? rtt[got / 2] : 0, got ? rtt[got * 99 / 100] : 0, got ? rtt[got - 1] : 0);
	for (int c = 0; c < CPUS; c++)
		printf("%s%lu", c ? ", " : "", per_cpu[c]);
	printf("]}\n");
	return 0;
}
