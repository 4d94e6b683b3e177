/* SPDX-License-Identifier: GPL-2.0 */
/* The maps of a kvmext that runs, from outside. */
#ifndef __TESTS_TOOL_MAPS_H
#define __TESTS_TOOL_MAPS_H

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

/* A descriptor of the newest map of that name and its type, or -1 */
static inline int map_of(const char *name, uint32_t *type)
{
	uint32_t id = 0;
	int found = -1;

	while (!bpf_map_get_next_id(id, &id)) {
		int fd = bpf_map_get_fd_by_id(id);
		struct bpf_map_info info = {};
		uint32_t len = sizeof(info);

		if (fd < 0)
			continue;
		if (bpf_map_get_info_by_fd(fd, &info, &len) || strcmp(info.name, name)) {
			close(fd);
			continue;
		}
		if (found >= 0)
			close(found);
		found = fd;
		*type = info.type;
	}
	return found;
}

#endif
