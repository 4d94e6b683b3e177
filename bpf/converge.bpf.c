// SPDX-License-Identifier: GPL-2.0
/*
 * converge: make live migration converge, at the cost of the fewest vCPUs.
 *
 * A closed loop over the rounds of a migration.  It learns from the dirty log
 * alone, so it works with any VMM.  At the end of round k, which sent D(k) pages
 * in T(k) seconds and leaves D(k+1) to send:
 *
 *	link     = D(k) / T(k)			pages/s, or as the user says
 *	fits     = link * downtime		that may go at any time
 *	expect   = D(k+1) * shrink		what round k+1 should leave
 *	rate     = link * shrink / 2^h		all vCPUs together may dirty
 *
 * It throttles when D(k+1) is more than fits and more than D(k) * shrink.  The
 * power h counts the rounds that left more than they should: expect, a quarter
 * of it, and 1 MiB.  With demand(i) for what vCPU i dirties if let, it selects
 * the fewest vCPUs, largest first, so that
 *
 *	sum of demand(others) + sum of demand(selected) * (1 - ceiling) <= rate
 *
 * The selected vCPUs share what the others leave of the rate.  Each pays
 *
 *	price    = selected / (rate - sum of demand(others))	seconds a page
 *
 * and is blocked at its page-write exits until it has paid.  All others run at
 * full speed.  No vCPU is blocked for more of its time than the ceiling.
 *
 * A dirty ring shows no rounds: the VMM reaps it all the time.  There the rate
 * starts at what the vCPUs dirty.  Every second it falls by a part (ramp), down
 * to twice what the ceiling leaves them.  With the rate of the link given
 * (link), it is link * shrink at once.
 *
 * For: migration of guests that dirty memory faster than the link takes it.
 * Not for: guests whose writers must not be slowed down at all: use none, and
 * let the migration end in a longer downtime, or post-copy.  With a dirty ring
 * and memory that takes minutes to send, set link, or it throttles early.
 */
#include "kvmext.bpf.h"
#include "rounds.bpf.h"

char _license[] SEC("license") = "GPL";

#define SEC_NS 1000000000ULL
#define MSEC_NS 1000000ULL
#define MIB_PAGES 256

KVMEXT_PARAM(u32, downtime, 300, 1, 60000, "ms",
	     "downtime that the migration was asked to keep to");
KVMEXT_PARAM(u32, ceiling, 94, 0, 94, "%", "share of its time that a vCPU may be blocked");
KVMEXT_PARAM(u32, shrink, 25, 1, 100, "%",
	     "what there is to send after a round, of what there was before it");
KVMEXT_PARAM(u32, link, 0, 0, 1000000, "MiB/s", "rate of the link; 0: learn it");
KVMEXT_PARAM(u32, ramp, 30, 1, 90, "%", "dirty ring: how much the rate comes down each second");

KVMEXT_COUNTER(u64, plans, "", "times it was decided whom to throttle");
KVMEXT_COUNTER(u64, throttled, "vCPUs", "vCPUs throttled by the last of these");
KVMEXT_COUNTER(u64, link_rate, "pages/s", "rate of the link, as last learnt");
KVMEXT_COUNTER(u64, allowed, "pages/s", "what the throttled vCPUs may dirty together");
KVMEXT_COUNTER(u64, to_send, "pages", "what there was to send when the last round began");
KVMEXT_COUNTER(u64, tightened, "", "times a round was larger than it should be");
KVMEXT_COUNTER(u64, no_room, "",
	       "events of VMs for which there is no room: they are not throttled");

/* vCPUs beyond are never throttled */
#define MAX_VCPUS 128
/* Shorter rounds tell nothing of the link: the VMM sends in bursts */
#define LINK_MIN_NS (500 * MSEC_NS)
/* What a vCPU saved up while it did not write is good for this long */
#define BURST_NS (20 * MSEC_NS)
/* A shorter block is not worth the trouble: let it add up */
#define BLOCK_MIN_NS (2 * MSEC_NS)
/* Ring: plan this often */
#define TICK_NS SEC_NS
/* Slower than this is standing still */
#define RATE_MIN 64
/* A round has left too much only if it is more than this part above what it should be */
#define OVERSHOOT_DIV 4
/* The rate is halved so many times at most */
#define HALVINGS_MAX 7
/* vCPUs that dirty less than this part of all together only keep house: let them */
#define HOUSEKEEPING_DIV 16
/* Dirty ring: the rate stays above so many times what the ceiling leaves */
#define RING_FLOOR 2

struct vcpu {
	u64 seen; /* pages it had dirtied at the last plan */
	u64 rate; /* pages/s it dirtied between the last two */
	u64 demand; /* pages/s it dirties if let, as far as known */
	u64 charged; /* pages that due_ns accounts for */
	u64 due_ns; /* when the pages dirtied so far are paid for */
	u64 page_ns; /* price of a page; 0: free */
	u64 blocked_ns; /* blocked by since_ns */
	u64 since_ns; /* throttled since */
	u64 selected; /* the plan throttles it */
};

struct vm {
	struct rounds rounds;
	u64 rate; /* of the link, pages/s; 0: not known */
	u64 expect; /* what the round that runs should leave to send; 0: no say */
	u64 tick_ns; /* ring: last plan */
	u64 ring_rate; /* ring: allowed now, pages/s; 0: not known yet */
	u32 halvings; /* of the rate, as rounds came out too large */
	u32 set; /* vCPUs that the plan throttles */
	u64 sum; /* pages/s that all vCPUs dirty if let */
	u64 others; /* those of vCPUs that it lets */
	struct vcpu vcpu[MAX_VCPUS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, ROUNDS_VMS);
	__type(key, u64);
	__type(value, struct vm);
} vms SEC(".maps");

/* Too large for the stack; all zero, and stays so */
static const struct vm fresh;

static __always_inline u32 nr_vcpus(struct kvm *kvm)
{
	u32 n = kvm_throttle_nr_vcpus(kvm);

	return n < MAX_VCPUS ? n : MAX_VCPUS;
}

/* The guest's own writes, which is what can be held back */
static __always_inline u64 written(const struct kvm_throttle_stat *stat)
{
	return stat->dirty[KVM_THROTTLE_WRITE_FAULT] + stat->dirty[KVM_THROTTLE_PML];
}

/* Take note of what each vCPU dirtied in the last @ns */
static __noinline void take_stock(struct kvm *kvm, struct vm *vm, u64 ns)
{
	struct kvm_throttle_stat stat = {};
	u32 i;

	vm->sum = 0;
	bpf_for(i, 0, nr_vcpus(kvm)) {
		struct vcpu *v;

		if (i >= MAX_VCPUS || kvm_throttle_stat(kvm, i, &stat))
			break;
		v = &vm->vcpu[i];
		v->rate = (written(&stat) - v->seen) * SEC_NS / (ns | 1);
		v->seen = written(&stat);
		/* One that is held back would like to do more than it does */
		if (!v->page_ns || v->rate > v->demand)
			v->demand = v->rate;
		vm->sum += v->demand;
	}
}

static void set_price(struct kvm *kvm, struct vm *vm, u32 i, u64 page_ns)
{
	struct kvm_throttle_stat stat = {};
	struct vcpu *v;

	if (i >= MAX_VCPUS)
		return;
	v = &vm->vcpu[i];
	if (page_ns && !v->page_ns && !kvm_throttle_stat(kvm, i, &stat)) {
		v->charged = written(&stat);
		v->blocked_ns = stat.blocked_ns;
		v->since_ns = bpf_ktime_get_ns();
		v->due_ns = v->since_ns;
	}
	v->page_ns = page_ns;
	kvm_throttle_mark(kvm, i, page_ns);
}

/*
 * Of those not selected yet, the vCPU that dirties most; MAX_VCPUS for none.
 * Global, so that the verifier looks at its loop once and not once per caller.
 */
__noinline u32 largest(struct vm *vm __arg_nonnull, u32 n)
{
	u32 i, who = MAX_VCPUS;
	u64 most = 0;

	bpf_for(i, 0, n) {
		if (i >= MAX_VCPUS)
			break;
		if (!vm->vcpu[i].selected && vm->vcpu[i].demand > most) {
			most = vm->vcpu[i].demand;
			who = i;
		}
	}
	return who;
}

/*
 * All vCPUs together may dirty @rate pages a second.  Throttle the fewest that,
 * brought down as far as the ceiling allows, will do; largest first.  What is
 * left over in the end is the guest's housekeeping, on vCPUs that are not in the
 * way: to throttle these gains nothing.
 */
static __noinline void plan(struct kvm *kvm, struct vm *vm, u64 rate)
{
	u32 n = nr_vcpus(kvm), least = 100 - ceiling, i, k;
	u64 page_ns, left, floor;

	/* Kept in the map: the verifier would follow every value on the stack */
	vm->others = vm->sum;
	vm->set = 0;
	bpf_for(i, 0, n) {
		if (i < MAX_VCPUS)
			vm->vcpu[i].selected = 0;
	}
	bpf_for(k, 0, n) {
		/* At least one: in a long round pages dirtied again do not show */
		if (vm->set && (vm->others + (vm->sum - vm->others) * least / 100 <= rate ||
				vm->others <= vm->sum / HOUSEKEEPING_DIV))
			break;
		i = largest(vm, n);
		if (i >= MAX_VCPUS)
			break;
		vm->vcpu[i].selected = 1;
		vm->others -= vm->vcpu[i].demand;
		vm->set++;
	}

	floor = (vm->sum - vm->others) * least / 100 + RATE_MIN;
	left = vm->others + floor < rate ? rate - vm->others : floor;
	page_ns = SEC_NS * (vm->set ?: 1) / left;

	bpf_for(i, 0, n) {
		if (i >= MAX_VCPUS)
			break;
		set_price(kvm, vm, i, vm->vcpu[i].selected ? page_ns : 0);
	}

	__sync_fetch_and_add(&plans, 1);
	throttled = vm->set;
	allowed = left;
}

static __noinline void release(struct kvm *kvm, struct vm *vm)
{
	u32 i;

	bpf_for(i, 0, nr_vcpus(kvm))
		set_price(kvm, vm, i, 0);
	throttled = 0;
}

/* A round began, so what the one before came to is known */
static __noinline void next_round(struct kvm *kvm, struct vm *vm,
				  const struct kvm_throttle_dirty_log *ev)
{
	struct rounds *r = &vm->rounds;
	u64 fits;

	take_stock(kvm, vm, r->last_ns);
	to_send = ev->dirty;
	if (r->round < 2) {
		release(kvm, vm);
		vm->expect = 0;
		vm->halvings = 0;
		return;
	}

	if (link)
		vm->rate = (u64)link * MIB_PAGES;
	else if (r->last_ns >= LINK_MIN_NS || !vm->rate)
		vm->rate = r->last_dirty * SEC_NS / (r->last_ns + 1);
	if (!vm->rate)
		vm->rate = 1;
	link_rate = vm->rate;

	/* What fits the downtime can go whenever the VMM wants */
	fits = vm->rate * downtime / 1000;
	if (ev->dirty <= fits) {
		vm->expect = fits;
		return;
	}

	if (vm->expect && ev->dirty > vm->expect + vm->expect / OVERSHOOT_DIV + MIB_PAGES) {
		if (vm->halvings < HALVINGS_MAX)
			vm->halvings++;
		__sync_fetch_and_add(&tightened, 1);
	} else if (!vm->expect && ev->dirty <= r->last_dirty * shrink / 100) {
		/* It converges by itself */
		return;
	}

	vm->expect = ev->dirty * shrink / 100;
	plan(kvm, vm, (vm->rate * shrink / 100) >> (vm->halvings & HALVINGS_MAX));
}

/* A dirty ring was reaped */
static __noinline void ring_tick(struct kvm *kvm, struct vm *vm, u64 now)
{
	u64 ns = now - vm->tick_ns, floor;

	if (vm->tick_ns && ns < TICK_NS)
		return;

	take_stock(kvm, vm, ns);
	vm->tick_ns = now;
	/* The first look is since the vCPU was made, and says nothing */
	if (ns == now)
		return;

	if (link) {
		vm->ring_rate = (u64)link * MIB_PAGES * shrink / 100;
		link_rate = (u64)link * MIB_PAGES;
	} else {
		if (!vm->ring_rate)
			vm->ring_rate = vm->sum;
		vm->ring_rate -= vm->ring_rate * ramp / 100;
		floor = vm->sum * (100 - ceiling) * RING_FLOOR / 100;
		if (vm->ring_rate < floor)
			vm->ring_rate = floor;
	}
	plan(kvm, vm, vm->ring_rate);
}

SEC("struct_ops/dirty_log")
void BPF_PROG(converge_dirty_log, struct kvm *kvm, const struct kvm_throttle_dirty_log *ev)
{
	u64 key = (u64)kvm;
	struct vm *vm;

	vm = rounds_vm(&vms, kvm, &fresh);
	if (!vm) {
		__sync_fetch_and_add(&no_room, 1);
		return;
	}

	switch (ev->event) {
	case KVM_THROTTLE_LOG_START:
	case KVM_THROTTLE_LOG_STOP:
		if (rounds_over(ev)) {
			release(kvm, vm);
			bpf_map_delete_elem(&vms, &key);
		}
		break;
	case KVM_THROTTLE_HARVEST:
		if (rounds_harvest(&vm->rounds, ev))
			next_round(kvm, vm, ev);
		break;
	case KVM_THROTTLE_RING_RESET:
		ring_tick(kvm, vm, ev->now_ns);
		break;
	}
}

SEC("struct_ops/block")
s64 BPF_PROG(converge_block, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	u32 i = vcpu->vcpu_idx;
	u64 now = bpf_ktime_get_ns(), pages, price, took;
	struct kvm_throttle_stat stat = {};
	u64 key = (u64)kvm;
	struct vcpu *v;
	struct vm *vm;

	vm = bpf_map_lookup_elem(&vms, &key);
	if (!vm || i >= MAX_VCPUS)
		return 0;
	v = &vm->vcpu[i];
	price = v->page_ns;
	if (!price || kvm_throttle_stat(kvm, i, &stat))
		return 0;

	/* Pages are paid for in time, each its price; no more than a bit in advance */
	pages = written(&stat);
	if (v->due_ns + BURST_NS < now)
		v->due_ns = now - BURST_NS;
	v->due_ns += (pages - v->charged) * price;
	v->charged = pages;
	if (v->due_ns < now + BLOCK_MIN_NS)
		return 0;

	took = now - v->since_ns;
	if ((stat.blocked_ns - v->blocked_ns) * 100 >= took * ceiling + 100 * MSEC_NS) {
		/* Debts are forgiven, or it would come to stand still later */
		v->due_ns = now;
		return 0;
	}

	return v->due_ns - now;
}

SEC("struct_ops/end")
void BPF_PROG(converge_end, struct kvm *kvm)
{
	u64 key = (u64)kvm;

	bpf_map_delete_elem(&vms, &key);
}

KVMEXT_ABOUT("makes live migration converge at the cost of the fewest vCPUs")
SEC(".struct_ops.link")
struct kvm_throttle_ops converge = {
	.name = "converge",
	.block = (void *)converge_block,
	.dirty_log = (void *)converge_dirty_log,
	.end = (void *)converge_end,
};
