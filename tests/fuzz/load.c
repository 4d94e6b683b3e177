// SPDX-License-Identifier: GPL-2.0
/*
 * Fuzz the loading of policy files, into a kernel that is not there: its types are those
 * of kernel.bpf.c, and of its bpf(2) it only looks at what it is given and answers.  The
 * input is what it answers, how long its verifier's log is, that log, and the file.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The errors of these commands, 0 for none. */
enum { OF_PROG, OF_MAP, OF_BTF, OF_UPDATE, OF_LINK, OF_LOG, ANSWERS };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed);

static const uint8_t *answers, *verifier;
static int null = -1, link_fd = -1;

/* What the kernel would read must be there. */
static void reads(uint64_t addr, size_t size)
{
	if (addr && size)
		fuzz_assert(!__asan_region_is_poisoned((void *)(uintptr_t)addr, size));
}

static int answer(int of)
{
	if (!answers[of])
		return 0;
	errno = answers[of] % 134 ?: EPERM;
	return -1;
}

static int prog_load(const union bpf_attr *attr)
{
	size_t n = answers[OF_LOG];

	reads(attr->insns, attr->insn_cnt * sizeof(struct bpf_insn));
	reads(attr->func_info, attr->func_info_cnt * attr->func_info_rec_size);
	reads(attr->line_info, attr->line_info_cnt * attr->line_info_rec_size);
	reads(attr->license, 1);
	/* libbpf's own first program, by which it sees whether anything can be loaded */
	if (attr->insn_cnt == 2 && !attr->func_info && !attr->attach_btf_id)
		return dup(null);
	if (!answer(OF_PROG))
		return dup(null);
	if (attr->log_buf && attr->log_size) {
		char *to = (char *)(uintptr_t)attr->log_buf;

		if (n >= attr->log_size)
			n = attr->log_size - 1;
		memcpy(to, verifier, n);
		to[n] = 0;
		answer(OF_PROG);
	}
	return -1;
}

/* Memory to map, as an array's; no more than a page of a large one is ever touched. */
static int map_create(const union bpf_attr *attr)
{
	uint64_t size = ((uint64_t)attr->value_size + 7) * attr->max_entries;
	int fd;

	if (answer(OF_MAP))
		return -1;
	fd = memfd_create("map", MFD_CLOEXEC);
	if (fd >= 0 && size <= 1UL << 40 && ftruncate(fd, (size + 4095) & ~4095UL))
		abort();
	return fd;
}

static long bpf(int cmd, const union bpf_attr *attr)
{
	switch (cmd) {
	case BPF_PROG_LOAD:
		return prog_load(attr);
	case BPF_MAP_CREATE:
		return map_create(attr);
	case BPF_BTF_LOAD:
		reads(attr->btf, attr->btf_size);
		return answer(OF_BTF) ?: dup(null);
	case BPF_MAP_UPDATE_ELEM:
		reads(attr->key, 1);
		reads(attr->value, 1);
		return answer(OF_UPDATE);
	case BPF_LINK_CREATE:
		return answer(OF_LINK) ?: link_fd;
	case BPF_MAP_FREEZE:
	case BPF_PROG_BIND_MAP:
	case BPF_LINK_DETACH:
	case BPF_OBJ_GET_INFO_BY_FD:
		return 0;
	}
	errno = ENOENT;
	return -1;
}

long __real_syscall(long nr, long a, long b, long c, long d, long e, long f);
long fuzz_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	return nr == SYS_bpf ? bpf(a, (void *)b) : __real_syscall(nr, a, b, c, d, e, f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *want;
	int ret;

	if (size < ANSWERS || size - ANSWERS < data[OF_LOG])
		return 0;
	answers = data;
	verifier = data + ANSWERS;
	if (null < 0) {
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		link_fd = dup(null);
		fuzz_kernel = fuzz_types("build/fuzz/kernel.bpf.o");
	}
	want = getenv("FUZZ_WANT");
	fuzz_privilege = OK;
	for (int json = 0; json < 2; json++) {
		char *argv[] = { "kvmext", json ? "--json" : "--quiet", "load", "an/object.bpf.o",
				 NULL };

		fuzz_file = verifier + data[OF_LOG];
		fuzz_file_size = size - ANSWERS - data[OF_LOG];
		ret = fuzz_run(4, argv);
		/* Of a file known to be good: it gets all the way. */
		fuzz_assert(!want || ret == atoi(want));
	}
	return 0;
}

#ifdef FUZZ
/* Mostly the file. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed)
{
	size_t head = size < ANSWERS ? size : ANSWERS + data[OF_LOG];

	if (head >= size || seed % 16 == 0)
		return fuzz_mutate_any(data, size, max);
	return head + fuzz_mutate_elf(data + head, size - head, max - head, seed / 16);
}
#endif
