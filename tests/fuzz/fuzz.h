/* SPDX-License-Identifier: GPL-2.0 */
/* What the fuzz targets share; see fuzz.c. */
#ifndef __FUZZ_H
#define __FUZZ_H

#include <stdio.h>

#include "user/args.h"
#include "user/host.h"
#include "user/object.h"
#include "user/out.h"
#include "user/text.h"
#include "user/vars.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/**
 * fuzz_run - run the tool once, in this process
 * @argc: arguments, the program's name first
 * @argv: likewise
 *
 * Aborts when the tool breaks a promise: an exit code of 0 to 10; an error is one
 * line on stderr, or with --json one JSON document on stdout; no control characters
 * anywhere.
 *
 * Return: its exit code.
 */
int fuzz_run(int argc, char **argv);
/* fuzz_reset - free what the tool left */
void fuzz_reset(void);
/* fuzz_assert - abort with a word about it */
#define fuzz_assert(cond)                                                     \
	do {                                                                  \
		if (!(cond)) {                                                \
			dprintf(2, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			abort();                                              \
		}                                                             \
	} while (0)

/*
 * What the linker puts in the place of the tool's own (--wrap): nothing here may
 * fork, change this process's rights or reach the kernel's BPF.
 */
extern int fuzz_privilege;
extern const uint8_t *fuzz_file;
extern size_t fuzz_file_size;
/* If there is one: all that load asks of a kernel is answered by fuzz_syscall(). */
extern struct btf *fuzz_kernel;
struct btf *fuzz_types(const char *path);
long fuzz_syscall(long nr, long a, long b, long c, long d, long e, long f);

/* With libFuzzer only: change the input, and one that is an ELF file. */
size_t fuzz_mutate_any(uint8_t *data, size_t size, size_t max);
size_t fuzz_mutate_elf(uint8_t *data, size_t size, size_t max, unsigned int seed);

#endif /* __FUZZ_H */
