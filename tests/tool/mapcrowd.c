// SPDX-License-Identifier: GPL-2.0
/*
 * A crowd in the maps of a kvmext that runs: 4,096 vCPUs of a VM of 1 TiB.
 *
 *   mapcrowd dirty CHUNKS    they dirty CHUNKS times 64 pages, from one end of it to the other
 *   mapcrowd hist KEYS       they exit for KEYS reasons each
 *
 * Prints "done MAP_TYPE" when the maps have had all of it, and ends with stdin.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <linux/types.h>

#include "maps.h"

#include "user/dirty.h"
#include "user/dirty.skel.h"
#include "user/event.h"

#define VCPUS 4096
#define CHUNKS (1ull << (40 - 12 - DIRTY_CHUNK_SHIFT))

static int crowd_dirty(uint64_t chunks)
{
	struct dirty_val val = { .bits = ~0ull, .n = 64 };
	uint32_t type;
	int map[2] = { map_of("even", &type), map_of("odd", &type) };
	volatile struct dirty_bpf__bss *bss;

	bss = mmap(NULL, sizeof(*bss), PROT_READ, MAP_SHARED, map_of("dirty_bp.bss", &type), 0);
	if (map[0] < 0 || map[1] < 0 || bss == MAP_FAILED)
		return 1;
	for (uint64_t i = 0; i < chunks; i++) {
		struct dirty_key key = {
			.kvm = 0xffff000000000000,
			.chunk = i * (CHUNKS / chunks),
			.vcpu = i % VCPUS,
			.tgid = getpid(),
		};

		/* Until the tool has made room */
		while (bpf_map_update_elem(map[bss->epoch & 1], &key, &val, 0))
			usleep(1000);
	}
	printf("done %u\n", type);
	return 0;
}

static int crowd_hist(uint64_t keys)
{
	struct hist h = { .n = 1, .sum = 1000, .max = 1000 };
	uint32_t type = 0;
	int map = map_of("hists", &type);

	h.slot[10] = 1;
	for (uint64_t i = 0; i < VCPUS * keys; i++) {
		struct hist_key key = {
			.reason = i / VCPUS,
			.vm = getpid(),
			.vcpu = i % VCPUS,
		};

		if (bpf_map_update_elem(map, &key, &h, 0)) {
			fprintf(stderr, "mapcrowd: %s\n", strerror(errno));
			return 1;
		}
	}
	printf("done %u\n", type);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t n = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	int ret;

	if (!n)
		return 2;
	ret = strcmp(argv[1], "dirty") ? crowd_hist(n) : crowd_dirty(n);
	fflush(stdout);
	if (!ret && getchar() != EOF)
		ret = 1;
	return ret;
}
