// SPDX-License-Identifier: GPL-2.0
/*
 * The throttle with a nested guest: vCPU 1 is a small hypervisor, whose guest
 * writes the memory under test by other addresses than that hypervisor's own;
 * vCPU 0 is a plain guest.  What the nested guest dirties is the hypervisor's
 * memory, its vCPU's doing, and that vCPU's to be blocked for.
 */
#include "harness.h"
#include "ext.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
#ifndef __packed
#define __packed __attribute__((packed))
#endif
#ifndef BIT
#define BIT(n) (1U << (n))
#endif
#include "kvm/include/x86_64/svm.h"

#define PAGES 512

/* The hypervisor's in the low slot, of its vCPU alone */
#define VMCB 0x50000UL
#define HSAVE 0x51000UL
#define NESTED_STACK 0x52000UL
#define TABLES 0x53000UL /* four pages: of the nested guest, or nested paging's */
/* Where the nested guest sees the memory under test */
#define NESTED_MEM 0x40000000UL

#define MSR_HSAVE 0xc0010117
#define EFER_SVME 0x1000
#define EXIT_VMMCALL 0x81
#define CPUID_SVM 4 /* in ECX of 0x80000001 */
#define CPUID_NPT 1 /* in EDX of 0x8000000a */

_Static_assert(offsetof(struct vmcb, save) == 0x400, "the format is the CPU's");
_Static_assert(offsetof(struct vmcb, save.rip) == 0x578, "the format is the CPU's");

/* What follows the mailbox of the hypervisor's vCPU in its page */
struct nested_box {
	struct vm_box box;
	volatile uint64_t exit_code; /* the last one of the nested guest */
	volatile uint64_t runs;
};

/* --- what runs in the guest ------------------------------------------------ */

/* guest_vmrun(vmcb, box): the nested guest has its own RAX, RSP and RIP alone. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local guest_vmrun\n"
    "guest_vmrun:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	mov %rdi, %rax\n"
    "	mov %rsi, %rdi\n"
    "	vmrun %rax\n"
    "	stgi\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n"
    ".popsection\n");
extern void guest_vmrun(struct vmcb *vmcb, struct nested_box *n) asm("guest_vmrun");

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

/* --- the host's side ------------------------------------------------------- */

/* low as it is, NESTED_MEM to VM_MEM; every level may be written by user mode */
static void nested_tables(struct vm *vm)
{
	uint64_t *pml4 = vm->low + TABLES, *pdpt = vm->low + TABLES + VM_PAGE;
	uint64_t *pd0 = vm->low + TABLES + 2 * VM_PAGE, *pd1 = vm->low + TABLES + 3 * VM_PAGE;

	pml4[0] = (TABLES + VM_PAGE) | 0x27;
	pdpt[0] = (TABLES + 2 * VM_PAGE) | 0x27;
	pdpt[1] = (TABLES + 3 * VM_PAGE) | 0x27;
	pd0[0] = 0xe7;
	for (uint64_t at = 0; at < PAGES * VM_PAGE; at += 1 << 21)
		pd1[at >> 21] = (VM_MEM + at) | 0xe7;
}

static void nested_vmcb(struct vm *vm, bool npt)
{
	struct vmcb *vmcb = vm->low + VMCB;
	struct vmcb_save_area *s = &vmcb->save;

	vmcb->control.intercept = 1ULL << INTERCEPT_VMRUN | 1ULL << INTERCEPT_VMMCALL |
				  1ULL << INTERCEPT_SHUTDOWN;
	vmcb->control.asid = 1;
	s->cs = (struct vmcb_seg){ .selector = 8, .attrib = 0xa9b, .limit = ~0U };
	s->ds = s->es = s->ss = (struct vmcb_seg){ .selector = 16, .attrib = 0xc93, .limit = ~0U };
	s->gdtr = (struct vmcb_seg){ .base = VM_GDT, .limit = 3 * 8 - 1 };
	s->idtr = (struct vmcb_seg){ .base = VM_IDT, .limit = 0xfff };
	s->efer = 0x500 | EFER_SVME;
	s->cr0 = 0x80000033;
	s->cr4 = 0x20;
	s->rflags = 2;
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->g_pat = 0x0007040600070406ULL;
	s->rip = guest_addr(guest_nested);
	s->rsp = NESTED_STACK + VM_PAGE - 8;
	nested_tables(vm);
	s->cr3 = TABLES;
	if (npt) {
		/* Then the guest's own tables map one to one, all of the low 1 GiB ... */
		vmcb->control.nested_ctl = SVM_NESTED_CTL_NP_ENABLE;
		vmcb->control.nested_cr3 = TABLES;
		/* ... and the one above it, by tables that it shares with nested paging's. */
		s->cr3 = VM_PML4;
		((uint64_t *)(vm->low + VM_PDPT))[1] = (TABLES + 4 * VM_PAGE) | 0x23;
		for (uint64_t i = 0; i < 512; i++)
			((uint64_t *)(vm->low + TABLES + 4 * VM_PAGE))[i] =
				(NESTED_MEM + (i << 21)) | 0xe3;
	}
}

/* What this host offers a guest: 0 if it has no such leaf. */
static uint32_t supported(struct vm *vm, uint32_t leaf, bool edx)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *cpuid = calloc(1, sizeof(*cpuid));
	uint32_t value = 0;

	cpuid->head.nent = 256;
	if (!vm_ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		for (uint32_t i = 0; i < cpuid->head.nent; i++)
			if (cpuid->entry[i].function == leaf)
				value = edx ? cpuid->entry[i].edx : cpuid->entry[i].ecx;
	free(cpuid);
	return value;
}

static int start_at(struct vm_cpu *cpu, const void *text)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	int ret = vm_ioctl(cpu->fd, KVM_GET_SREGS, &s) ?: vm_ioctl(cpu->fd, KVM_GET_REGS, &r);

	s.efer |= EFER_SVME;
	r.rip = guest_addr(text);
	r.rsp = VM_STACK + (cpu->id + 1) * VM_PAGE - 8;
	r.rdi = VM_BOX + cpu->id * VM_PAGE;
	return ret ?: vm_ioctl(cpu->fd, KVM_SET_SREGS, &s) ?: vm_ioctl(cpu->fd, KVM_SET_REGS, &r);
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
	self->pid = getpid();
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	ASSERT_EQ(0, policies());
	vm_signals();
	ASSERT_EQ(0, vm_create(&self->vm, 2, PAGES, VM_LOG));
	if (!(supported(&self->vm, 0x80000001, false) & CPUID_SVM))
		SKIP(return,
			   "KVM offers no SVM to a guest here; the hypervisor of this test needs it");
	if (variant->npt && !(supported(&self->vm, 0x8000000a, true) & CPUID_NPT))
		SKIP(return, "KVM offers no nested paging to a guest here");
	self->plain = &self->vm.cpu[0];
	self->hyper = &self->vm.cpu[1];
	self->n = (struct nested_box *)self->hyper->box;
	ASSERT_EQ(0, vm_warm(&self->vm));
	nested_vmcb(&self->vm, variant->npt);
	ASSERT_EQ(0, start_at(self->hyper, guest_hypervisor));
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
