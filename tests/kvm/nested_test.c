// SPDX-License-Identifier: GPL-2.0
/*
 * The throttle charges a nested guest's writes to the vCPU that runs it, and blocks
 * that vCPU. vCPU 1 is a small hypervisor. Its guest writes the memory under test
 * through other addresses than the hypervisor's own. vCPU 0 is a plain guest.
 */
#include "harness.h"
#include "ext.h"
#include "nested.h"

#define PAGES 512

#define CPUID_SVM 4 /* in ECX of 0x80000001 */
#define CPUID_NPT 1 /* in EDX of 0x8000000a */

/* What follows the mailbox of the hypervisor's vCPU in its page */
struct nested_box {
	struct vm_box box;
	volatile uint64_t exit_code; /* the last one of the nested guest */
	volatile uint64_t runs;
};

/* --- what runs in the guest ------------------------------------------------ */

/* The hypervisor: run the guest until it calls, say so to the host, again. */
static __guest __attribute__((noreturn)) void guest_hypervisor(struct nested_box *n)
{
	struct vmcb *vmcb = (struct vmcb *)VMCB;

	asm volatile("wrmsr" ::"c"(MSR_HSAVE), "a"((uint32_t)HSAVE), "d"(0));
	for (;;) {
		guest_vmrun(vmcb, n);
		n->runs++;
		n->exit_code = vmcb->control.exit_code;
		vmcb->save.rip += 3; /* past VMMCALL */
		n->box.done++;
		asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory");
	}
}

/* Its guest: as guest_main() with OP_WRITE, at its own addresses. */
static __guest __attribute__((noreturn)) void guest_nested(struct nested_box *n)
{
	struct vm_box *box = &n->box;

	for (;;) {
		for (uint64_t r = 0; !box->stop && (!box->rounds || r < box->rounds); r++) {
			for (uint64_t i = 0; i < box->count && !box->stop; i++) {
				uint64_t page = box->first + i, start = vm_rdtsc();

				*(volatile uint64_t *)(NESTED_MEM + page * VM_PAGE) =
					box->value + page;
				box->progress++;
				while (vm_rdtsc() - start < box->pause)
					;
			}
		}
		asm volatile("vmmcall" ::: "memory");
	}
}

FIXTURE(nested)
{
	struct vm vm;
	struct vm_cpu *plain, *hyper;
	struct nested_box *n;
	struct probe p;
	pid_t pid;
	int kmsg;
	uint64_t ms; /* TSC ticks in one */
	volatile bool quit;
	uint64_t harvested;
};

FIXTURE_VARIANT(nested)
{
	bool npt;
};

FIXTURE_VARIANT_ADD(nested, nested_paging){
	.npt = true,
};

FIXTURE_VARIANT_ADD(nested, shadow_paging){
	.npt = false,
};

FIXTURE_SETUP(nested)
{
	ASSERT_STOCK(self);
	vm_signals();
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG));
	if (!(nested_supported(&self->vm, 0x80000001, false) & CPUID_SVM))
		SKIP(return,
			   "KVM offers no SVM to a guest here; the hypervisor of this test needs it");
	if (variant->npt && !(nested_supported(&self->vm, 0x8000000a, true) & CPUID_NPT))
		SKIP(return, "KVM offers no nested paging to a guest here");
	self->plain = &self->vm.cpu[0];
	self->hyper = &self->vm.cpu[1];
	self->n = (struct nested_box *)self->hyper->box;
	ASSERT_EQ(0, vm_warm(&self->vm));
	nested_vmcb(&self->vm, guest_nested, variant->npt);
	ASSERT_EQ(0, nested_start(self->hyper, guest_hypervisor));
	self->ms = vm_ticks_per_ms();
	ASSERT_EQ(0, probe_up(&self->p, "probe", self->pid, F_ANY_VCPU))
	{
		TH_LOG("%s", ext_log);
	}
}

FIXTURE_TEARDOWN(nested)
{
	probe_free(&self->p);
	vm_free(&self->vm);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, policies());
}

static int nested_write(FIXTURE_DATA(nested) * self, uint64_t first, uint64_t count)
{
	int ret = cpu_do(self->hyper, OP_WRITE, first, count);

	return ret ?: self->n->exit_code == EXIT_VMMCALL ? 0 : -(int)self->n->exit_code;
}

static bool in_bitmap(struct vm *vm, size_t page)
{
	return vm->bitmap[page / 64] >> page % 64 & 1;
}

/* --- whose, and which pages ------------------------------------------------ */

TEST_F(nested, accounts_to_its_vcpu)
{
	volatile struct probe_counts *c = self->p.c;
	unsigned int wrong;

	self->hyper->box->value = 7;
	for (unsigned int round = 1; round <= 3; round++) {
		ASSERT_EQ(0, nested_write(self, 100, 50))
		{
			TH_LOG("exit code %#llx, %s", (unsigned long long)self->n->exit_code,
			       cpu_text(self->hyper));
		}
		EXPECT_EQ(round * 50, c->dirtied_cpu[1]);
		/* Dirty already: nothing more to be told of. */
		ASSERT_EQ(0, nested_write(self, 100, 50));
		EXPECT_EQ(round * 50, c->dirtied_cpu[1]);
		ASSERT_EQ(0, cpu_do(self->plain, OP_WRITE, 300, 20));
		EXPECT_EQ(round * 20, c->dirtied_cpu[0]);
		EXPECT_EQ(round * 50, c->dirtied_cpu[1]);
		EXPECT_EQ(round * 70, probe_dirtied(&self->p));
		/* As KVM's own log and counters have it. */
		EXPECT_EQ(70, harvest(&self->vm));
		wrong = 0;
		for (int i = 0; i < PAGES; i++) {
			bool want = (i >= 100 && i < 150) || (i >= 300 && i < 320);

			wrong += in_bitmap(&self->vm, i) != want;
			/* The hypervisor's page numbers, not those of its guest */
			wrong += c->page[i] != (want ? round : 0);
		}
		EXPECT_EQ(0, wrong);
		EXPECT_EQ(0, c->outside);
	}
	EXPECT_EQ(150, vcpu_dirty(self->pid, 1));
	EXPECT_EQ(60, vcpu_dirty(self->pid, 0));
	EXPECT_EQ(6, self->n->runs);
	EXPECT_EQ(0, vm_wrong_pages(&self->vm, 100, 50, 7));
	EXPECT_EQ(0, c->asks);
}

/* --- who is blocked -------------------------------------------------------- */

TEST_F(nested, blocks_its_vcpu_alone)
{
	volatile struct probe_counts *c = self->p.c;
	uint64_t asks;

	self->p.k->answer = 20 * MS;
	self->hyper->box->pause = self->plain->box->pause = 5 * self->ms;
	ASSERT_EQ(0, ext_mark(self->pid, 1, true));
	cpu_set(self->plain, OP_WRITE, 300, 20, 1);
	ASSERT_EQ(0, cpu_start(self->plain));
	ASSERT_EQ(0, nested_write(self, 100, 20));
	ASSERT_EQ(0, cpu_join(self->plain));
	asks = c->asks;
	EXPECT_EQ(asks, c->asks_cpu[1]);
	/* One ask for each page, but where the vCPU had to wait for a CPU before it. */
	EXPECT_LE(10, asks);
	EXPECT_EQ(20, asks + vcpu_num(self->pid, 1, "early") + vcpu_num(self->pid, 1, "pending"));
	EXPECT_EQ(asks, vcpu_num(self->pid, 1, "blocks"));
	EXPECT_LE(asks * 20 * MS, vcpu_num(self->pid, 1, "blocked_ns"));
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocks"));
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocked_ns"));

	/* The other way round */
	ASSERT_EQ(0, ext_mark(self->pid, 1, false));
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	EXPECT_EQ(40, harvest(&self->vm));
	cpu_set(self->hyper, OP_WRITE, 100, 20, 1);
	ASSERT_EQ(0, cpu_start(self->hyper));
	ASSERT_EQ(0, cpu_do(self->plain, OP_WRITE, 300, 20));
	ASSERT_EQ(0, cpu_join(self->hyper));
	EXPECT_EQ(EXIT_VMMCALL, self->n->exit_code);
	EXPECT_EQ(asks, c->asks_cpu[1]);
	EXPECT_EQ(asks, vcpu_num(self->pid, 1, "blocks"));
	EXPECT_LE(10, c->asks_cpu[0]);
	EXPECT_EQ(c->asks_cpu[0], vcpu_num(self->pid, 0, "blocks"));
	EXPECT_EQ(40, harvest(&self->vm));
}

/* --- progress -------------------------------------------------------------- */

static void *harvest_loop(void *arg)
{
	FIXTURE_DATA(nested) *self = arg;

	while (!self->quit) {
		int n = harvest(&self->vm);

		self->harvested += n > 0 ? n : 0;
		sleep_ms(10);
	}
	return NULL;
}

TEST_F_TIMEOUT(nested, gets_on_while_throttled, 60)
{
	volatile struct probe_counts *c = self->p.c;
	volatile uint64_t *progress = &self->hyper->box->progress;
	pthread_t harvester;
	uint64_t before;

	self->p.k->answer = 3 * MS;
	self->hyper->box->value = 5;
	self->hyper->box->pause = self->ms / 50;
	ASSERT_EQ(0, ext_mark(self->pid, 1, true));
	cpu_set(self->hyper, OP_WRITE, 0, 200, 0);
	cpu_set(self->plain, OP_WRITE, 256, 64, 0);
	self->plain->box->pause = self->ms / 50;
	ASSERT_EQ(0, pthread_create(&harvester, NULL, harvest_loop, self));
	ASSERT_EQ(0, cpu_start(self->hyper));
	ASSERT_EQ(0, cpu_start(self->plain));
	for (int i = 0; i < 4; i++) {
		before = *progress;
		sleep_ms(500);
		EXPECT_TRUE(WAIT(*progress > before + 200, 5000));
	}
	EXPECT_TRUE(WAIT(vcpu_num(self->pid, 1, "blocks") >= 20, 10000));
	EXPECT_EQ(0, cpu_stop(self->hyper));
	EXPECT_EQ(0, cpu_stop(self->plain));
	self->quit = true;
	pthread_join(harvester, NULL);
	self->harvested += harvest(&self->vm);
	TH_LOG("nested guest: %llu writes, %lld pages dirtied, %lld blocks, %lld ms blocked; the other vCPU: %lld pages",
	       (unsigned long long)*progress, vcpu_dirty(self->pid, 1),
	       vcpu_num(self->pid, 1, "blocks"), vcpu_num(self->pid, 1, "blocked_ns") / 1000000,
	       vcpu_dirty(self->pid, 0));
	EXPECT_EQ(EXIT_VMMCALL, self->n->exit_code);
	/* Every page once for each time it was found dirty. */
	EXPECT_EQ(self->harvested, probe_dirtied(&self->p));
	EXPECT_EQ(self->harvested, vcpu_dirty(self->pid, 0) + vcpu_dirty(self->pid, 1));
	EXPECT_EQ(0, c->outside);
	EXPECT_EQ(c->asks, c->asks_cpu[1]);
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocks"));
	EXPECT_EQ(0, vm_wrong_pages(&self->vm, 0, 200, 5));
	EXPECT_TRUE(policy_is("probe", "active"));
}

TEST_MAIN
