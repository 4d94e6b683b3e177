/* SPDX-License-Identifier: GPL-2.0 */
/* Tables in columns, by libsmartcols. */
#ifndef __KVMEXT_COLUMNS_H
#define __KVMEXT_COLUMNS_H

#include <libsmartcols/libsmartcols.h>

#include "base.h"

/**
 * struct col - a column of a table
 * @name: its heading
 * @right: numbers, flush right
 */
struct col {
	const char *name;
	bool right;
};

struct libscols_table *tbl_new(const struct col *cols, int n);
/* tbl_row - add a line; takes @n strings from malloc, NULL shows as "-" */
void tbl_row(struct libscols_table *tbl, int n, ...);
/* tbl_row_of - add a line; copies @n strings */
void tbl_row_of(struct libscols_table *tbl, int n, char *const *cells);
void tbl_print(struct libscols_table *tbl);

#endif /* __KVMEXT_COLUMNS_H */
