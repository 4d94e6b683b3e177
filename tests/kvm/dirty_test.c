// SPDX-License-Identifier: GPL-2.0
/*
 * A policy can leave pages out of the dirty log. It can neither put pages in nor lose
 * any, whatever it answers and however it ends. Also: when skip_free believes the
 * guest.
 */
#include "free_area.h"

#include <linux/userfaultfd.h>
#include <sys/wait.h>

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
	/* With manual protection it is asked once more about what it leaves out. */
	EXPECT_EQ(variant->flags ? 2 : 1, self->p.c->asked);
	EXPECT_EQ(192 + (variant->flags ? 96 : 0), self->p.c->pages);
	EXPECT_EQ(FIRST_GFN, self->p.c->first_gfn);
	EXPECT_EQ(FIRST_GFN + 192, self->p.c->last_gfn);
	EXPECT_EQ(VM_SLOT_MEM, self->p.c->slot);
	EXPECT_EQ(192, vm_stat("offered"));
	EXPECT_EQ(96, vm_stat("withheld"));

	EXPECT_EQ(96, vm_stat("held"));

	/* Neither what was let through nor what was not is offered again ... */
	EXPECT_EQ(1, self->p.c->based);
	self->p.c->asked = 0;
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(0, self->p.c->asked);
	EXPECT_EQ(4, self->p.c->based);
	/* ... but what was written since, ... */
	ASSERT_EQ(0, writes(vm, 64, 1));
	EXPECT_EQ(0, vm_harvest(vm));
	ASSERT_EQ(0, writes(vm, 64 + 4, 1));
	EXPECT_EQ(1, vm_harvest(vm));
	EXPECT_EQ(1ULL << 4, vm->bitmap[1]);
	EXPECT_EQ(96, vm_stat("held"));
	/* ... which is sent when it is let through, it alone ... */
	self->p.k->out = 0;
	ASSERT_EQ(0, writes(vm, 64 + 1, 2));
	EXPECT_EQ(2, vm_harvest(vm));
	EXPECT_EQ(6, vm->bitmap[1]);
	EXPECT_EQ(94, vm_stat("held"));
	EXPECT_EQ(2, vm_stat("back"));
	EXPECT_EQ(0, vm_harvest(vm));
	/* ... until basis() is in doubt: the rest is sent, once, and nobody asked. */
	self->p.k->doubt = 1;
	self->p.k->out = out;
	self->p.c->asked = 0;
	EXPECT_EQ(94, vm_harvest(vm));
	for (int i = 0; i < PAGES / 64; i++)
		EXPECT_EQ(i == 1 ? out & ~6ULL : i == 2 || i == 3 ? out : 0, vm->bitmap[i]);
	EXPECT_EQ(0, vm_stat("held"));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(0, self->p.c->asked);
}

/* What was left out on another basis is offered again, of each slot. */
TEST_F(dirty, another_basis)
{
	struct vm *vm = &self->vm;
	uint64_t log;

	ASSERT_EQ(0, pol_up(&self->p, "probe", getpid()));
	ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, VM_MEM, 0, NULL, 0));
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM, 64, vm->mem, KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, vm_set_slot(vm, 6, VM_MEM + 64 * VM_PAGE, 64, (char *)vm->mem + 64 * VM_PAGE,
				 KVM_MEM_LOG_DIRTY_PAGES));
	ASSERT_EQ(0, writes(vm, 0, 128));
	self->p.k->out = ~0ULL;
	for (int slot = 5; slot <= 6; slot++) {
		ASSERT_EQ(0, vm_get_log(vm, slot, &log));
		EXPECT_EQ(0, log);
	}
	EXPECT_EQ(128, vm_stat("held"));
	self->p.k->basis = 1;
	self->p.k->out = 0xf;
	for (int slot = 5; slot <= 6; slot++) {
		ASSERT_EQ(0, vm_get_log(vm, slot, &log));
		EXPECT_EQ(~0xfULL, log);
	}
	EXPECT_EQ(8, vm_stat("held"));
	/* It may change in one alone. */
	self->p.k->basis = 2;
	self->p.k->out = 0;
	ASSERT_EQ(0, vm_get_log(vm, 5, &log));
	EXPECT_EQ(0xf, log & 0xf);
	ASSERT_EQ(0, vm_set_slot(vm, 5, VM_MEM, 0, NULL, 0));
	EXPECT_EQ(4, vm_stat("held"));
}

/* What the guest takes into use while it is asked about is sent, and in the log until then. */
TEST_F(dirty, in_use_when_asked_again)
{
	struct vm *vm = &self->vm;

	if (!variant->flags)
		SKIP(return, "without manual protection there is one pass");
	ASSERT_EQ(0, pol_up(&self->p, "probe", getpid()));
	self->p.k->out = 0xff;
	self->p.k->used = 0xf;
	ASSERT_EQ(0, writes(vm, 0, 16));
	/* Not cleared, it is told of again. */
	ASSERT_EQ(0, vm_get_log(vm, VM_SLOT_MEM, vm->bitmap));
	EXPECT_EQ(0xff0f, vm->bitmap[0]);
	ASSERT_EQ(0, vm_get_log(vm, VM_SLOT_MEM, vm->bitmap));
	EXPECT_EQ(0xff0f, vm->bitmap[0]);
	EXPECT_EQ(12, vm_harvest(vm));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(4, vm_stat("held"));
}

/* What is left out is remembered as long as the slot is logged, and no longer. */
TEST_F(dirty, forgotten_with_the_log)
{
	struct vm *vm = &self->vm;

	ASSERT_EQ(0, pol_up(&self->p, "probe", getpid()));
	self->p.k->out = ~0ULL;
	ASSERT_EQ(0, writes(vm, 0, 100));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(100, vm_stat("held"));
	/* A slot that moves takes it along. */
	ASSERT_EQ(0, vm_set_slot(vm, VM_SLOT_MEM, VM_MEM + PAGES * VM_PAGE, PAGES, vm->mem,
				 KVM_MEM_LOG_DIRTY_PAGES));
	EXPECT_EQ(100, vm_stat("held"));
	ASSERT_EQ(0, vm_log(vm, true));
	pol_off(&self->p);
	EXPECT_EQ(100, vm_harvest(vm));
	EXPECT_EQ(0, vm_stat("held"));
	ASSERT_EQ(0, pol_attach(&self->p));
	ASSERT_EQ(0, writes(vm, 0, 100));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(100, vm_stat("held"));
	ASSERT_EQ(0, vm_log(vm, false));
	EXPECT_EQ(0, vm_stat("held"));
	ASSERT_EQ(0, vm_log(vm, true));
	pol_off(&self->p);
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
	EXPECT_EQ(7 + (variant->flags ? 2 : 0), self->p.c->pages);
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
	EXPECT_LT(0, self->p.c->asked);
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

	for (uint32_t how = DIRTY_PROBE_READ; how <= DIRTY_PROBE_ATOMIC; how++) {
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
		EXPECT_EQ(how == DIRTY_PROBE_READ ? 0 : -EINVAL, c->ret);
		EXPECT_EQ(how == DIRTY_PROBE_READ ? 7 : 0, c->got[0]);
		EXPECT_EQ(how == DIRTY_PROBE_READ ? 8 : 0, c->got[1]);

		/* Where there is nothing: at the end of a slot, and far away */
		for (int i = 0; i < 3; i++) {
			k->gpa = i == 0 ? VM_MEM + PAGES * VM_PAGE -
						  (how == DIRTY_PROBE_READ ? 8 : 0) :
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
		EXPECT_EQ(how == DIRTY_PROBE_READ ? 0 : -EFAULT, c->ret);
		EXPECT_EQ(0, c->got[0]);
		page[0] = 0x1122334455667788;
		page[1] = 42;
	}

	/* What the host has put away is brought in, and the same asked again. */
	k->read = DIRTY_PROBE_READ;
	k->gpa = at;
	k->out = 1;
	c->again = c->pages = 0;
	ASSERT_EQ(0, madvise(page, VM_PAGE, MADV_DONTNEED));
	ASSERT_EQ(0, writes(vm, 0, 2));
	EXPECT_EQ(1, vm_harvest(vm));
	EXPECT_EQ(1, c->again);
	EXPECT_EQ(0, c->ret);
	EXPECT_EQ(4 + (variant->flags ? 1 : 0), c->pages);
	/* Who misses what cannot be had has no say, and is not asked without end. */
	ASSERT_EQ(0, mprotect(page, VM_PAGE, PROT_NONE));
	ASSERT_EQ(0, writes(vm, 0, 1));
	EXPECT_EQ(1, vm_harvest(vm));
	EXPECT_EQ(-EAGAIN, c->ret);
	EXPECT_EQ(2, c->again);
	ASSERT_EQ(0, mprotect(page, VM_PAGE, PROT_READ | PROT_WRITE));
	page[1] = 42;

	/* And a policy that has no basis() */
	pol_free(&self->p);
	ASSERT_EQ(0, pol_load(&self->p, "tests/kvm/probes/dirty_probe.bpf.o", "dirty_probe_atomic", "atomic", 0))
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

/* --- a VM whose memory never comes ----------------------------------------- */

/* A child that harvests with @page of its guest's behind a userfaultfd that nobody serves */
static void stuck_vmm(int up)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct vm vm;
	int fd, ret;
	char c;

	vm_signals();
	ret = vm_create(&vm, 1, PAGES, VM_LOG);
	fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	reg.range.start = (uintptr_t)vm.mem + 10 * VM_PAGE;
	reg.range.len = VM_PAGE;
	if (ret || fd < 0 || madvise((void *)reg.range.start, VM_PAGE, MADV_DONTNEED) ||
	    ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg) ||
	    cpu_do(&vm.cpu[0], OP_WRITE, 0, 1))
		_exit(1);
	c = 'r';
	if (write(up, &c, 1) != 1)
		_exit(1);
	vm_harvest(&vm);
	_exit(0);
}

/*
 * Its own ioctl hangs, until it is killed; nothing does that concerns another VM or all: attach,
 * switch, detach and the kill switch wait for no op.
 */
TEST_F_TIMEOUT(dirty, memory_that_never_comes, 60)
{
	struct pol b, all;
	uint64_t t;
	int up[2], status;
	pid_t pid;
	char c;

	ASSERT_EQ(0, pol_up(&all, "all", 0));
	all.k->read = DIRTY_PROBE_READ;
	all.k->gpa = VM_MEM + 10 * VM_PAGE;
	ASSERT_EQ(0, pipe(up));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		stuck_vmm(up[1]);
	ASSERT_EQ(1, read(up[0], &c, 1));
	ASSERT_TRUE(WAIT(all.c->again == 1, 5000));
	sleep_ms(50);
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG));

	t = now_ns();
	ASSERT_EQ(0, pol_up(&self->p, "probe", getpid()));
	ASSERT_EQ(0, pol_probe(&b, "other", getpid()));
	ASSERT_EQ(0, writes(&self->vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(&self->vm));
	EXPECT_EQ(0, ext_update(self->p.link, b.ops));
	pol_off(&self->p);
	ASSERT_EQ(0, ext_enable(false));
	ASSERT_EQ(0, ext_enable(true));
	pol_free(&b);
	pol_off(&all);
	EXPECT_GT(5000 * MS * patience(), now_ns() - t);
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG));
	kill(pid, SIGKILL);
	EXPECT_TRUE(WAIT(waitpid(pid, &status, WNOHANG) == pid, 5000));
	pol_free(&all);
	close(up[0]);
	close(up[1]);
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
	ASSERT_EQ(0, writes(&self->vm, 0, 1));
	EXPECT_EQ(300, vm_harvest(&self->vm));
	EXPECT_EQ(asked + 1, self->p.c->asked);
	EXPECT_TRUE(policy_is("probe", "ejected"));
	EXPECT_TRUE(policy_has("probe", "msg", "as the test wants"));
	EXPECT_EQ(7, policy_num("probe", "code"));
	ASSERT_EQ(0, writes(&self->vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(&self->vm));
	EXPECT_EQ(0, vm_harvest(&self->vm));
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
	EXPECT_TRUE(WAIT(!dirty_policies(), 5000));
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

#define BLOCKS 8
#define BLOCK_PAGES 4096

/* One page of each stretch that one call is about */
static int writes_blocks(struct vm *vm)
{
	int ret = 0;

	for (int i = 0; !ret && i < BLOCKS; i++)
		ret = cpu_do(&vm->cpu[0], OP_WRITE, i * BLOCK_PAGES, 1);
	return ret;
}

/* A policy that takes its time: user space does not wait for ever, and gets all. */
TEST_F_TIMEOUT(dirty, slow, 60)
{
	long long slow;
	struct vm big;
	uint64_t t;

	vm_close(&self->vm);
	ASSERT_EQ(0, vm_create(&big, 1, BLOCKS * BLOCK_PAGES, VM_LOG | VM_SPARSE | variant->flags));
	ASSERT_LE(0, vm_harvest(&big));
	ASSERT_EQ(0, pol_up(&self->p, "probe", 0));
	self->p.k->how = DIRTY_PROBE_SLOW;
	self->p.k->spin = 1 << 16;
	/* Find how many rounds KVM calls slow, each time: over 20 ms of its own. */
	for (int row = 0; row < 3;) {
		slow = policy_num("probe", "slow");
		ASSERT_EQ(0, cpu_do(&big.cpu[0], OP_WRITE, 0, 1));
		ASSERT_EQ(1, vm_harvest(&big));
		/* It is judged a tick later. */
		sleep_ms(30);
		row = policy_num("probe", "slow") > slow ? row + 1 : 0;
		if (!row)
			self->p.k->spin *= 2;
		ASSERT_GT(1U << 23, self->p.k->spin);
	}
	self->p.k->spin *= 2;
	EXPECT_EQ(0, vm_stat("left"));
	self->p.c->asked = 0;
	ASSERT_EQ(0, writes_blocks(&big));
	t = now_ns();
	EXPECT_EQ(BLOCKS, vm_harvest(&big));
	t = now_ns() - t;
	/* 100 ms and what the last call took */
	EXPECT_GT(BLOCKS, self->p.c->asked);
	EXPECT_EQ(1, vm_stat("left"));
	EXPECT_EQ(1, policy_num("probe", "clamped"));
	/* Again and again: it is taken from the VM. */
	for (int i = 0; i < 64 && !ext_is("taken", "policy=probe", "kind", "slow"); i++) {
		ASSERT_EQ(0, writes_blocks(&big));
		ASSERT_EQ(BLOCKS, vm_harvest(&big));
		sleep_ms(30);
	}
	EXPECT_TRUE(ext_is("taken", "policy=probe", "table", "dirty"));
	EXPECT_TRUE(policy_is("probe", "active"));
	self->p.c->asked = 0;
	ASSERT_EQ(0, writes_blocks(&big));
	ASSERT_EQ(BLOCKS, vm_harvest(&big));
	EXPECT_EQ(0, self->p.c->asked);
	TH_LOG("a log took %llu ms", (unsigned long long)(t / MS));
	vm_free(&big);
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

/*
 * The ring is read where it lies, private memory says nothing to the host: a policy for such
 * a VM is refused, one for all not asked.
 */
FIXTURE(not_offered)
{
	struct vm vm;
	struct pol p;
};

FIXTURE_VARIANT(not_offered)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(not_offered, ring){ .flags = VM_RING };
FIXTURE_VARIANT_ADD(not_offered, private_memory){ .flags = VM_PRIVATE };

FIXTURE_SETUP(not_offered)
{
	if (variant->flags == VM_PRIVATE && !vm_may_be_private())
		SKIP(return, "KVM has no CONFIG_KVM_SW_PROTECTED_VM; make test-debug's has");
	ASSERT_EQ(0, vm_create(&self->vm, 1, PAGES, VM_LOG | variant->flags));
}

FIXTURE_TEARDOWN(not_offered)
{
	pol_free(&self->p);
	vm_free(&self->vm);
	EXPECT_EQ(0, dirty_policies());
}

TEST_F(not_offered, to_such_a_vm)
{
	struct pol *p = &self->p;
	struct vm other;

	ASSERT_EQ(0, pol_probe(p, "probe", getpid()));
	EXPECT_EQ(-EOPNOTSUPP, pol_attach(p));
	pol_free(p);
	ASSERT_EQ(0, pol_up(p, "probe", 0));
	p->k->out = ~0ULL;
	ASSERT_EQ(0, cpu_do(&self->vm.cpu[0], OP_WRITE, 0, 10));
	EXPECT_EQ(10, harvest(&self->vm));
	EXPECT_EQ(0, p->c->asked);
	EXPECT_EQ(0, ext_num("dirty_vm", "", "offered_to"));
	/* It is asked, about another. */
	ASSERT_EQ(0, vm_create(&other, 1, PAGES, VM_LOG));
	ASSERT_EQ(0, cpu_do(&other.cpu[0], OP_WRITE, 0, 10));
	EXPECT_EQ(0, harvest(&other));
	EXPECT_EQ(1, p->c->asked);
	vm_free(&other);
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

/* Policies come, go, change their basis and are switched off, in the midst of logs too. */
struct churn {
	struct pol *p, *b;
	volatile bool stop;
	unsigned int n;
	int ret;
};

static void *churn(void *arg)
{
	struct churn *c = arg;

	while (!c->stop && !c->ret) {
		c->ret = pol_attach(c->p);
		sleep_ms(3);
		c->p->k->basis++;
		sleep_ms(3);
		c->ret = c->ret ?: ext_update(c->p->link, c->b->ops);
		sleep_ms(3);
		c->p->k->doubt = c->n % 4 == 3;
		if (c->n % 8 == 7)
			c->ret = c->ret ?: ext_enable(false) ?: ext_enable(true);
		pol_off(c->p);
		c->n++;
	}
	return NULL;
}

TEST_F_TIMEOUT(dirty, policies_that_come_and_go_lose_nothing, 60)
{
	struct vm *vm = &self->vm;
	struct churn c = { .p = &self->p };
	struct pol b;
	pthread_t t;

	ASSERT_EQ(0, pol_probe(&self->p, "probe", getpid()));
	ASSERT_EQ(0, pol_probe(&b, "other", getpid()));
	c.b = &b;
	self->p.k->how = b.k->how = DIRTY_PROBE_WILD;
	memcpy(self->dst, vm->mem, PAGES * VM_PAGE);
	for (int i = 0; i < 2; i++) {
		vm->cpu[i].box->seed = 99 + i;
		cpu_set(&vm->cpu[i], OP_MIX, i * PAGES / 2, PAGES / 2, 0);
		ASSERT_EQ(0, cpu_start(&vm->cpu[i]));
	}
	ASSERT_EQ(0, pthread_create(&t, NULL, churn, &c));
	for (int i = 0; i < 200; i++) {
		vm->cpu[0].box->value = vm->cpu[1].box->value = i << 16;
		sleep_ms(1);
		ASSERT_EQ(0, round_of(vm, self->dst));
	}
	c.stop = true;
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, c.ret);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, cpu_stop(&vm->cpu[i]));
	EXPECT_LT(0, vm_stat("withheld"));
	EXPECT_LT(2, c.n);
	ASSERT_EQ(0, round_of(vm, self->dst));
	EXPECT_EQ(0, vm_stat("held"));
	EXPECT_EQ(0, memcmp(self->dst, vm->mem, PAGES * VM_PAGE));
	TH_LOG("%u times", c.n);
	pol_free(&b);
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
	EXPECT_EQ(10, vm_stat("held"));

	/* A scan: the sequence is odd. */
	head->seq = 7;
	EXPECT_EQ(0, vm_harvest(vm));
	ASSERT_EQ(0, writes(vm, 0, 10));
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
	ASSERT_EQ(0, area_tell(p, 0x1234, PFNS, -1));
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_EQ(1, counter(p, "no_lease"));
	ASSERT_EQ(0, area_tell(p, 0x1234, PFNS, 3600000));
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
	ASSERT_EQ(0, area_tell(p, 0x5678, PFNS, 3600000));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(2, counter(p, "rebooted"));
	EXPECT_EQ(10, vm_stat("held"));
}

/* One VM more than skip_free has room for: all is sent, and it is not told as a reset. */
TEST_F(dirty, no_room_is_no_reboot)
{
	struct vm *vm = &self->vm;
	struct pol *p = &self->p;
	struct {
		uint64_t cookie, clock;
		uint32_t pid, pad;
	} used = {};
	struct bpf_map *vms;

	ASSERT_EQ(0, skip_up(vm, p));
	vms = bpf_object__find_map_by_name(p->obj, "vms");
	ASSERT_NE(NULL, vms);
	ASSERT_EQ(sizeof(used), bpf_map__value_size(vms));
	for (uint64_t key = 1; key <= bpf_map__max_entries(vms); key++)
		if (bpf_map_update_elem(bpf_map__fd(vms), &key, &used, BPF_ANY))
			break;
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_LT(0, counter(p, "no_room"));
	EXPECT_EQ(0, counter(p, "rebooted"));
	EXPECT_EQ(0, counter(p, "skipped"));
}

/* Another VM, of another process: it writes 10 pages that are free, and harvests at each 'h' */
static void other_guest(int in, int out)
{
	struct vm vm;
	char c = 0;

	vm_signals();
	if (vm_create(&vm, 1, PAGES, VM_LOG))
		_exit(1);
	area_fill(&vm, 0x77, PAGES);
	c = 'r';
	while (write(out, &c, 1) == 1 && read(in, &c, 1) == 1 && c == 'h') {
		if (cpu_do(&vm.cpu[0], OP_WRITE, 0, 10))
			_exit(1);
		c = vm_harvest(&vm);
	}
	_exit(0);
}

static int other_harvest(int in, int out)
{
	char c = 'h';

	return write(in, &c, 1) == 1 && read(out, &c, 1) == 1 ? c : -EPIPE;
}

/* One skip_free for all VMs: each by its own lease, and the end of one is not the other's */
TEST_F(dirty, two_guests_at_once)
{
	struct vm *vm = &self->vm;
	struct pol *p = &self->p;
	struct free_lease *theirs;
	int in[2], out[2], status;
	pid_t pid;
	char c;

	area_fill(vm, 0x1234, PAGES);
	ASSERT_EQ(0, pol_load(p, "bpf/skip_free.bpf.o", "skip_free", "skip_free", 0));
	ASSERT_EQ(0, pol_attach(p));
	ASSERT_EQ(0, pipe(in));
	ASSERT_EQ(0, pipe(out));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		other_guest(in[0], out[1]);
	ASSERT_EQ(1, read(out[0], &c, 1));
	theirs = area_open(p, pid);
	ASSERT_NE(NULL, theirs);
	for (int i = 0; i < AREA_PAGES; i++)
		theirs->gfns[i] = GUEST_AREA / VM_PAGE + i + 1;
	theirs->pfns = PFNS;
	theirs->cookie = 0x77;

	/* Ours alone, both, theirs alone */
	ASSERT_EQ(0, area_tell(p, 0x1234, PFNS, 3600000));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	EXPECT_EQ(10, other_harvest(in[1], out[0]));
	theirs->until = p->lease->until;
	EXPECT_EQ(0, other_harvest(in[1], out[0]));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	p->lease->until = 0;
	EXPECT_EQ(10, vm_harvest(vm));
	EXPECT_EQ(0, other_harvest(in[1], out[0]));
	p->lease->until = theirs->until;

	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	/* What was its lease is none for who comes next. */
	EXPECT_TRUE(WAIT(!*(volatile __u64 *)&theirs->until, 5000));
	ASSERT_EQ(0, writes(vm, 0, 10));
	EXPECT_EQ(0, vm_harvest(vm));
	close(in[0]);
	close(in[1]);
	close(out[0]);
	close(out[1]);
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
