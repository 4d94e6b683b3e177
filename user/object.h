/* SPDX-License-Identifier: GPL-2.0 */
/* Policy files: what is in them, and bringing one into the kernel. */
#ifndef __KVMEXT_OBJECT_H
#define __KVMEXT_OBJECT_H

#include <bpf/libbpf.h>

#include "table.h"
#include "vars.h"

/* Longest text in an op table's .name, without the NUL. */
#define NAME_MAX_LEN 31

/**
 * struct object - a policy file, opened and found good
 * @path: where it is
 * @file: contents, until it is opened
 * @size: of @file
 * @obj: libbpf's view
 * @ops: its table
 * @table: which table that is
 * @ops_type: BTF type of the table in the object
 * @name: the policy's name, from the table
 * @about: its description or NULL
 * @vars: what it offers
 * @sec: initial contents of the sections, NULL if absent
 */
struct object {
	const char *path;
	char *file;
	size_t size;
	struct bpf_object *obj;
	struct bpf_map *ops;
	const struct table *table;
	const struct btf_type *ops_type;
	char name[NAME_MAX_LEN + 1];
	const char *about;
	struct vars vars;
	void *sec[VAR_KINDS];
	struct bpf_map *map[VAR_KINDS];
};

/*
 * object_file - get a file's contents, for object_open() to read
 *
 * Once: who can write to the file, or to its folder, must not be able to show one
 * to the checks and another to libbpf.
 */
int object_file(const char *path, struct object *o);
/* object_open - read a policy file; asks nothing of the kernel and changes nothing */
int object_open(struct object *o);
/* object_read - the same with nothing between us and libbpf, which bad contents may crash */
int object_read(struct object *o);
/* object_prog - the program in the policy's table for its member @m, or NULL */
const struct bpf_program *object_prog(const struct object *o, const struct btf_member *m);
/* object_set - give parameters other values than their defaults, before object_load() */
void object_set(struct object *o, const struct setting *set, int n);
/*
 * object_fits - OK, or what was reported: the kernel's table is another one than the file's.
 * To be asked before object_load().
 */
int object_fits(const struct object *o);
/*
 * object_load - verify and create it all in the kernel for one VM or all (0); not in force
 * yet.  0 or -errno; the log says why
 */
int object_load(struct object *o, uint32_t vm);
/* object_fill - give the kernel's table its programs; 0 or -errno */
int object_fill(const struct object *o);
int object_ops_fd(const struct object *o);

#endif /* __KVMEXT_OBJECT_H */
