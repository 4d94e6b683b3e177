/* SPDX-License-Identifier: GPL-2.0 */
/* Parameters and counters from BTF, and their values as people write them. */
#ifndef __KVMEXT_VARS_H
#define __KVMEXT_VARS_H

#include <bpf/btf.h>

#include "base.h"

/**
 * value_parse - read a number as people write it
 * @text: decimal or 0x, with k, M, G, a unit of time, or @unit itself behind it
 * @unit: the unit that the result is in
 * @is_bool: on, off and their like instead
 * @out: result
 *
 * Return: NULL, or what is wrong with it.
 */
const char *value_parse(const char *text, const char *unit, bool is_bool, s128 *out);

enum var_kind { VAR_RODATA, VAR_DATA, VAR_BSS, VAR_KINDS };

/**
 * struct var - a parameter or a counter
 * @name: its name
 * @kind: VAR_RODATA set at load, VAR_DATA settable, VAR_BSS counter (or see @param)
 * @param: a parameter; else a counter
 * @type: its type's name
 * @size: in bytes: 1, 2, 4 or 8
 * @off: where in its section
 * @is_signed: it can be negative
 * @is_bool: on or off
 * @min: least value that may be set
 * @max: greatest
 * @unit: "" if none
 * @help: a line for people
 */
struct var {
	char *name;
	enum var_kind kind;
	bool param;
	char *type;
	uint32_t size;
	uint32_t off;
	bool is_signed;
	bool is_bool;
	s128 min;
	s128 max;
	const char *unit;
	const char *help;
};

struct vars {
	struct var *v;
	int n;
};

extern const char *const section_names[VAR_KINDS];
extern const char *const section_pins[VAR_KINDS];

/**
 * vars_from_btf - find the parameters and counters of a policy
 * @btf: of an object file or of a loaded map
 * @sizes: bytes in each section; a variable beyond them is refused
 * @vars: result
 *
 * Return: NULL, or what is wrong with the declarations.
 */
const char *vars_from_btf(const struct btf *btf, const size_t sizes[VAR_KINDS], struct vars *vars);
struct var *vars_find(const struct vars *vars, const char *name);
/* btf_tag - the text behind "kvmext:@key=" among the tags on type @id, or NULL */
const char *btf_tag(const struct btf *btf, int id, const char *key);
s128 var_load(const struct var *var, const void *section);
/* var_store - one aligned store, so that the policy never sees half a value */
void var_store(const struct var *var, void *section, s128 val);
const char *var_when(const struct var *var);

/**
 * struct setting - one NAME=VALUE of the command line, understood
 * @var: of the policy
 * @val: checked
 */
struct setting {
	const struct var *var;
	s128 val;
};

/**
 * settings_parse - understand NAME=VALUE arguments, all of them or none
 * @what: the policy's name, for the error
 * @vars: what it has
 * @args: NAME=VALUE texts
 * @n: how many
 * @running: the policy is loaded, so load-time parameters are refused
 * @out: result, from malloc
 */
int settings_parse(const char *what, const struct vars *vars, char *const *args, int n,
		   bool running, struct setting **out);

#endif /* __KVMEXT_VARS_H */
