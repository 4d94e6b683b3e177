// SPDX-License-Identifier: GPL-2.0
/*
 * With skip_free a guest that allocates, writes and frees as fast as it can keeps its
 * memory through a hundred migrations. A guest that says too late what it uses does
 * not. tests/model/free.pml is the argument why.
 *
 * Machines: amd; intel
 * Files: build/bpf/skip_free.bpf.o
 */
#include "free_area.h"

#define GUEST_LEDGER 0x90000UL /* in the low slot, by page: what was written there; 0: it is free */

/* What is written to, and looked for in, a page */
#define STORM_WORDS 16

/* --- the guest ------------------------------------------------------------- */

/*
 * Allocate, write, look, write anew, free: pages @first to @first + @count, at random, and
 * with the bitmap as kvmext guest keeps it.  A @pause: the guest that does it wrong, and
 * says that a page is in use so long after it wrote there.
 */
static __guest __attribute__((noreturn)) void guest_storm(struct vm_box *box)
{
	volatile uint64_t *ledger = (uint64_t *)GUEST_LEDGER;
	uint64_t bits = GUEST_AREA + VM_PAGE, rnd = box->seed, gen = box->seed << 32;

	for (;;) {
		uint64_t page, pfn, had;
		volatile uint64_t *p;

		rnd ^= rnd << 13;
		rnd ^= rnd >> 7;
		rnd ^= rnd << 17;
		page = box->first + (rnd >> 8) % box->count;
		pfn = VM_MEM / VM_PAGE + page;
		p = (volatile uint64_t *)(VM_MEM + page * VM_PAGE);
		had = ledger[page];

		if (had) {
			uint64_t wrong = 0;

			for (uint64_t i = 0; i < STORM_WORDS; i++)
				wrong += p[i * 32] != had + i;
			box->wrong += !!wrong;
		}
		if (had && rnd & 1) {
			ledger[page] = 0;
			asm volatile("lock btsq %1, (%0)" ::"r"(bits), "r"(pfn) : "memory", "cc");
			goto next;
		}
		if (!had && !box->pause)
			asm volatile("lock btrq %1, (%0)" ::"r"(bits), "r"(pfn) : "memory", "cc");
		gen++;
		for (uint64_t i = 0; i < STORM_WORDS; i++)
			p[i * 32] = gen + i;
		if (!had && box->pause) {
			uint64_t start = vm_rdtsc();

			while (vm_rdtsc() - start < box->pause)
				;
			asm volatile("lock btrq %1, (%0)" ::"r"(bits), "r"(pfn) : "memory", "cc");
		}
		ledger[page] = gen;
next:
		box->progress++;
		if (box->stop) {
			box->done++;
			asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory");
		}
	}
}

/* --- migration ------------------------------------------------------------- */

/* Stop a vCPU wherever it is. */
static int cpu_freeze(struct vm_cpu *cpu)
{
	int ret;

	cpu->run->immediate_exit = 1;
	while (!cpu->finished) {
		pthread_kill(cpu->thread, SIGUSR1);
		sleep_ms(1);
	}
	ret = cpu_join(cpu);
	cpu->run->immediate_exit = 0;
	return ret == -EINTR ? 0 : ret ?: -EBUSY;
}

/*
 * Move the guest to other memory while it runs, as a VMM does that skips what is free from
 * the first pass on: what was not sent is garbage there.
 */
static int migrate(struct vm *vm, uint64_t **dst, int rounds)
{
	const uint64_t *bits = vm->low + GUEST_AREA + VM_PAGE;
	uint64_t *was = vm->mem, used[PAGES / 64];
	int ret;

	memset(*dst, 0xdb, vm->npages * VM_PAGE);
	ret = vm_log(vm, true);
	if (ret)
		return ret;
	if (vm->flags & VM_MANUAL) {
		/* Else what is clean is not write-protected before it is cleared once. */
		ret = vm_harvest(vm);
		if (ret < 0)
			return ret;
	}
	for (size_t i = 0; i < PAGES / 64; i++)
		used[i] = ~__atomic_load_n(&bits[FIRST_GFN / 64 + i], __ATOMIC_ACQUIRE);
	copy(vm, *dst, used);
	for (int i = 0; i < rounds; i++) {
		sleep_ms(1);
		ret = round_of(vm, *dst);
		if (ret)
			return ret;
	}
	for (int i = 0; i < vm->ncpus; i++) {
		ret = cpu_freeze(&vm->cpu[i]);
		if (ret)
			return ret;
	}
	ret = round_of(vm, *dst);
	if (ret)
		return ret;
	/* It goes on where it stopped, over there. */
	ret = vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, 0, NULL, 0);
	if (ret)
		return ret;
	vm->mem = *dst;
	*dst = was;
	ret = vm_log(vm, false);
	for (int i = 0; !ret && i < vm->ncpus; i++)
		ret = cpu_start(&vm->cpu[i]);
	return ret;
}

/* Each vCPU has half of the memory; with @late it says too late what it uses. */
static int storm_start(struct vm *vm, uint64_t late)
{
	struct kvm_regs r = {};
	int ret = 0;

	memset(vm->low + GUEST_LEDGER, 0, PAGES * 8);
	for (int i = 0; !ret && i < vm->ncpus; i++) {
		struct vm_cpu *cpu = &vm->cpu[i];

		cpu_set(cpu, OP_NOP, i * PAGES / vm->ncpus, PAGES / vm->ncpus, 0);
		cpu->box->seed = 0x9e3779b9 + i;
		cpu->box->pause = late;
		cpu->box->wrong = 0;
		ret = vm_ioctl(cpu->fd, KVM_GET_REGS, &r);
		r.rip = guest_addr(guest_storm);
		r.rdi = VM_BOX + i * VM_PAGE;
		if (!ret)
			ret = vm_ioctl(cpu->fd, KVM_SET_REGS, &r);
		if (!ret)
			ret = cpu_start(cpu);
	}
	return ret;
}

static uint64_t wrong(struct vm *vm)
{
	return vm->cpu[0].box->wrong + vm->cpu[1].box->wrong;
}

/* In each of the test machines there is time for a hundred. */
#define MIGRATIONS 100

TEST_F_TIMEOUT(dirty, migrations, 120)
{
	struct vm *vm = &self->vm;
	uint64_t done;

	ASSERT_EQ(0, skip_up(vm, &self->p))
	{
		TH_LOG("%s", ext_log);
	}
	ASSERT_EQ(0, storm_start(vm, 0));
	for (int i = 0; i < MIGRATIONS; i++) {
		ASSERT_EQ(0, migrate(vm, &self->dst, 1 + i % 3))
		{
			TH_LOG("migration %d: %s", i, cpu_text(&vm->cpu[0]));
		}
		done = vm->cpu[0].box->progress;
		EXPECT_TRUE(WAIT(vm->cpu[0].box->progress > done + 100, 5000));
	}
	/* Each page that is in use is looked at by then, many times over. */
	done = vm->cpu[0].box->progress;
	EXPECT_TRUE(WAIT(vm->cpu[0].box->progress > done + 20 * PAGES, 10000));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, cpu_stop(&vm->cpu[i]));
	EXPECT_EQ(0, wrong(vm));
	EXPECT_LT(MIGRATIONS * 10, counter(&self->p, "skipped"));
	EXPECT_LT(MIGRATIONS, vm_stat("back"));
	EXPECT_EQ(0, counter(&self->p, "foreign"));
	EXPECT_EQ(0, counter(&self->p, "no_lease"));
	TH_LOG("%d migrations, %llu operations; %llu pages left out, %llu sent, %llu of them taken back",
	       MIGRATIONS,
	       (unsigned long long)(vm->cpu[0].box->progress + vm->cpu[1].box->progress),
	       (unsigned long long)counter(&self->p, "skipped"),
	       (unsigned long long)counter(&self->p, "sent"),
	       (unsigned long long)vm_stat("back"));
}

/* That the test above would notice: a guest that writes first and says so later */
TEST_F_TIMEOUT(dirty, late_guest_is_noticed, 120)
{
	struct vm *vm = &self->vm;

	ASSERT_EQ(0, skip_up(vm, &self->p));
	ASSERT_EQ(0, storm_start(vm, vm_ticks_per_ms()));
	for (int i = 0; i < MIGRATIONS && !wrong(vm); i++) {
		ASSERT_EQ(0, migrate(vm, &self->dst, 1));
		WAIT(wrong(vm), 50);
	}
	EXPECT_TRUE(WAIT(wrong(vm), 5000));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, cpu_stop(&vm->cpu[i]));
}

TEST_MAIN
