// SPDX-License-Identifier: GPL-2.0
/*
 * A crowd for kvmext top: many small VMs of one vCPU each, and what they leave room for
 * simulated in top's own maps.
 *
 *   vmcrowd VMS TOTAL
 *
 * Makes VMS VMs, or as many as fit, each with a vCPU that goes to user space some ten
 * times a second.  Then finds the maps of the top that runs and fills slots until TOTAL
 * are taken; their figures grow all the while.  Prints "ready REAL SIMULATED" and ends
 * with stdin.
 */
#include "tests/lib/vm.h"

#include <poll.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "maps.h"

#include "user/top.h"
#include "user/top.skel.h"

#define MEM 0x2000
#define CODE 0x1000

static volatile bool ends;
static struct top_vcpu *slots;
static unsigned int first, last;

/* --- real ones ----------------------------------------------------------------- */

struct small {
	int vm, cpu;
	struct kvm_run *run;
	pthread_t thread;
};

static void *run(void *arg)
{
	struct small *s = arg;

	while (!ends && (!ioctl(s->cpu, KVM_RUN, NULL) || errno == EINTR))
		sleep_ms(100);
	return NULL;
}

/* -errno if there is no room for it */
static int make(int kvm, struct small *s)
{
	static const uint8_t code[] = { 0xe6, 0x10, 0xeb, 0xfc }; /* out %al, $0x10 in a loop */
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_userspace_memory_region r = { .memory_size = MEM };
	struct kvm_sregs sregs;
	pthread_attr_t attr;
	uint8_t *mem;
	int size;

	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -errno;
	memcpy(mem + CODE, code, sizeof(code));
	r.userspace_addr = (uintptr_t)mem;
	s->vm = vm_ioctl(kvm, KVM_CREATE_VM, NULL);
	if (s->vm < 0)
		return s->vm;
	if (ioctl(s->vm, KVM_SET_USER_MEMORY_REGION, &r))
		return -errno;
	s->cpu = vm_ioctl(s->vm, KVM_CREATE_VCPU, NULL);
	if (s->cpu < 0)
		return s->cpu;
	size = vm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
	s->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, s->cpu, 0);
	if (s->run == MAP_FAILED || ioctl(s->cpu, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(s->cpu, KVM_SET_SREGS, &sregs) || ioctl(s->cpu, KVM_SET_REGS, &regs))
		return -errno;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	return -pthread_create(&s->thread, &attr, run, s);
}

/* --- simulated ones --------------------------------------------------------------- */

/* The newest map of that name, mapped, or NULL */
static void *mapped(const char *name, size_t size)
{
	uint32_t type;
	int fd = map_of(name, &type);
	void *found = fd < 0 ? MAP_FAILED :
			       mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	return found == MAP_FAILED ? NULL : found;
}

static void grow(void)
{
	uint64_t now = now_ns();

	for (unsigned int i = first; i < last; i++) {
		struct top_vcpu *v = &slots[i];

		v->guest_ns += 90000000;
		v->outside_ns += 10000000;
		v->halted_ns += 1000000;
		v->dirty += 5;
		v->injected += 3;
		for (int k = 0; k < 8; k++) {
			v->reason[(i + 16 * k) % TOP_REASONS].n += 100;
			v->reason[(i + 16 * k) % TOP_REASONS].ns += 1000000;
		}
		v->exit_ns = now - 1;
		v->entry_ns = now;
	}
}

static int simulate(unsigned int total)
{
	struct top_bpf__bss *bss = mapped("top_bpf.bss", sizeof(*bss));

	slots = mapped("slots", TOP_VCPUS * sizeof(*slots));
	if (!bss || !slots)
		return -ENOENT;
	last = total;
	first = __atomic_load_n(&bss->next_slot, __ATOMIC_RELAXED);
	/* vCPUs that top has not met yet take theirs behind these. */
	if (first < total)
		first = __sync_fetch_and_add(&bss->next_slot, total - first);
	for (unsigned int i = first; i < total; i++) {
		struct top_vcpu *v = &slots[i];

		v->kvm = 0xffff000000000000 + i * 64;
		v->tgid = getpid();
		v->tid = v->tgid;
		v->isa = 2;
		v->vcpu = v->kvm + 8;
		__atomic_store_n(&v->key, v->vcpu, __ATOMIC_RELEASE);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	unsigned int vms, total, n = 0;
	struct small *small;
	int kvm, ret;

	if (argc != 3)
		return 2;
	vms = atoi(argv[1]);
	total = atoi(argv[2]);
	if (total > TOP_VCPUS || vms > total)
		return 2;
	small = calloc(vms + 1, sizeof(*small));
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (!small || kvm < 0)
		return 4;
	for (; n < vms; n++) {
		ret = make(kvm, &small[n]);
		if (ret) {
			fprintf(stderr, "vmcrowd: no room for VM %u: %s\n", n + 1, strerror(-ret));
			break;
		}
	}
	/* Until top has met them */
	sleep_ms(1500);
	ret = simulate(total);
	if (ret) {
		fprintf(stderr, "vmcrowd: kvmext top does not run\n");
		return 1;
	}
	printf("ready %u %u\n", n, last > first ? last - first : 0);
	fflush(stdout);
	while (poll(&in, 1, 100) <= 0)
		grow();
	ends = true;
	return 0;
}
