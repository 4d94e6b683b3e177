// SPDX-License-Identifier: GPL-2.0
/*
 * A VM for the tests of the tool: two vCPUs, of which 0 writes page after page
 * under dirty logging and 1 computes, until killed.
 *
 *   vmhold [NR_VMS [HOW]]   prints "ready" when all of them run; HOW:
 *
 *   ring      with dirty rings
 *   thread    made by a thread that is gone afterwards, as some VMMs do
 *   headless  the process's first thread ends, and the others go on
 *   dup       with two files of each VM, and in a child that has them too
 */
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "tests/lib/vm.h"

#define PAGES 256
#define HARVEST_MS 50
#define VMS_MAX 4

static struct vm vms[VMS_MAX];

static int start(struct vm *vm, unsigned int flags)
{
	int ret = vm_create(vm, 2, PAGES, VM_IRQCHIP | VM_LOG | flags);

	if (ret)
		return ret;
	/* Slow enough that the emulator has time for the tool too. */
	vm->cpu[0].box->pause = 20000;
	cpu_set(&vm->cpu[0], OP_WRITE, 0, PAGES, 0);
	cpu_set(&vm->cpu[1], OP_SPIN, 0, 0, 0);
	return cpu_start(&vm->cpu[0]) ?: cpu_start(&vm->cpu[1]);
}

struct job {
	struct vm *vm;
	unsigned int flags;
	int ret;
};

static void *start_in_thread(void *arg)
{
	struct job *j = arg;

	j->ret = start(j->vm, j->flags);
	return NULL;
}

static int start_apart(struct vm *vm, unsigned int flags)
{
	struct job j = { vm, flags, 0 };
	pthread_t thread;
	int ret = pthread_create(&thread, NULL, start_in_thread, &j);

	if (ret)
		return -ret;
	pthread_join(thread, NULL);
	return j.ret;
}

static void *hold(void *nr_vms)
{
	int *n = nr_vms;

	for (;;) {
		sleep_ms(HARVEST_MS);
		for (int i = 0; i < *n; i++) {
			int ret = harvest(&vms[i]);

			if (ret < 0) {
				fprintf(stderr, "vmhold: cannot harvest: %s\n", strerror(-ret));
				exit(1);
			}
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static int n;
	bool ring = argc > 2 && !strcmp(argv[2], "ring");
	bool apart = argc > 2 && !strcmp(argv[2], "thread");
	bool twice = argc > 2 && !strcmp(argv[2], "dup");

	n = argc > 1 ? atoi(argv[1]) : 1;
	if (n < 1 || n > VMS_MAX)
		return 2;
	for (int i = 0; i < n; i++) {
		int ret = (apart ? start_apart : start)(&vms[i], ring ? VM_RING : 0);

		if (ret) {
			fprintf(stderr, "vmhold: cannot start a VM: %s\n", strerror(-ret));
			return 1;
		}
		if (twice && dup(vms[i].fd) < 0)
			return 1;
	}
	/* The child ends with us. */
	if (twice && !fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	puts("ready");
	fflush(stdout);
	if (argc > 2 && !strcmp(argv[2], "headless")) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, hold, &n))
			return 1;
		pthread_exit(NULL);
	}
	hold(&n);
	return 1;
}
