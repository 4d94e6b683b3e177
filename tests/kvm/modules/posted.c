// SPDX-License-Identifier: GPL-2.0
/*
 * Devices whose interrupts an IOMMU posts, where there is no IOMMU.
 *
 * Each open file of /dev/posted is one: a producer of KVM's irq bypass, with a host
 * interrupt whose chip takes what VT-d's takes of KVM, a descriptor and a vector, and
 * does with it what VT-d does when the device's message comes: it sets the vector in
 * PIR, and unless notifications are suppressed or one is outstanding sets ON and sends
 * the descriptor's notification vector to its destination.  An interrupt that is not
 * posted goes the way vfio sends it, by eventfd.
 *
 * KVM asks irq_remapping_cap() whether interrupts can be posted.  So that what runs is
 * KVM as it is, this puts a table that has nothing but the capability where the VT-d
 * driver puts its own; the variable's address comes from /proc/kallsyms:
 *
 *	insmod posted.ko remap_ops=0xffffffff...
 */
#include <linux/cpumask.h>
#include <linux/eventfd.h>
#include <linux/irq.h>
#include <linux/irq_work.h>
#include <linux/irqbypass.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include <asm/apic.h>
#include <asm/irq_remapping.h>
#include <asm/posted_intr.h>

#include "posted.h"

/**
 * struct posted - a device
 * @producer:	KVM's view of it
 * @bind:	orders POSTED_BIND
 * @eventfd:	whose producer it is; NULL: none.  Under @bind
 * @lock:	a change of target and a firing exclude each other, as the flush of an
 *		IOMMU's interrupt entry cache sees to
 * @state:	what the test may know.  Under @lock
 * @refuse:	calls that are to fail
 */
struct posted {
	struct irq_bypass_producer producer;
	struct mutex bind;
	struct eventfd_ctx *eventfd;
	raw_spinlock_t lock;
	struct posted_state state;
	atomic_t refuse;
};

static unsigned long remap_ops;
module_param(remap_ops, ulong, 0400);
MODULE_PARM_DESC(remap_ops, "address of the kernel's variable of that name");

/* The head of drivers/iommu/irq_remapping.h's struct irq_remap_ops; nobody calls the rest */
static struct {
	int capability;
	void *none[15];
} can_post = { .capability = 1 << IRQ_POSTING_CAP };

/* Calls with IRQs off so far, and the most that there were; on comes when IRQs do */
static atomic_t row, longest;

static void posted_irqs_on(struct irq_work *work)
{
	atomic_set(&row, 0);
}
static DEFINE_IRQ_WORK(irqs_on, posted_irqs_on);

static void posted_count_row(void)
{
	int n = atomic_inc_return(&row);

	if (n > atomic_read(&longest))
		atomic_set(&longest, n);
	irq_work_queue(&irqs_on);
}

static void posted_retarget(struct posted *p, u64 desc, u32 vector)
{
	struct posted_state *s = &p->state;
	unsigned long flags;

	raw_spin_lock_irqsave(&p->lock, flags);
	s->target[s->targets++ % POSTED_TARGETS] = (struct posted_target){
		.ns = ktime_get_mono_fast_ns(),
		.desc = desc,
		.vector = vector,
	};
	s->desc = desc;
	s->vector = vector;
	raw_spin_unlock_irqrestore(&p->lock, flags);
}

static int posted_set_vcpu_affinity(struct irq_data *data, void *info)
{
	struct posted *p = irq_data_get_irq_chip_data(data);
	struct vcpu_data *vcpu = info;

	posted_count_row();
	if (vcpu && atomic_dec_if_positive(&p->refuse) >= 0)
		return -EIO;
	/* VT-d takes any address; a wrong one would be KVM's fault */
	if (vcpu && (!vcpu->pi_desc_addr || vcpu->pi_desc_addr % sizeof(struct pi_desc) ||
		     vcpu->vector < 16 || vcpu->vector >= NR_VECTORS))
		return -EINVAL;

	posted_retarget(p, vcpu ? vcpu->pi_desc_addr : 0,
			vcpu ? vcpu->vector : 0);

	return 0;
}

static struct irq_chip posted_chip = {
	.name = "posted",
	.irq_set_vcpu_affinity = posted_set_vcpu_affinity,
};

/* Send @vector to the CPU that a descriptor's NDST names */
static void posted_notify(u32 ndst, u8 vector)
{
	u32 id = x2apic_mode ? ndst : ndst >> 8 & 0xff;
	int cpu;

	for_each_online_cpu(cpu)
	{
		if (cpu_physical_id(cpu) == id) {
			__apic_send_IPI_mask(cpumask_of(cpu), vector);
			return;
		}
	}
	WARN_ONCE(1, "posted: no CPU for NDST 0x%x", ndst);
}

static enum posted_how posted_post(struct pi_desc *pid, u32 vector)
{
	struct pi_desc old, new;

	pi_test_and_set_pir(vector, pid);
	old.control = READ_ONCE(pid->control);
	do {
		if (old.notifications & BIT(POSTED_INTR_ON))
			return POSTED_OUTSTANDING;
		if (old.notifications & BIT(POSTED_INTR_SN))
			return POSTED_SUPPRESSED;
		new.control = old.control;
		new.notifications |= BIT(POSTED_INTR_ON);
	} while (!try_cmpxchg64(&pid->control, &old.control, new.control));
	posted_notify(new.ndst, new.nv);

	return POSTED_NOTIFIED;
}

/* The device's message comes */
static int posted_fire(struct posted *p)
{
	struct posted_state *s = &p->state;
	enum posted_how how = POSTED_REMAPPED;
	unsigned long flags;

	lockdep_assert_held(&p->bind);

	if (!p->eventfd)
		return -ENOTCONN;

	raw_spin_lock_irqsave(&p->lock, flags);
	if (s->desc)
		how = posted_post(phys_to_virt(s->desc), s->vector);
	s->fired[how]++;
	raw_spin_unlock_irqrestore(&p->lock, flags);

	if (how == POSTED_REMAPPED) {
		/* As in the host's handler, IRQs off */
		local_irq_save(flags);
		eventfd_signal(p->eventfd);
		local_irq_restore(flags);
	}

	return how;
}

/* Whatever KVM says of it, its descriptor is not touched any more */
static void posted_del_consumer(struct irq_bypass_producer *producer,
				struct irq_bypass_consumer *consumer)
{
	struct posted *p = container_of(producer, struct posted, producer);

	if (p->state.desc)
		posted_retarget(p, 0, 0);
}

static void posted_unbind(struct posted *p)
{
	if (!p->eventfd)
		return;
	irq_bypass_unregister_producer(&p->producer);
	eventfd_ctx_put(p->eventfd);
	p->eventfd = NULL;
}

static int posted_bind(struct posted *p, int fd)
{
	struct eventfd_ctx *eventfd;
	int ret;

	posted_unbind(p);
	if (fd < 0)
		return 0;
	eventfd = eventfd_ctx_fdget(fd);
	if (IS_ERR(eventfd))
		return PTR_ERR(eventfd);
	p->producer.token = eventfd;
	ret = irq_bypass_register_producer(&p->producer);
	if (ret)
		eventfd_ctx_put(eventfd);
	else
		p->eventfd = eventfd;

	return ret;
}

static long posted_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct posted *p = file->private_data;
	struct posted_state *state;
	int ret, fd;

	switch (cmd) {
	case POSTED_BIND:
		if (get_user(fd, (int __user *)arg))
			return -EFAULT;
		mutex_lock(&p->bind);
		ret = posted_bind(p, fd);
		mutex_unlock(&p->bind);
		return ret;
	case POSTED_FIRE:
		mutex_lock(&p->bind);
		ret = posted_fire(p);
		mutex_unlock(&p->bind);
		return ret;
	case POSTED_REFUSE:
		atomic_set(&p->refuse, arg);
		return 0;
	case POSTED_STATE:
		state = kmalloc(sizeof(*state), GFP_KERNEL);
		if (!state)
			return -ENOMEM;
		raw_spin_lock_irq(&p->lock);
		*state = p->state;
		raw_spin_unlock_irq(&p->lock);
		state->in_a_row = atomic_xchg(&longest, 0);
		ret = copy_to_user((void __user *)arg, state, sizeof(*state)) ? -EFAULT : 0;
		kfree(state);
		return ret;
	}

	return -ENOTTY;
}

static int posted_open(struct inode *inode, struct file *file)
{
	struct posted *p = kzalloc(sizeof(*p), GFP_KERNEL);
	int irq;

	if (!p)
		return -ENOMEM;
	irq = irq_alloc_desc(NUMA_NO_NODE);
	if (irq < 0) {
		kfree(p);
		return irq;
	}
	mutex_init(&p->bind);
	raw_spin_lock_init(&p->lock);
	p->state.host_irq = irq;
	p->producer.irq = irq;
	p->producer.del_consumer = posted_del_consumer;
	irq_set_chip_data(irq, p);
	irq_set_chip(irq, &posted_chip);
	file->private_data = p;

	return 0;
}

static int posted_release(struct inode *inode, struct file *file)
{
	struct posted *p = file->private_data;

	posted_unbind(p);
	irq_free_desc(p->state.host_irq);
	kfree(p);

	return 0;
}

static const struct file_operations posted_fops = {
	.owner = THIS_MODULE,
	.open = posted_open,
	.release = posted_release,
	.unlocked_ioctl = posted_ioctl,
};

static struct miscdevice posted_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "posted",
	.fops = &posted_fops,
};

static int __init posted_init(void)
{
	void **ops = (void **)remap_ops;
	int ret;

	if (!ops)
		return -EINVAL;
	/* There is a real one */
	if (*ops)
		return -EBUSY;
	WRITE_ONCE(*ops, &can_post);
	ret = irq_remapping_cap(IRQ_POSTING_CAP) ? misc_register(&posted_dev) : -ENODEV;
	if (ret)
		WRITE_ONCE(*ops, NULL);

	return ret;
}

static void __exit posted_exit(void)
{
	misc_deregister(&posted_dev);
	irq_work_sync(&irqs_on);
	WRITE_ONCE(*(void **)remap_ops, NULL);
}

module_init(posted_init);
module_exit(posted_exit);
MODULE_DESCRIPTION("Devices whose interrupts are posted, for the tests of kvm_ext");
MODULE_LICENSE("GPL");
