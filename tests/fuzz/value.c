// SPDX-License-Identifier: GPL-2.0
/* Fuzz numbers with units: what is understood must read the same when written. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const units[] = { "", "ns", "us", "ms", "s", "pages", "%", "k" };
	const char *unit, *wrong;
	char *text, *again;
	s128 v, w;
	bool is_bool;

	if (!size)
		return 0;
	unit = units[*data % ARRAY_SIZE(units)];
	is_bool = *data & 0x80;
	text = strndup((const char *)data + 1, size - 1);
	if (!text)
		abort();
	wrong = value_parse(text, unit, is_bool, &v);
	if (!wrong) {
		fuzz_assert(!is_bool || v == 0 || v == 1);
		again = value_text(v, is_bool);
		/* What k or a unit made of it may be more than can be read. */
		wrong = value_parse(again, unit, is_bool, &w);
		if (v <= UINT64_MAX && v >= -(s128)UINT64_MAX)
			fuzz_assert(!wrong && v == w);
		else
			fuzz_assert(wrong);
	}
	free(text);
	fuzz_reset();
	return 0;
}
