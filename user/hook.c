// SPDX-License-Identifier: GPL-2.0
/* Which attach points for tracers this kernel has. */
#include "hook.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base.h"
#include "exitname.h"
#include "host.h"
#include "out.h"
#include "table.h"
#include "text.h"

static struct btf *vmlinux_btf(void)
{
	static struct btf *btf;
	struct btf *kvm = kvm_btf();

	/* It takes a while to read, so once is enough. */
	if (!btf)
		btf = !kvm ? btf__load_vmlinux_btf() : (struct btf *)btf__base_btf(kvm) ?: kvm;
	return btf;
}

/* BTF of a module, with the kernel's below it, or of the kernel if it is built in there; kept */
static struct btf *module_btf(const char *module)
{
	static struct {
		const char *module;
		struct btf *btf;
	} known[8];
	struct btf *base = vmlinux_btf();
	size_t i;

	if (!strcmp(module, "kvm"))
		return kvm_btf() ?: base;
	for (i = 0; i < ARRAY_SIZE(known) && known[i].module; i++)
		if (!strcmp(known[i].module, module))
			return known[i].btf;
	if (i == ARRAY_SIZE(known) || !base)
		return NULL;
	known[i].module = module;
	known[i].btf = btf__load_module_btf(module, base) ?: base;
	return known[i].btf;
}

static bool find(const char *module, const char *name, uint32_t kind)
{
	struct btf *btf = module_btf(module);

	return btf && btf__find_by_name_kind(btf, name, kind) > 0;
}

static bool plain_tracepoint(const char *group, const char *name)
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

static bool has_tracepoint(const char *name)
{
	char *type = str("btf_trace_%s", name);
	bool has = find("kvm", type, BTF_KIND_TYPEDEF);

	free(type);
	return has;
}

bool hook_has(enum point_id id)
{
	const struct point *p = &points[id];

	switch (p->kind) {
	case FUNCTION:
		return find(p->module, p->name, BTF_KIND_FUNC) && fentry_works();
	case STRUCT:
		return find("kvm", p->name, BTF_KIND_STRUCT);
	default:
		return has_tracepoint(p->name);
	}
}

static bool is_loaded(const char *module)
{
	char *dir = str("/sys/module/%s", module);
	bool there = !access(dir, F_OK);

	free(dir);
	return there;
}

bool foreign_kvm(void)
{
	return !is_loaded("kvm_amd") && !is_loaded("kvm_intel");
}

enum hook hook_exit(const char **how)
{
	static const char *const vendor[][2] = {
		{ "kvm_amd", "vcpu_svm" },
		{ "kvm_intel", "vcpu_vmx" },
		{ "kvm_pvm", "vcpu_pvm" },
	};

	if (!hook_has(POINT_ENTRY))
		return HOOK_NONE;
	for (size_t i = 0; hook_has(POINT_EXIT) && i < ARRAY_SIZE(vendor); i++) {
		if (!is_loaded(vendor[i][0]) || !find(vendor[i][0], vendor[i][1], BTF_KIND_STRUCT))
			continue;
		*how = str("BTF tracepoint, reason from struct %s%s", vendor[i][1],
			   foreign_kvm() ? "; if it is silent, kvm_fpu, for exits to user space" :
					   "");
		return HOOK_TP_BTF;
	}
	*how = "plain tracepoint";
	return plain_tracepoint("kvm", "kvm_exit") ? HOOK_TP : HOOK_NONE;
}

enum hook hook_figure(enum point_id id, const char **how)
{
	const struct point *p = &points[id];

	if (id == POINT_EXIT)
		return hook_exit(how);
	switch (p->kind) {
	case FUNCTION:
		/* The other vendor's */
		if (strcmp(p->module, "kvm") && !is_loaded(p->module) &&
		    !(foreign_kvm() && !strcmp(p->module, "kvm_amd")))
			return HOOK_NOT_HERE;
		*how = str("fentry of %s", p->name);
		return hook_has(id) ? HOOK_FENTRY : HOOK_NONE;
	case STRUCT:
		*how = str("the scheduler's run_delay (struct %s)", p->name);
		break;
	default:
		*how = str("BTF tracepoint %s", p->name);
	}
	return hook_has(id) ? HOOK_TP_BTF : HOOK_NONE;
}

int need_kvm(void)
{
	int ret = need_privilege();

	if (ret != OK)
		return ret;
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		return fail(E_ENV, "boot a kernel with CONFIG_DEBUG_INFO_BTF",
			    "this kernel has no BTF");
	if (access("/sys/module/kvm", F_OK))
		return fail(E_ENV, "modprobe kvm-amd or kvm-intel", "the kvm module is not loaded");
	if (!hook_has(POINT_EXIT) || !hook_has(POINT_ENTRY))
		return fail(E_ENV, "load a kvm module that has BTF of this very kernel",
			    "this kernel's KVM has no BTF, or no tracepoints");
	return OK;
}
