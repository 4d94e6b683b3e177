// SPDX-License-Identifier: GPL-2.0
/* Which attach points for tracers this kernel has. */
#include "hook.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static struct btf *vmlinux_btf(void)
{
	static struct btf *btf;
	struct btf *kvm = kvm_btf();

	/* It takes a while to read, so once is enough. */
	if (!btf)
		btf = !kvm ? btf__load_vmlinux_btf() : (struct btf *)btf__base_btf(kvm) ?: kvm;
	return btf;
}

/* In KVM's BTF, which has the kernel's below it, or in that alone. */
static int find(const char *name, uint32_t kind)
{
	struct btf *btf = kvm_btf() ?: vmlinux_btf();

	return btf ? btf__find_by_name_kind(btf, name, kind) : -ENOENT;
}

bool hook_tp_btf(const char *name)
{
	char *type = str("btf_trace_%s", name);
	bool has = find(type, BTF_KIND_TYPEDEF) > 0;

	free(type);
	return has;
}

bool hook_tp(const char *group, const char *name)
{
	char *file = str("events/%s/%s/id", group, name);
	const char *path;
	int dir = tracefs_open(&path);
	bool has = dir >= 0 && !faccessat(dir, file, R_OK, 0);

	if (dir >= 0)
		close(dir);
	free(file);
	return has;
}

/*
 * Whether programs can be attached to functions depends on more than the kernel's
 * version, so one is attached to a function that is there for tests, and nothing
 * calls, and taken off again.
 */
static bool fentry_works(void)
{
	static int works = -1;
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_TRACE_FENTRY);
	int id, prog, link = -1;

	if (works >= 0)
		return works;
	works = 0;
	id = vmlinux_btf() ?
		     btf__find_by_name_kind(vmlinux_btf(), "bpf_fentry_test1", BTF_KIND_FUNC) :
		     -ENOENT;
	if (id <= 0)
		return false;
	opts.attach_btf_id = id;
	prog = bpf_prog_load(BPF_PROG_TYPE_TRACING, "probe", "GPL", insns, ARRAY_SIZE(insns),
			     &opts);
	if (prog >= 0)
		link = bpf_raw_tracepoint_open(NULL, prog);
	works = link >= 0;
	if (link >= 0)
		close(link);
	if (prog >= 0)
		close(prog);
	return works;
}

bool hook_fentry(const char *func)
{
	return find(func, BTF_KIND_FUNC) > 0 && fentry_works();
}

static bool vendor_has(const char *module, const char *type)
{
	struct btf *btf = vmlinux_btf();
	bool has = btf && btf__find_by_name_kind(btf, type, BTF_KIND_STRUCT) > 0;

	if (has || !btf)
		return has;
	btf = btf__load_module_btf(module, btf);
	has = btf && btf__find_by_name_kind(btf, type, BTF_KIND_STRUCT) > 0;
	btf__free(btf);
	return has;
}

enum hook hook_exit(const char **how)
{
	static const char *const vendor[][2] = {
		{ "kvm_amd", "vcpu_svm" },
		{ "kvm_intel", "vcpu_vmx" },
		{ "kvm_pvm", "vcpu_pvm" },
	};

	if (!hook_tp_btf("kvm_entry"))
		return HOOK_NONE;
	for (size_t i = 0; hook_tp_btf("kvm_exit") && i < ARRAY_SIZE(vendor); i++) {
		char *dir = str("/sys/module/%s", vendor[i][0]);
		bool there = !access(dir, F_OK);

		free(dir);
		if (there && vendor_has(vendor[i][0], vendor[i][1])) {
			*how = str("BTF tracepoint, reason from struct %s", vendor[i][1]);
			return HOOK_TP_BTF;
		}
	}
	*how = "plain tracepoint";
	return hook_tp("kvm", "kvm_exit") ? HOOK_TP : HOOK_NONE;
}

const struct figure figures[] = {
	{ "exit", "trace exit, hist exit", NULL },
	{ "fault", "trace fault", "kvm_page_fault" },
	{ "dirty", "trace dirty", "mark_page_dirty_in_slot" },
	{ "block", "trace throttle, hist block", "kvm_throttle_block" },
	{ "inject", "trace irq, hist inject", "kvm_inj_virq" },
	{ "wakeup", "trace irq, hist wakeup", "kvm_vcpu_wakeup" },
	{ "policy", "trace policy", "kvm_ext_attach" },
};
const int nr_figures = ARRAY_SIZE(figures);

enum hook figure_hook(const struct figure *f, const char **how)
{
	if (!f->point)
		return hook_exit(how);
	if (!strcmp(f->name, "dirty")) {
		*how = str("fentry of %s", f->point);
		return hook_fentry(f->point) ? HOOK_FENTRY : HOOK_NONE;
	}
	*how = str("BTF tracepoint %s", f->point);
	return hook_tp_btf(f->point) ? HOOK_TP_BTF : HOOK_NONE;
}

int need_kvm(void)
{
	if (access("/sys/kernel/btf/vmlinux", F_OK))
		return fail(E_ENV, "boot a kernel with CONFIG_DEBUG_INFO_BTF",
			    "this kernel has no BTF");
	if (access("/sys/module/kvm", F_OK))
		return fail(E_ENV, "modprobe kvm-amd or kvm-intel", "the kvm module is not loaded");
	if (!hook_tp_btf("kvm_entry"))
		return fail(E_ENV, "load a kvm module that has BTF of this very kernel",
			    "this kernel's KVM has no BTF, or no tracepoints");
	return OK;
}
