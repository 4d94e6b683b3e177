// SPDX-License-Identifier: GPL-2.0
/*
 * A softirq that uses the FPU, every millisecond on the CPU that loads this: all the vector
 * registers that the CPU has, so that with the XCR0 of a guest that has fewer it dies.
 */
#include <linux/hrtimer.h>
#include <linux/module.h>

#include <asm/cpufeature.h>
#include <asm/fpu/api.h>

static unsigned long uses;
module_param(uses, ulong, 0444);
MODULE_PARM_DESC(uses, "how often so far");

static struct hrtimer timer;

static enum hrtimer_restart use(struct hrtimer *t)
{
	/* A kernel thread or a task that is in the middle of its own use: not again */
	if (irq_fpu_usable()) {
		kernel_fpu_begin();
		if (boot_cpu_has(X86_FEATURE_AVX512F))
			asm volatile(".altmacro\n"
				     ".macro softfpu_set n\n"
				     "vpternlogd $0xff, %%zmm\\n, %%zmm\\n, %%zmm\\n\n"
				     ".endm\n"
				     ".set i, 0\n"
				     ".rept 32\n"
				     "softfpu_set %%i\n"
				     ".set i, i + 1\n"
				     ".endr\n"
				     ".purgem softfpu_set\n"
				     ".noaltmacro\n" ::
					     :);
		else if (boot_cpu_has(X86_FEATURE_AVX2))
			asm volatile(".altmacro\n"
				     ".macro softfpu_set n\n"
				     "vpcmpeqd %%ymm\\n, %%ymm\\n, %%ymm\\n\n"
				     ".endm\n"
				     ".set i, 0\n"
				     ".rept 16\n"
				     "softfpu_set %%i\n"
				     ".set i, i + 1\n"
				     ".endr\n"
				     ".purgem softfpu_set\n"
				     ".noaltmacro\n" ::
					     :);
		else
			asm volatile("pcmpeqd %%xmm0, %%xmm0\n"
				     "pcmpeqd %%xmm7, %%xmm7\n"
				     "pcmpeqd %%xmm15, %%xmm15\n" ::
					     :);
		kernel_fpu_end();
		uses++;
	}
	hrtimer_forward_now(t, ns_to_ktime(NSEC_PER_MSEC));
	return HRTIMER_RESTART;
}

static int __init softfpu_init(void)
{
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_SOFT);
	timer.function = use;
	hrtimer_start(&timer, ns_to_ktime(NSEC_PER_MSEC), HRTIMER_MODE_REL_PINNED_SOFT);
	return 0;
}

static void __exit softfpu_exit(void)
{
	hrtimer_cancel(&timer);
}

module_init(softfpu_init);
module_exit(softfpu_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("kvm_ext test: a softirq that uses the FPU");
