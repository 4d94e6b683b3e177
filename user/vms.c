// SPDX-License-Identifier: GPL-2.0
/*
 * VMs and vCPUs as the programs of user/top.bpf.c count them, on any kernel with
 * BTF.  What comes is met by its first exit; what goes is let go, and its slot
 * used again.
 */
#include "vms.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base.h"
#include "exitname.h"
#include "hook.h"
#include "host.h"
#include "log.h"
#include "out.h"
#include "table.h"
#include "text.h"
#include "top.h"
#include "tracer.h"

#include "user/top.skel.h"

/**
 * struct vcpu_priv - a slot and what it held before
 * @live: a vCPU is in it
 * @gone: it was destroyed; let go at the next reading
 * @was: the figures at the last reading
 * @seen: copy of the slot
 * @before: copy before that
 */
struct vcpu_priv {
	bool live;
	bool gone;
	uint64_t was[FIGURES];
	struct top_vcpu seen;
	struct top_reason before[TOP_REASONS];
};

/* A program that may be missing, where it is attached, and what it is the source of */
static const struct {
	const char *prog;
	enum vms_source source;
	enum point_id point;
} progs[] = {
	{ "top_inj_virq", SRC_INJECT, POINT_INJECT },
	{ "top_wakeup", SRC_WAKEUP, POINT_WAKEUP },
	{ "top_halt", SRC_HALT, POINT_HALT },
	{ "top_waking", SRC_WAKING, POINT_WAKING },
	{ "top_svm_irq", SRC_ACCEPT, POINT_SVM_IRQ },
	{ "top_vmx_irq", SRC_ACCEPT, POINT_VMX_IRQ },
	{ "top_dirty", SRC_DIRTY, POINT_DIRTY },
	{ "top_destroy", SRC_DESTROY, POINT_DESTROY },
	{ "top_ask", SRC_ASK, POINT_ASK },
	{ "top_block", SRC_BLOCK, POINT_BLOCK },
	{ "top_fpu", SRC_RUN, POINT_FPU },
	{ "top_attach", SRC_POLICY, POINT_ATTACH },
	{ "top_update", SRC_POLICY, POINT_UPDATE },
	{ "top_detach", SRC_POLICY, POINT_DETACH },
	{ "top_eject", SRC_POLICY, POINT_EJECT },
	{ "top_take", SRC_POLICY, POINT_TAKE },
};

static char *source_text[SOURCES];
static struct top_bpf *skel;
static struct top_vcpu *slots;
static size_t slots_size;
static struct vcpu_priv *privs[TOP_VCPUS];
static struct vms vms;

/* Load what this kernel has. */
static int load(void)
{
	struct bpf_program *p;

	skel = top_bpf__open();
	if (!skel)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(progs); i++) {
		bool has;

		p = bpf_object__find_program_by_name(skel->obj, progs[i].prog);
		has = hook_has(progs[i].point);
		if (progs[i].source == SRC_RUN)
			has = has && foreign_kvm();
		bpf_program__set_autoload(p, has);
	}
	skel->rodata->foreign = foreign_kvm();
	return top_bpf__load(skel);
}

static int attach(void)
{
	struct bpf_program *p;

	for (size_t i = 0; i < ARRAY_SIZE(progs); i++) {
		struct bpf_link *link;

		p = bpf_object__find_program_by_name(skel->obj, progs[i].prog);
		if (!bpf_program__autoload(p))
			continue;
		link = bpf_program__attach(p);
		if (!link)
			continue;
		source_text[progs[i].source] = str("%s", bpf_program__section_name(p));
	}
	skel->links.top_entry = bpf_program__attach(skel->progs.top_entry);
	skel->links.top_exit = bpf_program__attach(skel->progs.top_exit);
	if (!skel->links.top_entry || !skel->links.top_exit)
		return fail(E_REFUSED, "-v shows why",
			    "cannot attach to kvm_exit and kvm_entry: %s", strerror(errno));
	return OK;
}

int vms_open(void)
{
	int err, ret;

	ret = need_kvm();
	if (ret != OK)
		return ret;
	log_clear();
	err = load();
	if (err) {
		errno = -err;
		return tracer_load_error("top");
	}
	slots_size = (size_t)TOP_VCPUS * sizeof(*slots);
	slots = mmap(NULL, slots_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		     bpf_map__fd(skel->maps.slots), 0);
	if (slots == MAP_FAILED)
		return fail(E_INTERNAL, NULL, "cannot map the counters: %s", strerror(errno));
	ret = attach();
	vms.at_ns = clock_ns();
	return ret;
}

void vms_close(void)
{
	top_bpf__destroy(skel);
	skel = NULL;
}

const char *vms_source(enum vms_source src)
{
	return source_text[src];
}

bool vms_has(enum vms_figure f)
{
	switch (f) {
	case F_HALTED_NS:
		return source_text[SRC_WAKEUP];
	case F_READY_NS:
		return hook_has(POINT_READY);
	case F_BLOCKED_NS:
		return source_text[SRC_BLOCK];
	case F_DIRTY:
		return source_text[SRC_DIRTY];
	case F_INJECTED:
		return source_text[SRC_INJECT];
	case F_POSTED:
		return source_text[SRC_ACCEPT];
	case F_INJ_N:
	case F_INJ_NS:
		return source_text[SRC_ACCEPT] && source_text[SRC_INJECT];
	case F_WAKE_N:
	case F_WAKE_NS:
		/* The end of it is an entry. */
		return source_text[SRC_WAKING] && !vms.silent;
	case F_ASKS:
	case F_BLOCKS:
		return source_text[SRC_ASK];
	default:
		return true;
	}
}

/* A copy of one moment: the vCPU's thread is writing all the while. */
static void copy(struct top_vcpu *to, const struct top_vcpu *from)
{
	for (int i = 0; i < 4; i++) {
		memcpy(to, from, sizeof(*to));
		if (to->entry_ns == __atomic_load_n(&from->entry_ns, __ATOMIC_RELAXED) &&
		    to->exit_ns == __atomic_load_n(&from->exit_ns, __ATOMIC_RELAXED))
			break;
	}
}

/* HLT, by the vendors' numbers; KVM_EXIT_HLT */
static bool is_halt(const struct top_vcpu *s)
{
	static const uint64_t halts[] = { [ISA_NONE] = 5, [ISA_VMX] = 12, [ISA_SVM] = 0x78 };

	return s->isa < ARRAY_SIZE(halts) && s->last == halts[s->isa];
}

/* What a slot says, with what is under way up to @now */
static void count(const struct top_vcpu *s, uint64_t now, uint64_t f[FIGURES])
{
	f[F_EXITS] = 0;
	for (int i = 0; i < TOP_REASONS; i++)
		f[F_EXITS] += s->reason[i].n;
	f[F_GUEST_NS] = s->guest_ns;
	f[F_OUTSIDE_NS] = s->outside_ns;
	f[F_HALTED_NS] = s->halted_ns;
	if (s->vcpu && s->entry_ns > s->exit_ns && now > s->entry_ns) {
		f[F_GUEST_NS] += now - s->entry_ns;
	} else if (s->vcpu && s->exit_ns > s->entry_ns && now > s->exit_ns) {
		f[F_OUTSIDE_NS] += now - s->exit_ns;
		/* Without a hook where it begins: it exited to halt and has not been back. */
		if (s->halt_since && now > s->halt_since)
			f[F_HALTED_NS] += now - s->halt_since;
		else if (!source_text[SRC_HALT] && is_halt(s))
			f[F_HALTED_NS] += now - s->exit_ns;
	}
	f[F_READY_NS] = s->ready_ns;
	f[F_BLOCKED_NS] = s->blocked_ns;
	f[F_DIRTY] = s->dirty;
	f[F_INJECTED] = s->injected;
	f[F_POSTED] = s->posted;
	f[F_INJ_N] = s->inj_n;
	f[F_INJ_NS] = s->inj_ns;
	f[F_WAKE_N] = s->wake_n;
	f[F_WAKE_NS] = s->wake_ns;
	f[F_ASKS] = s->asks;
	f[F_BLOCKS] = s->blocks;
}

/* Keep the list sorted by time, then by count, longest first */
static void add_reason(struct reason *list, int *n, const struct reason *r)
{
	int i;

	for (i = *n;
	     i > 0 && (list[i - 1].ns < r->ns || (list[i - 1].ns == r->ns && list[i - 1].n < r->n));
	     i--)
		if (i < REASONS_SHOWN)
			list[i] = list[i - 1];
	if (i < REASONS_SHOWN) {
		list[i] = *r;
		*n += *n < REASONS_SHOWN;
	}
}

static struct reason reason_of(uint32_t isa, int i, uint64_t n, uint64_t ns)
{
	return (struct reason){ .isa = isa,
				.reason = i < TOP_LOW	? i :
					  i < TOP_OTHER ? TOP_NPF + i - TOP_LOW :
							  0,
				.other = i == TOP_OTHER,
				.n = n,
				.ns = ns };
}

static bool process_gone(uint32_t tgid)
{
	return kill(tgid, 0) && errno == ESRCH;
}

/* Its last interval was shown: the slot may have another vCPU. */
static void let_go(uint32_t slot)
{
	struct vcpu_priv *p = privs[slot];
	uint64_t key = p->seen.key;
	uint32_t is;

	/* Not unless a new vCPU at the same address has it now */
	if (!bpf_map_lookup_elem(bpf_map__fd(skel->maps.vcpus), &key, &is) && is == slot)
		bpf_map_delete_elem(bpf_map__fd(skel->maps.vcpus), &key);
	memset(&slots[slot], 0, sizeof(*slots));
	memset(p, 0, sizeof(*p));
	bpf_map_update_elem(bpf_map__fd(skel->maps.spare), NULL, &slot, BPF_ANY);
}

static int by_vm(const void *a, const void *b)
{
	const struct vcpu *x = a, *y = b;

	if (x->tgid != y->tgid)
		return x->tgid < y->tgid ? -1 : 1;
	if (x->priv->seen.kvm != y->priv->seen.kvm)
		return x->priv->seen.kvm < y->priv->seen.kvm ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static void read_slot(uint32_t slot, struct vcpu *v)
{
	struct vcpu_priv *p = privs[slot];
	uint64_t f[FIGURES];

	copy(&p->seen, &slots[slot]);
	*v = (struct vcpu){ .tgid = p->seen.tgid, .id = p->seen.id, .tid = p->seen.tid, .priv = p };
	count(&p->seen, vms.at_ns, f);
	for (int i = 0; i < FIGURES; i++) {
		/* What is under way is measured again when it is over, and may be less. */
		if (f[i] < p->was[i])
			f[i] = p->was[i];
		v->delta[i] = f[i] - p->was[i];
		v->total[i] = p->was[i] = f[i];
	}
	for (int i = 0; i < TOP_REASONS; i++) {
		struct top_reason *r = &p->seen.reason[i], *b = &p->before[i];

		if (r->n != b->n || r->ns != b->ns) {
			struct reason rs = reason_of(p->seen.isa, i, r->n - b->n, r->ns - b->ns);

			add_reason(v->reason, &v->reasons, &rs);
		}
	}
}

/* Sum up a VM's vCPUs, which follow one another from @first on. */
static void sum_vm(struct vm *vm)
{
	struct top_reason sum[TOP_REASONS] = {};
	uint64_t newest = 0;
	uint32_t isa = 0;

	vm->inhibits = UINT64_MAX;

	for (int k = vm->first; k < vm->first + vm->n; k++) {
		const struct vcpu *v = &vms.vcpu[k];

		for (int i = 0; i < FIGURES; i++) {
			vm->delta[i] += v->delta[i];
			vm->total[i] += v->total[i];
		}
		isa = v->priv->seen.isa;
		if (v->priv->seen.inhibits_ns > newest) {
			newest = v->priv->seen.inhibits_ns;
			vm->inhibits = v->priv->seen.inhibits;
		}
		for (int i = 0; i < TOP_REASONS; i++) {
			sum[i].n += v->priv->seen.reason[i].n - v->priv->before[i].n;
			sum[i].ns += v->priv->seen.reason[i].ns - v->priv->before[i].ns;
		}
	}
	for (int i = 0; i < TOP_REASONS; i++) {
		struct reason r = reason_of(isa, i, sum[i].n, sum[i].ns);

		if (r.n || r.ns)
			add_reason(vm->reason, &vm->reasons, &r);
	}
}

static void comm_of(struct vm *vm, const struct vm *old, int nr_old)
{
	char *comm;

	for (int i = 0; i < nr_old; i++)
		if (old[i].tgid == vm->tgid && old[i].kvm == vm->kvm && *old[i].comm) {
			memcpy(vm->comm, old[i].comm, sizeof(vm->comm));
			return;
		}
	comm = proc_comm(vm->tgid);
	snprintf(vm->comm, sizeof(vm->comm), "%s", comm ?: "");
	printable(vm->comm, "");
	free(comm);
}

const struct vms *vms_read(void)
{
	uint32_t used = skel->bss->next_slot;
	uint64_t now = clock_ns();
	struct vm *old = vms.vm;
	int nr_old = vms.nr_vms;

	vms.took_ns = now - vms.at_ns;
	vms.at_ns = now;
	vms.lost = skel->bss->lost;
	vms.silent = skel->rodata->foreign && !skel->bss->spoke && skel->bss->next_slot;
	vms.policy_changes = skel->bss->policy_changes;
	vms.nr_vcpus = 0;
	if (used > TOP_VCPUS)
		used = TOP_VCPUS;
	vms.vcpu = realloc(vms.vcpu, (used + 1) * sizeof(*vms.vcpu));
	vms.vm = calloc(used + 1, sizeof(*vms.vm));
	if (!vms.vcpu || !vms.vm)
		abort();

	for (uint32_t i = 0; i < used; i++) {
		struct vcpu_priv *p = privs[i];

		if (p && p->live)
			memcpy(p->before, p->seen.reason, sizeof(p->before));
		if (p && p->gone) {
			let_go(i);
			continue;
		}
		if (!slots[i].key)
			continue;
		if (!p) {
			p = privs[i] = calloc(1, sizeof(*p));
			if (!p)
				abort();
		}
		p->live = true;
		read_slot(i, &vms.vcpu[vms.nr_vcpus++]);
		p->gone = !p->seen.vcpu || process_gone(p->seen.tgid);
	}
	qsort(vms.vcpu, vms.nr_vcpus, sizeof(*vms.vcpu), by_vm);

	vms.nr_vms = 0;
	for (int i = 0; i < vms.nr_vcpus; i++) {
		struct vcpu *v = &vms.vcpu[i];
		struct vm *vm = vms.nr_vms ? &vms.vm[vms.nr_vms - 1] : NULL;

		if (!vm || vm->tgid != v->tgid || vm->kvm != v->priv->seen.kvm) {
			vm = &vms.vm[vms.nr_vms++];
			vm->tgid = v->tgid;
			vm->kvm = v->priv->seen.kvm;
			vm->first = i;
			comm_of(vm, old, nr_old);
		}
		v->vm = vms.nr_vms - 1;
		vm->n++;
	}
	for (int i = 0; i < vms.nr_vms; i++)
		sum_vm(&vms.vm[i]);
	free(old);
	return &vms;
}
