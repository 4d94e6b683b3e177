/* SPDX-License-Identifier: GPL-2.0 */
/* What of the kernel the tool knows by name: op tables, and attach points of tracers. */
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

/* Where tracers attach, in the order in which doctor shows those that have a figure */
enum point_id {
	POINT_EXIT,
	POINT_FAULT,
	POINT_DIRTY,
	POINT_BLOCK,
	POINT_INJECT,
	POINT_SVM_IRQ,
	POINT_VMX_IRQ,
	POINT_WAKEUP,
	POINT_WAKING,
	POINT_ACCEPT,
	POINT_READY,
	POINT_ATTACH,
	POINT_UPDATE,
	POINT_DETACH,
	POINT_EJECT,
	POINT_TAKE,
	POINT_ENTRY,
	POINT_USER_EXIT,
	POINT_FPU,
	POINT_THREAD_EXIT,
	POINT_HALT,
	POINT_DESTROY,
	POINT_MARK,
	POINT_ASK,
	POINT_DIRTY_LOG,
	POINT_EXCEPTION,
	POINT_MSI,
	POINT_ROUTE,
	POINT_RETARGET,
	POINTS,
};

enum point_kind { TRACEPOINT, FUNCTION, STRUCT };

/**
 * struct point - an attach point
 * @kind: what it is; a struct is no attach point, but read by programs that are attached
 * @name: the kernel's name for it
 * @module: whose function it is, else NULL
 * @figure: what the tracers show by it, NULL if doctor does not tell
 * @verbs: what shows that
 */
struct point {
	enum point_kind kind;
	const char *name;
	const char *module;
	const char *figure;
	const char *verbs;
};

extern const struct point points[POINTS];

#endif /* __KVMEXT_TABLE_H */
