// SPDX-License-Identifier: GPL-2.0
/*
 * bpf(2) without the tool, as somebody would who wants to get round it:
 *
 *   byhand get PATH            a pinned object, to read and write
 *   byhand link|map|prog ID    the same by its id
 *   byhand update LINK OPS     put the table pinned at OPS in force by the link at LINK
 *   byhand load FILE           a policy: load, attach, and at once end it
 *   byhand mark PID VCPU       run the program that marks (build/user/mark.bpf.o)
 *
 * Prints "done" and exits with 0, or prints the error's name and exits with 1.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	(void)level;
	(void)fmt;
	(void)ap;
	return 0;
}

static int update(const char *link, const char *ops)
{
	int l = bpf_obj_get(link), m = bpf_obj_get(ops);

	return l < 0 ? l : m < 0 ? m : bpf_link_update(l, m, NULL);
}

static int load(const char *file)
{
	struct bpf_object *obj = bpf_object__open_file(file, NULL);
	struct bpf_map *map;
	int err;

	if (!obj)
		return -errno;
	err = bpf_object__load(obj);
	if (err)
		return err;
	bpf_object__for_each_map(map, obj)
	{
		struct bpf_link *link;

		if (bpf_map__type(map) != BPF_MAP_TYPE_STRUCT_OPS)
			continue;
		link = bpf_map__attach_struct_ops(map);
		if (!link)
			return -errno;
		bpf_link__destroy(link);
	}
	return 0;
}

static int mark(uint32_t pid, uint32_t vcpu)
{
	struct {
		uint32_t pid, vcpu, on;
	} ctx = { pid, vcpu, 1 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
	struct bpf_object *obj = bpf_object__open_file("build/user/mark.bpf.o", NULL);
	struct bpf_program *prog;
	int err;

	if (!obj)
		return -errno;
	err = bpf_object__load(obj);
	prog = bpf_object__next_program(obj, NULL);
	if (!err)
		err = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);
	return err ?: (int)opts.retval;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
	int ret = -EINVAL;

	libbpf_set_print(quiet);
	if (!strcmp(verb, "get"))
		ret = bpf_obj_get(arg);
	else if (!strcmp(verb, "link"))
		ret = bpf_link_get_fd_by_id(atoi(arg));
	else if (!strcmp(verb, "map"))
		ret = bpf_map_get_fd_by_id(atoi(arg));
	else if (!strcmp(verb, "prog"))
		ret = bpf_prog_get_fd_by_id(atoi(arg));
	else if (!strcmp(verb, "update") && argc > 3)
		ret = update(arg, argv[3]);
	else if (!strcmp(verb, "load"))
		ret = load(arg);
	else if (!strcmp(verb, "mark") && argc > 3)
		ret = mark(atoi(arg), atoi(argv[3]));
	puts(ret < 0 ? strerrorname_np(-ret) : "done");
	return ret < 0;
}
