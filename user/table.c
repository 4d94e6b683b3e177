// SPDX-License-Identifier: GPL-2.0
/* The op tables that the tool knows. */
#include "table.h"

#include "base.h"

const struct table tables[] = {
	{ .name = "throttle", .ops = "kvm_throttle_ops" },
	{ .name = "irq", .ops = "kvm_irq_ops" },
	{ .name = "save", .ops = "kvm_save_ops" },
	{ .name = "dirty", .ops = "kvm_dirty_ops" },
};
const int nr_tables = ARRAY_SIZE(tables);
