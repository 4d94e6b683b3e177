// SPDX-License-Identifier: GPL-2.0
/*
 * Fuzz the command line: the input is its arguments, one a line.  Everything up to
 * where privilege is asked for is run, and the user has none.
 */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *p = text, *argv[66] = { "kvmext" };
	int argc = 1;

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	while (p && argc < 65)
		argv[argc++] = strsep(&p, "\n");
	fuzz_run(argc, argv);
	free(text);
	return 0;
}
