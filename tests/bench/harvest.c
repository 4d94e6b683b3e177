// SPDX-License-Identifier: GPL-2.0
/*
 * What a harvest costs in which nothing was written, with 128 MiB left out: KVM's own, and
 * with skip_free.  For a machine whose TSC counts instructions (tests/bench/free_cost.py).
 *
 *   harvest stock|free GIB...	one line of JSON for each slot of GIB, each way to take the log
 */
#include "free_area.h"

#define FREE_PAGES (128UL << 20 >> 12)
#define HARVESTS 100
#define AGAIN 3

_Static_assert(FIRST_GFN + FREE_PAGES <= (AREA_PAGES - 1) * FREE_PAGE_BITS, "the bitmap fits");

static int cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *v, int n)
{
	qsort(v, n, sizeof(*v), cmp);
	return v[n / 2];
}

/* Instructions of one KVM_GET_DIRTY_LOG; ~0 when it found something or failed */
static uint64_t count(struct vm *vm, bool quiet)
{
	uint64_t t = vm_rdtsc();
	int ret = vm_get_log(vm, VM_SLOT_MEM, vm->bitmap);

	t = vm_rdtsc() - t;
	return ret || (quiet && vm_popcount(vm->bitmap, FREE_PAGES)) ? ~0ULL : t;
}

static int one(uint64_t gib, bool manual, bool with)
{
	uint64_t n[HARVESTS], first[AGAIN], last[AGAIN], filled[AGAIN], usual[AGAIN];
	size_t npages = gib << 18;
	/* The emulator is slow where there is much to look at */
	int times = gib > 1 ? 1 : AGAIN;
	struct pol p = {};
	struct vm vm;
	int ret;

	ret = vm_create(&vm, 1, npages, VM_LOG | VM_SPARSE | (manual ? VM_MANUAL : 0));
	if (ret)
		return ret;
	if (with) {
		ret = skip_up_pages(&vm, &p, FREE_PAGES);
		if (ret) {
			fprintf(stderr, "%s", ext_log);
			return ret;
		}
	}
	ret = vm_harvest(&vm);
	for (int again = 0; ret >= 0 && again < times; again++) {
		ret = cpu_do(&vm.cpu[0], OP_WRITE, 0, FREE_PAGES);
		if (ret)
			break;
		/* All of it was written */
		filled[again] = count(&vm, with);
		if (!with && manual)
			ret = vm_harvest(&vm);
		for (int i = 0; i < HARVESTS; i++)
			n[i] = count(&vm, true);
		first[again] = n[0];
		last[again] = n[HARVESTS - 1];
		usual[again] = median(n, HARVESTS);
	}
	if (ret >= 0) {
		printf("{\"gib\": %llu, \"mode\": \"%s\", \"who\": \"%s\", \"written\": %llu, \"first\": %llu, \"usual\": %llu, \"hundredth\": %llu}\n",
		       (unsigned long long)gib, manual ? "manual" : "legacy",
		       with ? "skip_free" : "stock", (unsigned long long)median(filled, times),
		       (unsigned long long)median(first, times),
		       (unsigned long long)median(usual, times),
		       (unsigned long long)median(last, times));
		fflush(stdout);
		ret = 0;
	}
	pol_free(&p);
	vm_free(&vm);
	return ret;
}

int main(int argc, char **argv)
{
	bool with = argc > 1 && !strcmp(argv[1], "free");
	int ret = 0;

	vm_signals();
	for (int i = 2; !ret && i < argc; i++) {
		ret = one(strtoull(argv[i], NULL, 10), false, with);
		if (!ret)
			ret = one(strtoull(argv[i], NULL, 10), true, with);
	}
	if (ret)
		fprintf(stderr, "harvest: %s\n", strerror(-ret));
	return argc < 3 || ret;
}
