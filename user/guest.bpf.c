// SPDX-License-Identifier: GPL-2.0
/*
 * Which of a guest's pages lie in its buddy allocator; bpf/free.h says for whom.
 *
 * A page that a CPU keeps for itself (per-CPU list) counts as in use.  One that is taken from
 * there is zeroed before any tracepoint tells of it, and bulk allocation has no tracepoint at all:
 * a guest that is stopped in between would lose the zeroes.  Pages leave the buddy allocator under
 * zone->lock, and the bit goes before that is released (for a captured page: before the task that has
 * it goes on), so nobody can have written by then.
 *
 * All ways of Linux 6.12 (mm/page_alloc.c), and what tells of them; zone->lock is held unless said:
 *
 *   out  __rmqueue_smallest()		mm_page_alloc_zone_locked
 *	  try_to_steal_block()		mm_page_alloc_extfrag, or by __rmqueue_smallest()
 *	  __rmqueue_steal()		mm_page_alloc_extfrag
 *	  compaction_capture()		a page that is freed, with the buddies it merges with, goes past
 *					the lists to the task that compacts for it: mm_compaction_end, in
 *					that task; what an interrupt frees just after it: when
 *					try_to_compact_pages() returns
 *	  __isolate_free_page()		compaction, CMA, free page reporting
 *	  __offline_isolated_pages()	memory that is taken out; the lock is released then
 *	  take_page_off_buddy()		a page with a hardware error; likewise
 *   in	  free_pcppages_bulk()		mm_page_pcpu_drain
 *	  free_one_page()		before it takes the lock: nobody has the page
 *	  __putback_isolated_page()
 *	  put_page_back_buddy()		none; it is only not known to be free
 *
 * Moves between lists, splits and merges stay within.  Boot and memory that is plugged in free by
 * free_one_page().  Pages that are guards (debug_pagealloc) are the reason why that is refused.
 * Tracepoints do not fire on a CPU that is not online; nor does such a one allocate.
 *
 * A program that is interrupted by another call of itself on that CPU is left out there.  Under
 * zone->lock that cannot be; else it is a "recursion miss", which the agent looks for.
 *
 * Atomic operations of BPF that return nothing are no barriers by themselves; on x86, where guests of
 * kvm_ext are, they are all the same.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "free.h"
#include "guest.h"

char _license[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FREE_HEAD_WORDS + 1);
	__type(key, __u32);
	__type(value, __u64);
} area SEC(".maps");

/* Set before loading: where struct page of frame 0 is, and log2 of its size */
const volatile __u64 vmemmap;
const volatile __u32 page_shift;
/* enum pagetype of a buddy page */
const volatile __u32 buddy_type;

static __always_inline __u64 *word_of(__u64 pfn)
{
	__u64 i = FREE_HEAD_WORDS + pfn / 64;
	__u32 key = i;

	/* Past the end there is none: memory that was not thought of stays without bits. */
	return i >> 32 ? NULL : bpf_map_lookup_elem(&area, &key);
}

/* The bits of 2^order pages, aligned as the buddy allocator does */
static __always_inline void mark(__u64 pfn, __u32 order, bool is_free)
{
	__u64 *w, mask;

	if (order < 6) {
		w = word_of(pfn);
		mask = ((1ull << (1u << order)) - 1) << (pfn & 63);
		if (w && is_free)
			__sync_fetch_and_or(w, mask);
		else if (w)
			__sync_fetch_and_and(w, ~mask);
		return;
	}
	for (__u32 i = 0; i < 16 && i < 1u << (order - 6 & 31); i++) {
		w = word_of(pfn + i * 64);
		if (w && is_free)
			__sync_fetch_and_or(w, ~0ull);
		else if (w)
			__sync_fetch_and_and(w, 0ull);
	}
}

static __always_inline void mark_page(__u64 page, __u32 order, bool is_free)
{
	mark((page - vmemmap) >> page_shift, order, is_free);
}

/* --- out --- */

SEC("raw_tp/mm_page_alloc_zone_locked")
int taken(struct bpf_raw_tracepoint_args *ctx)
{
	mark_page(ctx->args[0], ctx->args[1], false);
	return 0;
}

SEC("raw_tp/mm_page_alloc_extfrag")
int stolen(struct bpf_raw_tracepoint_args *ctx)
{
	mark_page(ctx->args[0], ctx->args[1], false);
	return 0;
}

SEC("raw_tp/mm_compaction_end")
int captured(struct bpf_raw_tracepoint_args *ctx)
{
	struct compact_control *cc = (void *)ctx->args[0];
	struct task_struct *task = (void *)bpf_get_current_task();
	struct capture_control *capc = BPF_CORE_READ(task, capture_control);
	__u64 page = capc ? (__u64)BPF_CORE_READ(capc, page) : 0;

	if (page)
		mark_page(page, BPF_CORE_READ(cc, order), false);
	return 0;
}

SEC("fexit/try_to_compact_pages")
int compacted(__u64 *ctx)
{
	__u64 order = 0, capture = 0, page = 0;

	bpf_get_func_arg(ctx, 1, &order);
	bpf_get_func_arg(ctx, 5, &capture);
	if (!bpf_probe_read_kernel(&page, sizeof(page), (void *)capture) && page)
		mark_page(page, order, false);
	return 0;
}

SEC("fexit/__isolate_free_page")
int isolated(__u64 *ctx)
{
	__u64 page = 0, order = 0, done = 0;

	bpf_get_func_arg(ctx, 0, &page);
	bpf_get_func_arg(ctx, 1, &order);
	bpf_get_func_ret(ctx, &done);
	/* An int: the upper half of the register is whatever it was. */
	if ((__u32)done)
		mark_page(page, order, false);
	return 0;
}

SEC("fexit/take_page_off_buddy")
int poisoned(__u64 *ctx)
{
	__u64 page = 0, done = 0;

	bpf_get_func_arg(ctx, 0, &page);
	bpf_get_func_ret(ctx, &done);
	if (done & 0xff)
		mark_page(page, 0, false);
	return 0;
}

struct frames {
	__u64 pfn;
	__u64 end;
};

static long clear_word(__u32 i, struct frames *r)
{
	__u64 *w = word_of(r->pfn);

	(void)i;
	if (r->pfn >= r->end)
		return 1;
	if (w)
		__sync_fetch_and_and(w, 0ull);
	r->pfn += 64;
	return 0;
}

/* Whole sections go offline. */
SEC("fexit/__offline_isolated_pages")
int offline(__u64 *ctx)
{
	struct frames r = {};

	bpf_get_func_arg(ctx, 0, &r.pfn);
	bpf_get_func_arg(ctx, 1, &r.end);
	bpf_loop(1 << 23, clear_word, &r, 0);
	return 0;
}

/* --- in --- */

SEC("raw_tp/mm_page_pcpu_drain")
int drained(struct bpf_raw_tracepoint_args *ctx)
{
	mark_page(ctx->args[0], ctx->args[1], true);
	return 0;
}

SEC("fentry/free_one_page")
int freed(__u64 *ctx)
{
	__u64 pfn = 0, order = 0;

	bpf_get_func_arg(ctx, 2, &pfn);
	bpf_get_func_arg(ctx, 3, &order);
	mark(pfn, order, true);
	return 0;
}

SEC("fentry/__putback_isolated_page")
int putback(__u64 *ctx)
{
	__u64 page = 0, order = 0;

	bpf_get_func_arg(ctx, 0, &page);
	bpf_get_func_arg(ctx, 1, &order);
	mark_page(page, order, true);
	return 0;
}

/* --- the end of it --- */

/*
 * Pages are about to be written whose bits say free: by the kernel that kexec or a reboot
 * starts, or when a hibernation image is read back, which has no free pages in it.
 */
static __always_inline int withdraw(void)
{
	__u32 magic = FREE_WORD(magic), seq = FREE_WORD(seq);
	__u64 *w = bpf_map_lookup_elem(&area, &seq);

	if (w)
		__sync_fetch_and_or(w, 1ull);
	w = bpf_map_lookup_elem(&area, &magic);
	if (w)
		__sync_fetch_and_and(w, 0ull);
	return 0;
}

#define WITHDRAW(func)             \
	SEC("fentry/" #func)       \
	int on_##func(void *ctx)   \
	{                          \
		(void)ctx;         \
		return withdraw(); \
	}

WITHDRAW(hibernate)
WITHDRAW(hibernation_snapshot)
WITHDRAW(hibernation_restore)
WITHDRAW(kernel_kexec)
WITHDRAW(machine_restart)
WITHDRAW(machine_emergency_restart)

/* --- scan and check --- */

/* The order of the buddy that begins at this frame, or -1 */
static __always_inline int buddy_order(__u64 pfn)
{
	struct page *page = (void *)(vmemmap + (pfn << page_shift));
	__u64 order[2];

	/*
	 * No lock is ours.  Twice, so that the order read is not that of some other use of
	 * page->private that was over when the page was found free.
	 */
	for (int i = 0; i < 2; i++) {
		if (BPF_CORE_READ(page, page_type) >> 24 != buddy_type)
			return -1;
		order[i] = BPF_CORE_READ(page, private);
	}
	if (BPF_CORE_READ(page, page_type) >> 24 != buddy_type || order[0] != order[1] ||
	    order[0] > GUEST_MAX_ORDER || pfn & ((1u << (order[0] & 31)) - 1))
		return -1;
	return order[0];
}

/* Whether memory has a struct page there; a section's are mapped as a whole. */
static __always_inline bool has_pages(__u64 pfn)
{
	__u64 ignored;

	return !bpf_probe_read_kernel(&ignored, sizeof(ignored),
				      (void *)(vmemmap + (pfn << page_shift)));
}

static long scan_one(__u32 i, struct guest_region *r)
{
	__u64 *w, mask, pfn = r->first;
	int order;

	(void)i;
	if (pfn >= r->end)
		return 1;
	order = buddy_order(pfn);
	if (order < 0) {
		r->first++;
		return 0;
	}
	r->buddy += 1ull << (order & 31);
	r->first += 1ull << (order & 31);
	w = word_of(pfn);
	if (!w)
		return 1;
	/* All bits of a buddy are written together: to look at the first word will do. */
	mask = order < 6 ? ((1ull << (1u << (order & 31))) - 1) << (pfn & 63) : ~0ull;
	if ((*(volatile __u64 *)w & mask) == mask)
		return 0;
	mark(pfn, order, true);
	/* The hook that took it since then may have been before us. */
	if (buddy_order(pfn) == order)
		r->set += 1ull << (order & 31);
	else
		mark(pfn, order, false);
	return 0;
}

/* For pages that were free before the hooks were there, or whose freeing they missed */
SEC("syscall")
int scan(struct guest_region *r)
{
	/* Not a pointer into the caller's memory: it is a copy. */
	struct guest_region mine = { .first = r->first, .end = r->end };

	if (!has_pages(mine.first))
		return 0;
	bpf_loop(GUEST_REGION, scan_one, &mine, 0);
	r->buddy = mine.buddy;
	r->set = mine.set;
	return 0;
}

static __always_inline bool bit_of(__u64 pfn)
{
	__u64 *w = word_of(pfn);

	return w && *(volatile __u64 *)w >> (pfn & 63) & 1;
}

static __always_inline bool in_buddy(__u64 pfn)
{
	for (int order = 0; order <= GUEST_MAX_ORDER; order++)
		if (buddy_order(pfn & ~((1ull << order) - 1)) >= order)
			return true;
	return false;
}

struct look {
	__u64 suspect[GUEST_SUSPECTS];
	__u64 pfn;
	__u64 end;
	__u64 free_end; /* that of the buddy that pfn is in */
	__u64 buddy;
	__u64 set;
	__u64 leaked;
	__u32 wrong;
};

static long check_one(__u32 i, struct look *l)
{
	__u64 pfn = l->pfn;
	bool bit, free;
	int order;

	(void)i;
	if (pfn >= l->end)
		return 1;
	l->pfn++;
	if (pfn >= l->free_end) {
		order = buddy_order(pfn);
		if (order >= 0)
			l->free_end = pfn + (1ull << (order & 31));
	}
	bit = bit_of(pfn);
	free = pfn < l->free_end;
	l->buddy += free;
	l->set += bit;
	l->leaked += free && !bit;
	if (!bit || free || in_buddy(pfn) || !bit_of(pfn) || in_buddy(pfn) || !bit_of(pfn))
		return 0;
	if (l->wrong < GUEST_SUSPECTS)
		l->suspect[l->wrong & (GUEST_SUSPECTS - 1)] = pfn;
	l->wrong++;
	return 0;
}

/* Compares bits with the pages; what is wrong only now may be on its way in or out. */
SEC("syscall")
int check(struct guest_region *r)
{
	struct look l = { .pfn = r->first, .end = r->end };

	if (!has_pages(l.pfn))
		return 0;
	bpf_loop(GUEST_REGION, check_one, &l, 0);
	r->buddy = l.buddy;
	r->set = l.set;
	r->leaked = l.leaked;
	r->wrong = l.wrong;
	/* A program's context takes no index that is not known. */
#pragma unroll
	for (int i = 0; i < GUEST_SUSPECTS; i++)
		r->suspect[i] = l.suspect[i];
	return 0;
}

static long again_one(__u32 i, struct look *l)
{
	__u64 pfn = l->suspect[i & (GUEST_SUSPECTS - 1)];

	if (pfn && (!bit_of(pfn) || in_buddy(pfn) || !bit_of(pfn)))
		l->suspect[i & (GUEST_SUSPECTS - 1)] = 0;
	return 0;
}

/* Which of the suspects still are: the others become 0, which is no frame to be had. */
SEC("syscall")
int again(struct guest_region *r)
{
	struct look l = {};

#pragma unroll
	for (int i = 0; i < GUEST_SUSPECTS; i++)
		l.suspect[i] = r->suspect[i];
	bpf_loop(GUEST_SUSPECTS, again_one, &l, 0);
#pragma unroll
	for (int i = 0; i < GUEST_SUSPECTS; i++)
		r->suspect[i] = l.suspect[i];
	return 0;
}

/* Reads the kernel's variables, before the other programs are loaded */
SEC("syscall")
int peek(struct guest_peek *p)
{
	__u64 val = 0;

	p->err = bpf_probe_read_kernel(&val, sizeof(val), (void *)p->addr);
	p->val = val;
	return 0;
}
