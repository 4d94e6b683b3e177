// SPDX-License-Identifier: GPL-2.0
/* Fuzz the reading of policy files: the input is one, and "kvmext list" shows it. */
#include "tests/fuzz/fuzz.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	for (int json = 0; json < 2; json++) {
		char *argv[] = { "kvmext", json ? "--json" : "--quiet", "list", "an/object.bpf.o",
				 NULL };

		fuzz_file = data;
		fuzz_file_size = size;
		fuzz_run(4, argv);
	}
	return 0;
}

#ifdef FUZZ
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed)
{
	return fuzz_mutate_elf(data, size, max, seed);
}
#endif
