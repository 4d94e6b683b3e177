// SPDX-License-Identifier: GPL-2.0
/* kvmext doctor: what this machine has, what is missing, what to do. */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "columns.h"
#include "commands.h"
#include "exitname.h"
#include "hook.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "look.h"
#include "look_vm.h"
#include "out.h"
#include "pin.h"
#include "table.h"
#include "text.h"

/**
 * struct finding - the outcome of a check
 * @what: was looked at
 * @found: was found
 * @todo: how to put it right; NULL if it is well
 * @minor: policies can be loaded nevertheless
 */
struct finding {
	const char *what;
	char *found;
	const char *todo;
	bool minor;
};

static struct finding findings[64];
static int nr_findings;

static void note(const char *what, char *found, const char *todo, bool minor)
{
	findings[nr_findings++] = (struct finding){ what, found, todo, minor };
}

static void check_modules(void)
{
	bool amd = !access("/sys/module/kvm_amd", F_OK);
	bool intel = !access("/sys/module/kvm_intel", F_OK);

	if (access("/sys/module/kvm", F_OK))
		note("kvm module", str("not loaded"),
		     "modprobe kvm-amd or kvm-intel, of kvm_ext's modules", false);
	else
		note("kvm module",
		     str(access("/sys/module/kvm/initstate", F_OK) ? "built in" : "loaded"), NULL,
		     false);
	note("vendor module",
	     str(amd   ? "kvm_amd" :
		 intel ? "kvm_intel" :
			 "none"),
	     amd || intel ? NULL : "modprobe kvm-amd or kvm-intel; VMs need it, loading does not",
	     true);
	note("/dev/kvm", str("%s", access("/dev/kvm", R_OK | W_OK) ? strerror(errno) : "there"),
	     access("/dev/kvm", R_OK | W_OK) ?
		     "VMs need it: is virtualisation on in the firmware?" :
		     NULL,
	     true);
}

static void check_btf(void)
{
	bool vmlinux = !access("/sys/kernel/btf/vmlinux", R_OK);

	note("kernel BTF", str(vmlinux ? "there" : "missing"),
	     vmlinux ? NULL : "boot a kernel with CONFIG_DEBUG_INFO_BTF", false);
	if (access("/sys/module/kvm", F_OK))
		return;
	note("kvm BTF", str(kvm_btf() ? "there" : "missing"),
	     kvm_btf() ?
		     NULL :
		     "load kvm modules that have BTF of this very kernel; dmesg may say why not",
	     false);
	for (int i = 0; i < nr_tables; i++) {
		bool has = kvm_has_table(&tables[i]);

		note("kvm_ext patches", str("%s: %s", tables[i].ops, has ? "there" : "missing"),
		     has ? NULL :
			   "build the modules (make modules) and load them in place of these",
		     false);
	}
}

static void check_exit_names(void)
{
	bool have = exit_names_load() == OK;
	int n;
	const char *where = exit_names_where(&n);

	note("exit names", have ? str("%d, of %s", n, where) : str("numbers only: %s", where),
	     have ? NULL : "load kvm, mount tracefs, be root; exits are shown as numbers", true);
}

/* What a figure that cannot be had here lacks, and what for */
static char *figure_todo(const struct point *p)
{
	const char *lack = "load a kvm module with tracepoints and BTF of this kernel";

	if (!strncmp(p->name, "kvm_throttle_", 13) || !strncmp(p->name, "kvm_ext_", 8))
		lack = "load kvm_ext's modules";
	else if (p->kind == FUNCTION)
		lack = "boot a kernel that lets BPF trace functions (fentry)";
	else if (p->kind == STRUCT)
		lack = "boot a kernel with CONFIG_SCHED_INFO";
	return str("%s, to have it in: %s", lack, p->verbs);
}

/* For each figure of the tracers, how it is had here. */
static void check_figures(void)
{
	if (access("/sys/module/kvm", F_OK))
		return;
	for (int i = 0; i < POINTS; i++) {
		const struct point *p = &points[i];
		const char *how = NULL;
		enum hook hook = p->figure ? hook_figure(i, &how) : HOOK_NOT_HERE;
		bool has = hook != HOOK_NONE;

		if (hook == HOOK_NOT_HERE)
			continue;
		note(str("figure: %s", p->figure),
		     has ? str("%s", how) : str("no %s", how ? how : "tracepoint kvm_exit"),
		     has ? NULL : figure_todo(p), true);
	}
}

static void check_switch(void)
{
	if (access(KILL_SWITCH, F_OK))
		return;
	note("kill switch", str(kill_switch_on() ? "thrown: no policy may run" : "not thrown"),
	     kill_switch_on() ? "echo Y > " KILL_SWITCH : NULL, false);
}

static void check_version(void)
{
	int version = state_version();

	/* Where there is none, the state file's own line says why. */
	if (version > 0 && version != STATE_VERSION)
		note("version",
		     str("state file %d, kvmext " KVMEXT_VERSION " reads %d", version,
			 STATE_VERSION),
		     "install the tool and the kvm modules of one release", false);
}

static void check_mounts(void)
{
	bool bpf = is_mount(g.bpffs, BPFFS_MAGIC), debug = is_mount(g.debugfs, DEBUGFS_MAGIC_);
	char *state = str("%s/kvm/ext/state", g.debugfs), *wrong = pins_wrong();

	note("bpffs", str("%s on %s", bpf ? "mounted" : "not mounted", g.bpffs),
	     bpf ? NULL : str("mount -t bpf bpf %s", g.bpffs), false);
	if (wrong)
		note("pins", wrong, PINS_MEND, false);
	note("debugfs", str("%s on %s", debug ? "mounted" : "not mounted", g.debugfs),
	     debug ? NULL : str("mount -t debugfs debugfs %s", g.debugfs), false);
	/* KVM has it only while a vendor module is there, which has a line of its own. */
	if (debug && kvm_has_table(&tables[0]))
		note("state file", str("%s", access(state, R_OK) ? strerror(errno) : "readable"),
		     access(state, R_OK) ? "load kvm-amd or kvm-intel; be root" :
					   NULL,
		     access(state, F_OK) && errno == ENOENT);
}

static void check_rights(void)
{
	char *line = lockdown(), names[128];
	const char *todo = NULL;

	if (missing_caps(names, sizeof(names)))
		note("privilege", str("lacks %s", names), "run as root", false);
	else
		note("privilege", str("CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN"), NULL, false);
	note("process ids", str(in_pid_namespace() ? "of a pid namespace" : "the kernel's"),
	     in_pid_namespace() ? "run it " IN_HOST_PIDS : NULL, false);
	/* Debugfs has the state file nevertheless: it is read-only, and root's. */
	if (strstr(line, "[integrity]"))
		todo = "sign kvm.ko and its vendor module with an enrolled key (MOK) before a reload";
	else if (lockdown_bars_reads())
		todo = "sign the modules with an enrolled key (MOK); top, trace and the like "
		       "take lockdown=integrity";
	note("lockdown", *line ? line : str("not in this kernel"), todo, true);
}

/**
 * struct inhibited - VMs whose interrupts are not posted, for the same reasons
 * @why: bits of the kernel's enum kvm_apicv_inhibit
 * @n: how many VMs
 * @pids: the first of them
 */
struct inhibited {
	uint64_t why;
	int n;
	char pids[64];
};

static struct inhibited inhibited[8];

static int add_inhibited(const struct look_vm *vm, void *arg)
{
	struct inhibited *in = inhibited;
	size_t len;

	(void)arg;
	if (!vm->inhibits || vm->inhibits == LOOK_UNKNOWN)
		return 0;
	while (in < inhibited + ARRAY_SIZE(inhibited) && in->n && in->why != vm->inhibits)
		in++;
	if (in == inhibited + ARRAY_SIZE(inhibited))
		return 0;
	in->why = vm->inhibits;
	len = strlen(in->pids);
	if (in->n++ < 4)
		snprintf(in->pids + len, sizeof(in->pids) - len, " %u", vm->tgid);
	return 0;
}

static const char *inhibited_todo(const char *why)
{
	if (strstr(why, "disabled"))
		return "modprobe kvm-intel enable_apicv=1 or kvm-amd avic=1, if the CPU has it";
	if (strstr(why, "pit_reinj"))
		return "in QEMU: -global kvm-pit.lost_tick_policy=discard";
	if (strstr(why, "hyperv"))
		return "in QEMU: hv-avic=on, or no hv-synic";
	return "the guest, or its VMM, asked for what it cannot do";
}

static void check_apicv(void)
{
	char names[128];
	int err = vms_look(0, add_inhibited, NULL);

	if (err < 0) {
		note("APICv or AVIC", str("cannot be looked at: %s", strerror(-err)),
		     missing_caps(names, sizeof(names)) ?
			     "run as root" :
			     "boot a kernel with BTF that lets BPF go through open files",
		     true);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(inhibited) && inhibited[i].n; i++) {
		char *why = str("%s", apicv_text(inhibited[i].why));

		note("APICv or AVIC",
		     str("inhibited (%s) in %d VM%s:%s%s", why, inhibited[i].n,
			 inhibited[i].n > 1 ? "s" : "", inhibited[i].pids,
			 inhibited[i].n > 4 ? " ..." : ""),
		     inhibited_todo(why), true);
		free(why);
	}
}

int cmd_doctor(int argc, char **argv)
{
	static const char doc[] =
		"Say what this machine has for kvm_ext, what is missing and what to do.\v"
		"Exits with 0 if policies can be loaded, else with 4.";
	static const struct col cols[] = {
		{ "CHECK", false }, { "", false }, { "FOUND", false }, { "TO DO", false }
	};
	struct libscols_table *tbl;
	struct utsname un;
	bool good = true;
	int ret;

	ret = parse_args(argc, argv, NULL, NULL, "", doc, NULL);
	if (ret != OK)
		return ret;
	uname(&un);
	note("kernel", str("%s %s", un.release, un.machine), NULL, false);
	check_btf();
	check_modules();
	check_exit_names();
	check_figures();
	check_apicv();
	check_switch();
	check_mounts();
	check_rights();
	note("libbpf", str("%s, in this tool", libbpf_version_string()), NULL, false);
	check_version();

	for (int i = 0; i < nr_findings; i++)
		good &= !findings[i].todo || findings[i].minor;
	if (g.json) {
		j_open(NULL, '{');
		j_bool("ready", good);
		j_open("checks", '[');
		for (int i = 0; i < nr_findings; i++) {
			const struct finding *f = &findings[i];

			j_open(NULL, '{');
			j_str("check", f->what);
			j_str("result", !f->todo ? "ok" : f->minor ? "warning" : "missing");
			j_str("found", f->found);
			j_str("todo", f->todo);
			j_close('}');
		}
		j_close(']');
		j_close('}');
		return good ? OK : E_ENV;
	}
	tbl = tbl_new(cols, ARRAY_SIZE(cols));
	for (int i = 0; i < nr_findings; i++) {
		const struct finding *f = &findings[i];

		tbl_row(tbl, ARRAY_SIZE(cols), str("%s", f->what),
			str(!f->todo ? "ok" :
			    f->minor ? "warning" :
				       "missing"),
			f->found, str("%s", f->todo ? f->todo : ""));
	}
	tbl_print(tbl);
	say(good ? "Policies can be loaded." : "Policies cannot be loaded.");
	return good ? OK : E_ENV;
}
