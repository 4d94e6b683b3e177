/* SPDX-License-Identifier: GPL-2.0 */
/* kvmext trace, hist and doctor: attach points, and what the tracers share. */
#ifndef __KVMEXT_HOOK_H
#define __KVMEXT_HOOK_H

#include <linux/types.h>

#include "trace.h"
#include "kvmext.h"

enum hook { HOOK_NONE, HOOK_NOT_HERE, HOOK_TP_BTF, HOOK_TP, HOOK_FENTRY };

/* hook_tp_btf - KVM or the kernel has this tracepoint, with BTF */
bool hook_tp_btf(const char *name);
bool hook_tp(const char *group, const char *name);
/* hook_fentry - the module or the kernel has this function, and programs can be put there */
bool hook_fentry(const char *module, const char *func);
/* hook_type - KVM or the kernel has this struct */
bool hook_type(const char *name);
/* foreign_kvm - neither vendor's module: kvm_exit may be silent (user/watch.bpf.h) */
bool foreign_kvm(void);
/* hook_exit - how to learn why a vCPU exited; @how is for people */
enum hook hook_exit(const char **how);
/* need_kvm - OK, or why KVM cannot be traced here, reported */
int need_kvm(void);

/**
 * struct figure - something that the tracers show
 * @name: of it
 * @verbs: what shows it
 * @module: whose function @point is; NULL: a tracepoint
 * @point: its attach point, or NULL if there is more to it
 */
struct figure {
	const char *name;
	const char *verbs;
	const char *module;
	const char *point;
};

extern const struct figure figures[];
extern const int nr_figures;
/* figure_hook - the best way to it that this kernel has; HOOK_NOT_HERE: of other machines */
enum hook figure_hook(const struct figure *f, const char **how);

/* --- tracer.c: what trace and hist do alike --- */

enum { OPT_REASON = 0x200, OPT_MIN_US, OPT_FOR, OPT_PERFETTO, OPT_BUFFER, OPT_PER_VCPU };

/**
 * struct tracer - what the tracers have in common: options of a run
 * @cmd: the command
 * @filter: for the programs
 * @ns: how long to run, 0: until Ctrl-C
 * @reason: texts of --reason
 */
struct tracer {
	const char *cmd;
	struct filter filter;
	uint64_t ns;
	const char *reason[REASONS_MAX];
};

/* Of both */
#define TRACER_OPTIONS                                                                     \
	{ "vm", OPT_VM, "PID", 0, "only this VM, by its VMM's process id", 0 },            \
		{ "vcpu", OPT_VCPU, "N", 0, "only this vCPU", 0 },                         \
		{ "reason",                                                                \
		  OPT_REASON,                                                              \
		  "NAME",                                                                  \
		  0,                                                                       \
		  "only exits for this reason, such as cpuid; repeatable",                 \
		  0 },                                                                     \
	{                                                                                  \
		"for", OPT_FOR, "SEC", 0, "end after so many seconds; else with Ctrl-C", 0 \
	}

/* tracer_option - understand --vm, --vcpu, --reason, --min-us or --for */
error_t tracer_option(struct tracer *r, int key, const char *arg);
/* tracer_ready - all that can be refused before anything is loaded */
int tracer_ready(struct tracer *r);
/* tracer_begin - the programs are attached: say so; the time runs */
void tracer_begin(const struct tracer *r);
/**
 * tracer_wait - wait a bit
 * @r: the run
 * @fd: return early when this can be read, or -1
 *
 * Return: false if the run is over: time, Ctrl-C, or the VM has exited.
 */
bool tracer_wait(struct tracer *r, int fd);
/* tracer_end - say why it ended if it is not what was asked for */
void tracer_end(const struct tracer *r);
double tracer_seconds(const struct tracer *r);
/* tracer_silent - say how a KVM whose kvm_exit is silent is shown, if that was so */
void tracer_silent(const struct tracer *r, uint64_t exits);
/* tracer_load_error - report that the programs were not loaded */
int tracer_load_error(const char *cmd);
/* is_vmm - whether the process has a VM; remembered for a second */
bool is_vmm(uint32_t pid);

/* --- perfetto.c: a file for ui.perfetto.dev and chrome://tracing --- */

int perfetto_open(const char *path);
void perfetto_vcpu(uint32_t vm, int32_t vcpu, uint32_t tid);
/**
 * perfetto_event - write an event
 * @ev: it
 * @cat: its kind
 * @name: what it is called there
 * @args: more about it, members of a JSON object, "" if none
 */
void perfetto_event(const struct event *ev, const char *cat, const char *name, const char *args);
/* perfetto_flush - write it out; false if that failed, now or before */
bool perfetto_flush(void);
/* perfetto_close - make it whole; E_INTERNAL if not all could be written */
int perfetto_close(void);

#endif /* __KVMEXT_HOOK_H */
