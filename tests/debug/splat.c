// SPDX-License-Identifier: GPL-2.0
/*
 * Do wrong what the debug kernel is there to find, one kind at a time:
 *
 *	echo KIND >/sys/module/splat/parameters/provoke
 *
 * A check that is configured but does not work would pass every test, so
 * tests/debug/detector.sh provokes each one and wants to see it in the log.
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(lock);
DEFINE_STATIC_SRCU(srcu);
static int target;
static int __rcu *pointer = (int __rcu __force *)&target;

/* Read what it is not to read; the compiler must not know. */
static void touch(const char *p)
{
	OPTIMIZER_HIDE_VAR(p);
	READ_ONCE(*p);
}

static void nothing(void)
{
}

static void heap(void)
{
	char *p = kmalloc(64, GFP_KERNEL);

	kfree(p);
	touch(p + 8);
}

static void vmalloced(void)
{
	char *p = vmalloc(100);

	if (p)
		touch(p + 120);
	vfree(p);
}

static void stack(void)
{
	char buf[16] = {};

	touch(buf + 20);
}

/* As a guest does it through a stale mapping: no instrumented store. */
static void page(void)
{
	struct page *p = alloc_page(GFP_KERNEL), *q[64] = {};
	char *addr;
	int i;

	if (!p)
		return;
	addr = page_address(p);
	__free_page(p);
	asm volatile("movl $0x600dbad, %0" : "=m"(*(u32 *)(addr + 128)));
	for (i = 0; i < ARRAY_SIZE(q) && q[max(i - 1, 0)] != p; i++)
		q[i] = alloc_page(GFP_KERNEL);
	while (i--)
		if (q[i])
			__free_page(q[i]);
}

static void list(void)
{
	LIST_HEAD(head);
	LIST_HEAD(other);
	struct list_head a;

	list_add(&a, &head);
	WRITE_ONCE(head.next, &other);
	list_del(&a);
}

static void refcount(void)
{
	refcount_t r = REFCOUNT_INIT(0);

	refcount_inc(&r);
}

static void never(struct timer_list *t)
{
}

static void object(void)
{
	static struct timer_list t;

	timer_setup(&t, never, 0);
	mod_timer(&t, jiffies + 1000 * HZ);
	timer_setup(&t, never, 0);
	del_timer_sync(&t);
}

static void rcu(void)
{
	(void)READ_ONCE(*rcu_dereference(pointer));
}

static void srcu_lock(void)
{
	(void)READ_ONCE(*srcu_dereference(pointer, &srcu));
}

static void sleeps(void)
{
	spin_lock(&lock);
	might_sleep();
	spin_unlock(&lock);
}

static void schedules(void)
{
	preempt_disable();
	schedule_timeout_uninterruptible(1);
	preempt_enable();
}

static void cpu(void)
{
	pr_info("on CPU %d\n", smp_processor_id());
}

static void warn(void)
{
	WARN(1, "as asked\n");
}

/* Lockdep ends its watch with its first report. */
static void order(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static const struct {
	const char *name;
	void (*provoke)(void);
} kinds[] = {
	{ "nothing", nothing },	  { "heap", heap },	{ "vmalloc", vmalloced },
	{ "stack", stack },	  { "page", page },	{ "list", list },
	{ "refcount", refcount }, { "object", object }, { "rcu", rcu },
	{ "srcu", srcu_lock },	  { "sleep", sleeps },	{ "schedule", schedules },
	{ "cpu", cpu },		  { "warn", warn },	{ "order", order },
};

static int provoke(const char *val, const struct kernel_param *kp)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (sysfs_streq(val, kinds[i].name)) {
			kinds[i].provoke();
			return 0;
		}
	}
	return -EINVAL;
}

static const struct kernel_param_ops provoke_ops = {
	.set = provoke,
};
module_param_cb(provoke, &provoke_ops, NULL, 0200);

MODULE_DESCRIPTION("kvm_ext test: provoke what a debug kernel reports");
MODULE_LICENSE("GPL");
