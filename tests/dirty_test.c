// SPDX-License-Identifier: GPL-2.0
/*
 * The dirty log without what the guest does not use: that a policy can leave pages out,
 * put none in and lose none, whatever it answers and however it ends; and that with
 * skip_free a guest that allocates, writes and frees as fast as it can finds all of its
 * memory after each of a hundred migrations.
 *
 * Machines: amd; intel
 * Files: build/bpf/skip_free.bpf.o
 */
#include "harness.h"
#include "ext.h"
#include "bpf/dirty_probe.h"
#include "bpf/free.h"

#include <sys/wait.h>

#define PAGES 512
#define FIRST_GFN (VM_MEM / VM_PAGE)

/* Guest-physical, in the low slot, which is not logged */
#define GUEST_AREA 0x80000UL /* struct free_head, and the bitmap in the pages after it */
#define AREA_PAGES 4
#define GUEST_LEDGER 0x90000UL /* by page: what was written there last; 0: it is free */
#define PFNS (FIRST_GFN + PAGES)
_Static_assert(PFNS <= (AREA_PAGES - 1) * FREE_PAGE_BITS, "the bitmap fits");

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

/* --- policies -------------------------------------------------------------- */

struct dirty_head {
	__u32 vm;
	__u32 flags;
	char name[32];
};

struct pol {
	struct bpf_object *obj;
	struct bpf_map *ops;
	struct bpf_link *link;
	void *bss;
	volatile struct dirty_probe_knobs *k;
	volatile struct dirty_probe_counts *c;
};

/* @table of the object alone, for VM @vm */
static int pol_load(struct pol *p, const char *path, const char *table, const char *name, __u32 vm)
{
	struct dirty_head *head;
	struct bpf_map *map;
	size_t size;
	int ret;

	*p = (struct pol){};
	p->obj = ext_open(path);
	if (!p->obj)
		return -errno;
	bpf_object__for_each_map(map, p->obj)
	{
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			bpf_map__set_autocreate(map, !strcmp(bpf_map__name(map), table));
	}
	p->ops = bpf_object__find_map_by_name(p->obj, table);
	head = p->ops ? bpf_map__initial_value(p->ops, &size) : NULL;
	if (!head || size < sizeof(*head))
		return -EBADMSG;
	head->vm = vm;
	snprintf(head->name, sizeof(head->name), "%s", name);
	ret = bpf_object__load(p->obj);
	if (ret)
		return ret;
	p->bss = ext_map_memory(p->obj, ".bss");
	p->c = p->bss;
	return p->bss ? 0 : -ENOMEM;
}

static int pol_probe(struct pol *p, const char *name, __u32 vm)
{
	int ret = pol_load(p, "bpf/dirty_probe.bpf.o", "dirty_probe", name, vm);

	if (ret)
		return ret;
	p->k = ext_map_memory(p->obj, ".data");
	return p->k ? 0 : -ENOMEM;
}

static int pol_attach(struct pol *p)
{
	return ext_attach(p->ops, &p->link);
}

static int pol_up(struct pol *p, const char *name, __u32 vm)
{
	return pol_probe(p, name, vm) ?: pol_attach(p);
}

static void pol_off(struct pol *p)
{
	bpf_link__destroy(p->link);
	p->link = NULL;
}

static void pol_free(struct pol *p)
{
	if (!p->obj)
		return;
	pol_off(p);
	if (p->k)
		munmap((void *)p->k, VM_PAGE);
	if (p->bss)
		munmap(p->bss, VM_PAGE);
	bpf_object__close(p->obj);
	p->obj = NULL;
}

static uint64_t counter(struct pol *p, const char *name)
{
	volatile uint64_t *v = ext_global(p->obj, ".bss", p->bss, name);

	return v ? *v : ~0ULL;
}

/* Of the VM, in the state file */
static long long vm_stat(const char *key)
{
	char match[64];

	snprintf(match, sizeof(match), "pid=%d", getpid());
	return ext_num("dirty_vm", match, key);
}

/* --- a VM, in both ways to take the log ------------------------------------ */

FIXTURE(dirty)
{
	struct vm vm;
	struct pol p;
	int kmsg;
	uint64_t *dst; /* where a migration copies to */
};

FIXTURE_VARIANT(dirty)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(dirty, legacy){ .flags = 0 };
FIXTURE_VARIANT_ADD(dirty, manual){ .flags = VM_MANUAL };

FIXTURE_SETUP(dirty)
{
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	ASSERT_EQ(0, policies());
	vm_signals();
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG | VM_IRQCHIP | variant->flags));
	self->dst = vm_alloc(&self->vm, PAGES * VM_PAGE);
	ASSERT_NE(NULL, self->dst);
	ASSERT_EQ(0, vm_warm(&self->vm));
}

FIXTURE_TEARDOWN(dirty)
{
	pol_free(&self->p);
	vm_free(&self->vm);
	munmap(self->dst, PAGES * VM_PAGE);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, policies());
}

/* The guest writes pages @first to @first + @count, each once. */
static int writes(struct vm *vm, uint64_t first, uint64_t count)
{
	return cpu_do(&vm->cpu[0], OP_WRITE, first, count);
}

/* --- what an answer can do ------------------------------------------------- */

TEST_F(dirty, leaves_out)
{
	const uint64_t out = 0xf0f0f0f00f0f0f0fULL;
	struct vm *vm = &self->vm;

	ASSERT_EQ(0, pol_up(&self->p, "probe", getpid()))
	{
		TH_LOG("%s", ext_log);
	}
	/* Nothing is dirty: nothing is asked. */
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(0, self->p.c->asked);

	self->p.k->out = out;
	ASSERT_EQ(0, writes(vm, 64, 192));
	EXPECT_EQ(96, vm_harvest(vm));
	for (int i = 0; i < PAGES / 64; i++)
		EXPECT_EQ(i >= 1 && i <= 3 ? ~out : 0, vm->bitmap[i]);
	EXPECT_EQ(3, self->p.c->asked);
	EXPECT_EQ(192, self->p.c->pages);
	EXPECT_EQ(FIRST_GFN + 64, self->p.c->first_gfn);
	EXPECT_EQ(FIRST_GFN + 192, self->p.c->last_gfn);
	EXPECT_EQ(VM_SLOT_MEM, self->p.c->slot);
	EXPECT_EQ(192, vm_stat("offered"));
	EXPECT_EQ(96, vm_stat("withheld"));

	/* What was let through is done with; what was not is offered again ... */
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(192 + 96, self->p.c->pages);
	/* ... with what was written since ... */
	ASSERT_EQ(0, writes(vm, 64, 1));
	EXPECT_EQ(0, vm_harvest(vm));
	ASSERT_EQ(0, writes(vm, 64 + 4, 1));
	EXPECT_EQ(1, vm_harvest(vm));
	EXPECT_EQ(1ULL << 4, vm->bitmap[1]);
	/* ... until it is let through, once. */
	self->p.k->out = 0;
	EXPECT_EQ(96, vm_harvest(vm));
	for (int i = 0; i < PAGES / 64; i++)
		EXPECT_EQ(i >= 1 && i <= 3 ? out : 0, vm->bitmap[i]);
	EXPECT_EQ(0, vm_harvest(vm));
}

TEST_F(dirty, puts_none_in)
{
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->how = DIRTY_PROBE_ADD;
	ASSERT_EQ(0, writes(&self->vm, 100, 3));
	EXPECT_EQ(3, vm_harvest(&self->vm));
	EXPECT_EQ(0, self->vm.bitmap[0]);
	EXPECT_EQ(7ULL << 36, self->vm.bitmap[1]);
	EXPECT_EQ(0, vm_harvest(&self->vm));
}

/* A policy for slots that begin and end anywhere, of which there may be several */
TEST_F(dirty, any_slot)
{
	struct vm *vm = &self->vm;
	uint64_t log;

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, 0, NULL, 0));
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM + 3 * VM_PAGE, 7, vm->mem, KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, writes(vm, 3, 7));
	self->p.k->out = 0x5;
	ASSERT_EQ(0, vm_get_log(vm, 5, &log));
	EXPECT_EQ(0x7a, log);
	EXPECT_EQ(5, self->p.c->slot);
	EXPECT_EQ(FIRST_GFN + 3, self->p.c->last_gfn);
	EXPECT_EQ(7, self->p.c->pages);
}

/* What SMM has in its address space is not what the guest speaks of. */
TEST_F(dirty, smm_is_not_asked_about)
{
	struct vm *vm = &self->vm;
	uint32_t slot = 1 << 16 | VM_SLOT_MEM;
	uint64_t log[PAGES / 64];

	if (vm_ioctl(vm->fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		SKIP(return, "KVM was built without SMM");
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, vm_set_slot(vm, slot, VM_MEM, PAGES, vm->mem, KVM_MEM_LOG_DIRTY_PAGES));
	/* A page that a vCPU dirties is dirty where the vCPU is: not here. */
	ASSERT_EQ(0, vm_get_log(vm, slot, log));
	EXPECT_EQ(0, self->p.c->asked);
	ASSERT_EQ(0, writes(vm, 0, 64));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(1, self->p.c->asked);
	ASSERT_EQ(0, vm_set_slot(vm, slot, VM_MEM, 0, NULL, 0));
}

/* The throttle hears of what user space gets, not of what was left out. */
TEST_F(dirty, throttle_sees_what_is_sent)
{
	struct probe t;

	ASSERT_EQ(0, probe_up(&t, "rounds", 0, 0));
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->out = 0xff;
	ASSERT_EQ(0, writes(&self->vm, 0, 64));
	EXPECT_EQ(56, vm_harvest(&self->vm));
	EXPECT_EQ(56, ext_num("vm", "", "last_dirty"));
	probe_free(&t);
}

/* --- what it may read ------------------------------------------------------ */

TEST_F(dirty, reads_the_guest)
{
	const uint64_t at = VM_MEM + 10 * VM_PAGE;
	volatile struct dirty_probe_knobs *k;
	volatile struct dirty_probe_counts *c;
	struct vm *vm = &self->vm;
	uint64_t *page = vm->mem + 10 * (VM_PAGE / 8);

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	k = self->p.k;
	c = self->p.c;
	page[0] = 0x1122334455667788;
	page[1] = 42;
	page[511] = 7;
	page[512] = 8;

	for (uint32_t how = DIRTY_PROBE_SLEEP; how <= DIRTY_PROBE_ATOMIC; how++) {
		k->read = how;
		k->gpa = at;
		ASSERT_EQ(0, writes(vm, 0, 1));
		EXPECT_EQ(1, vm_harvest(vm));
		EXPECT_EQ(0, c->ret);
		EXPECT_EQ(page[0], c->got[0]);
		EXPECT_EQ(42, c->got[1]);

		/* Over the end of a page */
		k->gpa = at + VM_PAGE - 8;
		ASSERT_EQ(0, writes(vm, 0, 1));
		EXPECT_EQ(1, vm_harvest(vm));
		EXPECT_EQ(how == DIRTY_PROBE_SLEEP ? 0 : -EINVAL, c->ret);
		EXPECT_EQ(how == DIRTY_PROBE_SLEEP ? 7 : 0, c->got[0]);
		EXPECT_EQ(how == DIRTY_PROBE_SLEEP ? 8 : 0, c->got[1]);

		/* Where there is nothing: at the end of a slot, and far away */
		for (int i = 0; i < 3; i++) {
			k->gpa = i == 0 ? VM_MEM + PAGES * VM_PAGE -
						  (how == DIRTY_PROBE_SLEEP ? 8 : 0) :
				 i == 1 ? 1ULL << 40 :
					  ~0ULL << 12;
			ASSERT_EQ(0, writes(vm, 0, 1));
			EXPECT_EQ(1, vm_harvest(vm));
			EXPECT_EQ(-EFAULT, c->ret)
			{
				TH_LOG("%d: %llx", i, k->gpa);
			}
			EXPECT_EQ(0, c->got[0]);
			EXPECT_EQ(0, c->got[1]);
		}

		/* What the host has put away comes back for who may sleep. */
		k->gpa = at;
		ASSERT_EQ(0, madvise(page, VM_PAGE, MADV_DONTNEED));
		ASSERT_EQ(0, writes(vm, 0, 1));
		EXPECT_EQ(1, vm_harvest(vm));
		EXPECT_EQ(how == DIRTY_PROBE_SLEEP ? 0 : -EFAULT, c->ret);
		EXPECT_EQ(0, c->got[0]);
		page[0] = 0x1122334455667788;
		page[1] = 42;
	}

	/* And a harvest() that may not sleep at all */
	pol_free(&self->p);
	ASSERT_EQ(0, pol_load(&self->p, "bpf/dirty_probe.bpf.o", "dirty_probe_atomic", "atomic", 0))
	{
		TH_LOG("%s", ext_log);
	}
	self->p.k = ext_map_memory(self->p.obj, ".data");
	ASSERT_NE(NULL, self->p.k);
	ASSERT_EQ(0, pol_attach(&self->p));
	self->p.k->read = DIRTY_PROBE_ATOMIC;
	self->p.k->gpa = at;
	self->p.k->out = 1;
	ASSERT_EQ(0, writes(vm, 0, 2));
	EXPECT_EQ(1, vm_harvest(vm));
	EXPECT_EQ(0, self->p.c->ret);
	EXPECT_EQ(42, self->p.c->got[1]);
}

/* --- how it ends ----------------------------------------------------------- */

TEST_F(dirty, detach_sends_all)
{
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, writes(&self->vm, 0, 300));
	EXPECT_EQ(0, vm_harvest(&self->vm));
	pol_off(&self->p);
	EXPECT_EQ(300, vm_harvest(&self->vm));
	EXPECT_EQ(0, vm_harvest(&self->vm));
}

TEST_F(dirty, kill_switch_sends_all)
{
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, writes(&self->vm, 0, 300));
	EXPECT_EQ(0, vm_harvest(&self->vm));
	ASSERT_EQ(0, ext_enable(false));
	EXPECT_EQ(300, vm_harvest(&self->vm));
	ASSERT_EQ(0, ext_enable(true));
	ASSERT_EQ(0, writes(&self->vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(&self->vm));
}

TEST_F(dirty, error_sends_all)
{
	uint64_t asked;

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, writes(&self->vm, 0, 300));
	EXPECT_EQ(0, vm_harvest(&self->vm));
	/* In the midst of a log: its answer to that word counts for nothing, either. */
	self->p.k->how = DIRTY_PROBE_ERROR;
	asked = self->p.c->asked;
	EXPECT_EQ(300, vm_harvest(&self->vm));
	EXPECT_EQ(asked + 1, self->p.c->asked);
	EXPECT_TRUE(policy_is("probe", "ejected"));
	EXPECT_TRUE(policy_has("probe", "msg", "as the test wants"));
	EXPECT_EQ(7, policy_num("probe", "code"));
	ASSERT_EQ(0, writes(&self->vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(&self->vm));
}

TEST_F(dirty, killed_loader_sends_all)
{
	int up[2], status;
	char c = 0;
	pid_t pid;

	ASSERT_EQ(0, pipe(up));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct pol p;

		c = !pol_up(&p, "probe", getppid());
		p.k->out = ~0ULL;
		if (write(up[1], &c, 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	ASSERT_EQ(1, c);
	ASSERT_EQ(0, writes(&self->vm, 0, 300));
	EXPECT_EQ(0, vm_harvest(&self->vm));
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WAIT(!policies(), 5000));
	EXPECT_EQ(300, vm_harvest(&self->vm));
	close(up[0]);
	close(up[1]);
}

TEST_F(dirty, update_sends_what_the_next_one_lets)
{
	struct pol b;

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	ASSERT_EQ(0, pol_probe(&b, "other", 0));
	self->p.k->out = ~0ULL;
	b.k->out = 0xf;
	ASSERT_EQ(0, writes(&self->vm, 0, 64));
	EXPECT_EQ(0, vm_harvest(&self->vm));
	ASSERT_EQ(0, ext_update(self->p.link, b.ops));
	EXPECT_EQ(60, vm_harvest(&self->vm));
	EXPECT_EQ(0xfULL, ~self->vm.bitmap[0]);
	pol_off(&self->p);
	EXPECT_EQ(4, vm_harvest(&self->vm));
	pol_free(&b);
}

TEST_F(dirty, end_is_told_and_reads_nothing)
{
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->gpa = VM_MEM;
	self->p.c->got[0] = 5;
	vm_close(&self->vm);
	EXPECT_TRUE(WAIT(self->p.c->ends == 1, 5000));
	EXPECT_EQ(-EPERM, self->p.c->ret);
	EXPECT_EQ(0, self->p.c->got[0]);
}

/* A policy that takes its time: user space does not wait for ever, and gets all. */
TEST_F(dirty, slow)
{
	uint64_t t;

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->how = DIRTY_PROBE_SLOW;
	/* Find how many rounds take some 30 ms. */
	for (self->p.k->spin = 1 << 16;; self->p.k->spin *= 2) {
		ASSERT_EQ(0, writes(&self->vm, 0, 1));
		t = now_ns();
		ASSERT_EQ(1, vm_harvest(&self->vm));
		t = now_ns() - t;
		if (t >= 30 * MS || self->p.k->spin >= 1U << 22)
			break;
	}
	ASSERT_LE(30 * MS, t);
	self->p.c->asked = 0;
	ASSERT_EQ(0, writes(&self->vm, 0, PAGES));
	t = now_ns();
	EXPECT_EQ(PAGES, vm_harvest(&self->vm));
	t = now_ns() - t;
	/* 100 ms and what the last word took */
	EXPECT_GT(PAGES / 64, self->p.c->asked);
	EXPECT_EQ(1, vm_stat("left"));
	EXPECT_EQ(1, policy_num("probe", "clamped"));
	EXPECT_LE(1, policy_num("probe", "slow"));
	/* Again and again: it is ejected. */
	for (int i = 0; i < 32 && policy_is("probe", "active"); i++) {
		ASSERT_EQ(0, writes(&self->vm, 0, PAGES));
		ASSERT_EQ(PAGES, vm_harvest(&self->vm));
	}
	EXPECT_TRUE(policy_is("probe", "ejected"));
	EXPECT_TRUE(policy_has("probe", "kind", "slow"));
	TH_LOG("a log took %llu ms", (unsigned long long)(t / MS));
}

/* --- whose VM -------------------------------------------------------------- */

TEST_F(dirty, only_that_vm)
{
	struct vm other;
	int up[2], status;
	pid_t pid;
	char c = 0;

	/* A VM of another process */
	ASSERT_EQ(0, pipe(up));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (vm_create(&other, 1, PAGES, VM_LOG) || write(up[1], &c, 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	ASSERT_EQ(1, read(up[0], &c, 1));
	ASSERT_EQ(0, pol_up(&self->p, "probe", pid));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, writes(&self->vm, 0, 64));
	EXPECT_EQ(64, vm_harvest(&self->vm));
	EXPECT_EQ(0, self->p.c->asked);
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WAIT(self->p.c->ends == 1, 5000));
	close(up[0]);
	close(up[1]);
}

/* The ring is read where it lies: a policy for such a VM is refused, one for all not asked. */
TEST(ring_is_not_offered)
{
	struct pol p;
	struct vm vm;

	ASSERT_EQ(0, vm_create(&vm, 1, PAGES, VM_LOG | VM_RING));
	ASSERT_EQ(0, pol_probe(&p, "probe", getpid()));
	EXPECT_EQ(-EOPNOTSUPP, pol_attach(&p));
	pol_free(&p);
	ASSERT_EQ(0, pol_up(&p, "probe", 0));
	p.k->out = ~0ULL;
	ASSERT_EQ(0, cpu_do(&vm.cpu[0], OP_WRITE, 0, 10));
	EXPECT_EQ(10, vm_harvest_ring(&vm));
	EXPECT_EQ(0, p.c->asked);
	EXPECT_EQ(0, ext_num("dirty_vm", "", "offered_to"));
	pol_free(&p);
	vm_free(&vm);
	EXPECT_EQ(0, policies());
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

static void copy(struct vm *vm, uint64_t *dst, const uint64_t *pages)
{
	for (size_t i = 0; i < vm->npages; i++) {
		if (pages[i / 64] & 1ULL << i % 64)
			memcpy((char *)dst + i * VM_PAGE, (char *)vm->mem + i * VM_PAGE, VM_PAGE);
	}
}

/* The log, once, and send what is in it */
static int round_of(struct vm *vm, uint64_t *dst)
{
	int n = vm_harvest(vm);

	if (n > 0)
		copy(vm, dst, vm->bitmap);
	return n < 0 ? n : 0;
}

static struct free_head *area_head(struct vm *vm)
{
	return vm->low + GUEST_AREA;
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

static int area_tell(struct pol *p, uint64_t cookie, int ms)
{
	struct free_lease l = {
		.until = now_ns() + ms * MS,
		.cookie = cookie,
		.pfns = PFNS,
	};
	struct bpf_map *area = bpf_object__find_map_by_name(p->obj, "area");
	struct bpf_map *lease = bpf_object__find_map_by_name(p->obj, "lease");
	__u32 zero = 0;

	if (!area || !lease)
		return -ENOENT;
	for (__u32 i = 0; i < AREA_PAGES; i++) {
		__u64 gfn = GUEST_AREA / VM_PAGE + i + 1;

		if (bpf_map_update_elem(bpf_map__fd(area), &i, &gfn, 0))
			return -errno;
	}
	return bpf_map_update_elem(bpf_map__fd(lease), &zero, &l, 0) ? -errno : 0;
}

/* skip_free, told of the area that the test's guest keeps; all of its pages are free */
static int skip_up(struct vm *vm, struct pol *p)
{
	struct free_head *head = area_head(vm);
	int ret;

	memset(head, 0, AREA_PAGES * VM_PAGE);
	memset((char *)head + VM_PAGE + FIRST_GFN / 8, 0xff, PAGES / 8);
	*head = (struct free_head){ .magic = FREE_MAGIC, .cookie = 0x1234, .pfns = PFNS };
	ret = pol_load(p, "../bpf/skip_free.bpf.o", "skip_free", "skip_free", getpid());
	return ret ?: pol_attach(p) ?: area_tell(p, 0x1234, 3600000);
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
	EXPECT_LT(MIGRATIONS, counter(&self->p, "taken_back"));
	EXPECT_EQ(0, counter(&self->p, "foreign"));
	EXPECT_EQ(0, counter(&self->p, "no_lease"));
	TH_LOG("%d migrations, %llu operations; %llu pages left out, %llu sent, %llu of them taken back",
	       MIGRATIONS,
	       (unsigned long long)(vm->cpu[0].box->progress + vm->cpu[1].box->progress),
	       (unsigned long long)counter(&self->p, "skipped"),
	       (unsigned long long)counter(&self->p, "sent"),
	       (unsigned long long)counter(&self->p, "taken_back"));
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

/* Any answer at all while the guest writes: what is in the log then is never lost. */
TEST_F(dirty, wild_answers_lose_nothing)
{
	struct vm *vm = &self->vm;

	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->how = DIRTY_PROBE_WILD;
	memcpy(self->dst, vm->mem, PAGES * VM_PAGE);
	for (int i = 0; i < 2; i++) {
		vm->cpu[i].box->seed = 77 + i;
		cpu_set(&vm->cpu[i], OP_MIX, i * PAGES / 2, PAGES / 2, 0);
		ASSERT_EQ(0, cpu_start(&vm->cpu[i]));
	}
	for (int i = 0; i < 100; i++) {
		vm->cpu[0].box->value = vm->cpu[1].box->value = i << 16;
		sleep_ms(2);
		ASSERT_EQ(0, round_of(vm, self->dst));
	}
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, cpu_stop(&vm->cpu[i]));
	EXPECT_LT(0, vm_stat("withheld"));
	EXPECT_EQ(0, policy_num("probe", "invalid"));
	/* The last log is KVM's own. */
	pol_off(&self->p);
	ASSERT_EQ(0, round_of(vm, self->dst));
	EXPECT_EQ(0, memcmp(self->dst, vm->mem, PAGES * VM_PAGE));
}

/* --- when skip_free believes the guest ------------------------------------- */

TEST_F(dirty, believed_only_beyond_doubt)
{
	struct vm *vm = &self->vm;
	struct free_head *head = area_head(vm);
	struct pol *p = &self->p;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} clock = { .head.nmsrs = 1, .entry = { .index = 0x4b564d01, .data = 0xa0001 } };

	ASSERT_EQ(0, skip_up(vm, p));
	ASSERT_EQ(1, vm_ioctl(vm->cpu[0].fd, KVM_SET_MSRS, &clock));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(10, counter(p, "skipped"));
	EXPECT_EQ(10, counter(p, "held"));

	/* A scan: the sequence is odd. */
	head->seq = 7;
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_EQ(1, counter(p, "scanned"));
	head->seq = 8;
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));

	/* Another area than was told of, or none */
	head->cookie++;
	EXPECT_EQ(10, vm_harvest(vm));
	head->cookie--;
	head->magic++;
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(vm));
	head->magic--;
	head->pfns--;
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(vm));
	head->pfns++;
	EXPECT_EQ(3, counter(p, "foreign"));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));

	/* No word of late; and then one */
	ASSERT_EQ(0, area_tell(p, 0x1234, -1));
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_EQ(1, counter(p, "no_lease"));
	ASSERT_EQ(0, area_tell(p, 0x1234, 3600000));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));

	/* The guest is reset, and its clock with it: off at first, elsewhere later. */
	clock.entry.data = 0;
	ASSERT_EQ(1, vm_ioctl(vm->cpu[0].fd, KVM_SET_MSRS, &clock));
	EXPECT_EQ(10, vm_harvest(vm));
	clock.entry.data = 0xa1001;
	ASSERT_EQ(1, vm_ioctl(vm->cpu[0].fd, KVM_SET_MSRS, &clock));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_EQ(2, counter(p, "rebooted"));
	/* It tells of an area anew. */
	head->cookie = 0x5678;
	ASSERT_EQ(0, area_tell(p, 0x5678, 3600000));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(2, counter(p, "rebooted"));
	EXPECT_EQ(10, counter(p, "held"));
}

/* Slots that begin where no word of the bitmap does, and memory beyond the bitmap */
TEST_F(dirty, bits_of_any_slot)
{
	struct vm *vm = &self->vm;
	uint64_t *bits, log[2];

	ASSERT_EQ(0, skip_up(vm, &self->p));
	bits = (void *)((char *)area_head(vm) + VM_PAGE + FIRST_GFN / 8);
	memset(bits, 0, PAGES / 8);
	/* Pages 62 to 65, 70 */
	bits[0] = 3ULL << 62;
	bits[1] = 3 | 1 << 6;
	ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, 0, NULL, 0));
	ASSERT_EQ(0,
		  vm_set_slot(vm, 5, VM_MEM + 3 * VM_PAGE, 100, vm->mem, KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, writes(vm, 3, 100));
	ASSERT_EQ(0, vm_get_log(vm, 5, log));
	EXPECT_EQ(~(0xfULL << 59), log[0]);
	EXPECT_EQ(~(1ULL << (70 - 3 - 64)) & ((1ULL << 36) - 1), log[1]);
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM, 0, NULL, 0));

	/* The bitmap ends in the midst of a word; what lies after it is not its last page's. */
	memset(bits, 0xff, PAGES / 8 + 8);
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM + (PAGES - 10) * VM_PAGE, 64, vm->mem,
				 KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, writes(vm, PAGES - 10, 64));
	ASSERT_EQ(0, vm_get_log(vm, 5, log));
	EXPECT_EQ(~((1ULL << 10) - 1), log[0]);
}

TEST_MAIN
