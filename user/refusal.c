// SPDX-License-Identifier: GPL-2.0
/* Why the kernel refused a policy: the errors of libbpf and the kernel in our words. */
#include "refusal.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base.h"
#include "host.h"
#include "kernel_state.h"
#include "log.h"
#include "object.h"
#include "out.h"
#include "policy.h"
#include "text.h"

/* Whether the op's program is declared SEC("struct_ops.s/..."). */
static bool op_sleeps(const struct object *o, const char *op)
{
	const struct btf *btf = bpf_object__btf(o->obj);

	for (int i = 0; i < btf_vlen(o->ops_type); i++) {
		const struct btf_member *m = btf_members(o->ops_type) + i;
		const struct bpf_program *prog = object_prog(o, m);

		if (prog && !strcmp(btf__str_by_offset(btf, m->name_off), op))
			return !strncmp(bpf_program__section_name(prog), "struct_ops.s", 12);
	}
	return false;
}

/* The first of its CONFIG_ variables: without the kernel's configuration it has no value. */
static const char *kconfig_name(const struct object *o)
{
	const struct btf *btf = bpf_object__btf(o->obj);
	int id = btf__find_by_name_kind(btf, ".kconfig", BTF_KIND_DATASEC);
	const struct btf_type *sec = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (int i = 0; sec && i < btf_vlen(sec); i++) {
		const struct btf_type *t = btf__type_by_id(btf, btf_var_secinfos(sec)[i].type);
		const char *name = btf__str_by_offset(btf, t->name_off);

		if (!strncmp(name, "CONFIG_", 7))
			return name;
	}
	return "__kconfig";
}

/* Which of libbpf's and the verifier's lines tells what is wrong, in our words. */
int load_refused(const struct object *o, uint32_t vm, int err)
{
	static const char rebuild[] = "build it with this kernel's vmlinux.h";
	char *prog = log_word("prog '", "'"), *line, *word, *what;
	char *place = vm ? str("VM %u", vm) : str("every VM");
	struct utsname un;

	if (strstr(log_text(), "failed to open system Kconfig")) {
		uname(&un);
		return fail(E_OBJECT,
			    str("put the kernel's .config there, or declare %s __weak",
				kconfig_name(o)),
			    "%s reads the kernel's configuration (%s, __kconfig), which is neither "
			    "/boot/config-%s nor /proc/config.gz",
			    o->path, kconfig_name(o), un.release);
	}
	word = log_word("extern (kcfg) '", "'") ?: log_word("extern 'CONFIG_", "'");
	if (word && strncmp(word, "CONFIG_", 7))
		word = str("CONFIG_%s", word);
	if (word)
		return fail(E_OBJECT, str("declare %s __weak, or build it for this kernel", word),
			    "%s reads %s (__kconfig), which this kernel's configuration does not "
			    "have as declared",
			    o->path, word);

	line = log_line("extern (var ksym) '");
	if (line) {
		word = log_word("extern (var ksym) '", "'");
		return fail(E_OBJECT, "build it for this kernel, or update the kvm modules",
			    strstr(line, "incompatible types") ?
				    "%s reads %s (__ksym), which has another type in this kernel" :
				    "%s reads %s (__ksym), which this kernel does not have",
			    o->path, word);
	}
	if (strstr(log_text(), "not found in kernel or module BTFs")) {
		word = log_word("extern (func ksym) '", "'");
		return fail(E_OBJECT, "build it for this kernel, or update the kvm modules",
			    "%s calls %s(), which this kernel does not have", o->path,
			    word ? word : "a kernel function");
	}
	if (strstr(log_text(), "incompatible with")) {
		word = log_word("'", "'");
		return fail(E_OBJECT, rebuild,
			    "%s is built for another kernel: its '%s' has another type here",
			    o->path, word ? word : "?");
	}
	line = log_line("failed to resolve CO-RE relocation");
	if (line) {
		/* "<byte_off> [8] struct kvm_vcpu.x (0:0 @ offset 0)" */
		word = log_word("failed to resolve CO-RE relocation ", "\n(");
		what = strstr(word, "] ");
		return fail(E_OBJECT, rebuild,
			    "%s is built for another kernel: '%s' uses %s, which is not here",
			    o->path, prog ? prog : "?", what ? what + 2 : word);
	}
	if (strstr(log_text(), "isn't referenced anywhere"))
		return fail(E_OBJECT, "name it in the table, or remove it",
			    "%s's program '%s' is for no op of its table", o->path,
			    prog ? prog : "?");
	if (strstr(log_text(), "Cannot find member") || strstr(log_text(), "Unmatched member") ||
	    strstr(log_text(), "Error in size of member") ||
	    strstr(log_text(), "is not found in kernel BTF")) {
		line = log_last();
		return fail(E_OBJECT, rebuild, "%s is built for another kernel: %s", o->path,
			    line ? line : "its table is another");
	}
	word = log_word("attach to unsupported member ", " \n");
	if (word && op_sleeps(o, word))
		return fail(E_REFUSED, str("declare it SEC(\"struct_ops/%s\"), without .s", word),
			    "%s's program for '%s' may sleep, but that op must not", o->path, word);
	if (word)
		return fail(E_REFUSED, "leave that op out", "this kernel takes no program for '%s'",
			    word);
	line = log_verdict();
	if (line) {
		const char *end = strstr(log_text(), "-- BEGIN PROG LOAD LOG --");

		/* The program at fault is the one named last before its log. */
		for (const char *p = log_text(); p && p < end;) {
			p = strstr(p, "prog '");
			if (p && p < end)
				prog = str("%.*s", (int)strcspn(p + 6, "'"), p + 6);
			if (p)
				p++;
		}
		return fail(E_REFUSED, "-v shows the verifier's whole log",
			    "%s: the verifier refuses '%s': %s", o->path, prog ? prog : "?", line);
	}
	if (err == -EPERM || err == -EACCES)
		return fail(E_PRIV, "run it as root, outside containers that forbid bpf()",
			    "loading %s for %s is not permitted", o->path, place);
	line = log_last();
	return fail(E_REFUSED, "-v shows all that libbpf says", "cannot load %s for %s: %s",
		    o->path, place, line ? line : strerror(-err));
}

/* Who has the place that a policy for @vm would take, or NULL. */
static const char *holder(const struct object *o, uint32_t vm)
{
	struct policies ps;
	bool was;
	int ret;

	if (access(str("%s/kvm/ext/state", g.debugfs), R_OK))
		return NULL;
	/* It only makes an error clearer; its own errors are not of interest. */
	was = fail_mute(true);
	ret = policies_read(&ps);
	fail_mute(was);
	for (int i = 0; ret == OK && i < ps.n; i++) {
		const char *table = rec_str(ps.p[i].rec, "table");
		const char *state = rec_str(ps.p[i].rec, "state");

		if (ps.p[i].vm == vm && table && !strcmp(table, o->table->name) &&
		    !(state && !strcmp(state, "vm-gone")))
			return ps.p[i].instance;
	}
	return NULL;
}

int link_refused(const struct object *o, const char *doing, uint32_t vm, int err)
{
	const char *other, *line;
	char *place = vm ? str("VM %u", vm) : str("every VM");

	switch (err) {
	case -ESRCH:
		return fail(E_VM, "see kvmext status, or give another process id",
			    "cannot %s '%s' for %s: the VM is gone, or never was", doing, o->name,
			    place);
	case -ENOTUNIQ:
		return fail(E_VM, "a policy for every VM can be loaded without --vm",
			    "process %u has several VMs, so it does not name one", vm);
	case -EEXIST:
	case -EBUSY:
		other = holder(o, vm);
		return fail(E_CONFLICT,
			    str("use kvmext switch %s %s, or kvmext unload %s first",
				other ? other : "OLD", o->path, other ? other : "OLD"),
			    "cannot %s '%s': %s has the policy '%s' already", doing, o->name, place,
			    other ? other : "of someone else");
	case -EPERM:
	case -EACCES:
		if (kill_switch_on())
			return fail(E_ENV, "to allow them: echo Y > " KILL_SWITCH,
				    "cannot %s '%s': the kill switch keeps all policies off", doing,
				    o->name);
		return fail(E_PRIV, "run it as root", "cannot %s '%s': not permitted", doing,
			    o->name);
	case -EOPNOTSUPP:
		return fail(
			E_REFUSED,
			"run the VMM without a dirty ring; a protected guest cannot have one",
			"cannot %s '%s': %s has a dirty ring, which is read past KVM, or memory that KVM may not read",
			doing, o->name, place);
	case -EINVAL:
		return fail(E_REFUSED, "check .flags of its table, and dmesg",
			    "cannot %s '%s': the kernel finds its table invalid", doing, o->name);
	}
	line = strerror(-err);
	return fail(E_REFUSED, "see dmesg", "cannot %s '%s': %s", doing, o->name, line);
}
