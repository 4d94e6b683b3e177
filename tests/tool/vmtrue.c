// SPDX-License-Identifier: GPL-2.0
/*
 * A VM that does what it is told and says what it did: the truth that a watcher's
 * figures are held against.  Two vCPUs, dirty logging on.  Commands on stdin, one
 * a line; each is answered by a line when it is done (vmtrue ring: with a dirty ring in
 * place of the log):
 *
 *   exits N     N exits for I/O on vCPU 0             -> exits N
 *   dirty N     vCPU 0 writes N pages, vCPU 1 twice as many behind them
 *                                                     -> dirty A B, by the dirty log
 *   halt MS     vCPU 1 halts until an NMI MS later    -> halt NS, from before to after
 *   irq         vCPU 1 gets an interrupt              -> irq N, as the guest counts
 *   new         close the VM, make another            -> new
 *   close       close the VM, and live on without     -> close
 */
#include <stdio.h>

#include "tests/lib/vm.h"

#define PAGES 3072

static struct vm vm;
static int flags = VM_IRQCHIP | VM_LOG;

static int harvested(int first, int n)
{
	int found = 0;

	for (int i = first; i < first + n; i++)
		found += vm.bitmap[i / 64] >> i % 64 & 1;
	return found;
}

static int dirty(int n)
{
	int ret;

	ret = cpu_do(&vm.cpu[0], OP_WRITE, 0, n) ?: cpu_do(&vm.cpu[1], OP_WRITE, n, 2 * n);
	if (ret)
		return ret;
	/* A ring adds to it. */
	memset(vm.bitmap, 0, PAGES / 8);
	ret = harvest(&vm);
	if (ret < 0)
		return ret;
	printf("dirty %d %d\n", harvested(0, n), harvested(n, 2 * n));
	return 0;
}

/* The guest says that it is about to halt; give it the time to. */
static int halt(int ms)
{
	struct vm_cpu *cpu = &vm.cpu[1];
	uint64_t t = now_ns();
	int ret;

	cpu_set(cpu, OP_HALT, 0, 0, 1);
	ret = cpu_start(cpu);
	if (ret)
		return ret;
	sleep_ms(ms);
	ret = vm_msi(&vm, 1, true);
	if (ret < 0)
		return ret;
	ret = cpu_join(cpu);
	printf("halt %lu\n", now_ns() - t);
	return ret;
}

static int irq(void)
{
	struct vm_cpu *cpu = &vm.cpu[1];
	int ret;

	cpu_set(cpu, OP_SPIN, 0, 0, 0);
	ret = cpu_start(cpu);
	if (ret)
		return ret;
	while (!cpu->box->progress)
		sleep_ms(1);
	ret = vm_msi(&vm, 1, false);
	if (ret < 0)
		return ret;
	for (int i = 0; i < 5000 && !cpu->box->irqs; i++)
		sleep_ms(1);
	printf("irq %lu\n", cpu->box->irqs);
	return cpu_stop(cpu);
}

static int create(void)
{
	return vm_create(&vm, 2, PAGES, flags);
}

int main(int argc, char **argv)
{
	char line[64], cmd[16];
	int ret;

	if (argc > 1 && !strcmp(argv[1], "ring"))
		flags |= VM_RING;
	ret = create();
	while (!ret && fgets(line, sizeof(line), stdin)) {
		int n = 0;

		if (sscanf(line, "%15s %d", cmd, &n) < 1)
			continue;
		if (!strcmp(cmd, "exits")) {
			for (int i = 0; !ret && i < n; i++)
				ret = cpu_do(&vm.cpu[0], OP_NOP, 0, 0);
			printf("exits %d\n", n);
		} else if (!strcmp(cmd, "dirty") && n > 0 && 3 * n <= PAGES) {
			ret = dirty(n);
		} else if (!strcmp(cmd, "halt")) {
			ret = halt(n);
		} else if (!strcmp(cmd, "irq")) {
			ret = irq();
		} else if (!strcmp(cmd, "new")) {
			vm_free(&vm);
			ret = create();
			puts("new");
		} else if (!strcmp(cmd, "close")) {
			vm_free(&vm);
			puts("close");
		} else {
			fprintf(stderr, "vmtrue: what is '%s'?\n", line);
			return 2;
		}
		fflush(stdout);
	}
	if (ret)
		fprintf(stderr, "vmtrue: %s\n", ret < 0 ? strerror(-ret) : cpu_text(&vm.cpu[0]));
	return !!ret;
}
