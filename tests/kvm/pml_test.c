// SPDX-License-Identifier: GPL-2.0
/*
 * The throttle works where the CPU logs writes (Intel's PML) and they take no exit. KVM
 * charges a vCPU when it reads the log: at the next exit, or when 512 pages are in it.
 * Guests of throttle_test exit after each write, here they do not.
 *
 * Machines: intel
 */
#include "harness.h"
#include "ext.h"

#define PAGES 4096
#define LOG_PAGES 512

FIXTURE(pml)
{
	struct vm vm;
	struct vm_cpu *cpu;
	struct probe p;
	pid_t pid;
	int kmsg;
};

FIXTURE_SETUP(pml)
{
	if (!vm_pml())
		SKIP(return, "KVM has no PML here, or it is off");
	ASSERT_STOCK(self);
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG | VM_IRQCHIP));
	self->cpu = self->vm.cpu;
	self->cpu[0].box->leave = self->cpu[1].box->leave = 0;
	ASSERT_EQ(0, vm_warm(&self->vm));
	ASSERT_EQ(0, probe_up(&self->p, "probe", self->pid, F_ANY_VCPU))
	{
		TH_LOG("%s", ext_log);
	}
	memset((void *)self->p.c, 0, sizeof(*self->p.c));
}

FIXTURE_TEARDOWN(pml)
{
	if (!vm_pml())
		return;
	probe_free(&self->p);
	vm_free(&self->vm);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, policies());
}

/* Times that a marked vCPU's log was read and had pages in it */
static long long flushes(FIXTURE_DATA(pml) * self)
{
	return self->p.c->asks + vcpu_num(self->pid, 0, "early") +
	       vcpu_num(self->pid, 0, "pending");
}

TEST_F(pml, charged_when_the_log_is_read)
{
	volatile struct probe_counts *c = self->p.c;

	self->p.k->answer = 20 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(&self->cpu[1], OP_WRITE, 1000, 100));
	EXPECT_EQ(0, c->asks);
	EXPECT_EQ(100, c->dirtied[DIRTY_PML]);
	EXPECT_EQ(100, vcpu_num(self->pid, 1, "dirty_pml"));

	/* Written at full speed; the op's end is an exit, and the next run takes up the charge. */
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 300));
	EXPECT_EQ(400, c->dirtied[DIRTY_PML]);
	EXPECT_EQ(300, vcpu_num(self->pid, 0, "dirty_pml"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_READ, 0, 300));
	EXPECT_LE(1, c->asks);
	EXPECT_EQ(c->asks, c->asks_cpu[0]);
	/* Once a read log, not once a page. */
	EXPECT_GE(30, flushes(self));
	EXPECT_LE(c->asks * 20 * MS, vcpu_num(self->pid, 0, "blocked_ns"));
	EXPECT_EQ(0, vcpu_num(self->pid, 1, "blocks"));
	/* The reads added nothing. */
	EXPECT_EQ(400, probe_dirtied(&self->p));
	EXPECT_EQ(400, harvest(&self->vm));
}

TEST_F(pml, at_most_a_log_late)
{
	self->p.k->answer = 0;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, PAGES));
	EXPECT_EQ(PAGES, self->p.c->dirtied[DIRTY_PML]);
	ASSERT_EQ(0, cpu_do(self->cpu, OP_READ, 0, 1));
	TH_LOG("%d pages in %lld reads of the log", PAGES, flushes(self));
	EXPECT_LE(PAGES / LOG_PAGES, flushes(self));
	EXPECT_EQ(PAGES, harvest(&self->vm));
}

/*
 * How many pages vCPU 0 writes in @ms of the clock, harvested all the while; with an
 * interrupt each 5 ms if @irqs.
 */
static uint64_t stream(struct __test_metadata *_metadata, FIXTURE_DATA(pml) * self, int ms,
		       bool irqs)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t end, before;

	cpu_set(cpu, OP_WRITE, 0, PAGES, 0);
	ASSERT_EQ(0, cpu_start(cpu));
	ASSERT_TRUE(WAIT(cpu->box->progress, 5000));
	before = cpu->box->progress;
	end = now_ns() + ms * MS;
	while (now_ns() < end) {
		sleep_ms(5);
		EXPECT_LE(0, harvest(&self->vm));
		if (irqs)
			EXPECT_LE(0, vm_msi(&self->vm, 0, true));
	}
	before = cpu->box->progress - before;
	ASSERT_EQ(0, cpu_stop(cpu));
	return before;
}

/* A harvest has every vCPU leave the guest; that is not to end a block. */
TEST_F(pml, a_stream_is_throttled)
{
	uint64_t free, held, blocked, t;

	free = stream(_metadata, self, 500, false);
	EXPECT_EQ(0, self->p.c->asks);
	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	t = now_ns();
	held = stream(_metadata, self, 500, false);
	t = now_ns() - t;
	blocked = vcpu_num(self->pid, 0, "blocked_ns");
	TH_LOG("%llu pages free, %llu throttled; blocked %llu of %llu ms, %llu asks, %lld times kicked",
	       free, held, blocked / MS, t / MS, self->p.c->asks,
	       vcpu_num(self->pid, 0, "ended_kick"));
	EXPECT_LE(2, self->p.c->asks);
	EXPECT_LE(t / 2, blocked);
	EXPECT_GT(free / 3, held);
	/* One may come between a request and its block. */
	EXPECT_GE(2, vcpu_num(self->pid, 0, "ended_kick"));
}

/* What an interrupt cuts off of a block comes after it, not after the next 512 pages. */
TEST_F(pml, interrupts_do_not_free_a_stream)
{
	uint64_t quiet, busy, nmis, blocked;

	/* A log of 512 pages more or less is to be little beside what is counted. */
	self->p.k->answer = 100 * MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	quiet = stream(_metadata, self, 2000, false);
	nmis = self->cpu->box->nmis;
	blocked = vcpu_num(self->pid, 0, "blocked_ns");
	busy = stream(_metadata, self, 2000, true);
	nmis = self->cpu->box->nmis - nmis;
	blocked = vcpu_num(self->pid, 0, "blocked_ns") - blocked;
	TH_LOG("%llu pages with no interrupts, %llu with %llu of them; %lld times kicked, blocked for %llu ms",
	       quiet, busy, nmis, vcpu_num(self->pid, 0, "ended_kick"), blocked / MS);
	/* They did come, and within a block. */
	EXPECT_LE(200, nmis);
	EXPECT_LE(120, vcpu_num(self->pid, 0, "ended_kick"));
	EXPECT_LE(1000 * MS, blocked);
	EXPECT_GE(quiet * 3 / 2, busy);
}

/* What is posted to a vCPU ends its block: nothing exits for it. */
TEST_F(pml, a_posted_interrupt_ends_a_block)
{
	struct vm_cpu *cpu = self->cpu;
	uint64_t t = 0, asks;

	self->p.k->answer = 100 * MS;
	for (int i = 0; i < 6; i++) {
		ASSERT_EQ(0, ext_mark(self->pid, 0, false));
		ASSERT_LE(0, harvest(&self->vm));
		sleep_ms(100);
		ASSERT_EQ(0, ext_mark(self->pid, 0, true));
		asks = self->p.c->asks;
		cpu->box->irqs = 0;
		cpu->box->leave = 1;
		cpu_set(cpu, OP_WRITE, 0, 1, 1);
		ASSERT_EQ(0, cpu_start(cpu));
		ASSERT_TRUE(WAIT(self->p.c->asks > asks, 5000));
		sleep_ms(10);
		if (!cpu->finished) {
			t = now_ns();
			ASSERT_EQ(1, vm_msi(&self->vm, 0, false));
			/* The block goes on once the guest has it. */
			ASSERT_TRUE(WAIT(cpu->box->irqs, 5000));
			t = now_ns() - t;
			ASSERT_EQ(0, cpu_join(cpu));
			break;
		}
		ASSERT_EQ(0, cpu_join(cpu));
	}
	ASSERT_NE(0, t);
	TH_LOG("%llu us until the guest has the interrupt", t / 1000);
	EXPECT_GT(60 * MS, t);
	EXPECT_EQ(1, cpu->box->irqs);
	EXPECT_LE(1, vcpu_num(self->pid, 0, "ended_kick"));
}

TEST_MAIN
