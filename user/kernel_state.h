/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's state file. */
#ifndef __KVMEXT_KERNEL_STATE_H
#define __KVMEXT_KERNEL_STATE_H

#include "base.h"

/**
 * struct rec - a line of the state file
 * @kind: "policy", "vm", "vcpu", ...
 * @key: keys
 * @val: values
 * @n: how many
 */
struct rec {
	char *kind;
	char *key[48];
	char *val[48];
	int n;
};

struct state {
	struct rec *rec;
	int n;
	uint64_t read_ns;
	char *text;
};

/* The version of the state file that this tool reads. */
#define STATE_VERSION 1

/*
 * state_read - read the file; E_ENV if it is missing or of another version than
 * STATE_VERSION, E_PRIV if it may not be read
 */
int state_read(struct state *st);
/* state_version - the version that the file says it has; 0 if there is no file, -errno */
int state_version(void);
void state_free(struct state *st);
const char *rec_str(const struct rec *r, const char *key);
bool rec_num(const struct rec *r, const char *key, uint64_t *val);
uint64_t rec_u64(const struct rec *r, const char *key);
bool rec_is(const struct rec *r, const char *kind);
/* rec_find - the first record of a kind with that key and number, or NULL */
const struct rec *rec_find(const struct state *st, const char *kind, const char *key, uint64_t val);
/* rec_json - all of a record into the open object, with keys in @skip left out */
void rec_json(const struct rec *r, const char *skip);

#endif /* __KVMEXT_KERNEL_STATE_H */
