/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Put before every file of the tool (-include) when it is built to be fuzzed.  The
 * tool ends soon and leaves its memory to the exit; here it runs a million times
 * in one process, so what it got is kept account of and freed between runs.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *fuzz_malloc(size_t size);
void *fuzz_calloc(size_t n, size_t size);
void *fuzz_realloc(void *p, size_t size);
void fuzz_free(void *p);
int fuzz_vasprintf(char **s, const char *fmt, va_list ap);
_Noreturn void fuzz_exit(int code);
int kvmext_main(int argc, char **argv);

#ifndef FUZZ_ARENA
#define malloc fuzz_malloc
#define calloc fuzz_calloc
#define realloc fuzz_realloc
#define free fuzz_free
#define vasprintf fuzz_vasprintf
#define exit fuzz_exit
#define main kvmext_main
#endif
