// SPDX-License-Identifier: GPL-2.0
/*
 * skip_free: pages that the guest does not use are left out of the dirty log.
 *
 * The guest says which those are: kvmext guest, running in it, keeps a bitmap of them
 * in the guest's memory (bpf/free.h), and kvmext hint tells this policy where, and that
 * the guest is alive.  Each word of the log is held against the bitmap as it is then.
 *
 * For: live migration of guests with memory to spare; from the second round on with a
 * VMM that sends all once whatever KVM says, as QEMU does.
 * Not for: guests without an agent.  Then it leaves out nothing, and "no_lease" counts.
 *
 * When a bit is believed:
 *  - the guest spoke within FREE_LEASE_MS;
 *  - the head page says what it said when the guest was asked: another VM's memory, or
 *    that of a guest that was reset and is another's now, does not;
 *  - vCPU 0's clock is where it was when the area was first used: a reset turns it off
 *    at once, long before anything else lies where the bitmap was;
 *  - the sequence is even, and the same before and after: no scan was under way.
 * In doubt a page is sent.
 */
#include "kvmext.bpf.h"
#include "free.h"

char _license[] SEC("license") = "GPL";

KVMEXT_COUNTER(u64, skipped, "pages", "dirty, free, and left out");
KVMEXT_COUNTER(u64, sent, "pages", "dirty and let through");
KVMEXT_COUNTER(u64, taken_back, "pages", "of these: left out before, and in use again");
KVMEXT_COUNTER(u64, held, "pages", "left out now: dirty, free, not sent");
KVMEXT_COUNTER(u64, unheld, "pages",
	       "left out without a note: they count as skipped each time, and stay in held");
KVMEXT_COUNTER(u64, words, "", "words of 64 pages that were asked about");
KVMEXT_COUNTER(u64, no_lease, "words", "let through: no word from the guest's agent of late");
KVMEXT_COUNTER(u64, foreign, "words", "let through: the area is not there, or not that one");
KVMEXT_COUNTER(u64, rebooted, "words",
	       "let through: the guest was reset since it told of the area");
KVMEXT_COUNTER(u64, scanned, "words", "let through: the guest was looking for free pages");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FREE_AREA_PAGES);
	__type(key, u32);
	__type(value, u64); /* gfn + 1 */
} area SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct free_lease);
} lease SEC(".maps");

/* Which pages of a word were left out when it was asked about last; by gfn of the first */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, u64);
	__type(value, u64);
} left_out SEC(".maps");

/* The area that was used last, and where the guest's clock was when it first was */
static u64 used_cookie, used_clock;

/* Loaded for every VM, it may be asked by several at once. */
static void count(u64 *counter, u64 n)
{
	__sync_fetch_and_add(counter, n);
}

static u64 popcount(u64 v)
{
	v -= (v >> 1) & 0x5555555555555555;
	v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333);
	v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
	return v * 0x0101010101010101 >> 56;
}

/* Where byte @off of the area's page @page is; 0: nowhere.  Page 0 of a guest is no area. */
static u64 area_gpa(u32 page, u32 off)
{
	u64 *gfn = bpf_map_lookup_elem(&area, &page);

	return gfn && *gfn > 1 ? (*gfn - 1) * 4096 + off : 0;
}

/* Word @i of the bitmap; what cannot be read is in use. */
static u64 area_word(struct kvm *kvm, u64 i)
{
	u64 gpa = area_gpa(1 + i / 512, i % 512 * 8), word;

	return gpa && !kvm_dirty_read(kvm, gpa, &word, sizeof(word)) ? word : 0;
}

/* Whose area it is, and that it has been that all along */
static bool area_good(struct kvm *kvm, const struct free_lease *l, struct free_head *head)
{
	u64 gpa = area_gpa(0, 0), clock;

	if (!gpa || kvm_dirty_read(kvm, gpa, head, sizeof(*head)) || head->magic != FREE_MAGIC ||
	    head->cookie != l->cookie || head->pfns != l->pfns) {
		count(&foreign, 1);
		return false;
	}

	clock = kvm_dirty_clock(kvm);
	if (used_cookie != l->cookie) {
		used_cookie = l->cookie;
		used_clock = clock;
	}
	if (clock != used_clock) {
		count(&rebooted, 1);
		return false;
	}
	return true;
}

/* Which of the 64 pages from @gfn on are free, beyond doubt */
static u64 free_pages(struct kvm *kvm, u64 gfn)
{
	u64 i = gfn / 64, shift = gfn % 64, now = bpf_ktime_get_ns(), word;
	struct free_head head, after;
	struct free_lease *l;
	u32 zero = 0;

	l = bpf_map_lookup_elem(&lease, &zero);
	if (!l || (s64)(*(volatile u64 *)&l->until - now) <= 0) {
		count(&no_lease, 1);
		return 0;
	}
	if (gfn >= l->pfns || !area_good(kvm, l, &head))
		return 0;

	word = area_word(kvm, i) >> shift;
	if (shift)
		word |= area_word(kvm, i + 1) << (64 - shift);
	if (l->pfns - gfn < 64)
		word &= (1ULL << (l->pfns - gfn)) - 1;

	if (head.seq & 1 || !area_good(kvm, l, &after) || after.seq != head.seq) {
		count(&scanned, 1);
		return 0;
	}
	return word;
}

SEC("struct_ops/harvest")
u64 BPF_PROG(skip_free_harvest, struct kvm *kvm, u32 slot, u64 gfn, u64 mask)
{
	u64 out = mask & free_pages(kvm, gfn), *was, before;

	count(&words, 1);
	was = bpf_map_lookup_elem(&left_out, &gfn);
	before = was ? *was : 0;
	if (was && !out)
		bpf_map_delete_elem(&left_out, &gfn);
	else if (was)
		*was = out;
	else if (out && bpf_map_update_elem(&left_out, &gfn, &out, BPF_ANY))
		count(&unheld, popcount(out));

	count(&skipped, popcount(out & ~before));
	count(&sent, popcount(mask & ~out));
	count(&taken_back, popcount(before & mask & ~out));
	count(&held, popcount(out) - popcount(before));
	return mask & ~out;
}

KVMEXT_ABOUT("live migration does not send what the guest does not use; needs kvmext guest and hint")
SEC(".struct_ops.link")
struct kvm_dirty_ops skip_free = {
	.name = "skip_free",
	.harvest = (void *)skip_free_harvest,
};
