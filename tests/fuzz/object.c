// SPDX-License-Identifier: GPL-2.0
/* Fuzz the reading of policy files: the input is one, and "kvmext list" shows it. */
#include "tests/fuzz/fuzz.h"

#include <elf.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
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
/*
 * Most changes to an ELF file that know nothing of ELF end at its first bytes: change
 * one section's contents or one entry of the section table, mostly.
 */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed)
{
	Elf64_Ehdr eh;
	Elf64_Shdr sh;
	uint64_t at;

	if (size < sizeof(eh) || seed % 4 == 0)
		return LLVMFuzzerMutate(data, size, max);
	memcpy(&eh, data, sizeof(eh));
	if (!eh.e_shnum || eh.e_shoff > size || eh.e_shnum > (size - eh.e_shoff) / sizeof(sh))
		return LLVMFuzzerMutate(data, size, max);
	at = eh.e_shoff + seed / 16 % eh.e_shnum * sizeof(sh);
	memcpy(&sh, data + at, sizeof(sh));
	if (seed % 4 == 1) {
		LLVMFuzzerMutate((uint8_t *)&sh, sizeof(sh), sizeof(sh));
		memcpy(data + at, &sh, sizeof(sh));
	} else if (sh.sh_offset < size && sh.sh_size && sh.sh_size <= size - sh.sh_offset) {
		/* A few bytes of it: all of a large one at once is only noise. */
		uint64_t off = seed / 256 % sh.sh_size, n = sh.sh_size - off;

		LLVMFuzzerMutate(data + sh.sh_offset + off, n < 24 ? n : 24, n < 24 ? n : 24);
	}
	return size;
}
#endif
