// SPDX-License-Identifier: GPL-2.0
/*
 * skip_free: pages that the guest does not use are left out of the dirty log.
 *
 * The guest says which those are: kvmext guest, running in it, keeps a bitmap of them
 * in the guest's memory (bpf/free.h), and kvmext hint tells this policy where, and that
 * the guest is alive.  The log is held against the bitmap as it is then.  A page that is left
 * out stays out until the guest writes there again, or the area is in doubt.
 *
 * Loaded for every VM, it serves each by its own area.
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
KVMEXT_COUNTER(u64, logs, "", "dirty logs of memslots that it was asked about");
KVMEXT_COUNTER(u64, no_lease, "", "let through: no word from the guest's agent of late");
KVMEXT_COUNTER(u64, foreign, "", "let through: the area is not there, or not that one");
KVMEXT_COUNTER(u64, rebooted, "", "let through: the guest was reset since it told of the area");
KVMEXT_COUNTER(u64, no_room, "", "let through: more VMs than there is room for");
KVMEXT_COUNTER(u64, scanned, "", "let through: the guest was looking for free pages");

/* struct free_lease, by the process id of the VMM */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, FREE_VMS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__array(values, struct area);
} areas SEC(".maps");

/* The area of a VM that was used last, and where the guest's clock was when it first was */
struct used {
	u64 cookie;
	u64 clock;
	u32 pid;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FREE_VMS);
	__type(key, u64); /* address of struct kvm; end() deletes it */
	__type(value, struct used);
} vms SEC(".maps");

#define AT(member) (__builtin_offsetof(struct free_lease, member) / sizeof(u64))

/* vmlinux.h has no errno. */
#define ENOENT 2
#define EAGAIN 11

/* An index that the verifier sees bounded, whatever clang knows */
#define BOUNDED(i)                                                               \
	({                                                                       \
		u64 __i = (i);                                                   \
		asm volatile("%0 &= %1" : "+r"(__i) : "i"(KVM_DIRTY_WORDS - 1)); \
		__i;                                                             \
	})

/* Loaded for every VM, it may be asked by several at once. */
static __always_inline void count(u64 *counter, u64 n)
{
	__sync_fetch_and_add(counter, n);
}

static __always_inline void *area_of_current(void)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	return bpf_map_lookup_elem(&areas, &pid);
}

/* Word @i of struct free_lease */
static __always_inline u64 lease(void *area, u32 i)
{
	volatile u64 *word = bpf_map_lookup_elem(area, &i);

	return word ? *word : 0;
}

static __always_inline void lease_count(void *area, u32 i, u64 n)
{
	u64 *word = bpf_map_lookup_elem(area, &i);

	if (word)
		count(word, n);
}

/* From byte @off of the area's page @page.  Page 0 of a guest is no area. */
static __always_inline int area_read(struct kvm *kvm, void *area, u32 page, u32 off, void *buf,
				     u32 len)
{
	u64 gfn = lease(area, AT(gfns) + page);

	/* There is no memory at the end of all: @buf is 0 then. */
	return kvm_dirty_read(kvm, gfn > 1 ? (gfn - 1) * 4096 + off : ~0ULL << 12, buf, len);
}

/*
 * Turns @clock into where the guest's clock was when area @cookie was first used: now, if it was
 * not used before.  False if there is no room to note that.
 */
static __always_inline bool used_clock(struct kvm *kvm, u64 cookie, u64 *clock)
{
	struct used new = {
		.cookie = cookie,
		.clock = *clock,
		.pid = bpf_get_current_pid_tgid() >> 32,
	};
	u64 key = (u64)kvm;
	struct used *used;

	used = bpf_map_lookup_elem(&vms, &key);
	if (used && used->cookie == cookie) {
		*clock = used->clock;
		return true;
	}
	return !bpf_map_update_elem(&vms, &key, &new, BPF_ANY);
}

/**
 * struct view - a VM's area as it is now
 * @head: its head page
 * @why: where to count that it is in doubt
 */
struct view {
	struct free_head head;
	u64 *why;
};

/*
 * Whose area it is, that it has been that all along, and that the guest is there.  0; -EAGAIN
 * to be asked again; -ENOENT in doubt.
 */
static __always_inline int look(struct kvm *kvm, void *area, struct view *v)
{
	u64 clock, first;
	int ret;

	v->why = &no_lease;
	if (!area || (s64)(lease(area, AT(until)) - bpf_ktime_get_ns()) <= 0)
		return -ENOENT;

	v->why = &foreign;
	ret = area_read(kvm, area, 0, 0, &v->head, sizeof(v->head));
	if (ret)
		return ret == -EAGAIN ? ret : -ENOENT;
	if (v->head.magic != FREE_MAGIC || !v->head.cookie ||
	    v->head.cookie != lease(area, AT(cookie)) || v->head.pfns != lease(area, AT(pfns)))
		return -ENOENT;

	v->why = &no_room;
	first = clock = kvm_dirty_clock(kvm);
	if (!used_clock(kvm, v->head.cookie, &first))
		return -ENOENT;
	v->why = &rebooted;
	return first == clock ? 0 : -ENOENT;
}

/* What is left out rests on the area.  Of another one nothing is known that was said of this. */
SEC("struct_ops/basis")
u64 BPF_PROG(skip_free_basis, struct kvm *kvm, u32 slot)
{
	void *area = area_of_current();
	struct view v;
	int ret;

	ret = look(kvm, area, &v);
	if (ret == -EAGAIN)
		return 0;
	count(&logs, 1);
	if (area)
		lease_count(area, AT(logs), 1);
	if (ret)
		count(v.why, 1);
	return ret ? 0 : v.head.cookie;
}

/* Word @i of the bitmap; what cannot be read is in use. */
static __always_inline int bits_of(struct kvm *kvm, void *area, u64 i, u64 *bits)
{
	return area_read(kvm, area, 1 + i / 512, i % 512 * 8, bits, sizeof(*bits));
}

/* Which of the 64 pages from @gfn on are free; 0 or -EAGAIN */
static __always_inline int free_pages(struct kvm *kvm, void *area, u64 gfn, u64 pfns, u64 *free)
{
	u64 shift = gfn % 64, word = 0;

	*free = 0;
	if (gfn >= pfns)
		return 0;
	if (bits_of(kvm, area, gfn / 64, &word) == -EAGAIN)
		return -EAGAIN;
	*free = word >> shift;
	if (shift) {
		if (bits_of(kvm, area, gfn / 64 + 1, &word) == -EAGAIN)
			return -EAGAIN;
		*free |= word << (64 - shift);
	}
	if (pfns - gfn < 64)
		*free &= (1ULL << (pfns - gfn)) - 1;
	return 0;
}

SEC("struct_ops/harvest")
void BPF_PROG(skip_free_harvest, struct kvm *kvm, struct kvm_dirty_block *block)
{
	u64 *mask = kvm_dirty_words(block, KVM_DIRTY_WORDS * sizeof(u64));
	u64 in = 0, out = 0, seq, pfns, free;
	void *area = area_of_current();
	struct view v;
	u32 i;
	int ret;

	if (!mask || !area)
		return;
	ret = look(kvm, area, &v);
	if (ret == -EAGAIN)
		return;
	if (ret || v.head.cookie != block->basis)
		goto doubt;
	seq = v.head.seq;
	pfns = v.head.pfns;

	bpf_for(i, 0, KVM_DIRTY_WORDS) {
		u64 *word = &mask[BOUNDED(i)];

		if (i >= block->words || !*word)
			continue;
		if (free_pages(kvm, area, block->gfn + i * 64, pfns, &free))
			return;
		out += kvmext_popcount(*word & free);
		*word &= ~free;
		in += kvmext_popcount(*word);
	}

	ret = look(kvm, area, &v);
	if (ret == -EAGAIN)
		return;
	if (ret || v.head.cookie != block->basis)
		goto doubt;
	if (seq & 1 || v.head.seq != seq) {
		v.why = &scanned;
		goto doubt;
	}
	/* What the first pass would leave out is asked about again. */
	count(&sent, in);
	lease_count(area, AT(sent), in);
	if (block->pass == KVM_DIRTY_FINAL) {
		count(&skipped, out);
		lease_count(area, AT(skipped), out);
	}
	return;

doubt:
	/* Bits that are set change nothing: all of it is sent. */
	bpf_for(i, 0, KVM_DIRTY_WORDS)
		mask[BOUNDED(i)] = ~0ULL;
	count(v.why, 1);
}

SEC("struct_ops/end")
void BPF_PROG(skip_free_end, struct kvm *kvm)
{
	u64 key = (u64)kvm, *until;
	u32 first = AT(until);
	struct used *used;
	void *area;

	used = bpf_map_lookup_elem(&vms, &key);
	if (!used)
		return;
	/* The next VM of that process tells of itself. */
	area = bpf_map_lookup_elem(&areas, &used->pid);
	until = area ? bpf_map_lookup_elem(area, &first) : NULL;
	if (until)
		*until = 0;
	bpf_map_delete_elem(&vms, &key);
}

KVMEXT_ABOUT("live migration does not send what the guest does not use; needs kvmext guest and hint")
SEC(".struct_ops.link")
struct kvm_dirty_ops skip_free = {
	.name = "skip_free",
	.harvest = (void *)skip_free_harvest,
	.basis = (void *)skip_free_basis,
	.end = (void *)skip_free_end,
};
