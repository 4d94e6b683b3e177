// SPDX-License-Identifier: GPL-2.0
/*
 * The core that every table shares works: places, attach, update, detach, lifetimes and
 * the safety net.
 */
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "harness.h"
#include "ext.h"

#define PAGES 512

/* --- a VM in a process of its own ------------------------------------------ */

struct ctl {
	volatile int ready; /* 1: the VM is there; < 0: -errno */
	volatile int go; /* start what the mailbox of vCPU 0 says */
	volatile int quit;
	volatile int busy; /* vCPU 0 runs */
	volatile int harvest_ms; /* 0: only at the end */
	volatile unsigned long long harvested;
};

struct child {
	pid_t pid;
	struct vm vm; /* its memory is shared with the child */
	struct ctl *ctl;
};

static void child_main(struct child *ch)
{
	struct ctl *ctl = ch->ctl;
	struct vm *vm = &ch->vm;
	int n, ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Links and VMs of the parent are not this one's to keep alive. */
	close_range(3, ~0U, 0);
	vm_signals();
	ret = vm_open(vm) ?: vm_warm(vm);
	ctl->ready = ret ?: 1;
	while (!ret && !ctl->quit) {
		if (ctl->go) {
			ctl->go = 0;
			ctl->busy = 1;
			cpu_start(vm->cpu);
		}
		if (ctl->busy && vm->cpu->finished) {
			cpu_join(vm->cpu);
			ctl->busy = 0;
		}
		if (ctl->harvest_ms) {
			n = harvest(vm);
			ctl->harvested += n > 0 ? n : 0;
		}
		sleep_ms(ctl->harvest_ms ?: 1);
	}
	if (ctl->busy)
		cpu_stop(vm->cpu);
	n = harvest(vm);
	ctl->harvested += n > 0 ? n : 0;
	vm_close(vm);
	_exit(0);
}

static int child_start(struct child *ch, int ncpus)
{
	int ret = vm_prepare(&ch->vm, ncpus, PAGES, VM_LOG | VM_SHARED);

	if (ret)
		return ret;
	ch->ctl = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ch->pid = fork();
	if (!ch->pid)
		child_main(ch);
	if (!WAIT(ch->ctl->ready, 20000))
		return -ETIMEDOUT;
	return ch->ctl->ready < 0 ? ch->ctl->ready : 0;
}

static void child_go(struct child *ch, enum vm_op op, uint64_t first, uint64_t count,
		     uint64_t rounds)
{
	cpu_set(&ch->vm.cpu[0], op, first, count, rounds);
	ch->ctl->go = 1;
}

/* End it well, and wait; the memory and the numbers stay. */
static int child_quit(struct child *ch)
{
	int status = -1;

	if (ch->pid <= 0)
		return 0;
	ch->ctl->quit = 1;
	waitpid(ch->pid, &status, 0);
	ch->pid = 0;
	return status;
}

static void child_free(struct child *ch)
{
	if (ch->pid > 0) {
		kill(ch->pid, SIGKILL);
		waitpid(ch->pid, NULL, 0);
	}
	ch->pid = 0;
	if (ch->ctl)
		munmap(ch->ctl, 4096);
	ch->ctl = NULL;
	vm_free(&ch->vm);
}

/* --- the fixture ----------------------------------------------------------- */

FIXTURE(core)
{
	struct vm vm;
	struct vm_cpu *cpu;
	struct probe a, b;
	struct child one, two;
	pid_t pid;
	int kmsg;
	volatile bool quit;
	volatile unsigned long long pages, written;
};

/*
 * Nothing here patches the kernel's text more often than it must while a vCPU
 * runs: an emulated machine may run a piece of it that is there no more (its
 * int3 then).  So no VM here has an interrupt controller: the first that had one,
 * and the first that had none, would flip a static branch of KVM's.
 */
FIXTURE_SETUP(core)
{
	ASSERT_STOCK(self);
	vm_signals();
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG));
	self->cpu = self->vm.cpu;
	ASSERT_EQ(0, vm_warm(&self->vm));
}

FIXTURE_TEARDOWN(core)
{
	ext_enable(true);
	probe_free(&self->a);
	probe_free(&self->b);
	child_free(&self->one);
	child_free(&self->two);
	vm_free(&self->vm);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_TRUE(WAIT(policies() == 0, 2000));
}

static struct bpf_link *attached(struct bpf_map *map, int *err)
{
	struct bpf_link *link;

	*err = ext_attach(map, &link);
	return link;
}

/* --- places ---------------------------------------------------------------- */

TEST_F(core, one_vm_wins_over_all)
{
	struct child *other = &self->one;

	ASSERT_EQ(0, child_start(other, 1));
	EXPECT_TRUE(in_charge(self->pid, "-"));
	ASSERT_EQ(0, probe_up(&self->a, "all", 0, F_ANY_VCPU))
	{
		TH_LOG("%s", ext_log);
	}
	EXPECT_TRUE(in_charge(self->pid, "all"));
	EXPECT_TRUE(in_charge(other->pid, "all"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(10, probe_dirtied(&self->a));

	ASSERT_EQ(0, probe_up(&self->b, "one", self->pid, F_ANY_VCPU));
	EXPECT_TRUE(in_charge(self->pid, "one"));
	EXPECT_TRUE(in_charge(other->pid, "all"));
	EXPECT_TRUE(policy_is("all", "active"));
	EXPECT_TRUE(policy_is("one", "active"));
	EXPECT_EQ(0, policy_num("all", "vm"));
	EXPECT_EQ(self->pid, policy_num("one", "vm"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 100, 20));
	EXPECT_EQ(10, probe_dirtied(&self->a));
	EXPECT_EQ(20, probe_dirtied(&self->b));
	child_go(other, OP_WRITE, 0, 7, 1);
	EXPECT_TRUE(WAIT(other->vm.cpu[0].box->done == 3, 5000));
	EXPECT_EQ(17, probe_dirtied(&self->a));
	EXPECT_EQ(20, probe_dirtied(&self->b));

	probe_detach(&self->b);
	EXPECT_TRUE(in_charge(self->pid, "all"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 200, 5));
	EXPECT_EQ(22, probe_dirtied(&self->a));
	EXPECT_EQ(20, probe_dirtied(&self->b));
	probe_detach(&self->a);
	EXPECT_TRUE(in_charge(self->pid, "-"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 300, 5));
	EXPECT_EQ(22, probe_dirtied(&self->a));
	EXPECT_EQ(40, harvest(&self->vm));
	EXPECT_EQ(0, policies());
}

TEST_F(core, place_is_refused)
{
	struct probe none;
	struct vm vm2;
	pid_t gone = fork();
	int before;

	if (!gone)
		_exit(0);
	waitpid(gone, NULL, 0);
	ASSERT_EQ(0, probe_load(&none, "none", 1, 0, PROBE_ALL));
	EXPECT_EQ(-ESRCH, probe_attach(&none));
	probe_free(&none);
	ASSERT_EQ(0, probe_load(&none, "none", gone, 0, PROBE_ALL));
	EXPECT_EQ(-ESRCH, probe_attach(&none));
	probe_free(&none);
	ASSERT_EQ(0, probe_load(&none, "none", 0x7fffffff, 0, PROBE_ALL));
	EXPECT_EQ(-ESRCH, probe_attach(&none));
	probe_free(&none);
	EXPECT_EQ(0, policies());

	/* A process with two VMs has no "its VM". */
	ASSERT_EQ(0, vm_create(&vm2, 1, PAGES, 0));
	ASSERT_EQ(0, probe_load(&none, "none", self->pid, 0, PROBE_ALL));
	EXPECT_EQ(-ENOTUNIQ, probe_attach(&none));
	EXPECT_EQ(-ENOTUNIQ, ext_mark(self->pid, 0, true));
	vm_free(&vm2);
	probe_free(&none);

	/* Taken; who was first stays in charge. */
	for (int all = 0; all < 2; all++) {
		__u32 vm = all ? 0 : self->pid;

		ASSERT_EQ(0, probe_up(&self->a, "first", vm, F_ANY_VCPU));
		ASSERT_EQ(0, probe_load(&self->b, "second", vm, F_ANY_VCPU, PROBE_ALL));
		before = probe_dirtied(&self->a);
		EXPECT_EQ(-EEXIST, probe_attach(&self->b));
		EXPECT_EQ(1, policies());
		EXPECT_TRUE(in_charge(self->pid, "first"));
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
		EXPECT_EQ(before + 10, probe_dirtied(&self->a));
		EXPECT_EQ(0, probe_dirtied(&self->b));
		EXPECT_EQ(10, harvest(&self->vm));
		/* The same table twice is the same place. */
		EXPECT_EQ(-EEXIST, ext_attach(self->a.ops, &none.link));
		probe_free(&self->b);
		probe_free(&self->a);
	}
}

TEST_F(core, update_is_refused)
{
	struct probe *a = &self->a, *b = &self->b;
	__u32 vms[][2] = { { self->pid, 0 }, { 0, self->pid } };

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, probe_up(a, "old", vms[i][0], F_ANY_VCPU));
		ASSERT_EQ(0, probe_load(b, "new", vms[i][1], F_ANY_VCPU, PROBE_ALL));
		EXPECT_EQ(-EINVAL, ext_update(a->link, b->ops));
		EXPECT_TRUE(policy_is("old", "active"));
		EXPECT_TRUE(in_charge(self->pid, "old"));
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
		EXPECT_EQ(10, probe_dirtied(a));
		EXPECT_EQ(0, probe_dirtied(b));
		EXPECT_EQ(10, harvest(&self->vm));
		EXPECT_EQ(1, policies());
		probe_free(a);
		probe_free(b);
	}
}

TEST_F(core, update_replaces)
{
	struct probe *a = &self->a, *b = &self->b;
	long long seq;

	ASSERT_EQ(0, probe_up(a, "old", self->pid, F_ANY_VCPU));
	seq = policy_num("old", "seq");
	EXPECT_LT(0, seq);
	ASSERT_EQ(0, probe_load(b, "new", self->pid, F_ANY_VCPU, PROBE_ALL));
	ASSERT_EQ(0, ext_update(a->link, b->ops));
	EXPECT_TRUE(in_charge(self->pid, "new"));
	EXPECT_LT(seq, policy_num("new", "seq"));
	EXPECT_EQ(1, policies());
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(0, probe_dirtied(a));
	EXPECT_EQ(10, probe_dirtied(b));
}

/* --- swap ------------------------------------------------------------------ */

/* Write, harvest, again and again; every page is counted by KVM's own log. */
static void *write_and_harvest(void *arg)
{
	FIXTURE_DATA(core) *self = arg;
	int n;

	while (!self->quit) {
		if (cpu_do(self->cpu, OP_WRITE, 0, 64))
			break;
		self->written += 64;
		n = harvest(&self->vm);
		if (n < 0)
			break;
		self->pages += n;
	}
	return NULL;
}

TEST_F_TIMEOUT(core, swap_1000_times, 120)
{
	struct probe *p[2] = { &self->a, &self->b };
	unsigned long long left[2] = {}, calls = 0, write, blocks, early, pending, t;
	pthread_t thread;
	int late = 0;

	ASSERT_EQ(0, probe_up(p[0], "left", self->pid, F_ANY_VCPU));
	ASSERT_EQ(0, probe_load(p[1], "right", self->pid, F_ANY_VCPU, PROBE_ALL));
	p[0]->k->answer = p[1]->k->answer = 100 * 1000;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	/* Some work between, so that both early and due asks are there. */
	self->cpu->box->pause = vm_ticks_per_ms() / 4;
	p[0]->c->rounds = 0;
	p[0]->c->dirtied[0] = p[0]->c->dirtied[2] = p[0]->c->asks = 0;
	write = vcpu_num(self->pid, 0, "dirty_write") + vcpu_num(self->pid, 0, "dirty_pml");
	blocks = vcpu_num(self->pid, 0, "blocks");
	early = vcpu_num(self->pid, 0, "early");
	pending = vcpu_num(self->pid, 0, "pending");
	calls = vcpu_dirty(self->pid, 0);

	self->quit = false;
	pthread_create(&thread, NULL, write_and_harvest, self);
	t = now_ns();
	for (int i = 1; i <= 1000; i++) {
		struct probe *old = p[(i - 1) & 1], *new = p[i & 1];

		if (probe_dirtied(new) + new->c->asks + new->c->rounds != left[i & 1])
			late++;
		ASSERT_EQ(0, ext_update(p[0]->link, new->ops));
		left[(i - 1) & 1] = probe_dirtied(old) + old->c->asks + old->c->rounds;
		/* Each is in charge for a while: half of them are given time. */
		if (i & 2)
			sleep_ms(2);
	}
	t = now_ns() - t;
	self->quit = true;
	pthread_join(thread, NULL);

	write = vcpu_num(self->pid, 0, "dirty_write") + vcpu_num(self->pid, 0, "dirty_pml") - write;
	blocks = vcpu_num(self->pid, 0, "blocks") - blocks;
	early = vcpu_num(self->pid, 0, "early") - early;
	pending = vcpu_num(self->pid, 0, "pending") - pending;
	calls = vcpu_dirty(self->pid, 0) - calls;
	TH_LOG("1000 swaps in %llu ms; %llu + %llu of %llu pages, %llu + %llu asks, %llu blocks, %llu early",
	       t / MS, (unsigned long long)probe_dirtied(p[0]),
	       (unsigned long long)probe_dirtied(p[1]), self->pages, p[0]->c->asks, p[1]->c->asks,
	       blocks, early);
	/* Nothing called the old one after the update had returned. */
	EXPECT_EQ(0, late);
	/* One call per page, to the one or the other; as KVM's log and counters say. */
	EXPECT_LT(1000, self->pages);
	EXPECT_EQ(self->written, self->pages);
	EXPECT_EQ(self->pages, probe_dirtied(p[0]) + probe_dirtied(p[1]));
	EXPECT_EQ(self->pages, calls);
	EXPECT_LT(self->pages / 10, probe_dirtied(p[0]));
	EXPECT_LT(self->pages / 10, probe_dirtied(p[1]));
	/* One round per harvest. */
	EXPECT_EQ(self->pages / 64, p[0]->c->rounds + p[1]->c->rounds);
	/*
	 * Every write exit of the marked vCPU asked, came early or found an
	 * event for the guest pending; every ask blocked.
	 */
	EXPECT_LT(100, blocks);
	EXPECT_EQ(blocks, p[0]->c->asks + p[1]->c->asks);
	EXPECT_EQ(write, blocks + early + pending);
	/* The mark is the user's and stays. */
	EXPECT_EQ(1, vcpu_num(self->pid, 0, "marked"));
}

TEST_F(core, two_vms_two_policies)
{
	struct child *one = &self->one, *two = &self->two;
	struct probe *a = &self->a, *b = &self->b;
	long blocks;
	__u64 asks;

	ASSERT_EQ(0, child_start(one, 1));
	ASSERT_EQ(0, child_start(two, 1));
	ASSERT_EQ(0, probe_up(a, "one", one->pid, 0));
	ASSERT_EQ(0, probe_up(b, "two", two->pid, 0));
	ASSERT_EQ(0, ext_mark(one->pid, 0, true));
	ASSERT_EQ(0, ext_mark(two->pid, 0, true));
	a->k->answer = 10 * MS;
	b->k->answer = 0;
	one->ctl->harvest_ms = two->ctl->harvest_ms = 3;
	child_go(one, OP_WRITE, 0, 16, 0);
	child_go(two, OP_WRITE, 0, 64, 0);
	sleep_ms(1500);
	/* It goes on meanwhile: asked first, blocked then. */
	asks = a->c->asks;
	blocks = vcpu_num(one->pid, 0, "blocks");
	EXPECT_LE(5, blocks);
	EXPECT_LE(asks, (__u64)blocks + 1);
	EXPECT_LE((__u64)blocks, a->c->asks);
	EXPECT_EQ(0, vcpu_num(two->pid, 0, "blocks"));
	EXPECT_LE(5, b->c->asks);
	one->vm.cpu[0].box->stop = two->vm.cpu[0].box->stop = 1;
	/* The other VM (this process) is nobody's. */
	EXPECT_TRUE(in_charge(self->pid, "-"));
	ASSERT_EQ(0, child_quit(one));
	ASSERT_EQ(0, child_quit(two));
	EXPECT_LT(10, one->ctl->harvested);
	EXPECT_LT(10, two->ctl->harvested);
	EXPECT_EQ(one->ctl->harvested, probe_dirtied(a));
	EXPECT_EQ(two->ctl->harvested, probe_dirtied(b));
	EXPECT_TRUE(policy_is("one", "vm-gone"));
	EXPECT_TRUE(policy_is("two", "vm-gone"));
}

/* --- ends ------------------------------------------------------------------ */

TEST_F(core, vm_ends_while_attached)
{
	struct probe *a = &self->a, *b = &self->b;
	struct vm vm2;

	ASSERT_EQ(0, probe_up(a, "old", self->pid, F_ANY_VCPU));
	ASSERT_EQ(0, probe_load(b, "new", self->pid, F_ANY_VCPU, PROBE_ALL));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	vm_close(&self->vm);
	EXPECT_TRUE(WAIT(policy_is("old", "vm-gone"), 2000));
	EXPECT_EQ(10, probe_dirtied(a));
	/* The slot was logged to the end, which is told apart from logging that stops. */
	EXPECT_EQ(0, a->c->events[LOG_STOP]);
	EXPECT_EQ(1, a->c->ends);
	EXPECT_EQ(-ESRCH, ext_update(a->link, b->ops));
	EXPECT_EQ(-ESRCH, ext_mark(self->pid, 0, true));

	/* A policy is for that VM, not for the number: the next one is free. */
	ASSERT_EQ(0, vm_create(&vm2, 1, PAGES, VM_LOG));
	EXPECT_TRUE(in_charge(self->pid, "-"));
	ASSERT_EQ(0, cpu_do(vm2.cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(10, probe_dirtied(a));
	ASSERT_EQ(0, probe_attach(b));
	EXPECT_TRUE(in_charge(self->pid, "new"));
	ASSERT_EQ(0, cpu_do(vm2.cpu, OP_WRITE, 100, 10));
	EXPECT_EQ(10, probe_dirtied(b));
	probe_detach(a);
	EXPECT_TRUE(policy_is("new", "active"));
	vm_free(&vm2);
}

TEST_F(core, vcpu_that_comes_later)
{
	struct probe *a = &self->a;
	struct vm_cpu *cpu = &self->vm.cpu[2];

	ASSERT_EQ(0, probe_up(a, "later", self->pid, 0));
	EXPECT_EQ(-ENOENT, ext_mark(self->pid, 2, true));
	self->vm.ncpus = 3;
	ASSERT_EQ(0, vm_add_cpu(&self->vm, 2));
	ASSERT_EQ(0, ext_mark(self->pid, 2, true));
	a->k->answer = MS;
	ASSERT_EQ(0, cpu_do(cpu, OP_WRITE, 0, 1));
	EXPECT_EQ(1, a->c->asks_cpu[2]);
	EXPECT_EQ(1, vcpu_num(self->pid, 2, "blocks"));
	EXPECT_EQ(1, harvest(&self->vm));
	EXPECT_EQ(3, a->c->nr_vcpus);
}

TEST_F_TIMEOUT(core, killed_while_blocked, 60)
{
	struct probe *a = &self->a;

	for (int i = 0; i < 5; i++) {
		struct child *ch = &self->one;
		uint64_t t;

		ASSERT_EQ(0, child_start(ch, 2));
		ASSERT_EQ(0, probe_up(a, "victim", i & 1 ? 0 : ch->pid, 0));
		ASSERT_EQ(0, ext_mark(ch->pid, 0, true));
		a->k->answer = 5000 * MS;
		ch->ctl->harvest_ms = 2;
		child_go(ch, OP_WRITE, 0, 16, 0);
		ASSERT_TRUE(WAIT(a->c->asks > 2, 5000));
		sleep_ms(10);
		t = now_ns();
		ASSERT_EQ(0, kill(ch->pid, SIGKILL));
		ASSERT_EQ(ch->pid, waitpid(ch->pid, NULL, 0));
		t = now_ns() - t;
		ch->pid = 0;
		EXPECT_GT(2000 * MS, t);
		EXPECT_TRUE(WAIT(policy_is("victim", i & 1 ? "active" : "vm-gone"), 2000));
		EXPECT_EQ(1, policies());
		probe_free(a);
		child_free(ch);
	}
	/* Nothing is left over for the VM that had no part in it. */
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(10, harvest(&self->vm));
}

/* A process that loads a policy for all and waits to be killed. */
static pid_t loader(const char *pin, const char *name)
{
	int pipefd[2];
	char ok = 0;
	pid_t pid;

	if (pipe(pipefd))
		return -1;
	pid = fork();
	if (!pid) {
		struct probe p;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ok = !probe_up(&p, name, 0, F_ANY_VCPU);
		if (ok && pin)
			ok = !bpf_link__pin(p.link, pin);
		ok = write(pipefd[1], &ok, 1) == 1;
		for (;;)
			pause();
	}
	close(pipefd[1]);
	if (read(pipefd[0], &ok, 1) != 1 || !ok) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pid = -1;
	}
	close(pipefd[0]);
	return pid;
}

TEST_F(core, loader_killed)
{
	pid_t pid = loader(NULL, "unpinned");
	char pin[64];
	long long calls;

	ASSERT_LT(0, pid);
	ASSERT_TRUE(policy_is("unpinned", "active"));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_TRUE(WAIT(policies() == 0, 2000));
	EXPECT_TRUE(in_charge(self->pid, "-"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(10, harvest(&self->vm));

	snprintf(pin, sizeof(pin), "/sys/fs/bpf/core_test_%d", self->pid);
	pid = loader(pin, "pinned");
	ASSERT_LT(0, pid);
	calls = policy_num("pinned", "calls");
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	sleep_ms(200);
	EXPECT_TRUE(policy_is("pinned", "active"));
	EXPECT_TRUE(in_charge(self->pid, "pinned"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(calls + 10, policy_num("pinned", "calls"));
	ASSERT_EQ(0, unlink(pin));
	EXPECT_TRUE(WAIT(policies() == 0, 2000));
}

TEST_F(core, kill_switch_under_load)
{
	struct probe *a = &self->a, *b = &self->b;
	struct child *ch = &self->one;
	uint64_t asks, dirtied;

	ASSERT_EQ(0, child_start(ch, 1));
	ASSERT_EQ(0, probe_up(a, "load", ch->pid, F_ANY_VCPU));
	ASSERT_EQ(0, probe_load(b, "late", 0, 0, PROBE_ALL));
	ASSERT_EQ(0, ext_mark(ch->pid, 0, true));
	a->k->answer = 20 * MS;
	ch->ctl->harvest_ms = 2;
	child_go(ch, OP_WRITE, 0, 16, 0);
	for (int i = 0; i < 4; i++) {
		uint64_t progress;

		asks = a->c->asks;
		ASSERT_TRUE(WAIT(a->c->asks > asks + 2, 5000));
		ASSERT_EQ(0, ext_enable(false));
		/* A call that had begun may end yet. */
		sleep_ms(5);
		asks = a->c->asks;
		dirtied = probe_dirtied(a);
		progress = ch->vm.cpu[0].box->progress;
		sleep_ms(50);
		EXPECT_EQ(asks, a->c->asks);
		EXPECT_EQ(dirtied, probe_dirtied(a));
		EXPECT_LT(progress, ch->vm.cpu[0].box->progress);
		EXPECT_EQ(-EPERM, probe_attach(b));
		if (!i)
			EXPECT_EQ(-EPERM, ext_update(a->link, a->ops));
		ASSERT_EQ(0, ext_enable(true));
	}
	EXPECT_TRUE(policy_is("load", "active"));
	EXPECT_EQ(1, vcpu_num(ch->pid, 0, "marked"));
	EXPECT_TRUE(WAIT(a->c->asks > asks + 2, 5000));
	EXPECT_EQ(0, probe_attach(b));
}

/* --- what the kernel does not take ----------------------------------------- */

/* Load one table (and its programs) or one program of the object of bad ones. */
static struct bpf_object *load_only(const char *map_name, const char *prog_name, int *err)
{
	struct bpf_object *obj = ext_open("tests/kvm/probes/refused.bpf.o");
	struct bpf_program *prog;
	struct bpf_map *map;
	bool found = false;

	*err = -ENOENT;
	if (!obj)
		return NULL;
	bpf_object__for_each_map(map, obj)
	{
		bool this = map_name && !strcmp(bpf_map__name(map), map_name);

		bpf_map__set_autocreate(map, this);
		found |= this;
	}
	bpf_object__for_each_program(prog, obj)
	{
		bool this = prog_name && !strcmp(bpf_program__name(prog), prog_name);

		/* A table's own programs follow the table. */
		if (bpf_program__type(prog) != BPF_PROG_TYPE_STRUCT_OPS)
			bpf_program__set_autoload(prog, this);
		found |= this;
	}
	*err = found ? bpf_object__load(obj) : -ENOENT;
	return obj;
}

/* Every op of every table: the same table with it is taken, and refused if it may sleep. */
TEST_F_TIMEOUT(core, no_op_may_sleep, 60)
{
	static const char *const ops[] = {
		"throttle_dirtied", "throttle_block", "throttle_dirty_log", "throttle_end",
		"irq_route",	    "irq_run",	      "irq_retarget",	"irq_end",
		"save_select",	    "save_end",	      "dirty_harvest",	"dirty_basis",
		"dirty_end",
	};

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		for (int sleepy = 0; sleepy <= 1; sleepy++) {
			struct bpf_object *obj;
			char map[64];
			int err;

			snprintf(map, sizeof(map), "%s_%s", sleepy ? "sleepy" : "awake", ops[i]);
			obj = load_only(map, NULL, &err);
			EXPECT_EQ(sleepy ? -EINVAL : 0, err)
			{
				TH_LOG("%s: %d: %s", map, err, ext_log);
			}
			bpf_object__close(obj);
		}
	}
}

TEST_F(core, refused_at_load)
{
	static const struct {
		const char *map, *prog, *says;
		bool good;
	} tries[] = {
		{ "good", NULL, NULL, true },
		{ "mark_pid", NULL, "kvm_throttle_mark_pid", false },
		{ "untrusted", NULL, NULL, false },
		{ "write", NULL, NULL, false },
		{ "good_dirty", NULL, NULL, true },
		{ "read_throttle", NULL, "kvm_dirty_read", false },
		{ "clock_save", NULL, "kvm_dirty_clock", false },
		{ "vcpus_dirty", NULL, "kvm_throttle_nr_vcpus", false },
		{ NULL, "syscall_good", NULL, true },
		{ NULL, "syscall_nr_vcpus", NULL, false },
		{ NULL, "tracing_mark_pid", "kvm_throttle_mark_pid", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		const char *name = tries[i].map ?: tries[i].prog;
		struct bpf_object *obj;
		int err;

		obj = load_only(tries[i].map, tries[i].prog, &err);
		ASSERT_NE(-ENOENT, err);
		EXPECT_EQ(tries[i].good, !err)
		{
			TH_LOG("%s: %d: %s", name, err, ext_log);
		}
		if (!tries[i].good) {
			EXPECT_TRUE(err == -EACCES || err == -EINVAL)
			{
				TH_LOG("%s: %d", name, err);
			}
		}
		if (tries[i].says)
			EXPECT_NE(NULL, strstr(ext_log, tries[i].says));
		bpf_object__close(obj);
	}
	EXPECT_EQ(0, policies());
}

TEST_F(core, refused_at_attach)
{
	static const struct {
		const char *map;
		int err;
	} tries[] = {
		{ "legacy", -EOPNOTSUPP }, { "bad_name", -EINVAL }, { "no_name", -EINVAL },
		{ "bad_flags", -EINVAL },  { "good", 0 },	    { "empty", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		struct bpf_object *obj;
		struct bpf_link *link;
		int err;

		obj = load_only(tries[i].map, NULL, &err);
		ASSERT_EQ(0, err)
		{
			TH_LOG("%s: %s", tries[i].map, ext_log);
		}
		link = attached(bpf_object__find_map_by_name(obj, tries[i].map), &err);
		EXPECT_EQ(tries[i].err, err)
		{
			TH_LOG("%s", tries[i].map);
		}
		EXPECT_EQ(err ? 0 : 1, policies());
		if (!err) {
			/* An op that is not there is KVM's own behaviour. */
			EXPECT_EQ(0, ext_mark(self->pid, 0, true));
			EXPECT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 10));
			EXPECT_EQ(10, harvest(&self->vm));
			EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocks"));
		}
		bpf_link__destroy(link);
		bpf_object__close(obj);
		EXPECT_EQ(0, policies());
	}
}

TEST_F(core, long_name)
{
	/* 31 letters and the NUL fit, more are cut by the test itself; all 32 do not. */
	char name[32];
	struct ops_head *head;
	struct bpf_object *obj;
	struct bpf_link *link;
	struct bpf_map *map;
	size_t size;
	int err;

	memset(name, 'n', 31);
	name[31] = 0;
	ASSERT_EQ(0, probe_up(&self->a, name, 0, 0));
	EXPECT_TRUE(policy_is(name, "active"));
	probe_free(&self->a);

	obj = ext_open("tests/kvm/probes/probe.bpf.o");
	ASSERT_NE(NULL, obj);
	map = bpf_object__find_map_by_name(obj, "probe");
	head = bpf_map__initial_value(map, &size);
	memset(head->name, 'n', sizeof(head->name));
	ASSERT_EQ(0, bpf_object__load(obj));
	link = attached(map, &err);
	EXPECT_EQ(NULL, link);
	EXPECT_EQ(-EINVAL, err);
	EXPECT_EQ(0, policies());
	bpf_object__close(obj);
}

/* --- the safety net -------------------------------------------------------- */

/* Ejected: the guest runs on, unhurt, and no op is called any more. */
static void expect_stock(struct __test_metadata *_metadata, FIXTURE_DATA(core) * self)
{
	uint64_t dirtied, asks, rounds;

	sleep_ms(5);
	dirtied = probe_dirtied(&self->a);
	asks = self->a.c->asks;
	rounds = self->a.c->rounds;
	harvest(&self->vm);
	self->cpu->box->value = dirtied * 1000 + 1;
	EXPECT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 100));
	EXPECT_EQ(0, vm_wrong_pages(&self->vm, 0, 100, dirtied * 1000 + 1));
	EXPECT_LE(100, harvest(&self->vm));
	/* The last page may be the steal time's. */
	self->vm.bitmap[(PAGES - 1) / 64] &= ~(1ULL << (PAGES - 1) % 64);
	EXPECT_EQ(100, vm_popcount(self->vm.bitmap, PAGES));
	EXPECT_EQ(dirtied, probe_dirtied(&self->a));
	EXPECT_EQ(asks, self->a.c->asks);
	EXPECT_EQ(rounds, self->a.c->rounds);
	EXPECT_TRUE(in_charge(self->pid, "-"));
}

TEST_F(core, error_exit)
{
	static const unsigned int ops[] = { PROBE_IN_DIRTIED, PROBE_IN_BLOCK, PROBE_IN_DIRTY_LOG };
	static const char *const say[] = { "the first error", NULL };
	struct probe *a = &self->a;
	char text[256];

	ASSERT_EQ(0, probe_up(a, "errs", self->pid, F_ANY_VCPU));
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		/* An update puts an ejected policy's place in charge again. */
		if (i) {
			ASSERT_EQ(0, ext_update(a->link, a->ops));
			EXPECT_TRUE(policy_is("errs", "active"));
			EXPECT_EQ(0, policy_num("errs", "code"));
		}
		a->k->error_ops = 0;
		ASSERT_EQ(0, ext_mark(self->pid, 0, true));
		a->k->error_code = 4711 + i * 10;
		a->k->error_sources = 1 << DIRTY_WRITE_FAULT | 1 << DIRTY_PML;
		a->k->error_ops = ops[i];
		self->cpu->box->pause = 0;
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 3));
		ASSERT_LE(0, harvest(&self->vm));
		EXPECT_TRUE(WAIT(policy_is("errs", "ejected"), 2000));
		EXPECT_TRUE(policy_has("errs", "kind", "policy"));
		EXPECT_EQ(4711 + (long)i * 10, policy_num("errs", "code"));
		ext_get("policy", "name=errs", "msg", text, sizeof(text));
		EXPECT_NE(NULL, strstr(text, "the first error"))
		{
			TH_LOG("msg \"%s\"", text);
		}
		ext_get("policy", "name=errs", "dump", text, sizeof(text));
		EXPECT_LT(20, strlen(text));
		sleep_ms(20);
		EXPECT_NE(NULL, kmsg_find(self->kmsg, say));
		a->k->error_ops = 0;
		expect_stock(_metadata, self);
	}
	EXPECT_EQ(1, policies());
}

static void *burner(void *arg)
{
	FIXTURE_DATA(core) *self = arg;

	while (!self->quit)
		asm volatile("" ::: "memory");
	return NULL;
}

/*
 * KVM notes that a vCPU was preempted where a runqueue is locked and IRQs are off,
 * which dirties the page of its steal time.  No program runs there: the policy is
 * told when the vCPU is back, and may give up then.
 */
TEST_F(core, nothing_runs_with_the_runqueue_locked)
{
	struct probe *a = &self->a;
	pthread_t burn;
	cpu_set_t cpus;
	char dump[256];

	ASSERT_EQ(0, cpu_steal(self->cpu, PAGES - 1));
	ASSERT_EQ(0, probe_up(a, "errs", self->pid, F_ANY_VCPU));
	a->k->error_sources = 1 << DIRTY_HOST;
	a->k->error_code = 5;
	self->quit = false;
	ASSERT_EQ(0, one_cpu(&cpus));
	cpu_set(self->cpu, OP_SPIN, 0, 0, 0);
	ASSERT_EQ(0, cpu_start(self->cpu));
	ASSERT_EQ(0, pthread_create(&burn, NULL, burner, self));
	pthread_setaffinity_np(self->cpu->thread, sizeof(cpus), &cpus);
	pthread_setaffinity_np(burn, sizeof(cpus), &cpus);
	for (int i = 0; i < 10; i++) {
		if (i)
			ASSERT_EQ(0, ext_update(a->link, a->ops));
		a->k->error_ops = PROBE_IN_DIRTIED;
		for (int t = 0; t < 400 && !policy_is("errs", "ejected"); t++) {
			harvest(&self->vm);
			sleep_ms(5);
		}
		a->k->error_ops = 0;
		EXPECT_TRUE(policy_is("errs", "ejected"));
		EXPECT_EQ(5, policy_num("errs", "code"));
		ext_get("policy", "name=errs", "dump", dump, sizeof(dump));
		EXPECT_NE(NULL, strstr(dump, "irqs=on"));
	}
	TH_LOG("dump: %s", dump);
	self->quit = true;
	pthread_join(burn, NULL);
	ASSERT_EQ(0, cpu_stop(self->cpu));
	ASSERT_LE(0, harvest(&self->vm));
	expect_stock(_metadata, self);
}

TEST_F(core, negative_answers)
{
	struct probe *a = &self->a;
	int n = 63;

	ASSERT_EQ(0, probe_up(a, "negative", self->pid, 0));
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	self->cpu->box->pause = 3 * vm_ticks_per_ms();
	a->c->asks = 0;
	a->k->answer = -1;
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, n));
	EXPECT_EQ(n, a->c->asks);
	EXPECT_EQ(n, policy_num("negative", "invalid"));
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocks"));
	EXPECT_TRUE(policy_is("negative", "active"));
	/* The last straw, and one more that must not be asked. */
	a->k->answer = INT64_MIN;
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, n, 2));
	EXPECT_EQ(n + 1, a->c->asks);
	EXPECT_TRUE(WAIT(policy_is("negative", "ejected"), 2000));
	EXPECT_TRUE(policy_has("negative", "kind", "answers"));
	EXPECT_EQ(64, policy_num("negative", "code"));
	EXPECT_EQ(64, policy_num("negative", "invalid"));
	EXPECT_EQ(0, vcpu_num(self->pid, 0, "blocks"));
	self->cpu->box->pause = 0;
	expect_stock(_metadata, self);
}

TEST_F_TIMEOUT(core, slow_ops, 60)
{
	static const struct {
		unsigned int op;
		const char *name;
	} ops[] = {
		{ PROBE_IN_BLOCK, "block" },
		{ PROBE_IN_DIRTY_LOG, "dirty_log" },
		{ PROBE_IN_DIRTIED, "dirtied" },
	};
	struct probe *a = &self->a;
	char text[256];

	self->cpu->box->pause = 3 * vm_ticks_per_ms();
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		uint64_t calls;

		/* No other, which a busy machine might find slow too. */
		ASSERT_EQ(0, probe_load(a, "slow", self->pid, 0, ops[i].op));
		ASSERT_EQ(0, probe_attach(a));
		ASSERT_EQ(0, ext_mark(self->pid, 0, true));
		/* Time in which it waits for a CPU is not held against it. */
		a->k->slow_ns = 50 * MS;
		a->k->slow_ops = ops[i].op;
		for (int n = 0; n < 40 && !policy_is("slow", "ejected"); n++) {
			ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 1));
			ASSERT_LE(0, harvest(&self->vm));
		}
		EXPECT_TRUE(WAIT(policy_is("slow", "ejected"), 2000));
		EXPECT_TRUE(policy_has("slow", "kind", "slow"));
		EXPECT_EQ(16, policy_num("slow", "slow"));
		/* Each was slow: not before the 16th, which is judged two ticks later. */
		calls = a->c->asks + a->c->rounds + probe_dirtied(a);
		EXPECT_LE(16, calls);
		EXPECT_GE(17, calls);
		ext_get("policy", "name=slow", "msg", text, sizeof(text));
		EXPECT_NE(NULL, strstr(text, ops[i].name))
		{
			TH_LOG("%s: msg \"%s\"", ops[i].name, text);
		}
		a->k->slow_ops = 0;
		expect_stock(_metadata, self);
		probe_free(a);
	}
}

/*
 * Have vCPU 0 of the VM of @ch answered 64 times outside the allowed set.  On a busy
 * machine many of its writes ask nobody: an interrupt is due, or the last was just now.
 */
#define PROVOKE 80
#define PROVOKES 5

static void provoke_child(struct __test_metadata *_metadata, struct child *ch)
{
	ch->vm.cpu[0].box->pause = 3 * vm_ticks_per_ms();
	ASSERT_EQ(0, ext_mark(ch->pid, 0, true));
	child_go(ch, OP_WRITE, 0, PROVOKE * PROVOKES, 1);
	EXPECT_TRUE(WAIT(in_charge(ch->pid, "-"), 5000));
}

static void provoke(struct __test_metadata *_metadata, FIXTURE_DATA(core) *self, int first)
{
	self->cpu->box->pause = 3 * vm_ticks_per_ms();
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	for (int i = 0; i < PROVOKES && !in_charge(self->pid, "-"); i++)
		ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, first + i * PROVOKE, PROVOKE));
	self->cpu->box->pause = 0;
	EXPECT_TRUE(WAIT(in_charge(self->pid, "-"), 2000));
}

static bool taken_from(pid_t pid, const char *policy)
{
	char match[64];

	snprintf(match, sizeof(match), "vm=%d", pid);
	return ext_is("taken", match, "policy", policy);
}

/*
 * A policy for every VM that answers badly in one loses that one alone; what it
 * does for others goes on, and its successor begins anew in all.
 */
TEST_F(core, one_vm_loses_it_alone)
{
	struct child *other = &self->one;
	struct probe *a = &self->a;
	char text[256], match[64];

	ASSERT_EQ(0, child_start(other, 1));
	ASSERT_EQ(0, probe_up(a, "all", 0, 0));
	a->k->answer = -7;
	provoke(_metadata, self, 0);
	EXPECT_TRUE(taken_from(self->pid, "all"));
	EXPECT_FALSE(taken_from(other->pid, "all"));
	EXPECT_TRUE(policy_is("all", "active"));
	EXPECT_EQ(1, policy_num("all", "taken"));
	EXPECT_EQ(64, policy_num("all", "invalid"));
	snprintf(match, sizeof(match), "vm=%d", self->pid);
	EXPECT_EQ(0, ext_get("taken", match, "msg", text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "-7 to block()"))
	{
		TH_LOG("msg \"%s\"", text);
	}
	expect_stock(_metadata, self);

	EXPECT_TRUE(in_charge(other->pid, "all"));
	a->k->answer = 2 * MS;
	a->c->asks = 0;
	/* Long enough that each write asks on a busy machine, too: see provoke_child(). */
	other->vm.cpu[0].box->pause = 30 * vm_ticks_per_ms();
	ASSERT_EQ(0, ext_mark(other->pid, 0, true));
	child_go(other, OP_WRITE, 0, 10, 1);
	EXPECT_TRUE(WAIT(vcpu_num(other->pid, 0, "blocks") == 10, 5000));
	EXPECT_EQ(10, a->c->asks);

	ASSERT_EQ(0, ext_update(a->link, a->ops));
	EXPECT_TRUE(in_charge(self->pid, "all"));
	EXPECT_TRUE(in_charge(other->pid, "all"));
	EXPECT_FALSE(taken_from(self->pid, "all"));
	EXPECT_EQ(0, policy_num("all", "taken"));
	ASSERT_LE(0, harvest(&self->vm));
	a->c->asks = 0;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 1));
	EXPECT_EQ(1, a->c->asks);
}

/* One that fails in several VMs, which are half of all, fails by itself. */
TEST_F(core, several_vms_eject_it)
{
	struct probe *a = &self->a;

	ASSERT_EQ(0, child_start(&self->one, 1));
	ASSERT_EQ(0, child_start(&self->two, 1));
	ASSERT_EQ(0, probe_up(a, "all", 0, 0));
	a->k->answer = -7;
	provoke_child(_metadata, &self->one);
	provoke_child(_metadata, &self->two);
	EXPECT_EQ(2, policy_num("all", "taken"));
	EXPECT_TRUE(policy_is("all", "active"));
	EXPECT_TRUE(in_charge(self->pid, "all"));
	/* One that ends does not count any more, or restarts would add up. */
	child_quit(&self->one);
	EXPECT_TRUE(WAIT(policy_num("all", "taken") == 1, 2000));
	child_free(&self->one);
	ASSERT_EQ(0, child_start(&self->one, 1));
	provoke_child(_metadata, &self->one);
	EXPECT_EQ(2, policy_num("all", "taken"));
	EXPECT_TRUE(policy_is("all", "active"));
	provoke(_metadata, self, 0);
	EXPECT_TRUE(WAIT(policy_is("all", "ejected"), 2000));
	EXPECT_TRUE(policy_has("all", "kind", "answers"));
	expect_stock(_metadata, self);
}

/* Slow in one VM, whose fault it may be, it is taken from that one. */
TEST_F_TIMEOUT(core, slow_for_one_vm, 60)
{
	struct child *other = &self->one;
	struct probe *a = &self->a;

	ASSERT_EQ(0, child_start(other, 1));
	ASSERT_EQ(0, probe_load(a, "slow", 0, 0, PROBE_IN_DIRTY_LOG));
	ASSERT_EQ(0, probe_attach(a));
	a->k->slow_ns = 50 * MS;
	a->k->slow_ops = PROBE_IN_DIRTY_LOG;
	for (int n = 0; n < 40 && !taken_from(self->pid, "slow"); n++)
		ASSERT_LE(0, harvest(&self->vm));
	EXPECT_TRUE(taken_from(self->pid, "slow"));
	a->k->slow_ops = 0;
	EXPECT_TRUE(policy_is("slow", "active"));
	EXPECT_TRUE(in_charge(other->pid, "slow"));
	EXPECT_TRUE(in_charge(self->pid, "-"));
}

/* Wrong answers are forgiven after a minute. */
TEST_F_TIMEOUT(core, wrong_answers_are_forgiven, 150)
{
	struct probe *a = &self->a;

	ASSERT_EQ(0, probe_up(a, "sometimes", self->pid, 0));
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	self->cpu->box->pause = 3 * vm_ticks_per_ms();
	a->k->answer = -1;
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 60));
	sleep_ms(61 * 1000);
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 60, 60));
	EXPECT_EQ(120, policy_num("sometimes", "invalid"));
	EXPECT_TRUE(policy_is("sometimes", "active"));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 120, 4));
	EXPECT_TRUE(WAIT(policy_is("sometimes", "ejected"), 2000));
}

/* The end of a VM is told once, last of all, also while the kill switch is thrown. */
TEST_F(core, end_is_the_last_word)
{
	struct child *ch[] = { &self->one, &self->two };
	struct probe *a = &self->a;
	uint64_t calls;

	ASSERT_EQ(0, probe_up(a, "all", 0, F_ANY_VCPU));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, child_start(ch[i], 2));
		a->c->ends = 0;
		a->c->ended = 0;
		a->c->late = 0;
		ASSERT_EQ(0, ext_enable(!i));
		child_quit(ch[i]);
		EXPECT_TRUE(WAIT(a->c->ends == 1, 2000));
		EXPECT_EQ(0, a->c->late);
		calls = policy_num("all", "calls");
		sleep_ms(20);
		EXPECT_EQ(calls, policy_num("all", "calls"));
		EXPECT_EQ(1, a->c->ends);
	}
}

/*
 * So it is to the policy for every VM where the VM has one of its own: it may have dealt with
 * the VM before.  One that it was taken from counts no more.
 */
TEST_F(core, end_is_told_to_both)
{
	struct child *ch = &self->one;
	struct probe *a = &self->a, *b = &self->b;

	ASSERT_EQ(0, child_start(ch, 1));
	ASSERT_EQ(0, probe_up(a, "all", 0, 0));
	a->k->answer = -7;
	provoke_child(_metadata, ch);
	EXPECT_TRUE(taken_from(ch->pid, "all"));
	EXPECT_EQ(1, policy_num("all", "taken"));
	ASSERT_EQ(0, probe_up(b, "own", ch->pid, 0));
	EXPECT_TRUE(in_charge(ch->pid, "own"));
	a->c->ends = 0;
	child_quit(ch);
	EXPECT_TRUE(WAIT(b->c->ends == 1, 2000));
	EXPECT_EQ(1, a->c->ends);
	EXPECT_EQ(0, policy_num("all", "taken"));
}

TEST_F_TIMEOUT(core, random_answers, 60)
{
	struct probe *a = &self->a;
	struct vm_cpu *cpu = self->cpu;
	uint64_t t, before;

	ASSERT_EQ(0, probe_up(a, "random", self->pid, F_ANY_VCPU));
	for (int wild = 0; wild < 2; wild++) {
		for (int i = 0; i < 2; i++) {
			ASSERT_EQ(0, ext_mark(self->pid, i, true));
			cpu_set(&cpu[i], OP_WRITE, i * 256, 64, 0);
			cpu[i].box->value = 77 + wild;
			ASSERT_EQ(0, cpu_start(&cpu[i]));
		}
		a->k->how = wild ? PROBE_WILD : PROBE_RANDOM;
		t = now_ns() + 2000 * MS;
		before = a->c->asks;
		while (now_ns() < t) {
			uint64_t was[2] = { cpu[0].box->progress, cpu[1].box->progress };

			for (int i = 0; i < 50; i++) {
				harvest(&self->vm);
				sleep_ms(4);
			}
			EXPECT_LT(was[0], cpu[0].box->progress);
			EXPECT_LT(was[1], cpu[1].box->progress);
		}
		EXPECT_LT(before + 10, a->c->asks);
		for (int i = 0; i < 2; i++) {
			ASSERT_EQ(0, cpu_stop(&cpu[i]));
			EXPECT_EQ(0, vm_wrong_pages(&self->vm, i * 256, 64, 77 + wild));
			EXPECT_GT(1000 * MS * patience(), vcpu_num(self->pid, i, "longest_ns"));
		}
		if (!wild) {
			EXPECT_TRUE(policy_is("random", "active"));
			EXPECT_EQ(0, policy_num("random", "invalid"));
			EXPECT_LT(0, policy_num("random", "clamped"));
		}
		TH_LOG("%llu asks, %lld clamped, %lld invalid", a->c->asks,
		       policy_num("random", "clamped"), policy_num("random", "invalid"));
	}
	EXPECT_LT(0, policy_num("random", "invalid"));
	EXPECT_TRUE(
		policy_is("random", policy_num("random", "invalid") < 64 ? "active" : "ejected"));
}

/* --- all at once ----------------------------------------------------------- */

struct churn {
	FIXTURE_DATA(core) * self;
	struct probe *a, *b;
	unsigned long long done, refused, wrong;
	int err; /* the last that was wrong */
};

static void churn_count(struct churn *c, int ret)
{
	/* A child that was just forked may hold on to the last link. */
	if (!ret)
		c->done++;
	else if (ret == -EEXIST)
		c->refused++;
	else
		c->wrong++, c->err = ret;
}

/* What the slowest of the threads has done. */
static unsigned long long churn_least(const struct churn *c, size_t n)
{
	unsigned long long least = ~0ULL;

	for (size_t i = 0; i < n; i++) {
		unsigned long long done = __atomic_load_n(&c[i].done, __ATOMIC_RELAXED);

		if (done < least)
			least = done;
	}
	return least;
}

/* The place for one VM: attach, swap, detach. */
static void *churn_attach(void *arg)
{
	struct churn *c = arg;

	while (!c->self->quit) {
		churn_count(c, probe_attach(c->a));
		if (c->a->link)
			churn_count(c, ext_update(c->a->link, c->b->ops));
		probe_detach(c->a);
	}
	return NULL;
}

/* The place for all: always taken. */
static void *churn_update(void *arg)
{
	struct churn *c = arg;

	for (int i = 0; !c->self->quit; i++)
		churn_count(c, ext_update(c->a->link, i & 1 ? c->a->ops : c->b->ops));
	return NULL;
}

static void *churn_mark(void *arg)
{
	struct churn *c = arg;

	for (int i = 0; !c->self->quit; i++) {
		churn_count(c, ext_mark(c->self->pid, i & 1, true));
		sleep_ms(7);
		churn_count(c, ext_mark(c->self->pid, i & 1, false));
	}
	return NULL;
}

static void *churn_harvest(void *arg)
{
	struct churn *c = arg;

	while (!c->self->quit) {
		churn_count(c, harvest(&c->self->vm) < 0 ? -EIO : 0);
		sleep_ms(3);
	}
	return NULL;
}

/*
 * Policies for all and for one come, are swapped, ejected and go, marks flip and
 * another VM is made and killed, while a guest writes.  The kill switch has a test
 * of its own: throwing it patches the kernel's text, and vCPUs that run at that
 * moment may execute what is no longer there in an emulator with several threads
 * (stock KVM's own static branches panic there likewise).
 */
TEST_F_TIMEOUT(core, everything_at_once, 60)
{
	static void *(*const fn[])(void *) = {
		churn_update,
		churn_attach,
		churn_mark,
		churn_harvest,
	};
	struct churn c[ARRAY_SIZE(fn)] = {};
	struct probe p[4];
	pthread_t thread[ARRAY_SIZE(fn)];
	uint64_t end, least;
	int vms = 0;

	/* Loads the program for the threads. */
	ASSERT_EQ(0, ext_mark(self->pid, 0, false));
	for (int i = 0; i < 4; i++) {
		ASSERT_EQ(0, probe_load(&p[i], i < 2 ? "all" : "one", i < 2 ? 0 : self->pid,
					F_ANY_VCPU, PROBE_ALL));
		p[i].k->answer = 5 * MS;
		p[i].k->how = PROBE_RANDOM;
	}
	/* One of each pair gives up as soon as its dirty_log() is called. */
	p[1].k->error_ops = p[3].k->error_ops = PROBE_IN_DIRTY_LOG;
	ASSERT_EQ(0, probe_attach(&p[0]));
	self->quit = false;
	for (int i = 0; i < 2; i++) {
		cpu_set(&self->cpu[i], OP_WRITE, i * 256, 64, 0);
		self->cpu[i].box->value = 99;
		ASSERT_EQ(0, cpu_start(&self->cpu[i]));
	}
	for (size_t i = 0; i < ARRAY_SIZE(fn); i++) {
		c[i].self = self;
		c[i].a = &p[i ? 2 : 0];
		c[i].b = &p[i ? 3 : 1];
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, fn[i], &c[i]));
	}
	least = now_ns() + 6000 * MS;
	end = now_ns() + 6000 * MS * patience();
	/* Longer where all is slow, until each thread has done something. */
	while (now_ns() < least || (now_ns() < end && churn_least(c, ARRAY_SIZE(fn)) <= 8)) {
		ASSERT_EQ(0, child_start(&self->one, 1));
		self->one.ctl->harvest_ms = 2;
		child_go(&self->one, OP_WRITE, 0, 16, 0);
		sleep_ms(50);
		child_free(&self->one);
		vms++;
	}
	self->quit = true;
	for (size_t i = 0; i < ARRAY_SIZE(fn); i++)
		pthread_join(thread[i], NULL);
	TH_LOG("updated %llu, attached and updated %llu (%llu refused), marked %llu, harvested %llu, %d VMs",
	       c[0].done, c[1].done, c[0].refused + c[1].refused, c[2].done, c[3].done, vms);
	for (int i = 0; i < 2; i++) {
		uint64_t before = self->cpu[i].box->progress;

		EXPECT_TRUE(WAIT(self->cpu[i].box->progress > before, 2000));
		EXPECT_EQ(0, cpu_stop(&self->cpu[i]))
		{
			TH_LOG("%s", cpu_text(&self->cpu[i]));
		}
		EXPECT_EQ(0, vm_wrong_pages(&self->vm, i * 256, 64, 99));
	}
	for (size_t i = 0; i < ARRAY_SIZE(fn); i++) {
		EXPECT_EQ(0, c[i].wrong)
		{
			TH_LOG("thread %zu: %d", i, c[i].err);
		}
		EXPECT_LT(8, c[i].done);
	}
	EXPECT_LE(2, vms);
	for (int i = 0; i < 4; i++) {
		EXPECT_LT(0, p[i].c->rounds + probe_dirtied(&p[i]));
		probe_free(&p[i]);
	}
	EXPECT_EQ(0, policies());
	EXPECT_TRUE(in_charge(self->pid, "-"));
}

/* --- tracepoints ----------------------------------------------------------- */

TEST_F(core, tracepoints)
{
	static const char *const events[] = {
		"kvm_ext_attach",     "kvm_ext_detach",	    "kvm_ext_update",
		"kvm_ext_eject",      "kvm_throttle_mark",  "kvm_throttle_dirty",
		"kvm_throttle_block", "kvm_throttle_dirty_log",
	};
	const char *dir = TRACING "/instances/core_test";
	struct probe *a = &self->a, *b = &self->b;
	char path[256], *text;

	mkdir(dir, 0700);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		snprintf(path, sizeof(path), "%s/events/kvm_ext/%s/enable", dir, events[i]);
		EXPECT_EQ(0, ext_write(path, "1"))
		{
			TH_LOG("%s", path);
		}
	}
	snprintf(path, sizeof(path), "%s/trace", dir);
	ASSERT_EQ(0, probe_up(a, "traced", self->pid, 0));
	ASSERT_EQ(0, probe_load(b, "next", self->pid, 0, PROBE_ALL));
	text = ext_read(path);
	EXPECT_NE(NULL, strstr(text, "kvm_ext_attach"));
	EXPECT_EQ(NULL, strstr(text, "kvm_ext_detach"));
	EXPECT_EQ(NULL, strstr(text, "kvm_throttle_block"));
	free(text);

	a->k->answer = b->k->answer = MS;
	ASSERT_EQ(0, ext_mark(self->pid, 0, true));
	ASSERT_EQ(0, cpu_do(self->cpu, OP_WRITE, 0, 1));
	ASSERT_LE(0, harvest(&self->vm));
	text = ext_read(path);
	EXPECT_NE(NULL, strstr(text, "kvm_throttle_mark"));
	EXPECT_NE(NULL, strstr(text, "kvm_throttle_dirty"));
	EXPECT_NE(NULL, strstr(text, "kvm_throttle_block"));
	EXPECT_NE(NULL, strstr(text, "kvm_throttle_dirty_log"));
	EXPECT_EQ(NULL, strstr(text, "kvm_ext_update"));
	EXPECT_EQ(NULL, strstr(text, "kvm_ext_eject"));
	free(text);

	ASSERT_EQ(0, ext_update(a->link, b->ops));
	b->k->error_ops = PROBE_IN_DIRTY_LOG;
	ASSERT_LE(0, harvest(&self->vm));
	EXPECT_TRUE(WAIT(policy_is("next", "ejected"), 2000));
	probe_detach(a);
	sleep_ms(20);
	text = ext_read(path);
	EXPECT_NE(NULL, strstr(text, "kvm_ext_update"));
	EXPECT_NE(NULL, strstr(text, "kvm_ext_eject"));
	EXPECT_NE(NULL, strstr(text, "kvm_ext_detach"));
	EXPECT_NE(NULL, strstr(text, "traced"));
	EXPECT_NE(NULL, strstr(text, "next"));
	free(text);
	rmdir(dir);
}

/* --- the modules ----------------------------------------------------------- */

static int unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

static int load(const char *file)
{
	const char *dir = getenv("KVMEXT_KMOD");
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", dir ?: ".", file);
	return ext_insmod(path, "");
}

static bool loaded(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s/initstate", name);
	return !access(path, F_OK);
}

static const char *vendor, *file;

static __attribute__((constructor)) void kvm_look(void)
{
	vendor = loaded("kvm_amd") ? "kvm_amd" : "kvm_intel";
	file = loaded("kvm_amd") ? "kvm-amd.ko" : "kvm-intel.ko";
}

/* Whatever became of the test, also when its time was over: others want KVM. */
static __attribute__((destructor)) void kvm_back(void)
{
	if (!getenv("KVMEXT_KMOD"))
		return;
	if (!loaded("kvm"))
		load("kvm.ko");
	if (!loaded(vendor))
		load(file);
}

/* A fixture of its own, so as to come last, and to have no VM. */
FIXTURE(module){};

FIXTURE_SETUP(module)
{
}

FIXTURE_TEARDOWN(module)
{
}

/* With no VM, kvm.ko could go but for the policy. */
TEST_F_TIMEOUT(module, stays_while_attached, 60)
{
	int kmsg = kmsg_open();
	struct probe p;
	struct vm vm;

	if (!getenv("KVMEXT_KMOD"))
		SKIP(return, "KVMEXT_KMOD does not say where the modules are");
	ASSERT_EQ(0, policies());
	ASSERT_EQ(0, probe_up(&p, "holder", 0, F_ANY_VCPU));
	ASSERT_EQ(0, unload(vendor));
	EXPECT_EQ(-EWOULDBLOCK, unload("kvm"));
	ASSERT_TRUE(loaded("kvm"));
	/* It holds for VMs of the vendor module's second life. */
	ASSERT_EQ(0, load(file));
	EXPECT_TRUE(policy_is("holder", "active"));
	ASSERT_EQ(0, vm_create(&vm, 1, PAGES, VM_LOG));
	p.c->dirtied[0] = p.c->dirtied[2] = 0;
	ASSERT_EQ(0, cpu_do(vm.cpu, OP_WRITE, 0, 10));
	EXPECT_EQ(10, probe_dirtied(&p));
	EXPECT_EQ(10, harvest(&vm));
	vm_free(&vm);

	ASSERT_EQ(0, unload(vendor));
	probe_free(&p);
	/* BPF frees what held the module after a grace period or two. */
	EXPECT_TRUE(WAIT(unload("kvm") == 0, 3000));
	EXPECT_FALSE(loaded("kvm"));
	if (!loaded("kvm"))
		ASSERT_EQ(0, load("kvm.ko"));
	ASSERT_EQ(0, load(file));
	EXPECT_EQ(0, policies());
	ASSERT_EQ(0, probe_up(&p, "again", 0, 0));
	EXPECT_TRUE(policy_is("again", "active"));
	probe_free(&p);
	EXPECT_NO_SPLAT(kmsg);
}

TEST_MAIN
