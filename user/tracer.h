/* SPDX-License-Identifier: GPL-2.0 */
/* What the tracers do alike: filters, time, the end. */
#ifndef __KVMEXT_TRACER_H
#define __KVMEXT_TRACER_H

#include <linux/types.h>

#include "args.h"
#include "event.h"

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

#endif /* __KVMEXT_TRACER_H */
