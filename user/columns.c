// SPDX-License-Identifier: GPL-2.0
/* Tables in columns, by libsmartcols. */
#include "columns.h"

#include <stdarg.h>

#include "base.h"
#include "text.h"

struct libscols_table *tbl_new(const struct col *cols, int n)
{
	struct libscols_table *tbl = scols_new_table();

	if (!tbl)
		abort();
	for (int i = 0; i < n; i++)
		if (!scols_table_new_column(tbl, cols[i].name, 0,
					    cols[i].right ? SCOLS_FL_RIGHT : 0))
			abort();
	return tbl;
}

void tbl_row(struct libscols_table *tbl, int n, ...)
{
	struct libscols_line *line = scols_table_new_line(tbl, NULL);
	va_list ap;

	if (!line)
		abort();
	va_start(ap, n);
	for (int i = 0; i < n; i++) {
		char *s = va_arg(ap, char *);

		if (s)
			printable(s, "");
		if (scols_line_refer_data(line, i, s ? s : str("-")))
			abort();
	}
	va_end(ap);
}

void tbl_row_of(struct libscols_table *tbl, int n, char *const *cells)
{
	struct libscols_line *line = scols_table_new_line(tbl, NULL);

	for (int i = 0; i < n; i++) {
		char *s = str("%s", cells[i]);

		printable(s, "");
		if (!line || scols_line_refer_data(line, i, s))
			abort();
	}
}

void tbl_print(struct libscols_table *tbl)
{
	scols_print_table(tbl);
	scols_unref_table(tbl);
}
