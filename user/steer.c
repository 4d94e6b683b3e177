// SPDX-License-Identifier: GPL-2.0
/* kvmext steer: packets go to a queue whose interrupt lives on a vCPU that runs. */
#include <argp.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "event.h"
#include "host.h"
#include "json.h"
#include "log.h"
#include "out.h"
#include "steer.h"
#include "text.h"
#include "tracer.h"
#include "vmm.h"

#include "user/steer.skel.h"

/* Below that, packets of one poll of the back end would be split. */
#define GAP_MIN_US 10
#define GAP_MAX_US 1e6

enum { OPT_QUEUE = 0x300, OPT_GAP, OPT_EVERY, OPT_REPORT, OPT_OFF };

struct steer_args {
	struct tracer tracer;
	const char *tap;
	uint64_t gap_ns;
	uint64_t every_ns;
	bool report;
	bool off;
	uint32_t vcpu[STEER_QUEUES]; /* + 1 */
	uint32_t given; /* queues, from 0 on */
};

static const char *const state_names[RUN_STATES] = {
	[RUN_UNKNOWN] = "unknown", [RUN_RUNNING] = "running",	  [RUN_HALTED] = "halted",
	[RUN_READY] = "ready",	   [RUN_PREEMPTED] = "preempted", [RUN_AWAY] = "away",
};

/* --- command line ---------------------------------------------------------------- */

static error_t queue_option(struct steer_args *a, const char *arg)
{
	unsigned int q, v;
	int end = 0;

	if (!isdigit(*arg) || sscanf(arg, "%u=%u%n", &q, &v, &end) != 2 || arg[end] ||
	    q >= STEER_QUEUES || v >= STEER_VCPUS)
		return fail_usage("steer", "'%s' is no QUEUE=VCPU", arg), EINVAL;
	a->vcpu[q] = v + 1;
	if (q >= a->given)
		a->given = q + 1;
	return 0;
}

static error_t time_option(const char *arg, const char *unit, double ns, double min, double max,
			   uint64_t *out)
{
	char *end;
	double v = strtod(arg, &end);

	/* Not for what is no number, either */
	if (*end || end == arg || !(v >= min && v <= max))
		return fail_usage("steer", "'%s' is no number of %s from %g to %g", arg, unit, min,
				  max),
		       EINVAL;
	*out = v * ns;
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct steer_args *a = state->input;

	switch (key) {
	case OPT_QUEUE:
		return queue_option(a, arg);
	case OPT_GAP:
		return time_option(arg, "microseconds", 1e3, GAP_MIN_US, GAP_MAX_US, &a->gap_ns);
	case OPT_EVERY:
		return time_option(arg, "seconds", 1e9, 0.1, 1e6, &a->every_ns);
	case OPT_REPORT:
		a->report = true;
		return 0;
	case OPT_OFF:
		a->off = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->tap)
			return fail_usage("steer", "'%s' is not expected", arg), EINVAL;
		if (!*arg || strlen(arg) >= STEER_TAP || strchr(arg, '/') || strchr(arg, ' '))
			return fail_usage("steer", "'%s' is no name of an interface", arg), EINVAL;
		a->tap = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->tap)
			return fail_usage("steer", "which TAP?"), EINVAL;
		if (!a->tracer.filter.vm && !a->off)
			return fail_usage("steer", "--vm PID is needed"), EINVAL;
		if (a->off && a->report)
			return fail_usage("steer", "--off and --report exclude each other"), EINVAL;
		for (uint32_t q = 0; q < a->given; q++)
			if (!a->vcpu[q])
				return fail_usage("steer", "the vCPU of queue %u is missing", q),
				       EINVAL;
		return 0;
	}
	return tracer_option(&a->tracer, key, arg);
}

static const struct argp_option options[] = {
	{ "vm", OPT_VM, "PID", 0, "the VM, by its VMM's process id", 0 },
	{ "queue", OPT_QUEUE, "Q=VCPU", 0,
	  "the interrupt of tun's queue Q goes to that vCPU; for every queue (learnt if not given)",
	  0 },
	{ "gap-us", OPT_GAP, "US", 0,
	  "a flow's packets that come within that of each other are one burst (1000)", 0 },
	{ "for", OPT_FOR, "SEC", 0, "end after so many seconds; else with Ctrl-C", 0 },
	{ "every", OPT_EVERY, "SEC", 0, "show the queues that often, and not at the end only", 0 },
	{ "report", OPT_REPORT, NULL, 0, "show the queues, leave the packets alone", 0 },
	{ "off", OPT_OFF, NULL, 0, "give the choice back to tun, after a steer that was killed",
	  0 },
	{}
};

/* --- the tap --------------------------------------------------------------------- */

static bool is_barred(int err)
{
	return err == EACCES || err == EPERM;
}

/* What of the tap the process has open: "iff" of the descriptor's fdinfo */
static bool is_tap(uint32_t pid, const char *fd, char name[STEER_TAP])
{
	char *path = str("/proc/%u/fdinfo/%s", pid, fd), line[128];
	FILE *f = fopen(path, "re");
	bool is = false;

	free(path);
	while (f && !is && fgets(line, sizeof(line), f))
		is = sscanf(line, "iff: %15s", name) == 1;
	if (f)
		fclose(f);
	return is;
}

/**
 * tap_of_vmm - get one of the VMM's own descriptors of the tap
 * @pid: its process
 * @tap: name
 * @fd: result, a queue that is attached
 *
 * A queue of our own would do as well, but for as long as it is there tun would
 * count it, and its packets would be nobody's.
 *
 * Return: OK or the code of what was reported.
 */
static int tap_of_vmm(uint32_t pid, const char *tap, int *fd)
{
	int pidfd = syscall(SYS_pidfd_open, pid, 0), found = 0, err = 0;
	char *path = str("/proc/%u/fd", pid), *others = NULL;
	DIR *dir = opendir(path);
	bool barred = !dir && is_barred(errno);
	struct dirent *e;

	free(path);
	*fd = -1;
	while (pidfd >= 0 && dir && *fd < 0 && (e = readdir(dir))) {
		char target[16] = "", name[STEER_TAP];
		struct ifreq ifr = {};
		ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target));

		barred |= n < 0 && is_barred(errno);
		if (n != 12 || memcmp(target, "/dev/net/tun", 12) || !is_tap(pid, e->d_name, name))
			continue;
		if (strcmp(name, tap)) {
			if (!others)
				others = str("%s", name);
			continue;
		}
		found++;
		*fd = syscall(SYS_pidfd_getfd, pidfd, atoi(e->d_name), 0);
		/* One that is not attached now has no interface. */
		if (*fd < 0 || ioctl(*fd, TUNGETIFF, &ifr)) {
			err = errno;
		} else if (!(ifr.ifr_flags & IFF_MULTI_QUEUE)) {
			err = ENOTUNIQ;
		} else if (!strncmp(ifr.ifr_name, tap, STEER_TAP)) {
			break;
		}
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
	}
	if (dir)
		closedir(dir);
	if (pidfd >= 0)
		close(pidfd);
	if (*fd >= 0)
		return OK;
	if (barred || is_barred(err))
		return fail(E_PRIV,
			    has_cap(CAP_SYS_PTRACE) ? "see kernel.yama.ptrace_scope" :
						      "give it CAP_SYS_PTRACE",
			    "the queues of tap %s cannot be had from VM %u", tap, pid);
	if (!found)
		return fail(E_VM,
			    others ? str("it has %s", others) : "give the tap that is its own",
			    "VM %u has no tap %s open", pid, tap);
	if (err == ENOTUNIQ)
		return fail(E_ENV, "give the VMM more queues (QEMU: -netdev tap,queues=N)",
			    "tap %s has one queue, and there is nothing to choose", tap);
	return fail(E_VM, "has the guest brought it up?", "VM %u has no queue of tap %s attached",
		    pid, tap);
}

/**
 * tap_own - get a queue of our own, of a tap whose VM is gone: that of a persistent one stays
 * @tap: name
 * @fd: result, -1 if there is no such tap
 *
 * Return: OK or the code of what was reported.
 */
static int tap_own(const char *tap, int *fd)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE };
	char *path = str("/sys/class/net/%s/tun_flags", tap);
	bool there = !access(path, F_OK);
	int err;

	free(path);
	*fd = -1;
	/* TUNSETIFF would make one. */
	if (!there)
		return OK;
	*fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	strncpy(ifr.ifr_name, tap, IFNAMSIZ - 1);
	if (*fd >= 0 && !ioctl(*fd, TUNSETIFF, &ifr))
		return OK;
	err = errno;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	if (is_barred(err) && !has_cap(CAP_NET_ADMIN))
		return fail(E_PRIV, "give it CAP_NET_ADMIN", "cannot get at tap %s: %s", tap,
			    strerror(err));
	return fail(E_REFUSED, "give --vm PID if a VM has it", "cannot get at tap %s: %s", tap,
		    strerror(err));
}

static int tap_set(const char *tap, int fd, int prog)
{
	if (!ioctl(fd, TUNSETSTEERINGEBPF, &prog))
		return OK;
	if (errno == ENOTTY || errno == EINVAL)
		return fail(E_ENV, "it needs Linux 4.16",
			    "this kernel's tun takes no steering program");
	return fail(E_REFUSED, NULL, "tap %s does not take the program: %s", tap, strerror(errno));
}

static int off(const struct steer_args *a)
{
	int ret = OK, fd;

	if (a->tracer.filter.vm) {
		ret = need_vm(a->tracer.filter.vm);
		if (ret == OK)
			ret = tap_of_vmm(a->tracer.filter.vm, a->tap, &fd);
	} else {
		ret = tap_own(a->tap, &fd);
		if (ret == OK && fd < 0)
			ret = fail(E_VM, "give --vm PID if it is in another network namespace",
				   "there is no tap %s", a->tap);
	}
	if (ret != OK)
		return ret;
	ret = tap_set(a->tap, fd, -1);
	close(fd);
	return ret;
}

/* One at a time: the end of one would take away the program of the other. */
static int lock(const struct steer_args *a)
{
	uint64_t id = 0xcbf29ce484222325;

	/* FNV-1a: two names of one number do not happen. */
	for (const char *c = a->tap; *c; c++)
		id = (id ^ (unsigned char)*c) * 0x100000001b3;
	return lock_one("steer", id, str("another kvmext steers tap %s", a->tap));
}

/* --- what there is to show --------------------------------------------------------- */

struct shown {
	struct steer_queue q;
	struct steer_vcpu v;
	struct steer_count n;
};

static void look(const struct steer_bpf *skel, uint32_t i, struct shown *s)
{
	static struct steer_count *per_cpu;
	int cpus = libbpf_num_possible_cpus();
	uint32_t id;

	*s = (struct shown){};
	if (cpus > 0 && !per_cpu)
		per_cpu = calloc(cpus, sizeof(*per_cpu));
	bpf_map_lookup_elem(bpf_map__fd(skel->maps.queues), &i, &s->q);
	id = s->q.vcpu - 1;
	if (s->q.vcpu)
		bpf_map_lookup_elem(bpf_map__fd(skel->maps.vcpus), &id, &s->v);
	if (cpus <= 0 || !per_cpu ||
	    bpf_map_lookup_elem(bpf_map__fd(skel->maps.counts), &i, per_cpu))
		return;
	for (int c = 0; c < cpus; c++) {
		s->n.packets += per_cpu[c].packets;
		s->n.bursts += per_cpu[c].bursts;
		s->n.moved += per_cpu[c].moved;
		for (int k = 0; k < RUN_STATES; k++)
			s->n.state[k] += per_cpu[c].state[k];
	}
}

static uint32_t state_of(const struct shown *s)
{
	return s->v.state < RUN_STATES ? s->v.state : RUN_UNKNOWN;
}

static uint64_t state_ns(const struct shown *s)
{
	uint64_t now = clock_ns();

	return s->v.since && now > s->v.since ? now - s->v.since : 0;
}

static void json(const struct steer_args *a, const struct steer_bpf *skel)
{
	j_open(NULL, '{');
	j_str("tap", a->tap);
	j_num("vm", a->tracer.filter.vm);
	j_bool("steering", !a->report);
	j_num("gap_us", a->gap_ns / 1000);
	j_real("seconds", tracer_seconds(&a->tracer));
	j_open("queues", '[');
	for (uint32_t i = 0; i < skel->bss->nr_queues && i < STEER_QUEUES; i++) {
		struct shown s;

		look(skel, i, &s);
		j_open(NULL, '{');
		j_num("queue", i);
		if (s.q.vcpu)
			j_num("vcpu", s.q.vcpu - 1);
		else
			j_str("vcpu", NULL);
		j_str("state", state_names[state_of(&s)]);
		j_num("state_ns", state_ns(&s));
		j_num("packets", s.n.packets);
		j_num("bursts", s.n.bursts);
		j_num("moved", s.n.moved);
		j_open("bursts_by_state", '{');
		for (int k = 0; k < RUN_STATES; k++)
			j_num(state_names[k], s.n.state[k]);
		j_close('}');
		j_close('}');
	}
	j_close(']');
	j_close('}');
}

static void table(const struct steer_bpf *skel)
{
	static const struct col cols[] = {
		{ "QUEUE", true },   { "VCPU", true },	 { "STATE", false }, { "SINCE", true },
		{ "PACKETS", true }, { "BURSTS", true }, { "MOVED", true },  { "RUNNING", true },
		{ "HALTED", true },  { "OTHER", true },
	};
	struct libscols_table *tbl = tbl_new(cols, ARRAY_SIZE(cols));

	for (uint32_t i = 0; i < skel->bss->nr_queues && i < STEER_QUEUES; i++) {
		struct shown s;

		look(skel, i, &s);
		tbl_row(tbl, (int)ARRAY_SIZE(cols), str("%u", i),
			s.q.vcpu ? str("%u", s.q.vcpu - 1) : NULL,
			str("%s", state_names[state_of(&s)]),
			s.v.since ? duration(state_ns(&s)) : NULL,
			str("%" PRIu64, (uint64_t)s.n.packets),
			str("%" PRIu64, (uint64_t)s.n.bursts), str("%" PRIu64, (uint64_t)s.n.moved),
			str("%" PRIu64, (uint64_t)s.n.state[RUN_RUNNING]),
			str("%" PRIu64, (uint64_t)s.n.state[RUN_HALTED]),
			str("%" PRIu64, (uint64_t)(s.n.bursts - s.n.state[RUN_RUNNING] -
						   s.n.state[RUN_HALTED])));
	}
	tbl_print(tbl);
}

static void show(const struct steer_args *a, const struct steer_bpf *skel)
{
	if (g.json)
		json(a, skel);
	else if (skel->bss->nr_queues)
		table(skel);
	else
		printf("no packet has come yet\n");
	fflush(stdout);
}

/* --- the run ---------------------------------------------------------------------------- */

static int start(const struct steer_args *a, struct steer_bpf *skel)
{
	union bpf_iter_link_info info = { .task.pid = a->tracer.filter.vm };
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));
	struct bpf_link *link;
	char none[16];
	int fd;

	skel->bss->beat = clock_ns();
	if (steer_bpf__attach(skel))
		return fail(E_REFUSED, "-v shows why", "cannot attach the programs of steer: %s",
			    strerror(errno));
	/* Those that are on a CPU all the time are seen by this alone. */
	link = bpf_program__attach_iter(skel->progs.there, &opts);
	fd = link ? bpf_iter_create(bpf_link__fd(link)) : -1;
	if (fd < 0)
		return fail(E_REFUSED, "-v shows why", "cannot look at the VM's threads: %s",
			    strerror(errno));
	while (read(fd, none, sizeof(none)) > 0)
		;
	close(fd);
	bpf_link__destroy(link);
	return OK;
}

static int load(const struct steer_args *a, struct steer_bpf **out)
{
	struct steer_bpf *skel;
	bool learn = !a->given;
	int ret;

	log_clear();
	skel = *out = steer_bpf__open();
	if (!skel)
		return tracer_load_error("steer");
	skel->rodata->vm = a->tracer.filter.vm;
	skel->rodata->gap_ns = a->gap_ns;
	strncpy((char *)skel->rodata->tap, a->tap, STEER_TAP - 1);
	bpf_program__set_autoload(skel->progs.file_read, learn);
	bpf_program__set_autoload(skel->progs.sock_read, learn);
	bpf_program__set_autoload(skel->progs.file_write, learn);
	bpf_program__set_autoload(skel->progs.sock_write, learn);
	bpf_program__set_autoload(skel->progs.message, learn);
	bpf_program__set_autoload(skel->progs.accepted, learn);
	bpf_program__set_autoattach(skel->progs.there, false);
	if (steer_bpf__load(skel)) {
		ret = errno;
		/* EPERM is that of no right to load anything. */
		if (learn && ret != EPERM && !lockdown_bars_reads())
			return fail(
				E_REFUSED,
				"-v shows why; with --queue for each queue it need not watch tun",
				"cannot load the programs of steer: %s", strerror(ret));
		errno = ret;
		return tracer_load_error("steer");
	}
	for (uint32_t i = 0; i < a->given; i++) {
		struct steer_queue q = { .vcpu = a->vcpu[i] };

		bpf_map_update_elem(bpf_map__fd(skel->maps.queues), &i, &q, 0);
	}
	skel->bss->nr_queues = a->given;
	return OK;
}

static int steer(struct steer_args *a)
{
	struct steer_bpf *skel = NULL;
	uint64_t next;
	int ret, fd;

	ret = tap_of_vmm(a->tracer.filter.vm, a->tap, &fd);
	if (ret != OK)
		return ret;
	ret = lock(a);
	if (ret == OK)
		ret = load(a, &skel);
	if (ret == OK)
		ret = start(a, skel);
	if (ret == OK && !a->report)
		ret = tap_set(a->tap, fd, bpf_program__fd(skel->progs.steer));
	/* While we had it, the tap could not go with its VM. */
	close(fd);
	if (ret != OK) {
		steer_bpf__destroy(skel);
		return ret;
	}
	if (a->every_ns)
		j_lines();
	/* A reader that has gone ends the run, and not us before the program is out of the tap. */
	signal(SIGPIPE, SIG_IGN);
	tracer_begin(&a->tracer);
	next = clock_ns() + a->every_ns;
	while (!ferror(stdout) && tracer_wait(&a->tracer, -1)) {
		skel->bss->beat = clock_ns();
		if (!a->every_ns || clock_ns() < next)
			continue;
		show(a, skel);
		/* What was missed while we were stopped is not made up for. */
		next += a->every_ns;
		if (next < clock_ns())
			next = clock_ns() + a->every_ns;
	}
	fd = -1;
	if (!a->report && nr_vms(a->tracer.filter.vm) > 0)
		ret = tap_of_vmm(a->tracer.filter.vm, a->tap, &fd);
	else if (!a->report)
		ret = tap_own(a->tap, &fd);
	if (ret == OK && fd >= 0)
		ret = tap_set(a->tap, fd, -1);
	if (fd >= 0)
		close(fd);
	if (ret == OK)
		show(a, skel);
	tracer_end(&a->tracer);
	steer_bpf__destroy(skel);
	return ret;
}

int cmd_steer(int argc, char **argv)
{
	static const char doc[] =
		"Have a tap with several queues put each burst of a flow's packets into a queue whose "
		"interrupt goes to a vCPU that runs, until Ctrl-C, --for, or the end of the VM; then "
		"tun chooses again.\v"
		"Needs no kvm_ext modules, and the VMM need not know.  Packets of a flow that come "
		"within --gap-us of each other stay in one queue, and so in order.  The VM's interrupts "
		"are left as they are.";
	struct steer_args a = {
		.tracer = { .cmd = "steer", .filter = { .vcpu = NO_VCPU } },
		.gap_ns = 1000000,
	};
	int ret;

	ret = parse_args(argc, argv, options, parse, "TAP", doc, &a);
	if (ret != OK)
		return ret;
	if (a.off) {
		ret = need_privilege();
		ret = ret == OK ? off(&a) : ret;
		if (ret == OK && g.json) {
			j_open(NULL, '{');
			j_str("tap", a.tap);
			j_bool("steering", false);
			j_close('}');
		}
		if (ret == OK)
			say("tun chooses the queues of %s", a.tap);
		return ret;
	}
	ret = tracer_ready(&a.tracer);
	if (ret == OK && nr_vms(a.tracer.filter.vm) > 1)
		return fail(E_VM, "one VM for each process is what can be told apart",
			    "process %u has several VMs", a.tracer.filter.vm);
	return ret == OK ? steer(&a) : ret;
}
