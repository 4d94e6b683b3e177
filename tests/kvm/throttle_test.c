// SPDX-License-Identifier: GPL-2.0
/*
 * The throttle blocks the vCPUs that a policy names, up to the limit, and ends blocks
 * early where it must. The dirty accounting is KVM's own.
 *
 * Times: the kernel promises the shortest run and the longest block, so those
 * are exact here; how soon a block ends is measured some times over and the best
 * one counts, because the machine is an emulated one and busy.
 *
 * Machines: amd; intel; intel pml=0
 */
#include "harness.h"
#include "ext.h"

#define PAGES 512
#define STEAL_PAGE (PAGES - 1)

FIXTURE(throttle)
{
	struct vm vm;
	struct vm_cpu *cpu;
	struct probe p;
	pid_t pid;
	int kmsg;
	uint64_t ms; /* TSC ticks in one */
	uint64_t next; /* page that was not written since the last harvest */
	volatile bool quit;
	pthread_t harvester;
	int period_ms;
	volatile uint64_t harvested;
};

FIXTURE_SETUP(throttle)
{
	ASSERT_STOCK(self);
	vm_signals();
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG | VM_IRQCHIP));
	self->cpu = self->vm.cpu;
	ASSERT_EQ(0, vm_warm(&self->vm));
	self->ms = vm_ticks_per_ms();
	ASSERT_EQ(0, probe_up(&self->p, "probe", self->pid, 0))
	{
		TH_LOG("%s", ext_log);
	}
	/* Calls counted from here on are the test's own. */
	memset((void *)self->p.c, 0, sizeof(*self->p.c));
}

FIXTURE_TEARDOWN(throttle)
{
	probe_free(&self->p);
	vm_free(&self->vm);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, policies());
}

/* Harvest every @period_ms until harvest_stop(). */
static void *harvest_loop(void *arg)
{
	FIXTURE_DATA(throttle) *self = arg;

	while (!self->quit) {
		int n = harvest(&self->vm);

		if (n > 0)
			self->harvested += n;
		sleep_ms(self->period_ms);
	}
	return NULL;
}

static void harvest_start(FIXTURE_DATA(throttle) * self, int period_ms)
{
	self->quit = false;
	self->period_ms = period_ms;
	pthread_create(&self->harvester, NULL, harvest_loop, self);
}

static void harvest_stop(FIXTURE_DATA(throttle) * self)
{
	self->quit = true;
	pthread_join(self->harvester, NULL);
}

static long long stat_of(FIXTURE_DATA(throttle) * self, int cpu, const char *key)
{
	return vcpu_num(self->pid, cpu, key);
}

/* --- who is blocked -------------------------------------------------------- */

TEST_F(throttle, only_writes_of_marked_vcpus)
{
	volatile struct probe_counts *c = self->p.c;
	struct vm_cpu *cpu = self->cpu;
	uint64_t t_write, t_read, t_other, t, asks;

	self->p.k->answer = 20 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	EXPECT_EQ(0, stat_of(self, 1, "marked"));

	/* 20 writes of the unmarked one, with as much work between as below */
	cpu[0].box->pause = cpu[1].box->pause = 5 * self->ms;
	t = now_ns();
	ASSERT_EQ(0, cpu_do(&cpu[1], OP_WRITE, 100, 20));
	t_other = now_ns() - t;
	EXPECT_EQ(0, c->asks);
	/* No F_ANY_VCPU: the policy hears of the marked one alone. */
	EXPECT_EQ(0, probe_dirtied(&self->p));

	t = now_ns();
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_READ, 0, 20));
	t_read = now_ns() - t;
	EXPECT_EQ(0, c->asks);
	EXPECT_EQ(0, probe_dirtied(&self->p));

	t = now_ns();
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 0, 20));
	t_write = now_ns() - t;
	/*
	 * 5 ms before each, more than the least run: each is asked and each
	 * blocks, but one in which the vCPU had to wait for a CPU.
	 */
	asks = c->asks;
	EXPECT_EQ(20, asks + stat_of(self, 0, "early"));
	EXPECT_LE(16, asks);
	EXPECT_EQ(asks, c->asks_cpu[0]);
	EXPECT_EQ(20, probe_dirtied(&self->p));
	EXPECT_EQ(20, c->dirtied[DIRTY_WRITE_FAULT] + c->dirtied[DIRTY_PML]);
	EXPECT_EQ(asks, stat_of(self, 0, "blocks"));
	EXPECT_LE(asks * 20 * MS, stat_of(self, 0, "blocked_ns"));
	EXPECT_LE(asks * 20 * MS, t_write);
	EXPECT_LE(20 * MS, stat_of(self, 0, "longest_ns"));
	EXPECT_EQ(asks, stat_of(self, 0, "ended_timer"));
	EXPECT_EQ(0, stat_of(self, 1, "blocks"));
	EXPECT_EQ(0, stat_of(self, 1, "blocked_ns"));
	/* The same work without blocks: at most half the time. */
	EXPECT_GT(t_write / 2, t_other);
	EXPECT_GT(t_write / 2, t_read);
	TH_LOG("20 accesses: marked writes %llu ms, marked reads %llu ms, unmarked writes %llu ms",
	       t_write / MS, t_read / MS, t_other / MS);

	/* Pages already dirty fault no more: no block either. */
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 0, 20));
	EXPECT_EQ(asks, c->asks);

	/* Unmarked, it is as free as the other. */
	ASSERT_EQ(0, ext_mark(self->pid, 0, false));
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 200, 20));
	EXPECT_EQ(asks, c->asks);
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	EXPECT_EQ(60, harvest(&self->vm));
}

/* The CPU's walk of the guest's page tables writes there, also for a read. */
TEST_F(throttle, a_read_through_logged_page_tables_does_not_block)
{
	uint64_t *pdpt = self->vm.low + VM_PDPT, *pd = self->vm.mem + 9 * VM_PAGE / 8;

	/* The memory once more, at 1 GiB, by a table in the memory itself. */
	pd[0] = VM_MEM | 0xe3;
	pdpt[1] = (VM_MEM + 9 * VM_PAGE) | 0x23;
	self->p.k->answer = 20 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_READ, ((1UL << 30) - VM_MEM) / VM_PAGE, 5));
	/* It is dirty, as the CPU may have set a bit there. */
	ASSERT_EQ(1, harvest(&self->vm));
	EXPECT_EQ(1UL << 9, self->vm.bitmap[0]);
	TH_LOG("map %lld, pml %lld", stat_of(self, 0, "dirty_map"), stat_of(self, 0, "dirty_pml"));
	EXPECT_EQ(0, stat_of(self, 0, "dirty_write"));
	/* The CPU's log does not tell a walk from a write. */
	if (vm_pml())
		return;
	EXPECT_EQ(1, self->p.c->dirtied[DIRTY_MAP]);
	EXPECT_EQ(0, self->p.c->asks);
	EXPECT_EQ(0, stat_of(self, 0, "blocks"));
	/* A write through them does. */
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, ((1UL << 30) - VM_MEM) / VM_PAGE, 1));
	EXPECT_EQ(1, self->p.c->asks);
}

TEST_F(throttle, answer_zero_is_no_block)
{
	struct vm_cpu *cpu = self->cpu;

	self->p.k->answer = 0;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	cpu[0].box->pause = 4 * self->ms;
	ASSERT_EQ(0, cpu_do(cpu, OP_WRITE, 0, 20));
	EXPECT_EQ(20, self->p.c->asks);
	EXPECT_EQ(0, stat_of(self, 0, "blocks"));
	EXPECT_EQ(0, stat_of(self, 0, "blocked_ns"));
	EXPECT_EQ(0, policy_num("probe", "invalid"));
}

TEST_F(throttle, policy_marks)
{
	struct vm_cpu *cpu = self->cpu;

	/* by dirty_log() */
	self->p.k->answer = 5 * MS;
	self->p.k->mark = 2;
	ASSERT_EQ(0, harvest(&self->vm));
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	EXPECT_EQ(1, stat_of(self, 1, "marked"));
	self->p.k->mark = 0;
	self->p.k->unmark = 2;
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 0, 1));
	EXPECT_EQ(0, self->p.c->asks);
	ASSERT_EQ(0, cpu_do(&cpu[1], OP_WRITE, 1, 1));
	EXPECT_EQ(1, self->p.c->asks_cpu[1]);
	ASSERT_EQ(2, harvest(&self->vm));
	EXPECT_EQ(0, stat_of(self, 1, "marked"));
	ASSERT_EQ(0, cpu_do(&cpu[1], OP_WRITE, 1, 1));
	EXPECT_EQ(1, self->p.c->asks);
}

/* Marks go with the policy that made them, also where another takes its place at once. */
TEST_F(throttle, marks_are_their_policys)
{
	struct vm_cpu *cpu = self->cpu;
	struct probe other;

	ASSERT_EQ(0, probe_load(&other, "other", self->pid, 0, PROBE_ALL));
	other.k->answer = 20 * MS;
	self->p.k->answer = 5 * MS;
	self->p.k->mark = 3;
	ASSERT_EQ(0, harvest(&self->vm));
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	EXPECT_EQ(1, stat_of(self, 1, "marked"));
	/* A tool's mark is nobody's but the tool's. */
	ASSERT_EQ(0, ext_mark(self->pid, 1, true));

	ASSERT_EQ(0, ext_update(self->p.link, other.ops));
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	EXPECT_EQ(1, stat_of(self, 1, "marked"));
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 0, 3));
	EXPECT_EQ(0, other.c->asks);
	EXPECT_EQ(0, other.c->stat_marked);
	ASSERT_EQ(0, cpu_do(&cpu[1], OP_WRITE, 3, 1));
	EXPECT_EQ(1, other.c->asks_cpu[1]);

	/* It can mark for itself, and unmark what it marked. */
	other.k->mark = 1;
	ASSERT_EQ(4, harvest(&self->vm));
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	ASSERT_EQ(0, cpu_do(&cpu[0], OP_WRITE, 0, 1));
	EXPECT_EQ(1, other.c->asks_cpu[0]);
	other.k->mark = 0;
	other.k->unmark = 3;
	ASSERT_EQ(1, harvest(&self->vm));
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	EXPECT_EQ(1, stat_of(self, 1, "marked"));

	/* And back: what the first one marked long ago is not marked again. */
	ASSERT_EQ(0, ext_update(self->p.link, self->p.ops));
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	ASSERT_EQ(0, ext_mark(self->pid, 1, false));
	EXPECT_EQ(0, stat_of(self, 1, "marked"));
	probe_free(&other);
}

/* --- the clamps ------------------------------------------------------------ */

TEST_F(throttle, longest_block)
{
	uint64_t t, asks, shortest = ~0ULL;

	self->p.k->answer = 5000 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	t = now_ns();
	for (int i = 0; i < 4; i++) {
		uint64_t before = stat_of(self, 0, "blocked_ns"), ns;

		self->cpu->box->pause = 30 * self->ms;
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, i, 1));
		ns = stat_of(self, 0, "blocked_ns") - before;
		if (ns && ns < shortest)
			shortest = ns;
	}
	t = now_ns() - t;
	asks = self->p.c->asks;
	EXPECT_LE(3, asks);
	EXPECT_EQ(asks, stat_of(self, 0, "blocks"));
	EXPECT_EQ(asks, policy_num("probe", "clamped"));
	EXPECT_EQ(0, policy_num("probe", "invalid"));
	EXPECT_EQ(asks, stat_of(self, 0, "ended_timer"));
	EXPECT_LE(asks * 100 * MS, stat_of(self, 0, "blocked_ns"));
	/* The clamp and what a timer may be late; one ask of 5 s would be longer than all. */
	EXPECT_LE(100 * MS, shortest);
	EXPECT_GT(130 * MS, shortest);
	EXPECT_GT(2000 * MS, t);
	EXPECT_TRUE(policy_is("probe", "active"));
}

TEST_F(throttle, least_run)
{
	volatile struct probe_counts *c = self->p.c;
	uint64_t t, blocks, blocked, early, shortest = ~0ULL;

	self->p.k->answer = 200 * 1000;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	self->cpu->box->pause = self->ms / 10;
	t = now_ns();
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, PAGES));
	t = now_ns() - t;
	blocks = stat_of(self, 0, "blocks");
	blocked = stat_of(self, 0, "blocked_ns");
	early = stat_of(self, 0, "early");
	EXPECT_EQ(blocks, c->asks);
	EXPECT_LT(3, blocks);
	EXPECT_LT(blocks, early);
	/* Every write exit either asked or came too early. */
	EXPECT_EQ(PAGES, blocks + early);
	/* At least 1 ms of run between two blocks. */
	EXPECT_LE((blocks - 1) * MS, t - blocked);
	for (uint64_t i = 1; i < c->asks && i < PROBE_ASKS; i++)
		if (c->ask_ns[i] - c->ask_ns[i - 1] < shortest)
			shortest = c->ask_ns[i] - c->ask_ns[i - 1];
	EXPECT_LE(1200 * 1000, shortest);
	TH_LOG("%llu blocks, %llu too early, shortest from ask to ask %llu us", blocks, early,
	       shortest / 1000);
}

TEST_F(throttle, duty_ceiling)
{
	volatile struct probe_counts *c = self->p.c;
	uint64_t blocked, t, most = 0, n, least_gap = ~0ULL;

	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	cpu_set(self->cpu, OP_WRITE, 0, 16, 0);
	t = now_ns();
	harvest_start(self, 2);
	ASSERT_EQ(0, cpu_start(self->cpu));
	sleep_ms(4000);
	ASSERT_EQ(0, cpu_stop(self->cpu));
	t = now_ns() - t;
	harvest_stop(self);

	blocked = stat_of(self, 0, "blocked_ns");
	n = c->asks;
	EXPECT_EQ(n, stat_of(self, 0, "blocks"));
	/* The block is used ... */
	EXPECT_LE(10, n);
	EXPECT_LT(t / 2, blocked);
	/* ... and leaves 5 % at least, in the whole and in any second. */
	EXPECT_GE(t * 95 / 100, blocked);
	ASSERT_GE(PROBE_ASKS, n);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t sum = 0, from = c->ask_ns[i];

		for (uint64_t j = i; j < n && c->ask_ns[j] < from + 1000 * MS; j++) {
			uint64_t end = c->ask_ns[j] + 100 * MS;

			if (end > from + 1000 * MS)
				end = from + 1000 * MS;
			sum += end - c->ask_ns[j];
		}
		if (sum > most)
			most = sum;
		if (i && c->ask_ns[i] - c->ask_ns[i - 1] < least_gap)
			least_gap = c->ask_ns[i] - c->ask_ns[i - 1];
	}
	EXPECT_GE(950 * MS, most);
	/* 100 ms of block, then a sixteenth of it of run. */
	EXPECT_LE(106250 * 1000, least_gap);
	TH_LOG("%llu blocks, duty %llu %%, most in a second %llu ms, least from ask to ask %llu us",
	       n, blocked * 100 / t, most / MS, least_gap / 1000);
}

/* --- what ends a block ----------------------------------------------------- */

enum act {
	ACT_NONE,
	ACT_SIGNAL,
	ACT_NMI,
	ACT_IRQ,
	ACT_UNMARK,
	ACT_DETACH,
	ACT_SWITCH,
	ACT_OFF,
	ACT_LOG_OFF,
	ACT_DELETE,
	ACT_MOVE,
	ACT_EJECT,
	ACT_PAUSE,
};

/*
 * Have vCPU 0 blocked for 100 ms, do @act 10 ms into it.  How long KVM_RUN took,
 * or 0 if the block was over before the test came to act.  For an interrupt, how long it
 * was until the guest had it: the block goes on after that.
 */
static uint64_t act_in_block(struct __test_metadata *_metadata, FIXTURE_DATA(throttle) * self,
			     enum act act, struct probe *other)
{
	struct vm *vm = &self->vm;
	struct vm_cpu *cpu = self->cpu;
	uint64_t asks, t, came = 0, seen = cpu->box->nmis + cpu->box->irqs;
	bool late;
	int ret = 0;

	/* What a kick left of the last block would go on here. */
	if (self->p.c->asks)
		sleep_ms(100);
	/* What a former act undid. */
	if (act == ACT_DETACH && !self->p.link)
		ASSERT_EQ(0, probe_attach(&self->p));
	if (act == ACT_SWITCH)
		ASSERT_EQ(0, ext_update(self->p.link, self->p.ops));
	if (act == ACT_EJECT)
		ASSERT_EQ(0, ext_update(self->p.link, self->p.ops));
	if (act == ACT_OFF)
		ASSERT_EQ(0, ext_enable(true));
	if (act == ACT_LOG_OFF || act == ACT_DELETE || act == ACT_MOVE) {
		if (act != ACT_LOG_OFF)
			vm_set_slot(vm, VM_SLOT_MEM, 0, 0, NULL, 0);
		ASSERT_EQ(0, vm_log(vm, true));
		cpu->box->pause = 0;
		ASSERT_EQ(0, ext_mark(self->pid, 0, false));
		ASSERT_EQ(0, vm_warm(vm));
	}
	self->p.k->error_ops = 0;
	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_LE(0, harvest(vm));

	/* Run long enough that a block is due, then write one page. */
	cpu->box->pause = 15 * self->ms;
	ASSERT_EQ(0, cpu_do(cpu, OP_READ, 0, 1));
	cpu->box->pause = 0;
	cpu_set(cpu, OP_WRITE, 7, 1, 1);
	asks = self->p.c->asks;
	t = now_ns();
	ASSERT_EQ(0, cpu_start(cpu));
	ASSERT_TRUE(WAIT(self->p.c->asks > asks, 5000));
	sleep_ms(10);
	late = cpu->finished;

	switch (act) {
	case ACT_NONE:
		break;
	case ACT_PAUSE:
		/* A harvest is no reason to end it. */
		ret = harvest(vm) < 0;
		break;
	case ACT_SIGNAL:
		ret = pthread_kill(cpu->thread, SIGUSR1);
		break;
	case ACT_NMI:
	case ACT_IRQ:
		ret = vm_msi(vm, 0, act == ACT_NMI) != 1;
		EXPECT_TRUE(WAIT(cpu->box->nmis + cpu->box->irqs > seen, 5000));
		came = now_ns() - t;
		break;
	case ACT_UNMARK:
		ret = ext_mark(self->pid, 0, false);
		break;
	case ACT_DETACH:
		probe_detach(&self->p);
		break;
	case ACT_SWITCH:
		ret = ext_update(self->p.link, other->ops);
		break;
	case ACT_OFF:
		ret = ext_enable(false);
		break;
	case ACT_LOG_OFF:
		ret = vm_log(vm, false);
		break;
	case ACT_DELETE:
		ret = vm_set_slot(vm, VM_SLOT_MEM, 0, 0, NULL, 0);
		break;
	case ACT_MOVE:
		ret = vm_set_slot(vm, VM_SLOT_MEM, VM_MEM + (64UL << 20), PAGES, vm->mem,
				  KVM_MEM_LOG_DIRTY_PAGES);
		break;
	case ACT_EJECT:
		self->p.k->error_ops = PROBE_IN_DIRTY_LOG;
		ret = harvest(vm) < 0;
		break;
	}
	EXPECT_EQ(0, ret);
	cpu_join(cpu);
	return late ? 0 : came ?: cpu->ns;
}

/* The shortest of some; ~0 if none of them was in time. */
static uint64_t best_of(struct __test_metadata *_metadata, FIXTURE_DATA(throttle) * self,
			enum act act, struct probe *other, int want)
{
	uint64_t best = ~0ULL;

	for (int i = 0; i < 6; i++) {
		uint64_t ns = act_in_block(_metadata, self, act, other);

		/*
		 * Without memory the write is MMIO, unless it came in before
		 * the slot was gone.  Too late, an act may have been for nothing.
		 */
		if (ns && !(want == KVM_EXIT_MMIO && !self->cpu->ret))
			EXPECT_EQ(want, self->cpu->ret);
		/* A signalled or cut-off op has its rest to do. */
		if (self->cpu->ret && act != ACT_DELETE && act != ACT_MOVE)
			EXPECT_EQ(0, cpu_run(self->cpu));
		if (ns && ns < best)
			best = ns;
		if (i >= 2 && best < 60 * MS)
			break;
	}
	TH_LOG("act %d: shortest of an ask of 100 ms is %llu us", act, best / 1000);
	return best;
}

#define SOON (60 * MS)

TEST_F(throttle, nothing_ends_a_block)
{
	/* The other tests' measure: with no act all of the 100 ms are waited. */
	EXPECT_LE(100 * MS, best_of(_metadata, self, ACT_NONE, NULL, 0));
	EXPECT_LE(100 * MS, best_of(_metadata, self, ACT_PAUSE, NULL, 0));
	EXPECT_EQ(stat_of(self, 0, "blocks"), stat_of(self, 0, "ended_timer"));
}

TEST_F(throttle, signal_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_SIGNAL, NULL, -EINTR));
	EXPECT_LE(1, stat_of(self, 0, "ended_signal"));
	EXPECT_EQ(0, stat_of(self, 0, "ended_off"));
}

TEST_F(throttle, interrupt_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_NMI, NULL, 0));
	EXPECT_LE(1, stat_of(self, 0, "ended_kick"));
	EXPECT_LE(1, self->cpu->box->nmis);
	/* The first of its vector; with no EOI there is no second. */
	for (int i = 0; i < 6; i++) {
		uint64_t ns;

		self->cpu->box->irqs = 0;
		ns = act_in_block(_metadata, self, ACT_IRQ, NULL);
		EXPECT_EQ(0, self->cpu->ret);
		if (ns) {
			EXPECT_EQ(1, self->cpu->box->irqs);
			EXPECT_GT(SOON, ns);
			break;
		}
		EXPECT_GT(5, i);
	}
	EXPECT_EQ(0, stat_of(self, 0, "ended_signal"));
}

/*
 * An interrupt lets the guest see it and does not save it the rest: soon after the vCPU
 * sleeps on, with no further write, until when the block would have ended.
 */
TEST_F(throttle, kicked_block_goes_on)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t asks, timers, before, blocked = 0, kicks;
	int i;

	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	for (i = 0; i < 6; i++) {
		ASSERT_LE(0, harvest(&self->vm));
		sleep_ms(120);
		asks = self->p.c->asks;
		timers = stat_of(self, 0, "ended_timer");
		kicks = stat_of(self, 0, "ended_kick");
		before = stat_of(self, 0, "blocked_ns");
		/* One write exit; what follows computes. */
		cpu_set(cpu, OP_WRITE, 7, 1, 0);
		ASSERT_EQ(0, cpu_start(cpu));
		ASSERT_TRUE(WAIT(self->p.c->asks > asks, 5000));
		for (int n = 0; n < 4; n++) {
			sleep_ms(10);
			EXPECT_EQ(1, vm_msi(&self->vm, 0, true));
		}
		sleep_ms(150);
		EXPECT_EQ(asks + 1, self->p.c->asks);
		blocked = stat_of(self, 0, "blocked_ns") - before;
		timers = stat_of(self, 0, "ended_timer") - timers;
		kicks = stat_of(self, 0, "ended_kick") - kicks;
		EXPECT_GE(1, timers);
		ASSERT_EQ(0, cpu_stop(cpu));
		/* All of them, and the end of the block within a sleep. */
		if (kicks >= 4 && timers && blocked >= 80 * MS)
			break;
	}
	TH_LOG("kicked %llu times, blocked for %llu ms of 100", kicks, blocked / MS);
	EXPECT_GT(6, i);
	/* All in all no longer than one block. */
	EXPECT_GT(130 * MS, stat_of(self, 0, "longest_ns"));
	EXPECT_EQ(self->p.c->asks, stat_of(self, 0, "blocks"));
}

/* Blocked nearly all the time, a vCPU still answers interrupts at once. */
TEST_F(throttle, interrupts_get_through)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t t, blocked, late = 0, sent = 0;

	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	cpu_set(cpu, OP_WRITE, 0, 16, 0);
	harvest_start(self, 2);
	ASSERT_EQ(0, cpu_start(cpu));
	ASSERT_TRUE(WAIT(self->p.c->asks > 2, 5000));
	t = now_ns();
	blocked = stat_of(self, 0, "blocked_ns");
	while (now_ns() - t < 1500 * MS) {
		uint64_t nmis = cpu->box->nmis;

		ASSERT_EQ(1, vm_msi(&self->vm, 0, true));
		sent++;
		late += !WAIT(cpu->box->nmis > nmis, 50);
		sleep_ms(5);
	}
	blocked = stat_of(self, 0, "blocked_ns") - blocked;
	t = now_ns() - t;
	ASSERT_EQ(0, cpu_stop(cpu));
	harvest_stop(self);
	TH_LOG("%llu interrupts, %llu of them not within 50 ms; duty %llu %%, %llu blocks, %lld times kicked",
	       sent, late, blocked * 100 / t, self->p.c->asks, stat_of(self, 0, "ended_kick"));
	EXPECT_LE(50, sent);
	EXPECT_GE(sent / 10, late);
	EXPECT_LE(20, stat_of(self, 0, "ended_kick"));
	/* It is throttled none the less, and no more than it may be. */
	EXPECT_LE(t / 4, blocked);
	EXPECT_GE(t * 95 / 100, blocked);
}

TEST_F(throttle, unmark_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_UNMARK, NULL, 0));
	EXPECT_LE(1, stat_of(self, 0, "ended_off"));
}

TEST_F(throttle, detach_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_DETACH, NULL, 0));
}

TEST_F(throttle, switch_ends_a_block)
{
	struct probe other;

	ASSERT_EQ(0, probe_load(&other, "other", self->pid, 0, PROBE_ALL));
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_SWITCH, &other, 0));
	EXPECT_LE(1, stat_of(self, 0, "ended_off"));
	probe_free(&other);
}

TEST_F(throttle, eject_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_EJECT, NULL, 0));
	EXPECT_LE(1, stat_of(self, 0, "ended_off"));
}

TEST_F(throttle, kill_switch_ends_a_block)
{
	uint64_t best = best_of(_metadata, self, ACT_OFF, NULL, 0);

	EXPECT_EQ(0, ext_enable(true));
	EXPECT_GT(SOON, best);
}

TEST_F(throttle, cancel_ends_a_block)
{
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_LOG_OFF, NULL, 0));
	/* The change of the slot may have kicked the vCPU first. */
	EXPECT_LE(1, stat_of(self, 0, "ended_off") + stat_of(self, 0, "ended_kick"));
}

TEST_F(throttle, memslot_deleted_under_a_block)
{
	/* The write that took the exit has no memory any more. */
	EXPECT_GT(SOON, best_of(_metadata, self, ACT_DELETE, NULL, KVM_EXIT_MMIO));
}

TEST_F(throttle, memslot_moved_under_a_block)
{
	/* Whether that ends the block is KVM's affair; it is to end, in any case. */
	EXPECT_GT(1000 * MS, best_of(_metadata, self, ACT_MOVE, NULL, KVM_EXIT_MMIO));
}

/* --- steal time ------------------------------------------------------------ */

/*
 * KVM itself writes the steal time whenever the vCPU is put on a CPU again.
 * Were that a reason to block, the block would cause the next.
 */
TEST_F(throttle, steal_time_writes_do_not_block)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t before, end;

	self->p.k->answer = 5 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_steal(cpu, STEAL_PAGE));
	cpu_set(cpu, OP_SPIN, 0, 0, 0);
	cpu->retry = true;
	harvest_start(self, 2);
	ASSERT_EQ(0, cpu_start(cpu));
	end = now_ns() + 1000 * MS;
	while (now_ns() < end) {
		sleep_ms(5);
		pthread_kill(cpu->thread, SIGUSR1);
	}
	before = cpu->box->progress;
	EXPECT_TRUE(WAIT(cpu->box->progress > before, 1000));
	ASSERT_EQ(0, cpu_stop(cpu));
	harvest_stop(self);
	TH_LOG("%llu steal time writes, %llu asks", self->p.c->dirtied[DIRTY_HOST],
	       self->p.c->asks);
	EXPECT_LE(20, self->p.c->dirtied[DIRTY_HOST]);
	EXPECT_EQ(probe_dirtied(&self->p), self->p.c->dirtied[DIRTY_HOST]);
	EXPECT_EQ(stat_of(self, 0, "dirty_host"), self->p.c->dirtied[DIRTY_HOST]);
	/* Written as it is scheduled out, told of when no run queue's lock is held. */
	EXPECT_EQ(0, self->p.c->out);
	EXPECT_EQ(0, self->p.c->asks);
	EXPECT_EQ(0, stat_of(self, 0, "blocks"));
}

TEST_F(throttle, progress_with_steal_time)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t writes, rounds = 0;
	int stuck = 0;

	self->p.k->answer = 20 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_steal(cpu, STEAL_PAGE));
	cpu_set(cpu, OP_WRITE, 0, 4, 0);
	cpu->box->pause = self->ms / 4;
	harvest_start(self, 2);
	ASSERT_EQ(0, cpu_start(cpu));
	for (int i = 0; i < 8; i++) {
		uint64_t now;

		sleep_ms(250);
		now = cpu->box->progress;
		stuck += now == rounds;
		rounds = now;
	}
	ASSERT_EQ(0, cpu_stop(cpu));
	harvest_stop(self);
	writes = self->p.c->dirtied[DIRTY_WRITE_FAULT] + self->p.c->dirtied[DIRTY_PML];
	TH_LOG("%llu accesses, %llu write exits, %llu steal time writes, %llu asks", rounds, writes,
	       self->p.c->dirtied[DIRTY_HOST], self->p.c->asks);
	EXPECT_EQ(0, stuck);
	EXPECT_LE(20, self->p.c->asks);
	EXPECT_LE(self->p.c->asks, writes);
	/* Of every 25 ms some 5 are the guest's, and more than one access of it. */
	EXPECT_LT(self->p.c->asks, rounds);
	EXPECT_LE(1, self->p.c->dirtied[DIRTY_HOST]);
}

TEST_F(throttle, blocked_time_is_steal_time)
{
	struct vm_cpu *cpu = self->cpu;
	struct vm_steal *steal = (void *)self->vm.mem + STEAL_PAGE * VM_PAGE;
	uint64_t before, idle, stolen, blocked, t;

	ASSERT_EQ(0, cpu_steal(cpu, STEAL_PAGE));
	cpu->box->pause = 8 * self->ms;
	/* The first write into the page is after the first run. */
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, cpu_do(cpu, OP_READ, 0, 1));
	before = steal->steal;
	t = now_ns();
	ASSERT_EQ(0, cpu_do(cpu, OP_WRITE, 0, 10));
	ASSERT_EQ(0, cpu_do(cpu, OP_READ, 0, 1));
	idle = steal->steal - before;
	EXPECT_EQ(0, self->p.c->asks);

	ASSERT_LE(0, harvest(&self->vm));
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	self->p.k->answer = 50 * MS;
	before = steal->steal;
	t = now_ns();
	ASSERT_EQ(0, cpu_do(cpu, OP_WRITE, 0, 10));
	ASSERT_EQ(0, cpu_do(cpu, OP_READ, 0, 1));
	t = now_ns() - t;
	stolen = steal->steal - before;
	blocked = stat_of(self, 0, "blocked_ns");
	TH_LOG("blocked %llu ms, steal time grew by %llu ms, by %llu ms with no block",
	       blocked / MS, stolen / MS, idle / MS);
	EXPECT_LE(8, stat_of(self, 0, "blocks"));
	/* The host may want something of the vCPU, which ends a block early */
	EXPECT_LE(8 * 50 * MS, blocked);
	/* All of it but what a clock may differ by, and never more than went by. */
	EXPECT_LE(blocked * 98 / 100, stolen);
	EXPECT_GE(t, stolen);
	EXPECT_GT(blocked / 2, idle);
}

/* --- rounds ---------------------------------------------------------------- */

static volatile struct probe_round *last_round(struct probe *p)
{
	return &p->c->round[(p->c->rounds - 1) % PROBE_EVENTS];
}

#define EXPECT_LOG_EVENT(n, ev, s, d, np)                                  \
	do {                                                           \
		volatile struct probe_round *r = last_round(&self->p); \
                                                                       \
		EXPECT_EQ((n), self->p.c->rounds);                     \
		EXPECT_EQ((ev), r->event);                             \
		EXPECT_EQ((s), r->slot);                               \
		EXPECT_EQ((d), r->dirty);                              \
		EXPECT_EQ((np), r->npages);                            \
	} while (0)

/* How many memslots are logged now, and pages, and how many pages there are */
#define EXPECT_LOGGED(slots, pages, all)                               \
	do {                                                           \
		volatile struct probe_round *r = last_round(&self->p); \
                                                                       \
		EXPECT_EQ((slots), r->logged_slots);                   \
		EXPECT_EQ((pages), r->logged_pages);                   \
		EXPECT_EQ((all), r->vm_pages);                         \
	} while (0)

#define LOW_PAGES (VM_LOW_SIZE / VM_PAGE)

TEST_F(throttle, rounds)
{
	struct vm *vm = &self->vm;
	void *more = vm_alloc(vm, 64 * VM_PAGE);
	uint64_t before, bits;

	before = now_ns();
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 11, 37));
	ASSERT_EQ(37, harvest(vm));
	EXPECT_LOG_EVENT(1, HARVEST, VM_SLOT_MEM, 37, PAGES);
	/* The log was turned on before there was a policy. */
	EXPECT_LOGGED(1, PAGES, LOW_PAGES + PAGES);
	EXPECT_LE(before, last_round(&self->p)->now_ns);
	EXPECT_GE(now_ns(), last_round(&self->p)->now_ns);
	ASSERT_EQ(0, harvest(vm));
	EXPECT_LOG_EVENT(2, HARVEST, VM_SLOT_MEM, 0, PAGES);

	ASSERT_EQ(0,
		  vm_set_slot(vm, 5, VM_MEM + PAGES * VM_PAGE, 64, more, KVM_MEM_LOG_DIRTY_PAGES));
	EXPECT_LOG_EVENT(3, LOG_START, 5, 0, 64);
	EXPECT_LOGGED(2, PAGES + 64, LOW_PAGES + PAGES + 64);
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, PAGES + 1, 3));
	ASSERT_EQ(0, vm_get_log(vm, 5, &bits));
	EXPECT_EQ(0xe, bits);
	EXPECT_LOG_EVENT(4, HARVEST, 5, 3, 64);
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM + PAGES * VM_PAGE, 64, more, 0));
	EXPECT_LOG_EVENT(5, LOG_STOP, 5, 0, 64);
	EXPECT_LOGGED(1, PAGES, LOW_PAGES + PAGES + 64);
	ASSERT_EQ(0, vm_set_slot(vm, 5, 0, 0, NULL, 0));
	/* It was not logged: nothing to say. */
	EXPECT_EQ(5, self->p.c->rounds);

	ASSERT_EQ(0, vm_log(vm, false));
	EXPECT_LOG_EVENT(6, LOG_STOP, VM_SLOT_MEM, 0, PAGES);
	EXPECT_LOGGED(0, 0, LOW_PAGES + PAGES);
	ASSERT_EQ(0, vm_log(vm, true));
	EXPECT_LOG_EVENT(7, LOG_START, VM_SLOT_MEM, 0, PAGES);
	/* Deleting a logged slot ends its log. */
	ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, 0, 0, NULL, 0));
	EXPECT_LOG_EVENT(8, LOG_STOP, VM_SLOT_MEM, 0, PAGES);
	EXPECT_LOGGED(0, 0, LOW_PAGES);
	EXPECT_EQ(3, self->p.c->events[LOG_STOP]);
	EXPECT_EQ(2, self->p.c->events[LOG_START]);
	EXPECT_EQ(3, self->p.c->events[HARVEST]);
	EXPECT_EQ(0, self->p.c->events[RING_RESET]);
	EXPECT_EQ(40, self->p.c->event_dirty[HARVEST]);
	munmap(more, 64 * VM_PAGE);
}

/* One that migrates has all of its memory logged, whichever memslots come and go. */
TEST_F(throttle, a_memslot_that_moves_ends_no_migration)
{
	struct vm *vm = &self->vm;
	void *bar = vm_alloc(vm, 64 * VM_PAGE);
	struct bpf_object *obj;
	struct bpf_link *link;
	struct bpf_map *ops;

	probe_detach(&self->p);
	ASSERT_EQ(0,
		  vm_set_slot(vm, 5, VM_MEM + PAGES * VM_PAGE, 64, bar, KVM_MEM_LOG_DIRTY_PAGES));
	/* Switched in as the migration runs. */
	ASSERT_EQ(0, ext_load("bpf/converge.bpf.o", NULL, NULL, self->pid, &obj, &ops));
	ASSERT_EQ(0, ext_attach(ops, &link));
	/* Rounds of half a second: what the guest writes does not fit the downtime. */
	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, PAGES));
		ASSERT_EQ(PAGES, harvest(vm));
		sleep_ms(500);
	}
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	ASSERT_EQ(0, vm_set_slot(vm, 5, 0, 0, NULL, 0));
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM + 2 * PAGES * VM_PAGE, 64, bar,
				 KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, vm_set_slot(vm, 5, 0, 0, NULL, 0));
	EXPECT_EQ(1, stat_of(self, 0, "marked"));
	/* And with the last one it is over. */
	ASSERT_EQ(0, vm_log(vm, false));
	EXPECT_EQ(0, stat_of(self, 0, "marked"));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	munmap(bar, 64 * VM_PAGE);
}

/* Where CLEAR protects pages, it is CLEAR after which they count again. */
TEST_F(throttle, a_clear_is_told_apart)
{
	struct kvm_clear_dirty_log clear = { .slot = VM_SLOT_MEM };
	struct vm *vm = &self->vm, manual;

	probe_detach(&self->p);
	ASSERT_EQ(0, vm_create(&manual, 1, PAGES, VM_LOG | VM_MANUAL));
	/* Two VMs in one process: only a policy for all can be theirs. */
	probe_free(&self->p);
	ASSERT_EQ(0, probe_up(&self->p, "probe", 0, F_ANY_VCPU));
	vm = &manual;
	ASSERT_EQ(0, cpu_do(&vm->cpu[0], OP_WRITE, 60, 10));
	memset((void *)self->p.c, 0, sizeof(*self->p.c));
	ASSERT_EQ(0, vm_get_log(vm, VM_SLOT_MEM, vm->bitmap));
	ASSERT_EQ(10, vm_popcount(vm->bitmap, PAGES));
	EXPECT_LOG_EVENT(1, HARVEST, VM_SLOT_MEM, 10, PAGES);
	EXPECT_LOGGED(1, PAGES, LOW_PAGES + PAGES);
	clear.first_page = 64;
	clear.num_pages = 64;
	clear.dirty_bitmap = &vm->bitmap[1];
	ASSERT_EQ(0, vm_ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear));
	EXPECT_LOG_EVENT(2, CLEAR, VM_SLOT_MEM, 6, PAGES);
	EXPECT_LOGGED(1, PAGES, LOW_PAGES + PAGES);
	/* They are not dirty any more. */
	ASSERT_EQ(0, vm_ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear));
	EXPECT_LOG_EVENT(3, CLEAR, VM_SLOT_MEM, 0, PAGES);
	vm_free(vm);
}

TEST_F(throttle, kfuncs_tell_the_truth)
{
	volatile struct probe_counts *c = self->p.c;

	self->p.k->answer = 10 * MS;
	self->cpu->box->pause = 4 * self->ms;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 4));
	ASSERT_EQ(4, harvest(&self->vm));
	EXPECT_EQ(2, c->nr_vcpus);
	EXPECT_EQ(0, c->stat_ret);
	EXPECT_EQ(0, c->mark_ret);
	EXPECT_EQ(1, c->stat_marked);
	EXPECT_EQ(0, c->stat_vcpu_id);
	EXPECT_EQ(4, c->stat_dirty[0] + c->stat_dirty[1] + c->stat_dirty[2] + c->stat_dirty[3]);
	EXPECT_LE(2, c->asks);
	EXPECT_EQ(c->asks, c->stat_blocks);
	EXPECT_EQ(stat_of(self, 0, "blocked_ns"), c->stat_blocked_ns);
	EXPECT_EQ(stat_of(self, 0, "longest_ns"), c->stat_longest_ns);

	self->p.k->ask_idx = 1;
	ASSERT_EQ(0, harvest(&self->vm));
	EXPECT_EQ(0, c->stat_ret);
	EXPECT_EQ(1, c->stat_vcpu_id);
	EXPECT_EQ(0, c->stat_marked);
	EXPECT_EQ(0, c->stat_blocks);

	/* No such vCPU, near and far */
	for (int i = 0; i < 3; i++) {
		self->p.k->ask_idx = (unsigned int[]){ 2, 1U << 31, ~0U }[i];
		ASSERT_EQ(0, harvest(&self->vm));
		EXPECT_EQ(-ENOENT, c->stat_ret);
		EXPECT_EQ(-ENOENT, c->mark_ret);
	}
	EXPECT_EQ(-ENOENT, ext_mark(self->pid, 2, true));
	EXPECT_EQ(-ENOENT, ext_mark(self->pid, ~0U, true));
	EXPECT_EQ(-ESRCH, ext_mark(1, 0, true));
	EXPECT_TRUE(policy_is("probe", "active"));
}

/* --- accounting ------------------------------------------------------------ */

FIXTURE(account)
{
	struct vm vm;
	struct probe p;
	pid_t pid;
	int kmsg;
};

FIXTURE_VARIANT(account)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(account, legacy){ .flags = VM_LOG };
FIXTURE_VARIANT_ADD(account, manual){ .flags = VM_LOG | VM_MANUAL };
FIXTURE_VARIANT_ADD(account, ring){ .flags = VM_LOG | VM_RING };

FIXTURE_SETUP(account)
{
	ASSERT_STOCK(self);
	ASSERT_EQ(0, probe_up(&self->p, "probe", 0, F_ANY_VCPU));
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, variant->flags));
	/* Log start may be an event of its own. */
	memset((void *)self->p.c, 0, sizeof(*self->p.c));
}

FIXTURE_TEARDOWN(account)
{
	vm_free(&self->vm);
	probe_free(&self->p);
	EXPECT_NO_SPLAT(self->kmsg);
}

/*
 * Two vCPUs in parallel at the same pages, reading and writing at random, and
 * KVM's own writes of steal time.  Per harvest, one call per page found dirty.
 */
TEST_F_TIMEOUT(account, counts_equal_the_log, 60)
{
	struct vm *vm = &self->vm;
	volatile struct probe_counts *c = self->p.c;
	unsigned long long pages = 0, wrong = 0;
	bool ring = vm->flags & VM_RING;

	ASSERT_EQ(0, cpu_steal(&vm->cpu[0], STEAL_PAGE));
	for (int round = 0; round < 40; round++) {
		int n;

		/* Mappings gone: reads map pages anew, and map them writable. */
		if (round % 8 == 0 && !ring) {
			ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, 0, 0, NULL, 0));
			ASSERT_EQ(0, vm_log(vm, true));
		}
		for (int i = 0; i < 2; i++) {
			cpu_set(&vm->cpu[i], OP_MIX, 0, 300, 1);
			vm->cpu[i].box->seed = 0x9e3779b97f4a7c15ULL * (2 * round + i + 1);
			ASSERT_EQ(0, cpu_start(&vm->cpu[i]));
		}
		for (int i = 0; i < 2; i++)
			ASSERT_EQ(0, cpu_join(&vm->cpu[i]));
		if (ring)
			memset(vm->bitmap, 0, PAGES / 8);
		n = harvest(vm);
		ASSERT_LT(0, n);
		pages += n;
		ASSERT_EQ(pages, probe_dirtied(&self->p));
		EXPECT_EQ(ring			? RING_RESET :
			  vm->flags & VM_MANUAL ? CLEAR :
						  HARVEST,
			  last_round(&self->p)->event);
		EXPECT_EQ(n, last_round(&self->p)->dirty);
		for (int page = 0; page < PAGES; page++) {
			unsigned int bit = vm->bitmap[page / 64] >> page % 64 & 1;

			/* A ring may hold a page twice, the calls then too. */
			if (ring ? !bit != !c->page[page] : bit != c->page[page])
				wrong++;
			c->page[page] = 0;
		}
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, c->outside);
	EXPECT_EQ(0, c->other_source);
	EXPECT_EQ(0, c->out);
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "untold"));
	EXPECT_EQ(pages, c->dirtied_cpu[0] + c->dirtied_cpu[1]);
	EXPECT_EQ(c->dirtied_cpu[0], vcpu_dirty(self->pid, 0));
	EXPECT_EQ(c->dirtied_cpu[1], vcpu_dirty(self->pid, 1));
	EXPECT_EQ(c->dirtied[DIRTY_WRITE_FAULT],
		  vcpu_num(self->pid, 0, "dirty_write") + vcpu_num(self->pid, 1, "dirty_write"));
	EXPECT_EQ(c->dirtied[DIRTY_MAP],
		  vcpu_num(self->pid, 0, "dirty_map") + vcpu_num(self->pid, 1, "dirty_map"));
	EXPECT_EQ(c->dirtied[DIRTY_HOST],
		  vcpu_num(self->pid, 0, "dirty_host") + vcpu_num(self->pid, 1, "dirty_host"));
	TH_LOG("%llu pages: write %llu, pml %llu, map %llu, host %llu", pages, c->dirtied[0],
	       c->dirtied[1], c->dirtied[2], c->dirtied[3]);
	/* Every source was there, or the equality says little. */
	EXPECT_LT(1000, c->dirtied[DIRTY_WRITE_FAULT] + c->dirtied[DIRTY_PML]);
	EXPECT_LT(10, c->dirtied[DIRTY_MAP]);
	EXPECT_LT(10, c->dirtied[DIRTY_HOST]);
}

TEST_F(account, throttle_works)
{
	struct vm *vm = &self->vm;
	uint64_t ms, t;

	ASSERT_EQ(0, vm_warm(vm));
	ms = vm_ticks_per_ms();
	self->p.k->answer = 20 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	self->p.c->asks = 0;
	vm->cpu[0].box->pause = vm->cpu[1].box->pause = 5 * ms;
	t = now_ns();
	ASSERT_EQ(0, cpu_do(&vm->cpu[0], OP_WRITE, 0, 10));
	t = now_ns() - t;
	ASSERT_EQ(0, cpu_do(&vm->cpu[1], OP_WRITE, 10, 10));
	EXPECT_EQ(10, self->p.c->asks + vcpu_num(self->pid, 0, "early"));
	EXPECT_LE(7, self->p.c->asks);
	EXPECT_EQ(self->p.c->asks, vcpu_num(self->pid, 0, "blocks"));
	EXPECT_LE(self->p.c->asks * 20 * MS, t);
	EXPECT_EQ(0, vcpu_num(self->pid, 1, "blocks"));
	EXPECT_EQ(20, harvest(vm));
}

TEST_MAIN
