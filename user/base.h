/* SPDX-License-Identifier: GPL-2.0 */
/* What every file of the tool may use: exit codes and the options of every command. */
#ifndef __KVMEXT_BASE_H
#define __KVMEXT_BASE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define KVMEXT_VERSION "0.2"
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define __printf(f, a) __attribute__((format(printf, f, a)))

typedef __int128 s128;

/**
 * enum code - exit codes, also "code" in JSON errors; they never change
 * @OK: done
 * @E_INTERNAL: the tool or the system failed in a way that has no better code
 * @E_USAGE: the command line makes no sense
 * @E_PRIV: more privilege is needed
 * @E_ENV: the kernel or its set-up lacks something
 * @E_OBJECT: the object file cannot be a policy here
 * @E_PARAM: no such parameter, or a value it does not take
 * @E_VM: no such VM or vCPU
 * @E_CONFLICT: the place or the name is taken
 * @E_POLICY: no such policy
 * @E_REFUSED: the kernel or its verifier said no
 */
enum code {
	OK,
	E_INTERNAL,
	E_USAGE,
	E_PRIV,
	E_ENV,
	E_OBJECT,
	E_PARAM,
	E_VM,
	E_CONFLICT,
	E_POLICY,
	E_REFUSED,
};

/**
 * struct global - the options every command takes
 * @json: one JSON document on stdout, for results and errors alike
 * @quiet: say nothing when all is well
 * @verbose: libbpf's whole log on stderr
 * @bpffs: where bpffs is mounted
 * @debugfs: where debugfs is mounted
 */
struct global {
	bool json;
	bool quiet;
	bool verbose;
	const char *bpffs;
	const char *debugfs;
};

extern struct global g;
/* By enum code, as "name" in JSON errors */
extern const char *const code_names[];

#endif /* __KVMEXT_BASE_H */
