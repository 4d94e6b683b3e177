/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's test harness, with time-outs that grow by KVMEXT_SLOW, which the
 * debug machine sets: several times slower is no failure there.
 */
#ifndef __TESTS_HARNESS_H
#define __TESTS_HARNESS_H

#include "kselftest_harness.h"
#include "vm.h"

#define TEST_MAIN                                                                     \
	int main(int argc, char **argv)                                               \
	{                                                                             \
		for (struct __fixture_metadata *f = __fixture_list; f; f = f->next) { \
			for (struct __test_metadata *t = f->tests; t; t = t->next)    \
				t->timeout *= patience();                             \
		}                                                                     \
		return test_harness_run(argc, argv);                                  \
	}

#endif
