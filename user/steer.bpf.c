// SPDX-License-Identifier: GPL-2.0
/*
 * Not a policy for KVM: the programs of kvmext steer.  One VM, one tap.
 *
 * - sched_switch and sched_wakeup keep the run state of the VM's vCPUs.  Nothing is
 *   done at exits and entries.
 * - Who takes a packet from a queue of the tap, and then sends a message-signalled
 *   interrupt, has told which vCPU that queue's interrupt goes to.
 * - tun asks steer() for the queue of each packet.
 */
#include "watch.bpf.h"
#include "steer.h"
#include <bpf/bpf_endian.h>

char _license[] SEC("license") = "GPL";

#define ETH_P_IP 0x0800
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define ETH_P_IPV6 0x86dd
#define IP_FRAGMENT 0x3fff
#define STALE_NS 2000000000ull
/* So many consecutive interrupts must go elsewhere until it is believed. */
#define SURE 3

const volatile int vm;
const volatile char tap[STEER_TAP];
const volatile __u64 gap_ns = 1000000;

/* Of the tap that are attached; 0: not known */
__u32 nr_queues;
/* When the tool last was there; without it nobody keeps the run states. */
__u64 beat;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, STEER_VCPUS);
	__type(key, u32);
	__type(value, struct steer_vcpu);
} vcpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, STEER_QUEUES);
	__type(key, u32);
	__type(value, struct steer_queue);
} queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_QUEUES);
	__type(key, u32);
	__type(value, struct steer_count);
} counts SEC(".maps");

/* By hash: when the last packet came (ns / 1024) << 8 | its queue, or AT_HOME */
#define AT_HOME 255
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STEER_FLOWS);
	__type(key, u32);
	__type(value, u64);
} flows SEC(".maps");

/**
 * struct thread - one of the VMM's
 * @vcpu: the id + 1 of the vCPU that it runs, or 0
 * @queue: the queue + 1 that it took a packet from, until it sent an interrupt
 * @msi: it is sending one
 */
struct thread {
	u32 vcpu;
	u32 queue;
	bool msi;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

/* --- run state ------------------------------------------------------------------ */

/* The vCPU of a thread of the VMM.  It is known from KVM_RUN on, also outside of that. */
static __always_inline struct steer_vcpu *vcpu_of(struct task_struct *task, struct kvm_vcpu **in)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)task_vcpu(task);
	struct thread *t;
	u32 id;

	*in = vcpu;
	t = bpf_task_storage_get(&threads, task, NULL, vcpu ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (!t)
		return NULL;
	if (vcpu)
		t->vcpu = BPF_CORE_READ(vcpu, vcpu_id) + 1;
	if (!t->vcpu)
		return NULL;
	id = t->vcpu - 1;
	return bpf_map_lookup_elem(&vcpus, &id);
}

static __always_inline void becomes(struct steer_vcpu *v, u32 state, u32 cpu)
{
	v->since = bpf_ktime_get_ns();
	v->cpu = cpu;
	v->state = state;
}

/* What counts is the last few times, the last most. */
static __always_inline u64 lately(u64 was, u64 ns)
{
	return was ? was - was / 4 + ns / 4 : ns;
}

static __always_inline void comes(struct steer_vcpu *v)
{
	u64 ns = bpf_ktime_get_ns() - v->since;

	if (v->state == RUN_READY)
		v->woken_ns = lately(v->woken_ns, ns);
	else if (v->state == RUN_PREEMPTED)
		v->preempted_ns = lately(v->preempted_ns, ns);
	becomes(v, RUN_RUNNING, bpf_get_smp_processor_id());
}

/* vcpu->wait has a task while kvm_vcpu_block() sleeps. */
static __always_inline u32 asleep(struct kvm_vcpu *vcpu)
{
	return vcpu && BPF_CORE_READ(vcpu, wait.task) ? RUN_HALTED : RUN_AWAY;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	struct kvm_vcpu *vcpu;
	struct steer_vcpu *v;

	if (prev->tgid == vm) {
		v = vcpu_of(prev, &vcpu);
		if (v)
			becomes(v, preempt || !prev_state ? RUN_PREEMPTED : asleep(vcpu),
				bpf_get_smp_processor_id());
	}
	if (next->tgid == vm) {
		v = vcpu_of(next, &vcpu);
		if (v)
			comes(v);
	}
	return 0;
}

/* With the lock of the run queue it is put on, so between the two switches */
SEC("tp_btf/sched_wakeup")
int BPF_PROG(woken, struct task_struct *p)
{
	struct kvm_vcpu *vcpu;
	struct steer_vcpu *v;

	if (p->tgid != vm)
		return 0;
	v = vcpu_of(p, &vcpu);
	if (v && (v->state == RUN_HALTED || v->state == RUN_AWAY))
		becomes(v, RUN_READY, BPF_CORE_READ(p, wake_cpu));
	return 0;
}

/* Once, for vCPUs that neither come nor go: the tool reads it when the two above are there. */
SEC("iter/task")
int there(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct kvm_vcpu *vcpu;
	struct steer_vcpu *v;
	u32 id;

	if (!task || task->tgid != vm)
		return 0;
	vcpu = (struct kvm_vcpu *)task_vcpu(task);
	if (!vcpu)
		return 0;
	id = BPF_CORE_READ(vcpu, vcpu_id);
	v = bpf_map_lookup_elem(&vcpus, &id);
	if (v && v->state == RUN_UNKNOWN && task->on_cpu)
		becomes(v, RUN_RUNNING, task->wake_cpu);
	else if (v && v->state == RUN_UNKNOWN)
		becomes(v, task->__state ? asleep(vcpu) : RUN_PREEMPTED, task->wake_cpu);
	return 0;
}

/* --- which vCPU a queue's interrupt goes to ----------------------------------------- */

/* tun keeps these to itself. */
struct tun_struct___x {
	unsigned int numqueues;
	struct net_device *dev;
} __attribute__((preserve_access_index));

struct tun_file___x {
	struct tun_struct___x *tun;
	u16 queue_index;
} __attribute__((preserve_access_index));

static __always_inline bool in_vmm(void)
{
	return (int)(bpf_get_current_pid_tgid() >> 32) == vm;
}

static __always_inline struct thread *this(u64 flags)
{
	return bpf_task_storage_get(&threads, bpf_get_current_task_btf(), NULL, flags);
}

static __always_inline void took(struct tun_file___x *f, long len)
{
	struct tun_struct___x *tun;
	char name[STEER_TAP] = {};
	struct thread *t;
	u32 n;

	if (len <= 0 || !in_vmm())
		return;
	tun = BPF_CORE_READ(f, tun);
	if (!tun ||
	    bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(tun, dev, name)) < 0)
		return;
	for (int i = 0; i < STEER_TAP; i++) {
		if (name[i] != tap[i])
			return;
		if (!name[i])
			break;
	}
	n = BPF_CORE_READ(tun, numqueues);
	if (n != nr_queues)
		nr_queues = n;
	t = this(BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t)
		return;
	t->queue = BPF_CORE_READ(f, queue_index) + 1;
	t->msi = false;
}

/* By read(2): QEMU.  The tap's file may have been detached meanwhile; then it has no tun. */
SEC("fexit/tun_chr_read_iter")
int BPF_PROG(file_read, struct kiocb *iocb, struct iov_iter *to, ssize_t ret)
{
	took(BPF_CORE_READ(iocb, ki_filp, private_data), ret);
	return 0;
}

/* From vhost's worker, which is a thread of the VMM */
SEC("fexit/tun_recvmsg")
int BPF_PROG(sock_read, struct socket *sock, struct msghdr *m, size_t len, int flags, int ret)
{
	took((void *)BPF_CORE_READ(sock, sk), ret);
	return 0;
}

/* The interrupt that follows tells of a packet that was sent. */
static __always_inline int gave(void)
{
	struct thread *t = in_vmm() ? this(0) : NULL;

	if (t)
		t->queue = 0;
	return 0;
}

SEC("fentry/tun_chr_write_iter")
int BPF_PROG(file_write)
{
	return gave();
}

SEC("fentry/tun_sendmsg")
int BPF_PROG(sock_write)
{
	return gave();
}

SEC("tp_btf/kvm_msi_set_irq")
int BPF_PROG(message)
{
	struct thread *t = in_vmm() ? this(0) : NULL;

	if (t && t->queue)
		t->msi = true;
	return 0;
}

SEC("tp_btf/kvm_apic_accept_irq")
int BPF_PROG(accepted, u32 vcpu)
{
	struct thread *t = in_vmm() ? this(0) : NULL;
	struct steer_queue *q;
	u32 i;

	if (!t || !t->queue || !t->msi)
		return 0;
	i = t->queue - 1;
	t->queue = 0;
	t->msi = false;
	q = bpf_map_lookup_elem(&queues, &i);
	if (!q || q->vcpu == vcpu + 1) {
		if (q)
			q->times = 0;
		return 0;
	}
	/* A thread that does all of a VM's devices may send another's interrupt first. */
	q->times = q->other == vcpu + 1 ? q->times + 1 : 1;
	q->other = vcpu + 1;
	if (q->times >= SURE || !q->vcpu) {
		q->vcpu = vcpu + 1;
		q->times = 0;
	}
	return 0;
}

/* --- the queue of a packet ------------------------------------------------------------ */

static __always_inline u32 mix(u32 h, u32 v)
{
	h ^= v * 0xcc9e2d51;
	h = h << 13 | h >> 19;
	return h * 5 + 0xe6546b64;
}

/* Of addresses and ports, or of what there is of these */
static __always_inline u32 flow_hash(struct __sk_buff *skb)
{
	u32 h = 0x6b766d, word[8], at = 12, nr = 0, proto = 0;
	u16 type = 0, frag = 0;
	u8 byte = 0;

	bpf_skb_load_bytes(skb, at, &type, sizeof(type));
	at += 2;
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
		bpf_skb_load_bytes(skb, at + 2, &type, sizeof(type));
		at += 4;
	}
	if (type == bpf_htons(ETH_P_IP) && !bpf_skb_load_bytes(skb, at + 12, word, 8)) {
		h = mix(mix(h, word[0]), word[1]);
		bpf_skb_load_bytes(skb, at + 6, &frag, sizeof(frag));
		bpf_skb_load_bytes(skb, at + 9, &byte, 1);
		proto = byte;
		bpf_skb_load_bytes(skb, at, &byte, 1);
		nr = frag & bpf_htons(IP_FRAGMENT) ? 0 : at + (byte & 15) * 4;
	} else if (type == bpf_htons(ETH_P_IPV6) && !bpf_skb_load_bytes(skb, at + 8, word, 32)) {
		for (int i = 0; i < 8; i++)
			h = mix(h, word[i]);
		bpf_skb_load_bytes(skb, at + 6, &byte, 1);
		proto = byte;
		nr = at + 40;
	} else if (!bpf_skb_load_bytes(skb, 0, word, 12)) {
		h = mix(mix(mix(h, word[0]), word[1]), word[2]);
	}
	/* TCP and UDP have the ports first.  Fragments have none, but for the first one. */
	if (nr && (proto == 6 || proto == 17) && !bpf_skb_load_bytes(skb, nr, word, 4))
		h = mix(h, word[0]);
	h = mix(h, type);
	h ^= h >> 16;
	h *= 0x85ebca6b;
	return h ^ h >> 13;
}

extern const struct rq runqueues __ksym;

static __always_inline bool idle(u32 cpu)
{
	const struct rq *rq = bpf_per_cpu_ptr(&runqueues, cpu);

	return rq && !rq->nr_running;
}

/* How soon a vCPU will take an interrupt; the less, the sooner */
enum rank {
	RANK_NOW,
	RANK_WOKEN, /* and then at once: its CPU is idle */
	RANK_WAITS, /* for a CPU, or will wait when it is woken */
	RANK_AWAY,
	RANK_NONE,
};

static __always_inline u64 rest(u64 usual, u64 since, u64 now)
{
	return since + usual > now ? since + usual - now : 0;
}

/* Who lately had a CPU so soon after being woken is as good as if it were idle. */
#define SOON_NS 100000

/* @ns: for RANK_WAITS, how long it will be, by the last times */
static __always_inline u32 rank(const struct steer_vcpu *v, u64 now, u64 *ns)
{
	*ns = 0;
	switch (v->state) {
	case RUN_HALTED:
		*ns = v->woken_ns;
		return idle(v->cpu) || v->woken_ns - 1 < SOON_NS ? RANK_WOKEN : RANK_WAITS;
	case RUN_READY:
		*ns = rest(v->woken_ns, v->since, now);
		return RANK_WAITS;
	case RUN_PREEMPTED:
		*ns = rest(v->preempted_ns, v->since, now);
		return RANK_WAITS;
	case RUN_AWAY:
		return RANK_AWAY;
	}
	return RANK_NOW;
}

/**
 * struct search - for the best queue
 * @now: the time
 * @queue: to look at next
 * @nr: how many there are
 * @best: the best so far
 * @rank: its rank
 * @ns: its wait
 */
struct search {
	u64 now;
	u32 queue;
	u32 nr;
	u32 best;
	u32 rank;
	u64 ns;
};

static __always_inline struct steer_vcpu *vcpu_of_queue(u32 i)
{
	struct steer_queue *q = bpf_map_lookup_elem(&queues, &i);
	u32 id;

	if (!q || !q->vcpu)
		return NULL;
	id = q->vcpu - 1;
	return bpf_map_lookup_elem(&vcpus, &id);
}

static long look(u64 i, struct search *s)
{
	struct steer_vcpu *v = vcpu_of_queue(s->queue);
	u64 ns;
	u32 r;

	/* Where the home queue's interrupt goes is learnt by letting it have its packets. */
	if (!v && !i)
		return 1;
	if (v) {
		r = rank(v, s->now, &ns);
		if (r < s->rank || (r == s->rank && r == RANK_WAITS && ns < s->ns)) {
			s->best = s->queue;
			s->rank = r;
			s->ns = ns;
		}
	}
	/* One that runs is best, and the home does if it would run at once: load stays spread. */
	if (s->rank <= (i ? RANK_NOW : RANK_WOKEN))
		return 1;
	if (++s->queue >= s->nr)
		s->queue = 0;
	return 0;
}

static __always_inline void count(u32 queue, u32 home, bool begins)
{
	struct steer_count *c = bpf_map_lookup_elem(&counts, &queue);
	struct steer_vcpu *v;
	u32 state;

	if (!c)
		return;
	c->packets++;
	if (!begins)
		return;
	c->bursts++;
	c->moved += queue != home;
	v = vcpu_of_queue(queue);
	state = v ? v->state : RUN_UNKNOWN;
	if (state < RUN_STATES)
		c->state[state]++;
}

SEC("socket")
int steer(struct __sk_buff *skb)
{
	u32 hash = flow_hash(skb), bucket = hash % STEER_FLOWS, nr = nr_queues, home, queue;
	u64 now = bpf_ktime_get_ns(), *flow = bpf_map_lookup_elem(&flows, &bucket);
	struct search s = { .now = now, .nr = nr, .rank = RANK_NONE };
	u64 old, stamp = now >> 10;
	bool begins;

	/*
	 * The home has other bits of the hash than the bucket.  tun takes what we return
	 * modulo the number of its queues, so it is the same while we do not know that.
	 */
	home = hash >> 16;
	if (nr)
		home %= nr;
	if (!flow)
		return home;
	old = *(volatile u64 *)flow;
	queue = old & 0xff;
	begins = (s64)(stamp - (old >> 8)) >= (s64)(gap_ns >> 10);
	if (begins && nr && nr < AT_HOME && now - beat < STALE_NS) {
		s.queue = home;
		s.best = home;
		bpf_loop(nr, look, &s, 0);
		queue = s.best;
	} else if (begins) {
		queue = AT_HOME;
	}
	/*
	 * A later packet's time stays.  Of two CPUs that begin a burst of one flow at once,
	 * one chooses, for both.
	 */
	if ((begins || stamp > old >> 8) &&
	    __sync_val_compare_and_swap(flow, old, stamp << 8 | queue) != old) {
		queue = *(volatile u64 *)flow & 0xff;
		begins = false;
	}
	if (queue == AT_HOME)
		queue = home;
	count(queue, home, begins);
	return queue;
}
