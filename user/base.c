// SPDX-License-Identifier: GPL-2.0
/* What the whole tool knows: the options of every command, and the names of exit codes. */
#include "base.h"

struct global g = {
	.bpffs = "/sys/fs/bpf",
	.debugfs = "/sys/kernel/debug",
};

const char *const code_names[] = {
	[OK] = "ok",
	[E_INTERNAL] = "internal",
	[E_USAGE] = "usage",
	[E_PRIV] = "privilege",
	[E_ENV] = "environment",
	[E_OBJECT] = "object",
	[E_PARAM] = "parameter",
	[E_VM] = "vm",
	[E_CONFLICT] = "conflict",
	[E_POLICY] = "policy",
	[E_REFUSED] = "refused",
};
