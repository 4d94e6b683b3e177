// SPDX-License-Identifier: GPL-2.0
/*
 * A guest cannot tell that an exit was handled in the fastpath. Nobody waits for the
 * end of consecutive re-entries. A policy's answers go no further than is safe.
 *
 * The same instructions run without a policy and with one; what they leave in registers,
 * the faults they raise and the exits to user space they take have to be the same.
 * Where KVM has no next RIP (QEMU's SVM has no nrip-save) nothing can be answered on the
 * spot: there the tests hold that nothing is.
 *
 * Machines: intel; amd
 * Files: build/kvmext build/tests/kvm/modules/softfpu.ko
 */
#include "harness.h"
#include "ext.h"
#include "nested.h"
#include "tests/kvm/probes/save_probe.h"

#include <cpuid.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

/* As in kvm.ko */
enum { OTHER, CPUID, RDMSR, WRMSR, RDPMC, XSETBV, WBINVD, PAUSE, PORT, MMIO, HYPERCALL, NR_KINDS };
enum { XSTATE = 1, HOST = 2, TIME = 4 };
#define KINDS ((1U << NR_KINDS) - 2)
#define MAX_RESUMES 4096
#define ANSWER(kinds, classes, resumes) \
	((__s64)((__u64)(kinds) | (__u64)(classes) << 32 | (__u64)(resumes) << 40))

static const char *const kind_names[NR_KINDS] = { "other", "cpuid",  "rdmsr",	 "wrmsr",
						  "rdpmc", "xsetbv", "wbinvd",	 "pause",
						  "port",  "mmio",   "hypercall" };

/* Guest-physical, in the low slot; the stacks end at 0x48000. */
#define GUEST_SMM 0x38000UL /* where an SMI goes */
#define GUEST_SCRIPT 0x50000UL
#define GUEST_LATES 0x60000UL
#define GUEST_REGS 0x70000UL /* what registers hold, */
#define GUEST_SAVED 0x71000UL /* and what they are found to hold */
#define GUEST_NOWHERE 0x20000000UL /* no memory */

#define TIMER_VECTOR 0x50
#define PORT_EVENT 0x5e0
#define PORT_USER 0x5f0

#define MSR_TSC_ADJUST 0x3b
#define MSR_APICBASE 0x1b
#define MSR_PRED_CMD 0x49
#define MSR_UCODE_REV 0x8b
#define MSR_FEATURES_ENABLES 0x140
#define MSR_MISC_ENABLE 0x1a0
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_LVTT 0x832
#define MSR_POLL_CONTROL 0x4b564d05
#define HC_VAPIC_POLL_IRQ 1

/* Of a vCPU, in the page of its mailbox; handlers know the offsets. */
struct work {
	volatile uint64_t fault; /* 0x200: vector */
	volatile uint64_t dbs;
	volatile uint64_t ticks;
	volatile uint64_t tick_tsc;
	volatile uint64_t tick_progress; /* 0x220 */
	volatile uint64_t progress;
	volatile uint64_t stop;
	volatile uint64_t rounds; /* 0: until @stop */
	volatile uint64_t leaf; /* or MSR */
	volatile uint64_t want[4];
	volatile uint64_t bad;
	volatile uint64_t value;
};

enum op {
	DO_CPUID,
	DO_RDMSR,
	DO_WRMSR,
	DO_RDPMC,
	DO_XSETBV,
	DO_XGETBV,
	DO_WBINVD,
	DO_INVD,
	DO_OUTB,
	DO_OUTL,
	DO_OUTW,
	DO_STORE,
	DO_HYPERCALL,
	DO_PAUSES
};

struct insn {
	uint32_t op;
	uint32_t kind;
	uint32_t yes; /* is to be handled in the fastpath, where anything is */
	uint32_t fault;
	uint64_t in[4]; /* rax, rbx, rcx, rdx */
	uint64_t out[4];
};

#define MAX_INSNS 640

struct script {
	uint64_t n;
	uint64_t amd;
	struct insn insn[MAX_INSNS];
};
_Static_assert(GUEST_SCRIPT + sizeof(struct script) <= GUEST_LATES, "it fits");

/* --- the guest ------------------------------------------------------------- */

#define IRQ_ENTRY "	push %rax\n	push %rcx\n	push %rdx\n"
#define IRQ_EOI                \
	"	movl $0x80b, %ecx\n" \
	"	xorl %eax, %eax\n"   \
	"	xorl %edx, %edx\n"   \
	"	wrmsr\n"             \
	"	pop %rdx\n	pop %rcx\n	pop %rax\n	iretq\n"

/* One that faults goes on at %r15. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local save_ud, save_gp, save_db, save_tick, save_spurious, save_poke\n"
    "save_ud: movq $6, %gs:0x200\n"
    "	movq %r15, (%rsp)\n"
    "	iretq\n"
    "save_gp: movq $13, %gs:0x200\n"
    "	addq $8, %rsp\n"
    "	movq %r15, (%rsp)\n"
    "	iretq\n"
    "save_db: incq %gs:0x208\n"
    "	iretq\n"
    "save_tick:\n" IRQ_ENTRY "	rdtsc\n"
    "	movl %eax, %gs:0x218\n"
    "	movl %edx, %gs:0x21c\n"
    "	movq %gs:0x228, %rax\n"
    "	movq %rax, %gs:0x220\n"
    "	incq %gs:0x210\n" IRQ_EOI "save_spurious:\n" IRQ_ENTRY IRQ_EOI
    /* Where the APIC is user space's */
    "save_poke: push %rax\n"
    "	movq %gs:0x228, %rax\n"
    "	movq %rax, %gs:0x220\n"
    "	incq %gs:0x210\n"
    "	pop %rax\n"
    "	iretq\n"
    ".popsection\n");
extern const char save_ud[] asm("save_ud"), save_gp[] asm("save_gp"), save_db[] asm("save_db"),
	save_tick[] asm("save_tick"),
	save_spurious[] asm("save_spurious"), save_poke[] asm("save_poke");
#define WORK 0x200
_Static_assert(WORK + offsetof(struct work, tick_tsc) == 0x218, "save_tick knows");
_Static_assert(WORK + offsetof(struct work, progress) == 0x228, "save_tick knows");
_Static_assert(WORK >= sizeof(struct vm_box), "it is behind the mailbox");

/* See guest_main() */
#define touch()                                                       \
	do {                                                          \
		(void)*(volatile char *)VM_GDT;                       \
		(void)*(volatile char *)VM_IDT;                       \
		asm volatile("push %%rax\n\tpop %%rax" ::: "memory"); \
	} while (0)
#define done() asm volatile("outb %%al, %0" ::"i"(VM_PORT_DONE), "a"(0) : "memory")

#define DO(text)                                            \
	asm volatile("lea 1f(%%rip), %%r15\n\t" text "\n1:" \
		     : "+a"(a), "+b"(b), "+c"(c), "+d"(d)   \
		     :                                      \
		     : "r15", "memory", "cc")

static __guest __attribute__((noreturn)) void guest_script(struct script *s)
{
	volatile uint64_t *fault = (volatile uint64_t *)(VM_BOX + WORK);

	touch();
	for (;;) {
		for (uint64_t i = 0; i < s->n; i++) {
			struct insn *p = &s->insn[i];
			uint64_t a = p->in[0], b = p->in[1], c = p->in[2], d = p->in[3];
			uint32_t op = p->op;

			*fault = 0;
			if (op == DO_CPUID)
				DO("cpuid");
			else if (op == DO_RDMSR)
				DO("rdmsr");
			else if (op == DO_WRMSR)
				DO("wrmsr");
			else if (op == DO_RDPMC)
				DO("rdpmc");
			else if (op == DO_XSETBV)
				DO("xsetbv");
			else if (op == DO_XGETBV)
				DO("xgetbv");
			else if (op == DO_WBINVD)
				DO("wbinvd");
			else if (op == DO_INVD)
				DO("invd");
			else if (op == DO_OUTB)
				DO("outb %%al, %%dx");
			else if (op == DO_OUTW)
				DO("outw %%ax, %%dx");
			else if (op == DO_OUTL)
				DO("outl %%eax, %%dx");
			else if (op == DO_STORE)
				DO("movl %%eax, (%%rbx)");
			else if (op == DO_HYPERCALL && s->amd)
				DO("vmmcall");
			else if (op == DO_HYPERCALL)
				DO("vmcall");
			else if (op == DO_PAUSES)
				DO("2:	pause\n	pause\n	decl %%ecx\n	jnz 2b\n");
			p->out[0] = a;
			p->out[1] = b;
			p->out[2] = c;
			p->out[3] = d;
			p->fault = *fault;
		}
		done();
	}
}

/* CPUID of one leaf, again and again */
static __guest __attribute__((noreturn)) void guest_cpuid(struct work *w)
{
	touch();
	for (;;) {
		while (!w->stop && (!w->rounds || w->progress < w->rounds)) {
			uint64_t a = w->leaf, b = -1, c = 0, d = -1;

			asm volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
			if (a != w->want[0] || b != w->want[1] || c != w->want[2] ||
			    d != w->want[3])
				w->bad++;
			w->progress++;
		}
		done();
	}
}

static __guest __attribute__((noreturn)) void guest_rdmsr(struct work *w)
{
	touch();
	for (;;) {
		while (!w->stop) {
			uint32_t a, d;

			asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(w->leaf));
			w->value = (uint64_t)d << 32 | a;
			w->progress++;
		}
		done();
	}
}

/* CPUID right behind STI */
static __guest __attribute__((noreturn)) void guest_sti(struct work *w)
{
	touch();
	for (;;) {
		while (w->progress < w->rounds) {
			uint32_t a = 0, c = 0;

			asm volatile("cli\n\tsti\n\tcpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
			w->progress++;
		}
		done();
	}
}

#define NESTED_CPUIDS 10

/* A hypervisor that does CPUID itself, and whose guest does as many in between */
static __guest __attribute__((noreturn)) void guest_hypervisor(struct work *w)
{
	struct vmcb *vmcb = (struct vmcb *)VMCB;

	touch();
	asm volatile("wrmsr" ::"c"(MSR_HSAVE), "a"((uint32_t)HSAVE), "d"(0));
	for (;;) {
		while (w->progress < w->rounds) {
			for (int i = 0; i < NESTED_CPUIDS; i++) {
				uint32_t a = 0, c = 0;

				asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
				w->bad += a != w->want[0];
			}
			guest_vmrun(vmcb, w);
			w->bad += vmcb->control.exit_code != EXIT_VMMCALL;
			vmcb->save.rip += 3;
			w->progress++;
		}
		done();
	}
}

static __guest __attribute__((noreturn)) void guest_nested(struct work *w)
{
	for (;;) {
		for (int i = 0; i < NESTED_CPUIDS; i++) {
			uint32_t a = 0, c = 0;

			asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
			w->bad += a != w->want[0];
			w->value++;
		}
		asm volatile("vmmcall" ::: "memory");
	}
}

/* A deadline, and CPUID until it has passed; how late its interrupt was */
static __guest __attribute__((noreturn)) void guest_deadline(struct work *w)
{
	volatile uint64_t *lates = (volatile uint64_t *)GUEST_LATES;

	touch();
	asm volatile("wrmsr" ::"c"(MSR_LVTT), "a"(TIMER_VECTOR | 2 << 17), "d"(0));
	for (;;) {
		for (uint64_t i = 0; i < w->rounds; i++) {
			uint64_t seen = w->ticks, end = vm_rdtsc() + w->value;

			asm volatile("wrmsr" ::"c"(MSR_TSC_DEADLINE), "a"((uint32_t)end),
				     "d"((uint32_t)(end >> 32))
				     : "memory");
			while (w->ticks == seen && !w->stop) {
				uint32_t a = 0, c = 0;

				asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
				w->progress++;
			}
			lates[i] = w->tick_tsc - end;
		}
		done();
	}
}

/* Bochs holds the kernel to a write-disabled key 0 on its own pages: that bit is clear. */
#define PKRU_GUEST 0xfffffffd

static __guest __attribute__((noreturn)) void guest_pkru(struct work *w)
{
	touch();
	asm volatile(".byte 0x0f, 0x01, 0xef" ::"a"(PKRU_GUEST), "c"(0), "d"(0)); /* wrpkru */
	for (;;) {
		while (w->progress < w->rounds) {
			uint32_t a = 0, c = 0, d;

			asm volatile("cpuid" : "+a"(a), "+c"(c)::"rbx", "rdx");
			asm volatile(".byte 0x0f, 0x01, 0xee"
				     : "=a"(a), "=d"(d)
				     : "c"(0)); /* rdpkru */
			if (a != PKRU_GUEST)
				w->bad++;
			w->progress++;
		}
		done();
	}
}

/*
 * Registers.  guest_gpr: all are loaded, INVD exits and changes none, all are looked at.
 * guest_xmm and so on: loaded once, looked at after each CPUID.  %rdi: struct work.
 */
asm(".pushsection guest_text, \"ax\"\n"
    ".local save_gpr, save_xmm, save_ymm, save_zmm\n"
    ".macro save_look count\n"
    "	cld\n"
    "	movl $0x70000, %esi\n"
    "	movl $0x71000, %edi\n"
    "	movl $\\count, %ecx\n"
    "	repe cmpsq\n"
    "	je 3f\n"
    "	incq %gs:0x268\n"
    "3:	incq %gs:0x228\n"
    "	movq %gs:0x228, %rax\n"
    "	cmpq %gs:0x238, %rax\n"
    ".endm\n"
    ".macro save_all move, base\n"
    "	.set i, \\base\n"
    "	.irp r, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15\n"
    "	\\move %\\r\n"
    "	.set i, i + 8\n"
    "	.endr\n"
    ".endm\n"
    ".macro save_from r\n"
    "	movq i, \\r\n"
    ".endm\n"
    ".macro save_to r\n"
    "	movq \\r, i\n"
    ".endm\n"
    "save_gpr: movl $15, %ecx\n"
    "2:	addq %rsp, 0x70000 - 8(,%rcx,8)\n"
    "	rolq $7, 0x70000 - 8(,%rcx,8)\n"
    "	loop 2b\n"
    "	save_all save_from 0x70000\n"
    "	invd\n"
    "	save_all save_to 0x71000\n"
    "	save_look 15\n"
    "	jb save_gpr\n"
    "	outb %al, $0x10\n"
    "	jmp save_gpr\n"
    ".macro save_vectors name, move, reg, size, count\n"
    "\\name:\n"
    "	.set i, 0\n"
    "	.rept \\count\n"
    "	save_vector \\move, \\reg, %i, \\size\n"
    "	.set i, i + 1\n"
    "	.endr\n"
    "2:	xorl %eax, %eax\n"
    "	xorl %ecx, %ecx\n"
    "	cpuid\n"
    "	.set i, 0\n"
    "	.rept \\count\n"
    "	save_vector_to \\move, \\reg, %i, \\size\n"
    "	.set i, i + 1\n"
    "	.endr\n"
    "	save_look (\\size*\\count/8)\n"
    "	jb 2b\n"
    "	outb %al, $0x10\n"
    "	jmp 2b\n"
    ".endm\n"
    ".macro save_vector move, reg, nr, size\n"
    "	\\move 0x70000 + \\nr * \\size, %\\reg\\nr\n"
    ".endm\n"
    ".macro save_vector_to move, reg, nr, size\n"
    "	\\move %\\reg\\nr, 0x71000 + \\nr * \\size\n"
    ".endm\n"
    ".altmacro\n"
    "save_vectors save_xmm, movdqu, xmm, 16, 16\n"
    "save_vectors save_ymm, vmovdqu, ymm, 32, 16\n"
    "save_vectors save_zmm, vmovdqu64, zmm, 64, 32\n"
    ".noaltmacro\n"
    ".popsection\n");
extern const char save_gpr[] asm("save_gpr"), save_xmm[] asm("save_xmm"),
	save_ymm[] asm("save_ymm"), save_zmm[] asm("save_zmm");
_Static_assert(WORK + offsetof(struct work, rounds) == 0x238, "save_look knows");
_Static_assert(WORK + offsetof(struct work, bad) == 0x268, "save_look knows");
_Static_assert(VM_PORT_DONE == 0x10, "save_gpr knows");

/* Every instruction is one that a debugger wants to see. */
asm(".pushsection guest_text, \"ax\"\n"
    ".local save_step, save_trap\n"
    "save_step: xorl %eax, %eax\n"
    "	cpuid\n"
    "	xorl %eax, %eax\n"
    "	cpuid\n"
    "	cli\n"
    "	sti\n"
    "	nop\n"
    "	xorl %eax, %eax\n"
    "	cli\n"
    "	sti\n"
    "	cpuid\n"
    "	invd\n"
    "	movl $0x1a0, %ecx\n"
    "	rdmsr\n"
    "	nop\n"
    "	outb %al, $0x10\n"
    "	jmp save_step\n"
    /* TF by its own hand */
    "save_trap: pushfq\n"
    "	orq $0x100, (%rsp)\n"
    "	popfq\n"
    "	xorl %eax, %eax\n"
    "	cpuid\n"
    "	invd\n"
    "	xorl %eax, %eax\n"
    "	cpuid\n"
    "	pushfq\n"
    "	andq $~0x100, (%rsp)\n"
    "	popfq\n"
    "	outb %al, $0x10\n"
    "	jmp save_trap\n"
    ".popsection\n");
extern const char save_step[] asm("save_step"), save_trap[] asm("save_trap");

/*
 * The host's side of the vector registers: ioctl(fd, KVM_RUN) with all of them loaded
 * from @in, and what they hold then to @out.
 */
asm(".text\n"
    ".local host_xmm, host_ymm, host_zmm\n"
    ".macro host_vectors name, move, reg, size, count\n"
    "\\name:\n"
    "	push %rdx\n"
    "	.set i, 0\n"
    "	.rept \\count\n"
    "	host_vector \\move, \\reg, %i, \\size\n"
    "	.set i, i + 1\n"
    "	.endr\n"
    "	movl $16, %eax\n"
    "	movl $0xae80, %esi\n"
    "	xorl %edx, %edx\n"
    "	syscall\n"
    "	pop %rdx\n"
    "	.set i, 0\n"
    "	.rept \\count\n"
    "	host_vector_to \\move, \\reg, %i, \\size\n"
    "	.set i, i + 1\n"
    "	.endr\n"
    "	ret\n"
    ".endm\n"
    ".macro host_vector move, reg, nr, size\n"
    "	\\move \\nr * \\size(%rsi), %\\reg\\nr\n"
    ".endm\n"
    ".macro host_vector_to move, reg, nr, size\n"
    "	\\move %\\reg\\nr, \\nr * \\size(%rdx)\n"
    ".endm\n"
    ".altmacro\n"
    "host_vectors host_xmm, movdqu, xmm, 16, 16\n"
    "host_vectors host_ymm, vmovdqu, ymm, 32, 16\n"
    "host_vectors host_zmm, vmovdqu64, zmm, 64, 32\n"
    ".noaltmacro\n");
typedef long host_run_t(int fd, const void *in, void *out);
extern host_run_t host_xmm asm("host_xmm"), host_ymm asm("host_ymm"), host_zmm asm("host_zmm");
_Static_assert(SYS_ioctl == 16 && KVM_RUN == 0xae80, "host_vectors knows");

static const struct width {
	const char *name, *guest;
	host_run_t *host;
	size_t size;
	uint64_t xcr0; /* the features it needs, all of them */
} widths[] = {
	{ "xmm", save_xmm, host_xmm, 256, 3 },
	{ "ymm", save_ymm, host_ymm, 512, 7 },
	{ "zmm", save_zmm, host_zmm, 2048, 0xe7 },
};

/* --- policies -------------------------------------------------------------- */

struct pol {
	struct bpf_object *obj;
	struct bpf_map *ops;
	struct bpf_link *link;
	volatile struct save_probe_knobs *k;
	volatile struct save_probe_counts *c;
};

static int pol_load(struct pol *p, const char *path, const char *table, const char *name, __u32 vm)
{
	int ret;

	*p = (struct pol){};
	ret = ext_load(path, table, name, vm, &p->obj, &p->ops);
	if (ret)
		return ret;
	p->k = ext_map_memory(p->obj, ".data");
	p->c = ext_map_memory(p->obj, ".bss");
	return 0;
}

static int pol_probe(struct pol *p, const char *name, __u32 vm)
{
	int ret = pol_load(p, "tests/kvm/probes/save_probe.bpf.o", "save_probe", name, vm);

	if (!ret && (!p->k || !p->c))
		ret = -ENOMEM;
	if (!ret)
		p->k->classes = XSTATE | HOST;
	return ret;
}

/* Loading takes seconds on the Intel machine: once a test, then as new */
static int pol_fresh(struct pol *p, const char *name)
{
	if (!p->obj) {
		int ret = pol_probe(p, name, 0);

		if (ret)
			return ret;
	}
	bpf_link__destroy(p->link);
	p->link = NULL;
	memset((void *)p->c, 0, sizeof(*p->c));
	memset((void *)p->k, 0, sizeof(*p->k));
	p->c->kinds = ~0U;
	p->k->classes = XSTATE | HOST;
	p->k->resumes = 256;
	return 0;
}

static int pol_up(struct pol *p, const char *name, __u32 vm)
{
	return pol_probe(p, name, vm) ?: ext_attach(p->ops, &p->link);
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
		munmap((void *)p->k, 4096);
	if (p->c)
		munmap((void *)p->c, 4096);
	bpf_object__close(p->obj);
	p->obj = NULL;
}

static int save_policies(void)
{
	return table_policies("save");
}

struct tally {
	unsigned long long resumed[NR_KINDS], exits[NR_KINDS];
};

/* What the state file says of a vCPU; 0 or -errno */
static int tally(struct tally *t, int vcpu)
{
	char *text = ext_read(EXT_STATE), *line, *end, key[32];
	int ret = -ENOENT;

	if (!text)
		return ret;
	snprintf(key, sizeof(key), "save_vcpu pid=%d id=%d ", getpid(), vcpu);
	line = strstr(text, key);
	end = line ? strchr(line, '\n') : NULL;
	if (end) {
		*end = 0;
		ret = 0;
	}
	for (int i = 0; !ret && i < NR_KINDS; i++) {
		char *p;

		snprintf(key, sizeof(key), " %s=", kind_names[i]);
		p = strstr(line, key);
		if (!p || sscanf(p + strlen(key), "%llu/%llu", &t->resumed[i], &t->exits[i]) != 2)
			ret = -EBADMSG;
	}
	free(text);
	return ret;
}

static unsigned long long resumed_of(int vcpu, int kind)
{
	struct tally t;

	return tally(&t, vcpu) ? ~0ULL : t.resumed[kind];
}

static long long vcpu_resumes(int vcpu)
{
	char match[64];

	snprintf(match, sizeof(match), "pid=%d id=%d", getpid(), vcpu);
	return ext_num("save_vcpu", match, "resumes");
}

/* Since @was */
static struct tally tally_since(const struct tally *was, int vcpu)
{
	struct tally t;

	if (tally(&t, vcpu))
		memset(&t, 0xff, sizeof(t));
	for (int i = 0; i < NR_KINDS; i++) {
		t.resumed[i] -= was->resumed[i];
		t.exits[i] -= was->exits[i];
	}
	return t;
}

/* Does KVM know the next RIP, without which nothing is handled in the fastpath? */
static bool can_resume(void)
{
	char c = 0;
	int fd;

	if (!access("/sys/module/kvm_intel", F_OK))
		return true;
	fd = open("/sys/module/kvm_amd/parameters/nrips", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, &c, 1) != 1)
			c = 0;
		close(fd);
	}
	return c == '1' || c == 'Y';
}

static bool amd(void)
{
	return !access("/sys/module/kvm_amd", F_OK);
}

/* The kinds that KVM takes for a plain guest here */
static __u32 safe_kinds(int ncpus)
{
	__u32 kinds = can_resume() ? KINDS : 0;

	if (amd())
		kinds &= ~(1U << MMIO);
	return ncpus == 1 ? kinds : kinds & ~(1U << PAUSE);
}

/* --- vCPUs ----------------------------------------------------------------- */

static struct work *work(struct vm_cpu *cpu)
{
	return (void *)cpu->box + WORK;
}

static void gate(struct vm *vm, int vector, const char *handler)
{
	uint64_t *idt = vm->low + VM_IDT, addr = guest_addr(handler);

	idt[vector * 2] = (addr & 0xffff) | 8 << 16 | 0x8eULL << 40 | (addr & 0xffff0000) << 32;
	idt[vector * 2 + 1] = addr >> 32;
}

static int x2apic(struct vm_cpu *cpu)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs s;
	int ret = vm_ioctl(cpu->fd, KVM_GET_SREGS, &s);

	s.apic_base |= 0xc00;
	ret = ret ?: vm_ioctl(cpu->fd, KVM_SET_SREGS, &s);
	ret = ret ?: vm_ioctl(cpu->fd, KVM_GET_LAPIC, &lapic);
	*(uint32_t *)&lapic.regs[0xf0] = 0x1ff;
	return ret ?: vm_ioctl(cpu->fd, KVM_SET_LAPIC, &lapic);
}

/* CR4's FPU bits and XCR0, 0: neither */
static int set_xcr0(struct vm_cpu *cpu, uint64_t xcr0, uint64_t cr4)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = xcr0 ?: 1 } };
	struct kvm_sregs s;
	int ret = vm_ioctl(cpu->fd, KVM_GET_SREGS, &s);

	s.cr4 &= 0x20;
	s.cr4 |= cr4 | (xcr0 ? 0x40600 : 0);
	return ret ?: vm_ioctl(cpu->fd, KVM_SET_SREGS, &s) ?: vm_ioctl(cpu->fd, KVM_SET_XCRS, &x);
}

/* Have a vCPU begin @fn with @arg, after what it did before is over. */
static int go(struct vm_cpu *cpu, const void *fn, uint64_t arg)
{
	struct kvm_regs regs = {
		.rip = guest_addr(fn),
		.rsp = VM_STACK + (cpu->id + 1) * VM_PAGE - 8,
		.rdi = arg,
		.rflags = 0x202,
	};

	cpu->run->immediate_exit = 1;
	if (ioctl(cpu->fd, KVM_RUN, NULL) >= 0 || errno != EINTR)
		return -EIO;
	cpu->run->immediate_exit = 0;
	return vm_ioctl(cpu->fd, KVM_SET_REGS, &regs);
}

static int go_work(struct vm_cpu *cpu, const void *fn, uint64_t rounds)
{
	struct work *w = work(cpu);

	memset(w, 0, sizeof(*w));
	w->rounds = rounds;
	return go(cpu, fn, VM_BOX + cpu->id * VM_PAGE + WORK);
}

/* What the guest's CPUID is to answer to a leaf, by the CPU of the test (0 is alike) */
static int go_cpuid(struct vm_cpu *cpu, uint64_t rounds)
{
	uint32_t a, b, c, d;
	int ret = go_work(cpu, guest_cpuid, rounds);
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *t = calloc(1, sizeof(*t));

	t->head.nent = 256;
	ret = ret ?: vm_ioctl(cpu->fd, KVM_GET_CPUID2, t);
	a = b = c = d = 0;
	for (uint32_t i = 0; !ret && i < t->head.nent; i++) {
		if (t->entry[i].function == 0) {
			a = t->entry[i].eax;
			b = t->entry[i].ebx;
			c = t->entry[i].ecx;
			d = t->entry[i].edx;
		}
	}
	free(t);
	work(cpu)->want[0] = a;
	work(cpu)->want[1] = b;
	work(cpu)->want[2] = c;
	work(cpu)->want[3] = d;
	return ret;
}

/* Exits to user space */
struct seen {
	uint32_t reason, size;
	uint64_t what, data;
};

struct trip {
	unsigned int n;
	struct seen seen[128]; /* the first of them */
	volatile uint64_t msrs;
	uint64_t msr_value; /* what a guest reads there */
};

/* Run until the guest is done: 0, -errno, or an exit that is not to be. */
static int trip(struct vm_cpu *cpu, struct trip *t)
{
	struct kvm_run *run = cpu->run;

	for (;;) {
		struct seen s = {};

		if (ioctl(cpu->fd, KVM_RUN, NULL) < 0)
			return -errno;
		s.reason = run->exit_reason;
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.port == VM_PORT_DONE)
				return 0;
			s.what = run->io.port;
			s.size = run->io.size;
			memcpy(&s.data, (void *)run + run->io.data_offset, s.size);
			break;
		case KVM_EXIT_MMIO:
			s.what = run->mmio.phys_addr;
			s.size = run->mmio.len;
			memcpy(&s.data, run->mmio.data, s.size);
			break;
		case KVM_EXIT_X86_RDMSR:
			s.what = run->msr.index;
			run->msr.data = t->msr_value;
			run->msr.error = 0;
			t->msrs++;
			break;
		case KVM_EXIT_DEBUG:
			s.what = run->debug.arch.pc;
			break;
		default:
			return run->exit_reason;
		}
		if (t->n < sizeof(t->seen) / sizeof(*t->seen))
			t->seen[t->n++] = s;
	}
}

/* The same in a thread */
struct runner {
	struct vm_cpu *cpu;
	struct trip *trip;
	pthread_t thread;
	bool started;
	volatile bool finished;
	int ret;
};

static void *runner(void *arg)
{
	struct runner *r = arg;

	r->ret = trip(r->cpu, r->trip);
	r->finished = true;
	return NULL;
}

FIXTURE(save)
{
	struct vm vm;
	struct vm_cpu *cpu;
	struct pol a, b;
	struct runner run;
	struct trip trip;
	pid_t pid, child;
	int kmsg;
	int event; /* eventfd, -1 if none */
	bool can;
	bool vm_is;
	bool no_barriers;
	struct pol hold;
	pid_t holder;
};

static int start(FIXTURE_DATA(save) * self, struct vm_cpu *cpu)
{
	self->run.cpu = cpu;
	self->run.trip = &self->trip;
	self->run.finished = false;
	memset(&self->trip, 0, sizeof(self->trip));
	self->run.started = !pthread_create(&self->run.thread, NULL, runner, &self->run);
	return self->run.started ? 0 : -EAGAIN;
}

static int join(FIXTURE_DATA(save) * self)
{
	if (!self->run.started)
		return -ESRCH;
	pthread_join(self->run.thread, NULL);
	self->run.started = false;
	return self->run.ret;
}

static int stop(FIXTURE_DATA(save) * self)
{
	work(self->run.cpu)->stop = 1;
	return join(self);
}

/* A guest that does nothing but CPUID, in a thread */
static int spin(FIXTURE_DATA(save) * self)
{
	return go_cpuid(self->cpu, 0)	      ?:
		       start(self, self->cpu) ?:
						!WAIT(work(self->cpu)->progress > 100, 5000);
}

/* The TSC deadline timer is KVM's to give, not the CPU's; barriers are there unless not wanted. */
static int tweak_cpuid(struct vm_cpu *cpu, bool barriers)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *t = calloc(1, sizeof(*t));
	int ret;

	t->head.nent = 256;
	ret = vm_ioctl(cpu->fd, KVM_GET_CPUID2, t);
	for (uint32_t i = 0; !ret && i < t->head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entry[i];

		if (e->function == 1)
			e->ecx |= 1 << 24;
		if (e->function == 7 && !e->index && !barriers)
			e->edx &= ~(3U << 26);
		if (e->function == 0x80000008 && !barriers)
			e->ebx &= ~(1U << 12 | 1U << 14 | 1U << 15);
		if (e->function == 0x80000021 && !barriers)
			e->eax &= ~(1U << 27 | 1U << 28);
	}
	ret = ret ?: vm_ioctl(cpu->fd, KVM_SET_CPUID2, t);
	free(t);
	return ret;
}

/* One vCPU, unless a test wants more: with one, PAUSE can be answered. */
static int machine(FIXTURE_DATA(save) * self, int ncpus)
{
	int ret;

	if (self->vm_is)
		vm_free(&self->vm);
	self->vm_is = true;
	ret = vm_create(&self->vm, ncpus, 16, VM_IRQCHIP);
	self->cpu = self->vm.cpu;
	gate(&self->vm, 1, save_db);
	gate(&self->vm, 6, save_ud);
	gate(&self->vm, 13, save_gp);
	gate(&self->vm, VM_VECTOR, save_tick);
	gate(&self->vm, TIMER_VECTOR, save_tick);
	gate(&self->vm, 0xff, save_spurious);
	for (int i = 0; i < ncpus && !ret; i++)
		ret = tweak_cpuid(&self->cpu[i], !self->no_barriers) ?: x2apic(&self->cpu[i]);
	return ret;
}

/* A child with a VM */
static pid_t child_vm(void)
{
	struct vm vm;
	int fds[2];
	char ok = 0;
	pid_t pid;

	if (pipe(fds))
		return -1;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(3, fds[1] - 1, 0);
		ok = !vm_create(&vm, 1, 16, 0);
		if (write(fds[1], &ok, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(fds[1]);
	if (read(fds[0], &ok, 1) != 1)
		ok = 0;
	close(fds[0]);
	if (!ok) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return -1;
	}
	return pid;
}

FIXTURE_SETUP(save)
{
	self->pid = getpid();
	self->event = -1;
	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);
	/* A link goes some time after the process that held it. */
	ASSERT_TRUE(WAIT(!save_policies(), 5000));
	self->can = can_resume();
	/*
	 * Attaching patches the kernel's code if nothing was attached, and QEMU's emulator
	 * now and then runs what was there before: there a policy for a child's VM keeps it.
	 */
	if (!self->can) {
		self->holder = child_vm();
		ASSERT_LT(0, self->holder);
		ASSERT_EQ(0, pol_up(&self->hold, "hold", self->holder))
		{
			TH_LOG("%s", ext_log);
		}
	}
	vm_signals();
	ASSERT_EQ(0, machine(self, 1));
}

FIXTURE_TEARDOWN(save)
{
	if (self->run.started) {
		pthread_kill(self->run.thread, SIGUSR1);
		stop(self);
	}
	if (self->child > 0) {
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
	}
	ext_enable(true);
	pol_free(&self->a);
	pol_free(&self->b);
	pol_free(&self->hold);
	if (self->holder > 0) {
		kill(self->holder, SIGKILL);
		waitpid(self->holder, NULL, 0);
	}
	if (self->vm_is)
		vm_free(&self->vm);
	if (self->event >= 0)
		close(self->event);
	EXPECT_NO_SPLAT(self->kmsg);
	EXPECT_EQ(0, save_policies());
}

/* --- what is answered ------------------------------------------------------ */

/* Halves that no instruction is to look at */
#define JUNK 0xa5a5a5a500000000ULL

static struct insn *add(struct script *s, enum op op, int kind, bool yes, uint64_t a, uint64_t c,
			uint64_t d)
{
	struct insn *p = &s->insn[s->n++];

	*p = (struct insn){ .op = op, .kind = kind, .yes = yes, .in = { a, JUNK | 0xb, c, d } };
	return p;
}

/* QEMU's SVM looks for the bit of all 64 bits in the MSR bitmap, and so anywhere. */
static uint64_t junk_msr(uint32_t msr)
{
	return can_resume() ? JUNK | msr : msr;
}

static void add_rdmsr(struct script *s, uint32_t msr, bool yes)
{
	add(s, DO_RDMSR, RDMSR, yes, JUNK | 1, junk_msr(msr), JUNK | 2);
}

static void add_wrmsr(struct script *s, uint32_t msr, uint64_t value, bool yes)
{
	add(s, DO_WRMSR, WRMSR, yes, JUNK | (uint32_t)value, junk_msr(msr), JUNK | value >> 32);
}

/* Every leaf that the guest has, and ones that it has not */
static int add_cpuid(struct script *s, struct vm_cpu *cpu)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[256];
	} *t = calloc(1, sizeof(*t));
	static const uint32_t absent[][2] = {
		{ 0x4, 9 },	   { 0xb, 7 },	      { 0xd, 50 },	 { 0x1f, 9 },
		{ 0x20000000, 0 }, { 0x3fffffff, 0 }, { 0x7fffffff, 0 }, { 0x80001234, 0 },
		{ 0xc0000000, 0 }, { 0xffffffff, 1 }, { 0x40000005, 0 }, { 0x99, 3 },
	};
	int ret;

	t->head.nent = 256;
	ret = vm_ioctl(cpu->fd, KVM_GET_CPUID2, t);
	for (uint32_t i = 0; !ret && i < t->head.nent && s->n < MAX_INSNS - 60; i++) {
		struct kvm_cpuid_entry2 *e = &t->entry[i];
		bool sub = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

		add(s, DO_CPUID, CPUID, e->function != 7 && e->function != 0x80000007,
		    JUNK | e->function, JUNK | (sub ? e->index : 77 + i), JUNK);
	}
	for (size_t i = 0; !ret && i < sizeof(absent) / sizeof(*absent); i++) {
		bool is = false;

		for (uint32_t j = 0; j < t->head.nent; j++) {
			struct kvm_cpuid_entry2 *e = &t->entry[j];

			is |= e->function == absent[i][0] &&
			      (e->index == absent[i][1] ||
			       !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX));
		}
		add(s, DO_CPUID, CPUID, is, JUNK | absent[i][0], JUNK | absent[i][1], JUNK);
	}
	free(t);
	return ret ?: s->n < 20 ? -ENODATA : 0;
}

static void add_rest(struct script *s, uint64_t xcr0)
{
	static const uint32_t memory[] = { MSR_APICBASE,  MSR_MISC_ENABLE,	MSR_TSC_ADJUST,
					   MSR_UCODE_REV, MSR_FEATURES_ENABLES, MSR_POLL_CONTROL };
	struct insn *p;

	for (int i = 0; i < 6; i++)
		add_rdmsr(s, memory[i], true);
	add_wrmsr(s, MSR_POLL_CONTROL, 0, true);
	add_rdmsr(s, MSR_POLL_CONTROL, true);
	add_wrmsr(s, MSR_POLL_CONTROL, 2, false); /* #GP */
	add_wrmsr(s, MSR_POLL_CONTROL, 1ULL << 63, false); /* #GP */
	add_rdmsr(s, MSR_POLL_CONTROL, true);
	add_wrmsr(s, MSR_POLL_CONTROL, 1, true);
	add_rdmsr(s, MSR_POLL_CONTROL, true);
	/* KVM has more to do for these. */
	add_wrmsr(s, MSR_TSC_ADJUST, 0x1234567890, false);
	add_rdmsr(s, MSR_TSC_ADJUST, true);
	add_wrmsr(s, MSR_TSC_ADJUST, 0, false);
	add_rdmsr(s, MSR_TSC_ADJUST, true);
	add_wrmsr(s, MSR_APICBASE, ~0ULL, false); /* #GP */
	add_wrmsr(s, MSR_MISC_ENABLE, 1, false);
	add_rdmsr(s, MSR_MISC_ENABLE, true);
	add_wrmsr(s, MSR_MISC_ENABLE, 0, false);
	add_rdmsr(s, 0xdeadbeef, false); /* #GP */
	add_wrmsr(s, 0xdeadbeef, 5, false); /* #GP */

	add(s, DO_XSETBV, XSETBV, true, JUNK | xcr0, JUNK, JUNK);
	add(s, DO_XSETBV, XSETBV, false, JUNK | 1, JUNK, JUNK);
	add(s, DO_XGETBV, OTHER, false, JUNK, JUNK, JUNK);
	add(s, DO_XSETBV, XSETBV, true, JUNK | 1, JUNK, JUNK);
	add(s, DO_XSETBV, XSETBV, false, JUNK | 2, JUNK, JUNK); /* #GP: SSE without x87 */
	add(s, DO_XSETBV, XSETBV, false, JUNK | 1, JUNK | 1, JUNK); /* #GP: no XCR1 */
	add(s, DO_XSETBV, XSETBV, false, JUNK | xcr0, JUNK, JUNK);
	add(s, DO_XGETBV, OTHER, false, JUNK, JUNK, JUNK);

	add(s, DO_INVD, WBINVD, true, JUNK | 1, JUNK | 2, JUNK | 3);
	add(s, DO_WBINVD, WBINVD, true, JUNK | 4, JUNK | 5, JUNK | 6);
	/* 64-bit: with the upper half set it is another number. */
	add(s, DO_HYPERCALL, HYPERCALL, true, HC_VAPIC_POLL_IRQ, JUNK | 1, JUNK | 2);
	add(s, DO_HYPERCALL, HYPERCALL, false, JUNK | HC_VAPIC_POLL_IRQ, JUNK, JUNK);
	add(s, DO_HYPERCALL, HYPERCALL, false, 0x7777, JUNK, JUNK); /* -ENOSYS */

	/* An eventfd waits for a byte of 7 at PORT_EVENT, and for any write at the next. */
	for (int i = 0; i < 3; i++)
		add(s, DO_OUTB, PORT, true, JUNK | 7, JUNK, JUNK | PORT_EVENT);
	add(s, DO_OUTB, PORT, false, JUNK | 8, JUNK, JUNK | PORT_EVENT);
	add(s, DO_OUTL, PORT, false, JUNK | 7, JUNK, JUNK | PORT_EVENT);
	add(s, DO_OUTB, PORT, true, JUNK | 1, JUNK, JUNK | (PORT_EVENT + 8));
	add(s, DO_OUTW, PORT, true, JUNK | 2, JUNK, JUNK | (PORT_EVENT + 8));
	add(s, DO_OUTL, PORT, true, JUNK | 3, JUNK, JUNK | (PORT_EVENT + 8));
	add(s, DO_OUTB, PORT, false, JUNK | 9, JUNK, JUNK | PORT_USER);
	add(s, DO_OUTB, PORT, false, JUNK | 0xff, JUNK, JUNK | 0x21); /* the PIC's mask */
	/* Any write at GUEST_NOWHERE; nobody beside it. */
	for (int i = 0; i < 4; i++) {
		p = add(s, DO_STORE, MMIO, true, JUNK | i, JUNK, JUNK);
		p->in[1] = GUEST_NOWHERE;
	}
	p = add(s, DO_STORE, MMIO, false, JUNK | 0xabc, JUNK, JUNK);
	p->in[1] = GUEST_NOWHERE + 16;
}

#define EVENTS (3 + 3 + 4)

static int add_event(FIXTURE_DATA(save) * self, uint64_t addr, uint32_t len, uint32_t flags,
		     uint64_t datamatch)
{
	struct kvm_ioeventfd e = {
		.datamatch = datamatch, .addr = addr, .len = len, .fd = self->event, .flags = flags
	};

	return vm_ioctl(self->vm.fd, KVM_IOEVENTFD, &e);
}

static int add_events(FIXTURE_DATA(save) * self)
{
	self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return self->event < 0 ? -errno :
	       add_event(self, PORT_EVENT, 1, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH, 7) ?:
	       add_event(self, PORT_EVENT + 8, 0, KVM_IOEVENTFD_FLAG_PIO, 0) ?:
				 add_event(self, GUEST_NOWHERE, 0, 0, 0);
}

static uint64_t events(FIXTURE_DATA(save) * self)
{
	uint64_t n = 0;

	return read(self->event, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

/* Run a script on vCPU 0; the answers are in @s, the exits in self->trip. */
static int play(FIXTURE_DATA(save) * self, struct script *s)
{
	struct script *there = self->vm.low + GUEST_SCRIPT;
	int ret;

	s->amd = amd();
	memcpy(there, s, sizeof(*s));
	memset(&self->trip, 0, sizeof(self->trip));
	ret = go(self->cpu, guest_script, GUEST_SCRIPT) ?: trip(self->cpu, &self->trip);
	memcpy(s, there, sizeof(*s));
	return ret;
}

/* How the answers of two runs differ, one log line each (a few of them) */
static int differ(struct __test_metadata *_metadata, const struct script *a, const struct script *b)
{
	int n = 0;

	for (uint64_t i = 0; i < a->n; i++) {
		const struct insn *p = &a->insn[i], *q = &b->insn[i];

		if (!memcmp(p->out, q->out, sizeof(p->out)) && p->fault == q->fault)
			continue;
		if (n++ < 5)
			TH_LOG("%llu: op %u of %llx %llx %llx %llx: %llx %llx %llx %llx fault %u, was %llx %llx %llx %llx fault %u",
			       i, p->op, p->in[0], p->in[1], p->in[2], p->in[3], q->out[0],
			       q->out[1], q->out[2], q->out[3], q->fault, p->out[0], p->out[1],
			       p->out[2], p->out[3], p->fault);
	}
	return n;
}

static uint64_t host_xcr0(void)
{
	uint32_t a, b, c, d;

	__cpuid_count(1, 0, a, b, c, d);
	if (!(c & 1 << 27))
		return 0;
	asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (uint64_t)d << 32 | a;
}

/* Everything, without a policy, with one, and with that one's classes off and on */
TEST_F(save, answers_are_kvms_own)
{
	static const __u32 classes[] = { XSTATE | HOST, 0, XSTATE, HOST, XSTATE | HOST | TIME };
	struct script *own = calloc(1, sizeof(*own)), *s = calloc(1, sizeof(*s));
	uint64_t xcr0 = host_xcr0() & 7, want[NR_KINDS] = {}, all[NR_KINDS] = {}, calls = 0;
	struct trip user;
	struct tally was, now;

	ASSERT_EQ(0, add_events(self));
	ASSERT_EQ(0, set_xcr0(self->cpu, xcr0, 0));
	ASSERT_EQ(0, add_cpuid(own, self->cpu));
	add_rest(own, xcr0);
	/* The first run has page faults and MMIO that KVM sees for the first time. */
	ASSERT_EQ(0, play(self, own));
	EXPECT_EQ(EVENTS, events(self));
	ASSERT_EQ(0, play(self, own));
	EXPECT_EQ(EVENTS, events(self));
	memcpy(&user, &self->trip, sizeof(user));
	for (uint64_t i = 0; i < own->n; i++) {
		struct insn *p = &own->insn[i];

		all[p->kind]++;
		/* What faults without a policy is not to be answered. */
		want[p->kind] += p->yes && !p->fault && safe_kinds(1) & 1U << p->kind;
		calls += p->kind == HYPERCALL;
		if (p->op == DO_CPUID)
			EXPECT_EQ(0, (p->out[0] | p->out[1] | p->out[2] | p->out[3]) >> 32);
	}
	EXPECT_EQ(3, calls);
	/* OUT with another value and size, to user space, and the store beside the eventfd's */
	EXPECT_EQ(4, user.n);
	for (unsigned int i = 0; i < user.n; i++)
		TH_LOG("to user space: exit %u, %llx of %u bytes, %llx", user.seen[i].reason,
		       user.seen[i].what, user.seen[i].size, user.seen[i].data);

	for (size_t c = 0; c < sizeof(classes) / sizeof(*classes); c++) {
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		self->a.k->classes = classes[c];
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link))
		{
			TH_LOG("%s", ext_log);
		}
		ASSERT_EQ(0, tally(&was, 0));
		memcpy(s, own, sizeof(*s));
		for (uint64_t i = 0; i < s->n; i++)
			memset(s->insn[i].out, 0xee, sizeof(s->insn[i].out));
		ASSERT_EQ(0, play(self, s));
		now = tally_since(&was, 0);
		EXPECT_EQ(0, differ(_metadata, own, s));
		EXPECT_EQ(EVENTS, events(self));
		EXPECT_EQ(user.n, self->trip.n);
		EXPECT_EQ(0, memcmp(user.seen, self->trip.seen, sizeof(user.seen)));
		for (int k = CPUID; k < NR_KINDS; k++) {
			/* A CPU may do WBINVD without an exit. */
			if (k == WBINVD && now.exits[k] == 1)
				want[k] = self->can, all[k] = 1;
			EXPECT_EQ(want[k], now.resumed[k])
			{
				TH_LOG("%s, classes %x", kind_names[k], classes[c]);
			}
			/* MMIO is an exit of another kind where it is seen for the first time. */
			if (k == MMIO ? !(safe_kinds(1) & 1U << MMIO) : k == PAUSE || k == RDPMC)
				continue;
			EXPECT_LE(all[k], now.exits[k])
			{
				TH_LOG("%s, classes %x", kind_names[k], classes[c]);
			}
		}
		EXPECT_EQ(safe_kinds(1), self->a.c->safe);
		pol_off(&self->a);
	}
	free(own);
	free(s);
}

/* A zone that begins before PORT_EVENT, so that on the bus it is before that ioeventfd too */
static int add_zone(FIXTURE_DATA(save) * self)
{
	struct kvm_coalesced_mmio_zone zone = { .addr = PORT_EVENT - 4, .size = 16, .pio = 1 };

	return vm_ioctl(self->vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone);
}

static int set_event(FIXTURE_DATA(save) * self, uint64_t port, bool there)
{
	struct kvm_ioeventfd e = {
		.addr = port,
		.len = 1,
		.fd = self->event,
		.flags = KVM_IOEVENTFD_FLAG_PIO | (there ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return vm_ioctl(self->vm.fd, KVM_IOEVENTFD, &e);
}

/*
 * A coalesced zone gets the writes that it is the first on the bus to get, though an
 * ioeventfd behind it got them before it was there.
 */
TEST_F(save, coalesced_zones_come_first)
{
	struct script *s = calloc(1, sizeof(*s));
	struct kvm_coalesced_mmio_ring *ring;
	uint32_t was;
	int page;

	page = ioctl(self->vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
	if (page <= 0 || ioctl(self->vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_PIO) <= 0)
		SKIP(return, "KVM has no coalesced ports");
	ring = (void *)self->cpu->run + page * VM_PAGE;
	self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, self->event);
	for (int i = 0; i < 8; i++)
		add(s, DO_OUTB, PORT, true, 7, 0, PORT_EVENT);
	for (int policy = 0; policy < 2; policy++) {
		if (policy)
			ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
		/* Two of them, as then it is at the place that the second has with the zone */
		ASSERT_EQ(0, set_event(self, PORT_EVENT - 8, true));
		ASSERT_EQ(0, set_event(self, PORT_EVENT, true));
		ASSERT_EQ(0, play(self, s));
		EXPECT_EQ(8, events(self));
		EXPECT_EQ(policy && self->can, resumed_of(0, PORT) > 0);
		ASSERT_EQ(0, set_event(self, PORT_EVENT - 8, false));
		ASSERT_EQ(0, set_event(self, PORT_EVENT, false));
		ASSERT_EQ(0, add_zone(self));
		ASSERT_EQ(0, set_event(self, PORT_EVENT, true));
		was = ring->last;
		ASSERT_EQ(0, play(self, s));
		EXPECT_EQ(0, events(self));
		EXPECT_EQ(8, ring->last - was);
		ring->first = ring->last;
		if (!policy)
			ASSERT_EQ(0, machine(self, 1));
		ring = (void *)self->cpu->run + page * VM_PAGE;
	}
	free(s);
}

/* Where they exit: PAUSE in a loop of many, RDPMC with a PMU and without */
TEST_F(save, pause_and_rdpmc)
{
	struct script *own = calloc(1, sizeof(*own)), *s = calloc(1, sizeof(*s));
	struct tally was, now;

	add(own, DO_PAUSES, PAUSE, true, JUNK | 1, 20000, JUNK | 2);
	add(own, DO_RDPMC, RDPMC, false, JUNK, JUNK, JUNK);
	add(own, DO_RDPMC, RDPMC, false, JUNK, JUNK | 0x40000000, JUNK);
	add(own, DO_RDPMC, RDPMC, false, JUNK, JUNK | 99, JUNK);
	ASSERT_EQ(0, play(self, own));
	for (int ncpus = 1; ncpus <= 2; ncpus++) {
		ASSERT_EQ(0, machine(self, ncpus));
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		memcpy(s, own, sizeof(*s));
		ASSERT_EQ(0, tally(&was, 0));
		ASSERT_EQ(0, play(self, s));
		now = tally_since(&was, 0);
		EXPECT_EQ(0, differ(_metadata, own, s));
		TH_LOG("%d vCPUs: %llu of %llu PAUSE, %llu of %llu RDPMC handled in the fastpath; RDPMC %s",
		       ncpus, now.resumed[PAUSE], now.exits[PAUSE], now.resumed[RDPMC],
		       now.exits[RDPMC], own->insn[1].fault ? "faults" : "counts");
		/* With others, one of them is to run instead. */
		EXPECT_EQ(self->can && ncpus == 1 ? now.exits[PAUSE] : 0, now.resumed[PAUSE]);
		EXPECT_EQ(safe_kinds(ncpus), self->a.c->safe);
		if (own->insn[1].fault)
			EXPECT_EQ(0, now.resumed[RDPMC]);
		EXPECT_EQ(13, own->insn[3].fault);
		pol_off(&self->a);
	}
	free(own);
	free(s);
}

/* A barrier is done by the CPU itself or in a full exit; a guest that has none gets #GP. */
TEST_F(save, barriers_are_never_answered)
{
	struct script *own = calloc(1, sizeof(*own)), *s = calloc(1, sizeof(*s));
	struct tally was, now;

	for (int i = 0; i < 20; i++)
		add_wrmsr(own, MSR_PRED_CMD, 1, false);
	add_wrmsr(own, MSR_POLL_CONTROL, 1, true);
	for (int without = 0; without < 2; without++) {
		self->no_barriers = without;
		ASSERT_EQ(0, machine(self, 1));
		ASSERT_EQ(0, play(self, own));
		ASSERT_EQ(0, machine(self, 1));
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		memcpy(s, own, sizeof(*s));
		ASSERT_EQ(0, tally(&was, 0));
		ASSERT_EQ(0, play(self, s));
		now = tally_since(&was, 0);
		EXPECT_EQ(0, differ(_metadata, own, s));
		TH_LOG("IA32_PRED_CMD %s; %llu exits of WRMSR, %llu handled in the fastpath",
		       own->insn[0].fault ? "is not there" : "is written", now.exits[WRMSR],
		       now.resumed[WRMSR]);
		if (s->insn[0].fault)
			EXPECT_LE(21, now.exits[WRMSR]);
		/* The other MSR alone */
		EXPECT_EQ(self->can ? 1 : 0, now.resumed[WRMSR]);
		pol_off(&self->a);
	}
	free(own);
	free(s);
}

/* --- registers ------------------------------------------------------------- */

static void pattern(void *at, size_t size, uint64_t seed)
{
	uint64_t *p = at;

	for (size_t i = 0; i < size / 8; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		p[i] = seed ^ seed >> 29;
	}
}

/* A thread on the same CPU that has registers of its own */
struct other {
	const struct width *width;
	volatile bool quit;
	volatile uint64_t turns, bad;
	volatile bool ready;
	clockid_t clock;
};

static void *other(void *arg)
{
	static __attribute__((aligned(64))) uint8_t in[2048], out[2048];
	struct other *o = arg;

	pthread_getcpuclockid(pthread_self(), &o->clock);
	o->ready = true;
	while (!o->quit) {
		if (!o->width) {
			o->turns++;
			continue;
		}
		pattern(in, o->width->size, vm_rdtsc());
		o->width->host(-1, in, out);
		o->bad += !!memcmp(in, out, o->width->size);
		o->turns++;
	}
	return NULL;
}

TEST_F(save, general_registers)
{
	const uint64_t rounds = 6000;
	struct tally was, now;

	for (int c = 0; c < 4; c++) {
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		self->a.k->classes = c;
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		ASSERT_EQ(0, tally(&was, 0));
		ASSERT_EQ(0, go_work(self->cpu, save_gpr, rounds));
		pattern(self->vm.low + GUEST_REGS, 15 * 8, c);
		ASSERT_EQ(0, trip(self->cpu, &self->trip));
		EXPECT_EQ(rounds, work(self->cpu)->progress);
		EXPECT_EQ(0, work(self->cpu)->bad);
		now = tally_since(&was, 0);
		EXPECT_LE(rounds, now.exits[WBINVD]);
		/* A tick of the host's may come at the very moment. */
		EXPECT_LE(self->can ? rounds : 0, now.resumed[WBINVD]);
		EXPECT_GE(self->can ? now.exits[WBINVD] : 0, now.resumed[WBINVD]);
		pol_off(&self->a);
	}
}

/* Each width of vector registers in guest and host that both have, XCR0 alike or not */
TEST_F(save, vector_registers)
{
	const uint64_t rounds = 4000, host = host_xcr0();
	static __attribute__((aligned(64))) uint8_t in[2048], out[2048];
	struct other o = {};
	cpu_set_t all, one;
	pthread_t thread;
	struct tally was, now;
	int pairs = 0;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, one_cpu(&one));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	for (int h = 2; h >= 0; h--) {
		for (int g = 0; g < 3; g++) {
			const struct width *hw = &widths[h], *gw = &widths[g];

			if ((host & hw->xcr0) != hw->xcr0 || (host & gw->xcr0) != gw->xcr0)
				continue;
			/* The guest has but what it uses of XCR0, and one as the host's. */
			ASSERT_EQ(0, set_xcr0(self->cpu, gw->xcr0, 0));
			ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
			self->a.k->classes = pairs % 2 ? HOST : XSTATE | HOST;
			ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
			ASSERT_EQ(0, tally(&was, 0));
			ASSERT_EQ(0, go_work(self->cpu, gw->guest, rounds));
			pattern(self->vm.low + GUEST_REGS, gw->size, pairs + 10);
			pattern(in, hw->size, pairs + 100);
			memset(out, 0, sizeof(out));
			o = (struct other){ .width = hw };
			ASSERT_EQ(0, pthread_create(&thread, NULL, other, &o));
			EXPECT_TRUE(WAIT(o.turns > 3, 5000));
			/* As in trip(), in which C would use the registers itself */
			EXPECT_EQ(0, hw->host(self->cpu->fd, in, out));
			o.quit = true;
			pthread_join(thread, NULL);
			EXPECT_EQ(KVM_EXIT_IO, self->cpu->run->exit_reason);
			EXPECT_EQ(VM_PORT_DONE, self->cpu->run->io.port);
			EXPECT_EQ(0, memcmp(in, out, hw->size))
			{
				TH_LOG("host's %s beside the guest's %s", hw->name, gw->name);
			}
			EXPECT_EQ(rounds, work(self->cpu)->progress);
			EXPECT_EQ(0, work(self->cpu)->bad)
			{
				TH_LOG("guest's %s beside the host's %s", gw->name, hw->name);
			}
			EXPECT_EQ(0, o.bad);
			now = tally_since(&was, 0);
			EXPECT_LE(rounds, now.exits[CPUID]);
			EXPECT_LE(self->can ? rounds * 9 / 10 : 0, now.resumed[CPUID]);
			EXPECT_GE(self->can ? now.exits[CPUID] : 0, now.resumed[CPUID]);
			pol_off(&self->a);
			pairs++;
		}
	}
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	TH_LOG("%d pairs of guest and host, host's XCR0 %llx", pairs, host);
	EXPECT_LE(1, pairs);
}

static int load_module(const char *name)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);

	if (n < 0)
		return -errno;
	path[n] = 0;
	sprintf(strrchr(path, '/') + 1, "modules/%s.ko", name);
	return ext_insmod(path, "");
}

static long long softirq_uses(void)
{
	char *text = ext_read("/sys/module/softfpu/parameters/uses");
	long long n = text ? atoll(text) : -1;

	free(text);
	return n;
}

/*
 * Softirqs on the vCPU's CPU use the FPU, with all registers that the host has, while the
 * guest has another XCR0: they need the host's, and the guest finds its own.
 */
TEST_F(save, softirqs_use_the_fpu)
{
	const uint64_t rounds = 8000, host = host_xcr0();
	struct tally was, now;
	cpu_set_t all, one;
	long long uses;

	if (!self->can)
		SKIP(return, "nothing is handled in the fastpath here");
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, one_cpu(&one));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	syscall(SYS_delete_module, "softfpu", 0);
	ASSERT_EQ(0, load_module("softfpu"));
	for (int g = 0; g < 3; g++) {
		const struct width *gw = &widths[g];

		if ((host & gw->xcr0) != gw->xcr0)
			continue;
		for (int classes = HOST; classes <= (XSTATE | HOST); classes++) {
			ASSERT_EQ(0, set_xcr0(self->cpu, gw->xcr0, 0));
			ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
			self->a.k->classes = classes;
			ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
			ASSERT_EQ(0, tally(&was, 0));
			ASSERT_EQ(0, go_work(self->cpu, gw->guest, rounds));
			pattern(self->vm.low + GUEST_REGS, gw->size, classes + 10);
			uses = softirq_uses();
			ASSERT_EQ(0, trip(self->cpu, &self->trip));
			uses = softirq_uses() - uses;
			now = tally_since(&was, 0);
			TH_LOG("guest's %s: %lld uses, %llu of %llu CPUID handled in the fastpath",
			       gw->name, uses, now.resumed[CPUID], now.exits[CPUID]);
			EXPECT_EQ(rounds, work(self->cpu)->progress);
			EXPECT_EQ(0, work(self->cpu)->bad);
			EXPECT_LE(5, uses);
			EXPECT_LE(rounds, now.resumed[CPUID]);
			pol_off(&self->a);
		}
	}
	EXPECT_EQ(0, syscall(SYS_delete_module, "softfpu", 0));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
}

/* A vCPU's thread is killed in the middle of a row, with another one on its CPU. */
TEST_F(save, killed_in_a_row)
{
	static __attribute__((aligned(64))) uint8_t in[2048], out[2048];
	const uint64_t host = host_xcr0();

	/* The child attaches what was loaded here. */
	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	for (int i = 0; i < 9; i++) {
		const struct width *hw = &widths[i / 3], *gw = &widths[i % 3];
		struct other o = { .width = hw };
		pthread_t thread;
		cpu_set_t one;

		if ((host & hw->xcr0) != hw->xcr0 || (host & gw->xcr0) != gw->xcr0)
			continue;
		self->child = fork();
		if (!self->child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			self->vm_is = false;
			if (one_cpu(&one) || sched_setaffinity(0, sizeof(one), &one) ||
			    machine(self, 1) || set_xcr0(self->cpu, gw->xcr0, 0) ||
			    ext_attach(self->a.ops, &self->a.link) ||
			    go_work(self->cpu, gw->guest, ~0ULL) ||
			    pthread_create(&thread, NULL, other, &o))
				_exit(1);
			hw->host(self->cpu->fd, in, out);
			_exit(2);
		}
		EXPECT_TRUE(WAIT(save_policies() == 1 + !self->can, 5000));
		sleep_ms(50);
		EXPECT_EQ(0, waitpid(self->child, NULL, WNOHANG));
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
		self->child = 0;
		EXPECT_TRUE(WAIT(save_policies() == !self->can, 5000));
		ASSERT_EQ(0, go_cpuid(self->cpu, 100));
		ASSERT_EQ(0, trip(self->cpu, &self->trip));
		EXPECT_EQ(0, work(self->cpu)->bad);
	}
}

/* PKRU, where CPU and kernel have it; the guest's would lock the host out of its memory. */
TEST_F(save, protection_keys)
{
	uint32_t a, b, c, d, pkru = 0x55555550, found = 0;
	const uint64_t rounds = 10000;

	__cpuid_count(7, 0, a, b, c, d);
	if (!(c & 1 << 4)) {
		TH_LOG("no PKU here (CPUID 7 ecx %x): only that the guest has none either", c);
		EXPECT_NE(0, set_xcr0(self->cpu, 3, 1 << 22));
		return;
	}
	ASSERT_EQ(0, set_xcr0(self->cpu, 3, 1 << 22));
	asm volatile(".byte 0x0f, 0x01, 0xef" ::"a"(pkru), "c"(0), "d"(0) : "memory");
	for (int classes = 0; classes < 4; classes++) {
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		self->a.k->classes = classes;
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		ASSERT_EQ(0, go_work(self->cpu, guest_pkru, rounds));
		ASSERT_EQ(0, trip(self->cpu, &self->trip));
		asm volatile(".byte 0x0f, 0x01, 0xee" : "=a"(found), "=d"(d) : "c"(0));
		EXPECT_EQ(pkru, found);
		EXPECT_EQ(rounds, work(self->cpu)->progress);
		EXPECT_EQ(0, work(self->cpu)->bad);
		pol_off(&self->a);
	}
	EXPECT_LE(self->can ? 3 * rounds : 0, resumed_of(0, CPUID));
}

/* --- answers that are out of bounds ---------------------------------------- */

/* One run of 500 CPUID with a fixed answer */
static void fixed(struct __test_metadata *_metadata, FIXTURE_DATA(save) * self, __s64 answer,
		  struct tally *now)
{
	struct tally was;

	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	self->a.k->how = SAVE_PROBE_FIXED;
	self->a.k->answer = answer;
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	ASSERT_EQ(0, tally(&was, 0));
	ASSERT_EQ(0, go_cpuid(self->cpu, 500));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	EXPECT_EQ(0, work(self->cpu)->bad);
	*now = tally_since(&was, 0);
}

TEST_F(save, clamped_or_invalid)
{
	static const __s64 invalid[] = {
		ANSWER(1U << OTHER | 1U << CPUID, 0, 10),
		ANSWER(1U << NR_KINDS, 0, 10),
		ANSWER(1U << 31 | 1U << CPUID, 0, 10),
		ANSWER(1U << CPUID, TIME << 1, 10),
		ANSWER(1U << CPUID, 0x80, 10),
		ANSWER(1U << CPUID, 0, 10) | 1LL << 56,
		0x7fffffffffffffffLL,
	};
	struct tally now;

	for (size_t i = 0; i < sizeof(invalid) / sizeof(*invalid); i++) {
		fixed(_metadata, self, invalid[i], &now);
		EXPECT_EQ(0, now.resumed[CPUID]);
		EXPECT_LE(500, now.exits[CPUID]);
		EXPECT_LE(1, policy_num("probe", "invalid"));
		EXPECT_EQ(0, policy_num("probe", "clamped"));
		EXPECT_TRUE(policy_is("probe", "active"));
		pol_off(&self->a);
	}

	/* As many as fit: clamped, and done */
	fixed(_metadata, self, ANSWER(1U << CPUID, 0, 0xffff), &now);
	EXPECT_LE(self->can ? 490 : 0, now.resumed[CPUID]);
	EXPECT_EQ(0, policy_num("probe", "invalid"));
	EXPECT_LE(1, policy_num("probe", "clamped"));
	EXPECT_EQ(self->can ? MAX_RESUMES : 0, vcpu_resumes(0));
	pol_off(&self->a);

	/* None at all is none. */
	fixed(_metadata, self, ANSWER(KINDS, XSTATE, 0), &now);
	EXPECT_EQ(0, now.resumed[CPUID]);
	EXPECT_EQ(0, policy_num("probe", "invalid"));
	pol_off(&self->a);
	fixed(_metadata, self, 0, &now);
	EXPECT_EQ(0, now.resumed[CPUID]);
	EXPECT_EQ(0, policy_num("probe", "invalid") + policy_num("probe", "clamped"));
	pol_off(&self->a);

	/* Another kind alone */
	fixed(_metadata, self, ANSWER(KINDS & ~(1U << CPUID), XSTATE | HOST, 100), &now);
	EXPECT_EQ(0, now.resumed[CPUID]);
	EXPECT_LE(500, now.exits[CPUID]);
	pol_off(&self->a);

	/* A kind that is not safe for this VM is left out, the others stay. */
	ASSERT_EQ(0, machine(self, 2));
	fixed(_metadata, self, ANSWER(KINDS, XSTATE | HOST, 100), &now);
	EXPECT_LE(self->can ? 490 : 0, now.resumed[CPUID]);
	EXPECT_LE(1, policy_num("probe", "clamped"));
	EXPECT_EQ(0, policy_num("probe", "invalid"));
}

TEST_F(save, negative_is_the_policys_error)
{
	struct tally was, now;

	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, spin(self));
	EXPECT_TRUE(!self->can || WAIT(resumed_of(0, CPUID) > 0, 5000));
	self->a.k->answer = -42;
	self->a.k->how = SAVE_PROBE_FIXED;
	EXPECT_TRUE(WAIT(policy_is("probe", "ejected"), 5000));
	EXPECT_TRUE(policy_has("probe", "kind", "policy"));
	EXPECT_EQ(-42, policy_num("probe", "code"));
	EXPECT_TRUE(policy_has("probe", "msg", "select() gave up on vCPU 0"));
	ASSERT_EQ(0, tally(&was, 0));
	sleep_ms(50);
	now = tally_since(&was, 0);
	EXPECT_EQ(0, now.resumed[CPUID]);
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
}

/* Its own VM loses the policy, and it stays where it is for others. */
TEST_F(save, invalid_answers_take_it_from_the_vm)
{
	uint64_t asked;

	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	self->a.k->answer = 1LL << 62;
	self->a.k->how = SAVE_PROBE_FIXED;
	ASSERT_EQ(0, spin(self));
	EXPECT_TRUE(WAIT(policy_num("probe", "taken") == 1, 10000));
	asked = self->a.c->asked;
	TH_LOG("taken after %lld invalid answers of %llu", policy_num("probe", "invalid"), asked);
	EXPECT_LE(64, policy_num("probe", "invalid"));
	EXPECT_GE(66, asked);
	self->a.k->how = SAVE_PROBE_SAFE;
	sleep_ms(100);
	EXPECT_EQ(asked, self->a.c->asked);
	EXPECT_EQ(0, resumed_of(0, CPUID));
	EXPECT_TRUE(policy_is("probe", "active"));
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
	/* Another VM of ours has it */
	ASSERT_EQ(0, machine(self, 1));
	ASSERT_EQ(0, spin(self));
	EXPECT_TRUE(WAIT(self->a.c->asked > asked, 5000));
	EXPECT_EQ(0, stop(self));
}

/* Each 10 ms, but each 80 of who goes on wanting nothing, until it wants something. */
TEST_F(save, calm_ones_are_asked_less)
{
	uint64_t was, wanting, calm;

	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	self->a.k->answer = ANSWER(KINDS, 0, 1);
	self->a.k->how = SAVE_PROBE_FIXED;
	ASSERT_EQ(0, spin(self));
	was = self->a.c->asked;
	sleep_ms(800);
	wanting = self->a.c->asked - was;
	self->a.k->answer = 0;
	sleep_ms(400);
	was = self->a.c->asked;
	sleep_ms(800);
	calm = self->a.c->asked - was;
	TH_LOG("asked %llu times, then %llu", (unsigned long long)wanting,
	       (unsigned long long)calm);
	EXPECT_LE(3, calm);
	EXPECT_LT(3 * calm, wanting);
	self->a.k->answer = ANSWER(KINDS, 0, 1);
	was = self->a.c->asked;
	EXPECT_TRUE(WAIT(self->a.c->asked > was + 10, 5000));
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
	EXPECT_EQ(0, stop(self));
}

/* Another CPU is no reason to ask who wants nothing, nor is a trip to user space. */
TEST_F(save, calm_ones_are_asked_by_time_alone)
{
	uint64_t was, ms;
	cpu_set_t set, one;
	int cpus = 0;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	self->a.k->answer = 0;
	self->a.k->how = SAVE_PROBE_FIXED;
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	ASSERT_EQ(0, spin(self));
	sleep_ms(200);
	was = self->a.c->asked;
	ms = now_ns() / 1000000;
	for (int i = 0; i < 40; i++) {
		for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&set) > 1; cpu++) {
			if (!CPU_ISSET(cpu, &set))
				continue;
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			ASSERT_EQ(0, pthread_setaffinity_np(self->run.thread, sizeof(one), &one));
			sleep_ms(10);
			cpus++;
		}
	}
	ms = now_ns() / 1000000 - ms;
	TH_LOG("asked %llu times on its way to %d CPUs, in %llu ms",
	       (unsigned long long)(self->a.c->asked - was), cpus, (unsigned long long)ms);
	EXPECT_GE(2 + ms / 40, self->a.c->asked - was);
	EXPECT_EQ(0, stop(self));

	was = self->a.c->asked;
	ms = now_ns() / 1000000;
	for (int i = 0; i < 200; i++) {
		ASSERT_EQ(0, go_cpuid(self->cpu, 1));
		ASSERT_EQ(0, trip(self->cpu, &self->trip));
	}
	ms = now_ns() / 1000000 - ms;
	EXPECT_GE(2 + ms / 40, self->a.c->asked - was);
}

/* Whatever comes, the guest is right. */
TEST_F(save, any_answer)
{
	struct script *own = calloc(1, sizeof(*own)), *s = calloc(1, sizeof(*s));
	uint64_t xcr0 = host_xcr0() & 7;
	long long invalid = 0;

	ASSERT_EQ(0, add_events(self));
	ASSERT_EQ(0, set_xcr0(self->cpu, xcr0, 0));
	ASSERT_EQ(0, add_cpuid(own, self->cpu));
	add_rest(own, xcr0);
	/* The second run finds what the first one left in MSRs. */
	ASSERT_EQ(0, play(self, own));
	ASSERT_EQ(0, play(self, own));
	for (int runs = 0; runs < 40; runs++) {
		/* It is asked at once, and every 10 ms. */
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		self->a.k->how = SAVE_PROBE_WILD;
		self->a.k->classes = runs % 8;
		self->a.k->resumes = 1 + runs % 7;
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		memcpy(s, own, sizeof(*s));
		events(self);
		ASSERT_EQ(0, play(self, s));
		EXPECT_EQ(EVENTS, events(self));
		ASSERT_EQ(0, differ(_metadata, own, s));
		EXPECT_TRUE(policy_is("probe", "active"));
		invalid += policy_num("probe", "invalid");
	}
	TH_LOG("%lld invalid answers, %llu CPUID handled in the fastpath", invalid,
	       resumed_of(0, CPUID));
	EXPECT_LT(0, invalid);
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
	free(own);
	free(s);
}

/* --- where it is refused --------------------------------------------------- */

static int debug(struct vm_cpu *cpu, bool on)
{
	struct kvm_guest_debug d = {
		.control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0,
	};

	return vm_ioctl(cpu->fd, KVM_SET_GUEST_DEBUG, &d);
}

/* Each instruction is reported, by a policy of this VM's and after it. */
TEST_F(save, single_step)
{
	struct trip own;
	struct tally was, now;

	ASSERT_EQ(0, go_work(self->cpu, save_step, 0));
	ASSERT_EQ(0, debug(self->cpu, true));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	memcpy(&own, &self->trip, sizeof(own));
	TH_LOG("%u steps", own.n);
	EXPECT_LE(13, own.n);

	ASSERT_EQ(0, debug(self->cpu, false));
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, go_work(self->cpu, save_step, 0));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	ASSERT_EQ(0, tally(&was, 0));
	ASSERT_EQ(0, go_work(self->cpu, save_step, 0));
	ASSERT_EQ(0, debug(self->cpu, true));
	memset(&self->trip, 0, sizeof(self->trip));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	now = tally_since(&was, 0);
	EXPECT_EQ(own.n, self->trip.n);
	EXPECT_EQ(0, memcmp(own.seen, self->trip.seen, sizeof(own.seen)));
	for (int k = 0; k < NR_KINDS; k++)
		EXPECT_EQ(0, now.resumed[k]);
	EXPECT_LE(3, now.exits[CPUID]);
	ASSERT_EQ(0, debug(self->cpu, false));
}

/* TF of the guest's own: a #DB after each instruction; and CPUID behind STI */
TEST_F(save, traps_and_shadows)
{
	struct tally was, now;
	uint64_t own;

	ASSERT_EQ(0, go_work(self->cpu, save_trap, 0));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	own = work(self->cpu)->dbs;
	TH_LOG("%llu traps", own);
	EXPECT_LE(7, own);

	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, tally(&was, 0));
	ASSERT_EQ(0, go_work(self->cpu, save_trap, 0));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	EXPECT_EQ(own, work(self->cpu)->dbs);
	now = tally_since(&was, 0);
	for (int k = 0; k < NR_KINDS; k++)
		EXPECT_EQ(0, now.resumed[k]);
	EXPECT_LE(2, now.exits[CPUID]);
	EXPECT_LE(1, now.exits[WBINVD]);

	ASSERT_EQ(0, tally(&was, 0));
	ASSERT_EQ(0, go_work(self->cpu, guest_sti, 1000));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	now = tally_since(&was, 0);
	EXPECT_EQ(1000, work(self->cpu)->progress);
	EXPECT_LE(1000, now.exits[CPUID]);
	EXPECT_EQ(0, now.resumed[CPUID]);
}

/* User space takes an MSR while the guest reads it all the time. */
TEST_F(save, msr_filter)
{
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	struct work *w = work(self->cpu);
	uint8_t deny[1] = {};
	struct tally was, now;
	uint64_t at;

	ASSERT_EQ(0,
		  vm_enable_cap(&self->vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	self->a.k->resumes = MAX_RESUMES;
	ASSERT_EQ(0, go_work(self->cpu, guest_rdmsr, 0));
	w->leaf = MSR_MISC_ENABLE;
	ASSERT_EQ(0, start(self, self->cpu));
	self->trip.msr_value = 0x123456789abcdefULL;
	EXPECT_TRUE(WAIT(w->progress > 1000, 5000));
	EXPECT_EQ(self->can, resumed_of(0, RDMSR) > 0);
	EXPECT_EQ(0, self->trip.msrs);

	filter.ranges[0] = (struct kvm_msr_filter_range){
		.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = MSR_MISC_ENABLE, .bitmap = deny
	};
	ASSERT_EQ(0, vm_ioctl(self->vm.fd, KVM_X86_SET_MSR_FILTER, &filter));
	at = w->progress;
	ASSERT_EQ(0, tally(&was, 0));
	EXPECT_TRUE(WAIT(w->progress > at + 10, 5000));
	/* But for the one that was on its way, all of them came here. */
	EXPECT_LE(w->progress, at + self->trip.msrs + 1);
	EXPECT_LE(10, self->trip.msrs);
	EXPECT_EQ(self->trip.msr_value, w->value);
	now = tally_since(&was, 0);
	EXPECT_EQ(0, now.resumed[RDMSR]);
	EXPECT_TRUE(WAIT(!(self->a.c->safe & (1U << RDMSR | 1U << WRMSR)), 5000));
	EXPECT_EQ(self->can, !!(self->a.c->safe & 1U << CPUID));
	EXPECT_EQ(0, stop(self));
}

/* SMM is another machine: nothing is answered there. */
TEST_F(save, system_management_mode)
{
	static const uint8_t code[] = { 0x0f, 0xa2, 0x0f, 0xaa }; /* cpuid; rsm */
	struct work *w = work(self->cpu);
	struct tally was, now;
	const int smis = 10;

	memcpy(self->vm.low + GUEST_SMM, code, sizeof(code));
	/* SMM has an address space of its own. */
	ASSERT_EQ(0, vm_set_slot(&self->vm, 1 << 16, 0, VM_LOW_SIZE / VM_PAGE, self->vm.low, 0));
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, tally(&was, 0));
	for (int i = 0; i < smis; i++) {
		ASSERT_EQ(0, go_cpuid(self->cpu, 10));
		ASSERT_EQ(0, vm_ioctl(self->cpu->fd, KVM_SMI, NULL));
		ASSERT_EQ(0, trip(self->cpu, &self->trip))
		{
			TH_LOG("%s", cpu_text(self->cpu));
		}
		EXPECT_EQ(10, w->progress);
		EXPECT_EQ(0, w->bad);
	}
	now = tally_since(&was, 0);
	TH_LOG("%llu of %llu CPUID handled in the fastpath", now.resumed[CPUID], now.exits[CPUID]);
	EXPECT_EQ(11 * smis, now.exits[CPUID]);
	EXPECT_EQ(self->can ? 10 * smis : 0, now.resumed[CPUID]);
}

/* Of a hypervisor's own exits each is answered, of its guest's none. */
TEST_F(save, nested_guests)
{
	const uint64_t rounds = 50;
	struct work *w = work(self->cpu);
	struct tally was, now;

	if (!amd())
		SKIP(return, "the hypervisor of this test is one for AMD");
	if (!(nested_supported(&self->vm, 0x80000001, false) & 4))
		SKIP(return, "KVM offers no SVM to a guest here");
	nested_vmcb(&self->vm, guest_nested, false);
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, nested_start(self->cpu, guest_hypervisor));
	ASSERT_EQ(0, go_cpuid(self->cpu, rounds));
	ASSERT_EQ(0, go(self->cpu, guest_hypervisor, VM_BOX + WORK));
	ASSERT_EQ(0, tally(&was, 0));
	ASSERT_EQ(0, trip(self->cpu, &self->trip))
	{
		TH_LOG("%s", cpu_text(self->cpu));
	}
	now = tally_since(&was, 0);
	EXPECT_EQ(rounds, w->progress);
	EXPECT_EQ(rounds * NESTED_CPUIDS, w->value);
	EXPECT_EQ(0, w->bad);
	EXPECT_EQ(2 * rounds * NESTED_CPUIDS, now.exits[CPUID]);
	EXPECT_EQ(self->can ? rounds * NESTED_CPUIDS : 0, now.resumed[CPUID]);
}

/* A full dirty ring is user space's to empty at once; no page of it is lost. */
TEST_F(save, dirty_ring_full)
{
	const size_t pages = 2 * VM_RING_ENTRIES + 100;
	int fulls[2] = {}, ret;

	for (int with = 0; with < 2; with++) {
		size_t taken = 0;

		vm_free(&self->vm);
		ASSERT_EQ(0, vm_create(&self->vm, 1, pages, VM_RING | VM_LOG));
		if (with) {
			ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
			self->a.k->resumes = MAX_RESUMES;
		}
		/* CPUID after each write */
		self->cpu->box->leave = 1;
		cpu_set(self->cpu, OP_WRITE, 0, pages, 1);
		while ((ret = cpu_run(self->cpu)) == KVM_EXIT_DIRTY_RING_FULL) {
			/* Not of two slots: the other one is not logged. */
			ret = vm_harvest_ring(&self->vm);
			ASSERT_LT(0, ret);
			EXPECT_GT(VM_RING_ENTRIES, ret);
			taken += ret;
			fulls[with]++;
		}
		ASSERT_EQ(0, ret);
		ret = vm_harvest_ring(&self->vm);
		ASSERT_LE(0, ret);
		/* One that was on its way when the ring was full comes again. */
		EXPECT_LE(pages, taken + ret);
		EXPECT_GE(pages + 2 * fulls[with], taken + ret);
		EXPECT_EQ(pages, vm_popcount(self->vm.bitmap, pages));
	}
	TH_LOG("the ring was full %d times without a policy, %d times with", fulls[0], fulls[1]);
	EXPECT_LE(2, fulls[0]);
	EXPECT_EQ(fulls[0], fulls[1]);
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > pages / 2);
}

static void *poker(void *arg)
{
	struct runner *r = arg;

	while (!r->finished) {
		sleep_ms(2);
		pthread_kill(r->thread, SIGUSR1);
	}
	return NULL;
}

/* With an APIC of user space's, KVM_INTERRUPT is taken before the guest goes on. */
TEST_F(save, user_space_injects)
{
	struct runner me = { .thread = pthread_self() };
	struct kvm_interrupt irq = { .irq = VM_VECTOR };
	struct work *w = work(self->cpu);
	uint64_t injected = 0, windows = 0, at = 0;
	pthread_t thread;

	vm_free(&self->vm);
	ASSERT_EQ(0, vm_create(&self->vm, 1, 16, 0));
	gate(&self->vm, VM_VECTOR, save_poke);
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	self->a.k->resumes = MAX_RESUMES;
	w = work(self->cpu);
	ASSERT_EQ(0, go_cpuid(self->cpu, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, poker, &me));
	while (injected < 30) {
		int ret = ioctl(self->cpu->fd, KVM_RUN, NULL);

		if (ret < 0 && errno == EINTR) {
			/* A signal may come before the guest was entered with the last interrupt. */
			self->cpu->run->request_interrupt_window = injected == w->ticks;
			continue;
		}
		/* Nothing was done before it was taken, and no window is open before that. */
		EXPECT_EQ(injected, w->ticks);
		if (injected)
			EXPECT_EQ(at, w->tick_progress);
		if (ret || self->cpu->run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN)
			break;
		windows++;
		self->cpu->run->request_interrupt_window = 0;
		at = w->progress;
		if (vm_ioctl(self->cpu->fd, KVM_INTERRUPT, &irq))
			break;
		injected++;
	}
	me.finished = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(30, injected)
	{
		TH_LOG("%s", cpu_text(self->cpu));
	}
	EXPECT_EQ(injected, windows);
	EXPECT_EQ(0, w->bad);
	TH_LOG("%llu CPUID meanwhile, %llu handled in the fastpath", w->progress,
	       resumed_of(0, CPUID));
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
}

/* --- nobody waits ---------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median(uint64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_size);
	return v[n / 2];
}

/*
 * A guest of nothing but CPUID, as many consecutive ones as may be.  How many of them it does
 * between a signal or an interrupt and its arrival: few, not the rest of a row.
 */
TEST_F(save, a_row_is_left_at_once)
{
	struct work *w = work(self->cpu);
	uint64_t signals[9], msis[9], at, ticks;

	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	self->a.k->resumes = MAX_RESUMES;
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	for (int i = 0; i < 9; i++) {
		ASSERT_EQ(0, spin(self));
		/* The flag alone is looked at by who enters anew; the signal has it do so. */
		if (i & 1)
			self->cpu->run->immediate_exit = 1;
		at = w->progress;
		pthread_kill(self->run.thread, SIGUSR1);
		EXPECT_EQ(-EINTR, join(self));
		signals[i] = w->progress - at;
		self->cpu->run->immediate_exit = 0;
		EXPECT_EQ(0, w->bad);
	}
	ASSERT_EQ(0, spin(self));
	for (int i = 0; i < 9; i++) {
		sleep_ms(2);
		ticks = w->ticks;
		at = w->progress;
		ASSERT_EQ(1, vm_msi(&self->vm, 0, false));
		EXPECT_TRUE(WAIT(w->ticks == ticks + 1, 5000));
		msis[i] = w->tick_progress - at;
	}
	EXPECT_EQ(9, w->ticks);
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, w->bad);
	TH_LOG("median of CPUID until a signal arrived %llu, an interrupt %llu; longest row told %u",
	       median(signals, 9), median(msis, 9), self->a.c->longest_batch);
	EXPECT_GT(MAX_RESUMES / 4, median(signals, 9));
	EXPECT_GT(MAX_RESUMES / 4, median(msis, 9));
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
}

/* Are exits handled in the fastpath just now? */
static bool answered(FIXTURE_DATA(save) * self)
{
	uint64_t at = work(self->cpu)->progress;
	unsigned long long was = resumed_of(0, CPUID);

	if (!WAIT(work(self->cpu)->progress > at + 50, 5000))
		return false;
	return resumed_of(0, CPUID) > was;
}

TEST_F(save, rows_are_as_long_as_asked)
{
	static const __u32 resumes[] = { 1, 7, 100 };

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
		self->a.k->resumes = resumes[i];
		self->a.k->classes = XSTATE | HOST | TIME;
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		ASSERT_EQ(0, spin(self));
		EXPECT_TRUE(WAIT(self->a.c->asked > 5, 5000));
		EXPECT_EQ(0, stop(self));
		EXPECT_EQ(self->can ? resumes[i] : 0, self->a.c->longest_batch);
		EXPECT_EQ(self->can, self->a.c->longest_ns > 0);
		EXPECT_LE(1, self->a.c->firsts + i);
		EXPECT_EQ(0, self->a.c->vcpu_id);
		TH_LOG("%u consecutive re-entries asked, %u done; longest way %llu ns", resumes[i],
		       self->a.c->longest_batch, self->a.c->longest_ns);
		/* What was told before the last call is part of what there is. */
		EXPECT_LE(self->a.c->resumed[CPUID], resumed_of(0, CPUID));
		EXPECT_EQ(self->can, self->a.c->resumed[CPUID] > 0);
		EXPECT_LT(0, self->a.c->exits[CPUID]);
		pol_off(&self->a);
	}

	/* And told once: from when it asks for none there are none. */
	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	ASSERT_EQ(0, spin(self));
	EXPECT_TRUE(WAIT(self->a.c->asked > 2, 5000));
	self->a.k->answer = ANSWER(0, XSTATE | HOST, 1);
	self->a.k->how = SAVE_PROBE_FIXED;
	EXPECT_TRUE(WAIT(self->a.c->idle > 2, 5000));
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, self->a.c->idle_batch);
}

/* The vCPU goes from CPU to CPU in its rows, and one of these goes off. */
TEST_F(save, cpus_come_and_go)
{
	const char *online = "/sys/devices/system/cpu/cpu1/online";
	struct work *w = work(self->cpu);
	uint64_t asked;
	cpu_set_t set;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(set), &set));
	if (!CPU_ISSET(0, &set) || !CPU_ISSET(1, &set) || access(online, W_OK))
		SKIP(return, "this machine has no second CPU that can go off");
	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	self->a.k->resumes = MAX_RESUMES;
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	ASSERT_EQ(0, spin(self));
	for (unsigned int i = 0; i < 20; i++) {
		asked = self->a.c->asked;
		CPU_ZERO(&set);
		CPU_SET(~i & 1, &set);
		ASSERT_EQ(0, pthread_setaffinity_np(self->run.thread, sizeof(set), &set));
		/* It is asked where it comes to, and answered there. */
		EXPECT_TRUE(WAIT(self->a.c->cpu == (~i & 1) && self->a.c->asked > asked, 5000));
		EXPECT_EQ(self->can, answered(self));
	}
	CPU_ZERO(&set);
	CPU_SET(1, &set);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_setaffinity_np(self->run.thread, sizeof(set), &set));
		EXPECT_TRUE(WAIT(self->a.c->cpu == 1, 5000));
		ASSERT_EQ(0, ext_write(online, "0"));
		EXPECT_TRUE(WAIT(self->a.c->cpu == 0, 5000));
		EXPECT_EQ(self->can, answered(self));
		ASSERT_EQ(0, ext_write(online, "1"));
		EXPECT_EQ(self->can, answered(self));
	}
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, w->bad);
}

static __attribute__((format(printf, 1, 2))) int tool(const char *fmt, ...)
{
	char args[256], command[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(args, sizeof(args), fmt, ap);
	va_end(ap);
	snprintf(command, sizeof(command), "build/kvmext -q %s", args);
	return system(command);
}

static long long adaptive_num(const char *var)
{
	char command[128];
	long long n = -1;
	FILE *f;

	snprintf(command, sizeof(command), "build/kvmext get adaptive %s", var);
	f = popen(command, "r");
	if (!f || fscanf(f, "%lld", &n) != 1)
		n = -1;
	if (f)
		pclose(f);
	return n;
}

/* adaptive leaves off where the way was too long, and does fewer where another waits. */
TEST_F(save, adaptive_is_bounded)
{
	struct other o = {};
	pthread_t thread;
	cpu_set_t all, one;
	sigset_t child;
	uint64_t at;

	if (!self->can)
		SKIP(return, "nothing is handled in the fastpath here");
	/* Or that the tool has ended would end KVM_RUN. */
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &child, NULL));
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, one_cpu(&one));
	ASSERT_EQ(0, tool("load build/bpf/adaptive.bpf.o resumes=200 waiting=3 sample=1 "
			  "longest=10000000 away=60000"));
	ASSERT_EQ(0, spin(self));
	ASSERT_EQ(0, pthread_setaffinity_np(self->run.thread, sizeof(one), &one));
	EXPECT_TRUE(WAIT(resumed_of(0, CPUID) > 0, 5000));
	EXPECT_TRUE(WAIT(vcpu_resumes(0) == 200, 5000));

	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	ASSERT_EQ(0, pthread_create(&thread, NULL, other, &o));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	EXPECT_TRUE(WAIT(vcpu_resumes(0) == 3, 5000));
	EXPECT_LE(1, adaptive_num("shared"));
	o.quit = true;
	pthread_join(thread, NULL);
	/* While this thread looks, on the same CPU maybe, it is another that waits. */
	EXPECT_TRUE(WAIT(vcpu_resumes(0) == 200, 5000));

	EXPECT_TRUE(answered(self));
	EXPECT_LE(1, adaptive_num("timed"));
	EXPECT_EQ(0, adaptive_num("too_long"));
	TH_LOG("longest way from exit to entry %lld ns", adaptive_num("worst_ns"));
	EXPECT_LE(1, adaptive_num("worst_ns"));
	ASSERT_EQ(0, tool("set adaptive longest=1"));
	EXPECT_TRUE(WAIT(adaptive_num("too_long") > 0, 5000));
	at = work(self->cpu)->progress;
	EXPECT_FALSE(answered(self));
	EXPECT_LT(at, work(self->cpu)->progress);
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
	ASSERT_EQ(0, tool("unload adaptive"));
}

/*
 * adaptive's map has an entry for each VM and not for each vCPU, so that nobody fills it by
 * giving his VMs many; it goes with its VM.
 */
TEST_F(save, adaptive_shares_no_room)
{
	struct bpf_map *minds;
	char key[64], next[64];
	int n = 0;

	ASSERT_EQ(0, pol_load(&self->a, "bpf/adaptive.bpf.o", "adaptive", "adaptive", 0));
	minds = bpf_object__find_map_by_name(self->a.obj, "minds");
	ASSERT_NE(NULL, minds);
	ASSERT_GE(sizeof(key), bpf_map__key_size(minds));
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	self->vm.ncpus = 2;
	ASSERT_EQ(0, vm_add_cpu(&self->vm, 1));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, go_cpuid(&self->vm.cpu[i], 100));
		ASSERT_EQ(0, trip(&self->vm.cpu[i], &self->trip));
		EXPECT_EQ(100, work(&self->vm.cpu[i])->progress);
	}
	while (!bpf_map_get_next_key(bpf_map__fd(minds), n ? key : NULL, next)) {
		memcpy(key, next, sizeof(key));
		n++;
	}
	EXPECT_EQ(1, n);
	vm_close(&self->vm);
	EXPECT_NE(0, bpf_map_get_next_key(bpf_map__fd(minds), NULL, next));
}

/* Another thread on the CPU of such a guest gets its share. */
TEST_F(save, others_run)
{
	struct other o = {};
	uint64_t mine, guests;
	struct timespec ts[4];
	cpu_set_t all, one;
	clockid_t clock;
	pthread_t thread;

	ASSERT_EQ(0, sched_getaffinity(0, sizeof(all), &all));
	ASSERT_EQ(0, one_cpu(&one));
	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	self->a.k->resumes = MAX_RESUMES;
	ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(one), &one));
	ASSERT_EQ(0, pthread_create(&thread, NULL, other, &o));
	ASSERT_EQ(0, spin(self));
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(all), &all));
	ASSERT_TRUE(WAIT(o.ready, 5000));
	ASSERT_EQ(0, pthread_getcpuclockid(self->run.thread, &clock));
	clock_gettime(o.clock, &ts[0]);
	clock_gettime(clock, &ts[1]);
	sleep_ms(800);
	clock_gettime(o.clock, &ts[2]);
	clock_gettime(clock, &ts[3]);
	mine = (ts[2].tv_sec - ts[0].tv_sec) * 1000000000LL + ts[2].tv_nsec - ts[0].tv_nsec;
	guests = (ts[3].tv_sec - ts[1].tv_sec) * 1000000000LL + ts[3].tv_nsec - ts[1].tv_nsec;
	EXPECT_EQ(0, stop(self));
	o.quit = true;
	pthread_join(thread, NULL);
	TH_LOG("%llu ms for the guest, %llu ms for the thread; %u of %llu calls found it waiting",
	       guests / MS, mine / MS, self->a.c->waiting, self->a.c->asked);
	EXPECT_LE((mine + guests) / 3, mine);
	EXPECT_LE((mine + guests) / 4, guests);
	EXPECT_LE(1, self->a.c->waiting);
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
}

/* A timer of the guest's comes as late as without a policy, and not the rest of a row. */
TEST_F(save, deadlines_are_kept)
{
	struct work *w = work(self->cpu);
	uint64_t *lates = self->vm.low + GUEST_LATES, late[2], row;

	for (int with = 0; with < 2; with++) {
		if (with) {
			ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
			self->a.k->resumes = MAX_RESUMES;
			ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		}
		ASSERT_EQ(0, go_work(self->cpu, guest_deadline, 25));
		w->value = 40000;
		ASSERT_EQ(0, start(self, self->cpu));
		ASSERT_TRUE(WAIT(self->run.finished, 10000))
		{
			TH_LOG("%llu timers", w->ticks);
		}
		ASSERT_EQ(0, join(self));
		EXPECT_EQ(25, w->ticks);
		for (int i = 0; i < 25; i++)
			EXPECT_LE(0, (int64_t)lates[i]);
		late[with] = median(lates, 25);
	}
	/* What a row takes at the least */
	row = MAX_RESUMES * 250;
	TH_LOG("median ticks late: %llu, with a policy %llu", late[0], late[1]);
	if (self->can)
		EXPECT_GT(late[0] + row / 4, late[1]);
	EXPECT_EQ(self->can, resumed_of(0, CPUID) > 0);
}

/* --- policies come and go -------------------------------------------------- */

TEST_F(save, policies_change_under_a_guest)
{
	struct pol same = {}, none = {};

	ASSERT_EQ(0, pol_probe(&self->a, "first", 0));
	ASSERT_EQ(0, pol_probe(&self->b, "second", 0));
	ASSERT_EQ(0, pol_load(&same, "bpf/same_vcpu.bpf.o", "same_vcpu", "same_vcpu", 0));
	ASSERT_EQ(0, pol_load(&none, "bpf/eager.bpf.o", "eager", "eager", 0));
	self->b.k->how = SAVE_PROBE_FIXED;
	self->b.k->answer = 0;
	ASSERT_EQ(0, spin(self));
	EXPECT_FALSE(answered(self));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, ext_attach(self->a.ops, &self->a.link));
		EXPECT_EQ(self->can, answered(self));
		/* One that wants nothing, from when update() is back */
		ASSERT_EQ(0, ext_update(self->a.link, self->b.ops));
		EXPECT_FALSE(answered(self));
		ASSERT_EQ(0, ext_update(self->a.link, same.ops));
		EXPECT_EQ(self->can, answered(self));
		ASSERT_EQ(0, ext_update(self->a.link, none.ops));
		EXPECT_FALSE(answered(self));
		ASSERT_EQ(0, ext_update(self->a.link, self->a.ops));
		EXPECT_EQ(self->can, answered(self));
		pol_off(&self->a);
		EXPECT_FALSE(answered(self));
		/* With none of them in its run loop: its key is off, and goes on by update() */
		ASSERT_EQ(0, ext_attach(none.ops, &none.link));
		EXPECT_FALSE(answered(self));
		ASSERT_EQ(0, ext_update(none.link, self->a.ops));
		EXPECT_EQ(self->can, answered(self));
		pol_off(&none);
		EXPECT_FALSE(answered(self));
	}
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
	pol_free(&same);
	pol_free(&none);
}

TEST_F(save, kill_switch)
{
	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, spin(self));
	for (int i = 0; i < (self->can ? 3 : 1); i++) {
		EXPECT_EQ(self->can, answered(self));
		ASSERT_EQ(0, ext_enable(false));
		EXPECT_FALSE(answered(self));
		EXPECT_TRUE(policy_is("probe", "active"));
		ASSERT_EQ(0, ext_enable(true));
		EXPECT_EQ(self->can, answered(self));
	}
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
}

TEST_F(save, loader_is_killed)
{
	int fds[2];
	char ok = 0;

	ASSERT_EQ(0, pol_fresh(&self->a, "probe"));
	ASSERT_EQ(0, spin(self));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pipe(fds));
		self->child = fork();
		if (!self->child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			ok = !ext_attach(self->a.ops, &self->a.link);
			if (write(fds[1], &ok, 1) != 1)
				_exit(1);
			for (;;)
				pause();
		}
		ASSERT_EQ(1, read(fds[0], &ok, 1));
		close(fds[0]);
		close(fds[1]);
		ASSERT_EQ(1, ok);
		EXPECT_EQ(self->can, answered(self));
		kill(self->child, SIGKILL);
		waitpid(self->child, NULL, 0);
		self->child = 0;
		EXPECT_TRUE(WAIT(save_policies() == !self->can, 5000));
		EXPECT_FALSE(answered(self));
	}
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);
}

/* A vCPU that is made under a policy has it from its first run on. */
TEST_F(save, a_late_vcpu)
{
	struct vm_cpu *late = &self->vm.cpu[1];

	ASSERT_EQ(0, pol_up(&self->a, "probe", 0));
	ASSERT_EQ(0, go_cpuid(self->cpu, 100));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	EXPECT_EQ(safe_kinds(1), self->a.c->safe);
	self->vm.ncpus = 2;
	ASSERT_EQ(0, vm_add_cpu(&self->vm, 1));
	ASSERT_EQ(0, go_cpuid(late, 100));
	ASSERT_EQ(0, trip(late, &self->trip));
	EXPECT_EQ(100, work(late)->progress);
	EXPECT_EQ(0, work(late)->bad);
	EXPECT_LE(1, self->a.c->asked_vcpu[1]);
	EXPECT_EQ(1, self->a.c->vcpu_id);
	EXPECT_EQ(safe_kinds(2), self->a.c->safe);
	EXPECT_EQ(self->can ? 100 : 0, resumed_of(1, CPUID));
	EXPECT_EQ(0, self->a.c->ends);
	vm_close(&self->vm);
	EXPECT_EQ(1, self->a.c->ends);
}

static volatile int segvs;

static void on_segv(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	(void)info;
	segvs++;
	uc->uc_mcontext.gregs[REG_RIP] += 2; /* RDTSC */
}

/*
 * Does a thread that may not read the TSC find that so after KVM_RUN?  That is a bit of
 * CR4, which an exit loads as KVM noted it at the entry.
 */
static bool cr4_is_kept(FIXTURE_DATA(save) * self)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };

	segvs = 0;
	if (go_cpuid(self->cpu, 10) || sigaction(SIGSEGV, &sa, NULL))
		return false;
	if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV))
		return false;
	if (ioctl(self->cpu->fd, KVM_RUN, NULL) == 0)
		vm_rdtsc();
	prctl(PR_SET_TSC, PR_TSC_ENABLE);
	return segvs == 1 && work(self->cpu)->progress == 10;
}

/*
 * A policy for one VM is none for another; and when it goes while another VM's keeps
 * the hooks on, the vCPU enters as one that never had any.
 */
TEST_F(save, one_vm_only)
{
	struct trip own;
	uint64_t asked;

	ASSERT_EQ(0, go_work(self->cpu, save_step, 0));
	ASSERT_EQ(0, debug(self->cpu, true));
	ASSERT_EQ(0, trip(self->cpu, &self->trip));
	memcpy(&own, &self->trip, sizeof(own));
	ASSERT_EQ(0, debug(self->cpu, false));

	EXPECT_TRUE(cr4_is_kept(self));
	self->child = child_vm();
	ASSERT_LT(0, self->child);
	ASSERT_EQ(0, pol_up(&self->b, "other", self->child));
	ASSERT_EQ(0, spin(self));
	EXPECT_FALSE(answered(self));
	EXPECT_EQ(0, self->b.c->asked);
	ASSERT_EQ(0, pol_up(&self->a, "mine", self->pid));
	EXPECT_EQ(self->can, answered(self));
	EXPECT_LT(0, self->a.c->asked);
	EXPECT_EQ(0, self->b.c->asked);
	pol_off(&self->a);
	asked = self->a.c->asked;
	EXPECT_FALSE(answered(self));
	EXPECT_EQ(asked, self->a.c->asked);
	EXPECT_EQ(0, stop(self));
	EXPECT_EQ(0, work(self->cpu)->bad);

	/* What is done before each entry is done: what the host is by now is noted, */
	EXPECT_TRUE(cr4_is_kept(self));
	/* and STI's shadow is dropped for a step. */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, go_work(self->cpu, save_step, 0));
		ASSERT_EQ(0, debug(self->cpu, true));
		memset(&self->trip, 0, sizeof(self->trip));
		ASSERT_EQ(0, trip(self->cpu, &self->trip))
		{
			TH_LOG("%s", cpu_text(self->cpu));
		}
		EXPECT_EQ(own.n, self->trip.n);
		EXPECT_EQ(0, memcmp(own.seen, self->trip.seen, sizeof(own.seen)));
		ASSERT_EQ(0, debug(self->cpu, false));
	}
}

TEST_MAIN
