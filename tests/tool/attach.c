// SPDX-License-Identifier: GPL-2.0
/* Attach a policy as a program that knows nothing of kvmext would, until killed. */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct bpf_object *obj = argc > 1 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_map *map;

	if (!obj || bpf_object__load(obj))
		return 1;
	bpf_object__for_each_map(map, obj) if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS &&
					       !bpf_map__attach_struct_ops(map)) return 1;
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
