/* SPDX-License-Identifier: GPL-2.0 */
/* Policies that are loaded. */
#ifndef __KVMEXT_POLICY_H
#define __KVMEXT_POLICY_H

#include "kernel_state.h"
#include "vars.h"

/**
 * struct policy - a loaded policy
 * @instance: NAME, or NAME@PID if it is for one VM; TABLE: comes before it but
 *	for the first table
 * @rec: its line in the state file
 * @link_id: of its link
 * @vm: 0 for every VM
 * @dir: where it is pinned, NULL if the tool did not load it
 * @in_charge: the table pinned there is the one in force
 * @pin_err: errno with which its pins could not be read; then @dir is not known
 */
struct policy {
	char *instance;
	const struct rec *rec;
	uint32_t link_id;
	uint32_t vm;
	char *dir;
	bool in_charge;
	int pin_err;
};

struct policies {
	struct state st;
	struct policy *p;
	int n;
};

/* policies_read - all of them; changes nothing */
int policies_read(struct policies *ps);
int policy_find(const struct policies *ps, const char *name, struct policy **p);
/* policy_pins - OK, or what was reported: whether the tool pinned it cannot be read */
int policy_pins(const struct policy *p);
/* json_pinned - "pinned", null if that cannot be read */
void json_pinned(const struct policy *p);
/*
 * policy_taken - the next record, after @r or the first if that is NULL, of a VM that the
 * kernel took the policy from for an error that only that VM saw; NULL at the end
 */
const struct rec *policy_taken(const struct policies *ps, const struct policy *p,
			       const struct rec *r);
/* json_taken - "taken", an array of these */
void json_taken(const struct policies *ps, const struct policy *p);
/* instance_name - as struct policy has it; for a policy of that table */
char *instance_name(const char *table, const char *name, uint32_t vm);

/**
 * struct inside - the sections of a loaded policy, mapped or copied
 * @vars: what it has
 * @sec: contents
 * @live: that section is the policy's own and can be written; else @sec has a copy
 * @about: its description or NULL
 */
struct inside {
	struct vars vars;
	void *sec[VAR_KINDS];
	bool live[VAR_KINDS];
	const char *about;
};

int policy_inside(const struct policy *p, struct inside *in);
/* policy_map - a descriptor of its map of that name (or section, with its dot), or -1 */
int policy_map(const struct policy *p, const char *name);

#endif /* __KVMEXT_POLICY_H */
