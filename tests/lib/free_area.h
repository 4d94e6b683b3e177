/* SPDX-License-Identifier: GPL-2.0 */
/* What dirty_test and skip_free_test share: a VM, policies, an area of free pages. */
#ifndef __TESTS_FREE_AREA_H
#define __TESTS_FREE_AREA_H

#include "harness.h"
#include "ext.h"
#include "tests/kvm/probes/dirty_probe.h"
#include "bpf/free.h"

#define PAGES 512
#define FIRST_GFN (VM_MEM / VM_PAGE)

/* Guest-physical, in the low slot, which is not logged */
#define GUEST_AREA 0x80000UL /* struct free_head, and the bitmap in the pages after it */
#define AREA_PAGES 4
#define PFNS (FIRST_GFN + PAGES)
_Static_assert(PFNS <= (AREA_PAGES - 1) * FREE_PAGE_BITS, "the bitmap fits");

/* --- policies -------------------------------------------------------------- */

struct pol {
	struct bpf_object *obj;
	struct bpf_map *ops;
	struct bpf_link *link;
	void *bss;
	volatile struct dirty_probe_knobs *k;
	volatile struct dirty_probe_counts *c;
	struct free_lease *lease;
};

/* @table of the object alone, for VM @vm */
static inline int pol_load(struct pol *p, const char *path, const char *table, const char *name,
			   __u32 vm)
{
	int ret;

	*p = (struct pol){};
	ret = ext_load(path, table, name, vm, &p->obj, &p->ops);
	if (ret)
		return ret;
	p->bss = ext_map_memory(p->obj, ".bss");
	p->c = p->bss;
	return p->bss ? 0 : -ENOMEM;
}

static inline int pol_probe(struct pol *p, const char *name, __u32 vm)
{
	int ret = pol_load(p, "tests/kvm/probes/dirty_probe.bpf.o", "dirty_probe", name, vm);

	if (ret)
		return ret;
	p->k = ext_map_memory(p->obj, ".data");
	return p->k ? 0 : -ENOMEM;
}

static inline int pol_attach(struct pol *p)
{
	return ext_attach(p->ops, &p->link);
}

static inline int pol_up(struct pol *p, const char *name, __u32 vm)
{
	return pol_probe(p, name, vm) ?: pol_attach(p);
}

static inline void pol_off(struct pol *p)
{
	bpf_link__destroy(p->link);
	p->link = NULL;
}

static inline void pol_free(struct pol *p)
{
	if (!p->obj)
		return;
	pol_off(p);
	if (p->k)
		munmap((void *)p->k, VM_PAGE);
	if (p->bss)
		munmap(p->bss, VM_PAGE);
	if (p->lease)
		munmap(p->lease, sizeof(*p->lease));
	p->lease = NULL;
	bpf_object__close(p->obj);
	p->obj = NULL;
}

static inline int dirty_policies(void)
{
	return table_policies("dirty");
}

static inline uint64_t counter(struct pol *p, const char *name)
{
	volatile uint64_t *v = ext_variable(p->obj, ".bss", name);

	return v ? *v : ~0ULL;
}

/* Of the VM, in the state file */
static inline long long vm_stat(const char *key)
{
	char match[64];

	snprintf(match, sizeof(match), "pid=%d", getpid());
	return ext_num("dirty_vm", match, key);
}

static inline void copy(struct vm *vm, uint64_t *dst, const uint64_t *pages)
{
	for (size_t i = 0; i < vm->npages; i++) {
		if (pages[i / 64] & 1ULL << i % 64)
			memcpy((char *)dst + i * VM_PAGE, (char *)vm->mem + i * VM_PAGE, VM_PAGE);
	}
}

/* The log, once, and send what is in it */
static inline int round_of(struct vm *vm, uint64_t *dst)
{
	int n = vm_harvest(vm);

	if (n > 0)
		copy(vm, dst, vm->bitmap);
	return n < 0 ? n : 0;
}

static inline struct free_head *area_head(struct vm *vm)
{
	return vm->low + GUEST_AREA;
}

/* As kvmext hint does for the VM of process @pid; the lease stays mapped */
static inline struct free_lease *area_open(struct pol *p, __u32 pid)
{
	struct bpf_map *areas = bpf_object__find_map_by_name(p->obj, "areas");
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	struct free_lease *l;
	int fd;

	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "area", 4, 8, FREE_LEASE_WORDS, &opts);
	if (!areas || fd < 0)
		return NULL;
	l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (l == MAP_FAILED || bpf_map_update_elem(bpf_map__fd(areas), &pid, &fd, 0))
		l = NULL;
	close(fd);
	return l;
}

static inline int area_tell(struct pol *p, uint64_t cookie, uint64_t pfns, int ms)
{
	if (!p->lease)
		p->lease = area_open(p, getpid());
	if (!p->lease)
		return -ENOENT;
	for (__u32 i = 0; i < AREA_PAGES; i++)
		p->lease->gfns[i] = GUEST_AREA / VM_PAGE + i + 1;
	p->lease->pfns = pfns;
	p->lease->cookie = cookie;
	p->lease->until = now_ns() + ms * MS;
	return 0;
}

/* The area that the test's guest keeps; @pages of its pages are free */
static inline void area_fill(struct vm *vm, uint64_t cookie, size_t pages)
{
	struct free_head *head = area_head(vm);

	memset(head, 0, AREA_PAGES * VM_PAGE);
	memset((char *)head + VM_PAGE + FIRST_GFN / 8, 0xff, pages / 8);
	*head = (struct free_head){
		.magic = FREE_MAGIC,
		.cookie = cookie,
		.pfns = FIRST_GFN + pages,
	};
}

/* skip_free, told of that area */
static inline int skip_up_pages(struct vm *vm, struct pol *p, size_t pages)
{
	int ret;

	area_fill(vm, 0x1234, pages);
	ret = pol_load(p, "bpf/skip_free.bpf.o", "skip_free", "skip_free", getpid());
	return ret ?: pol_attach(p) ?: area_tell(p, 0x1234, FIRST_GFN + pages, 3600000);
}

/* ... all of them */
static inline int skip_up(struct vm *vm, struct pol *p)
{
	return skip_up_pages(vm, p, PAGES);
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
	ASSERT_EQ(0, dirty_policies());
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
	EXPECT_EQ(0, dirty_policies());
}

#endif
