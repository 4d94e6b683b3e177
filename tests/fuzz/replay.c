// SPDX-License-Identifier: GPL-2.0
/*
 * Run a fuzz target once on each file named, in place of libFuzzer.  With --overrun
 * read too far behind each: the sanitizer must notice.
 */
#include "tests/fuzz/fuzz.h"

int main(int argc, char **argv)
{
	bool overrun = argc > 1 && !strcmp(argv[1], "--overrun");

	for (int i = 1 + overrun; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");
		uint8_t *data = malloc(1 << 20);
		size_t n;

		if (!f || !data) {
			perror(argv[i]);
			return 1;
		}
		n = fread(data, 1, 1 << 20, f);
		fclose(f);
		/* At the end of its memory, so that a read behind it is noticed. */
		data = realloc(data, n + !n);
		if (!data)
			abort();
		if (overrun && ((volatile uint8_t *)data)[n + !n])
			return 1;
		/* The last one named is the one that crashed. */
		dprintf(2, "%s\n", argv[i]);
		LLVMFuzzerTestOneInput(data, n);
		free(data);
	}
	return 0;
}
