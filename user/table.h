/* SPDX-License-Identifier: GPL-2.0 */
/* The op tables that the tool knows. */
#ifndef __KVMEXT_TABLE_H
#define __KVMEXT_TABLE_H

/**
 * struct table - an op table that the tool knows
 * @name: as in the kernel's state file
 * @ops: its struct's name
 */
struct table {
	const char *name;
	const char *ops;
};

extern const struct table tables[];
extern const int nr_tables;

#endif /* __KVMEXT_TABLE_H */
