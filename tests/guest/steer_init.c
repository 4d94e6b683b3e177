// SPDX-License-Identifier: GPL-2.0
/*
 * guest - the only program of a guest that is sent packets (its init).
 *
 * It loads /m/NAME for each NAME in /m/order, brings eth0 up as 10.9.0.2 and echoes
 * UDP packets to port 7, each on the CPU on which it came in: a socket and a pinned
 * thread for each CPU.  In the echo it writes which CPU that was, and a number that
 * grows with each packet.
 *
 * Bytes on the serial line:
 *   r  guest: report packets=.. lost_vectors=..
 *   b  every CPU computes when it has nothing better to do; i  no more
 *   s  moves the interrupts of queue N to CPU (N + 1) % CPUs, and the next time back
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "init.h"
#include "steer_packet.h"

#define KLOG_READ_ALL 3

static _Atomic uint64_t packets;
static volatile int busy;
static int cpus;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("pinning a thread");
}

static void interface(void)
{
	struct ifreq ifr = { .ifr_name = "eth0" };
	struct sockaddr_in in = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), tries = 0;

	while (ioctl(fd, SIOCGIFFLAGS, &ifr) && tries++ < 500)
		usleep(20000);
	inet_aton("10.9.0.2", &in.sin_addr);
	memcpy(&ifr.ifr_addr, &in, sizeof(in));
	if (ioctl(fd, SIOCSIFADDR, &ifr))
		die("giving eth0 its address");
	inet_aton("255.255.255.0", &in.sin_addr);
	memcpy(&ifr.ifr_netmask, &in, sizeof(in));
	if (ioctl(fd, SIOCSIFNETMASK, &ifr) || ioctl(fd, SIOCGIFFLAGS, &ifr))
		die("giving eth0 its netmask");
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		die("bringing eth0 up");
	close(fd);
}

static void *echo(void *arg)
{
	int cpu = (intptr_t)arg >> 16, fd = (intptr_t)arg & 0xffff;
	struct sockaddr_in from;
	struct packet p;

	pin(cpu);
	for (;;) {
		socklen_t len = sizeof(from);

		if (recvfrom(fd, &p, sizeof(p), 0, (struct sockaddr *)&from, &len) != sizeof(p))
			continue;
		p.cpu = cpu;
		p.order = ++packets;
		sendto(fd, &p, sizeof(p), 0, (struct sockaddr *)&from, len);
	}
	return NULL;
}

static void *compute(void *arg)
{
	struct sched_param none = {};

	pin((intptr_t)arg);
	sched_setscheduler(0, SCHED_IDLE, &none);
	for (;;) {
		if (!busy)
			usleep(50000);
	}
	return NULL;
}

static void sockets(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	/* The socket of the CPU that handles the packet */
	struct sock_filter insns[] = {
		{ BPF_LD | BPF_W | BPF_ABS, 0, 0, SKF_AD_OFF + SKF_AD_CPU },
		{ BPF_RET | BPF_A, 0, 0, 0 },
	};
	struct sock_fprog prog = { .len = 2, .filter = insns };
	pthread_t thread;
	int one = 1;

	for (intptr_t c = 0; c < cpus; c++) {
		int fd = socket(AF_INET, SOCK_DGRAM, 0);

		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&in, sizeof(in)))
			die("binding");
		if (!c && setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &prog, sizeof(prog)))
			die("choosing sockets by CPU");
		if (pthread_create(&thread, NULL, echo, (void *)(c << 16 | fd)) ||
		    pthread_create(&thread, NULL, compute, (void *)c))
			die("starting a thread");
	}
}

/* Queue N's interrupts are called virtio0-input.N and virtio0-output.N. */
static void move(int by)
{
	char line[512], path[64];
	FILE *f = fopen("/proc/interrupts", "r"), *a;
	int moved = 0;

	while (f && fgets(line, sizeof(line), f)) {
		char *name = strstr(line, "put.");
		int irq = atoi(line);

		if (!name || !strstr(line, "virtio0-"))
			continue;
		snprintf(path, sizeof(path), "/proc/irq/%d/smp_affinity_list", irq);
		a = fopen(path, "w");
		if (!a || fprintf(a, "%d\n", (atoi(name + 4) + by) % cpus) < 0 || fclose(a))
			say("guest: error %s: %s\n", path, strerror(errno));
		else
			moved++;
	}
	if (f)
		fclose(f);
	say("guest: moved %d by=%d\n", moved, by);
}

static void report(void)
{
	static char log[1 << 18];
	int n = klogctl(KLOG_READ_ALL, log, sizeof(log) - 1), lost = 0;

	log[n > 0 ? n : 0] = 0;
	for (char *p = log; (p = strstr(p, "No irq handler for vector")); p++)
		lost++;
	/* A log that cannot be read is no log without that line. */
	if (n <= 0)
		lost = -1;
	say("guest: report packets=%lu lost_vectors=%d\n", packets, lost);
}

int main(void)
{
	struct termios t;
	int by = 0;
	char key;

	mkdir("/proc", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) && errno != EBUSY)
		die("mounting /proc");
	/* raw: a byte is a command, and nothing is echoed */
	if (!tcgetattr(0, &t)) {
		cfmakeraw(&t);
		t.c_oflag |= OPOST | ONLCR;
		tcsetattr(0, TCSANOW, &t);
	}
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	load_modules();
	interface();
	sockets();
	say("guest: up cpus=%d\n", cpus);
	while (read(0, &key, 1) == 1) {
		if (key == 'r')
			report();
		else if (key == 's')
			move(by = !by);
		else if (key == 'b' || key == 'i')
			busy = key == 'b', say("guest: busy=%d\n", busy);
	}
	die("reading the serial line");
}
