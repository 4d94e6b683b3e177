// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters and counters of a policy, from the BTF declaration tags that
 * bpf/kvmext.bpf.h puts on variables.  The same code reads an object file and
 * a policy that is loaded: the kernel keeps the tags.
 */
#include "vars.h"

#include <bpf/btf.h>
#include <ctype.h>
#include <strings.h>

#include "base.h"
#include "out.h"
#include "text.h"

#define TAG "kvmext:"

const char *const section_names[VAR_KINDS] = { ".rodata", ".data", ".bss" };
const char *const section_pins[VAR_KINDS] = { "rodata", "data", "bss" };

const char *btf_tag(const struct btf *btf, int id, const char *key)
{
	int n = btf__type_cnt(btf), len = strlen(key);

	for (int i = 1; i < n; i++) {
		const struct btf_type *t = btf__type_by_id(btf, i);
		const char *s;

		if (!btf_is_decl_tag(t) || (int)t->type != id ||
		    btf_decl_tag(t)->component_idx != -1)
			continue;
		s = btf__str_by_offset(btf, t->name_off);
		if (!s || strncmp(s, TAG, sizeof(TAG) - 1))
			continue;
		s += sizeof(TAG) - 1;
		if (!strncmp(s, key, len) && (!s[len] || s[len] == '='))
			return s[len] ? s + len + 1 : s + len;
	}
	return NULL;
}

/* Nanoseconds in a unit of time, or 0. */
static uint64_t time_unit(const char *unit)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "ns", 1 },
		{ "us", 1000 },
		{ "ms", 1000000 },
		{ "s", 1000000000 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (!strcmp(unit, units[i].name))
			return units[i].ns;
	return 0;
}

static const char *parse_bool(const char *text, s128 *out)
{
	static const char *const on[] = { "on", "yes", "true", "y", "1" };
	static const char *const off[] = { "off", "no", "false", "n", "0" };

	for (size_t i = 0; i < ARRAY_SIZE(on); i++) {
		if (!strcasecmp(text, on[i]) || !strcasecmp(text, off[i])) {
			*out = !strcasecmp(text, on[i]);
			return NULL;
		}
	}
	return "is neither on nor off";
}

const char *value_parse(const char *text, const char *unit, bool is_bool, s128 *out)
{
	static const char suffixes[] = "kMGT";
	const char *p = text, *digits;
	unsigned int base = 10;
	bool neg = false;
	s128 v = 0;

	if (is_bool)
		return parse_bool(text, out);

	if (*p == '-' || *p == '+')
		neg = *p++ == '-';
	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
		base = 16;
		p += 2;
	}
	for (digits = p; isxdigit((unsigned char)*p); p++) {
		unsigned int d = isdigit((unsigned char)*p) ? *p - '0' :
							      tolower((unsigned char)*p) - 'a' + 10;

		if (d >= base)
			break;
		v = v * base + d;
		if (v > (s128)UINT64_MAX)
			return "does not fit 64 bits";
	}
	if (p == digits)
		return "is not a whole number";

	if (*p && !strcmp(p, unit)) {
		p += strlen(p);
	} else if (*p && time_unit(p) && time_unit(unit)) {
		v *= time_unit(p);
		if (v % time_unit(unit))
			return "is finer than the parameter's unit";
		v /= time_unit(unit);
		p += strlen(p);
	} else if (*p) {
		const char *s = strchr(suffixes, *p == 'K' ? 'k' : *p);

		if (s) {
			v <<= 10 * (s - suffixes + 1);
			p++;
		}
	}
	if (*p)
		return "has something behind the number that is neither k, M, G, T nor its unit";
	*out = neg ? -v : v;
	return NULL;
}

/* min and max are C literals, which may have a suffix and parentheses. */
static bool parse_bound(const char *text, s128 *out)
{
	char buf[40];
	size_t len;

	while (*text == '(')
		text++;
	len = strcspn(text, "uUlL)");
	if (len >= sizeof(buf) || text[len + strspn(text + len, "uUlL)")])
		return false;
	memcpy(buf, text, len);
	buf[len] = 0;
	return !value_parse(buf, "", false, out);
}

/*
 * Whether the program in the object reads and writes the variable where it stands.  What
 * the compiler knows all uses of, or must not change, it may put into the instructions.
 */
static const char *compiled_in(const struct btf *btf, enum var_kind kind, const struct btf_type *t)
{
	const char *name = btf__str_by_offset(btf, t->name_off);
	const struct btf_type *type = btf__type_by_id(btf, t->type);
	bool is_volatile = false;

	for (; type && (btf_is_mod(type) || btf_is_typedef(type));
	     type = btf__type_by_id(btf, type->type))
		is_volatile |= btf_is_volatile(type);
	if (is_volatile)
		return NULL;
	if (btf_var(t)->linkage == BTF_VAR_STATIC)
		return str("'%s' is static, so its value may be compiled in; declare it without "
			   "static, or volatile",
			   name);
	if (kind == VAR_RODATA)
		return str("'%s' is const, so its value is compiled in; declare it const volatile",
			   name);
	return NULL;
}

static bool tagged(const struct btf *btf, uint32_t id)
{
	return btf_tag(btf, id, "param") || btf_tag(btf, id, "counter");
}

static const char *add_var(const struct btf *btf, enum var_kind kind, size_t size,
			   const struct btf_var_secinfo *vsi, struct vars *vars)
{
	const struct btf_type *t = btf__type_by_id(btf, vsi->type), *base;
	bool param = btf_tag(btf, vsi->type, "param");
	const char *tag, *name, *wrong;
	struct var *v;
	int enc;

	if (!tagged(btf, vsi->type) || !btf_is_var(t))
		return NULL;
	name = btf__str_by_offset(btf, t->name_off);
	/* A file may have modifiers that go round in a circle. */
	if (btf__resolve_type(btf, t->type) < 0)
		return str("the type of '%s' has no end", name);
	wrong = compiled_in(btf, kind, t);
	if (wrong)
		return wrong;
	vars->v = realloc(vars->v, (vars->n + 1) * sizeof(*vars->v));
	if (!vars->v)
		abort();
	v = &vars->v[vars->n];
	*v = (struct var){ .name = str("%s", name),
			   .kind = kind,
			   .param = param,
			   .off = vsi->offset,
			   .unit = "",
			   .help = "" };

	/* The type is called as the source calls it (u32), the size is its base's. */
	base = btf__type_by_id(btf, t->type);
	while (base && (btf_is_mod(base) || btf_is_typedef(base))) {
		if (btf_is_typedef(base) && !v->type)
			v->type = str("%s", btf__str_by_offset(btf, base->name_off));
		base = btf__type_by_id(btf, base->type);
	}
	if (!base || !btf_is_int(base))
		return str("'%s' is tagged, but no integer", name);
	if (!v->type)
		v->type = str("%s", btf__str_by_offset(btf, base->name_off));
	enc = btf_int_encoding(base);
	v->is_bool = enc & BTF_INT_BOOL;
	if (v->is_bool)
		v->type = str("bool");
	v->is_signed = enc & BTF_INT_SIGNED;
	v->size = base->size;
	if ((v->size != 1 && v->size != 2 && v->size != 4 && v->size != 8) || v->off % v->size ||
	    (size_t)v->off + v->size > size)
		return str("'%s' is %u bytes at offset %u of %s, which has %zu", name, v->size,
			   v->off, section_names[kind], size);

	v->min = v->is_signed ? -((s128)1 << (8 * v->size - 1)) : 0;
	v->max = v->is_bool ? 1 : ((s128)1 << (8 * v->size - v->is_signed)) - 1;
	for (int i = 0; i < 2; i++) {
		s128 bound;

		tag = btf_tag(btf, vsi->type, i ? "max" : "min");
		if (!tag || v->is_bool)
			continue;
		if (!parse_bound(tag, &bound))
			return str("'%s' has the %s '%s', which is no decimal number", name,
				   i ? "max" : "min", tag);
		if (i && bound < v->max)
			v->max = bound;
		if (!i && bound > v->min)
			v->min = bound;
	}
	if (v->min > v->max)
		return str("'%s' has an empty range", name);
	tag = btf_tag(btf, vsi->type, "unit");
	if (tag)
		v->unit = tag;
	tag = btf_tag(btf, vsi->type, "help");
	if (tag)
		v->help = tag;
	vars->n++;
	return NULL;
}

/* Sections of other names are maps that the tool does not look into. */
static const char *tagged_elsewhere(const struct btf *btf)
{
	int n = btf__type_cnt(btf);

	for (int i = 1; i < n; i++) {
		const struct btf_type *sec = btf__type_by_id(btf, i);
		const struct btf_var_secinfo *vsi = btf_var_secinfos(sec);
		const char *name = btf__str_by_offset(btf, sec->name_off);
		bool ours = false;

		for (int kind = 0; kind < VAR_KINDS; kind++)
			ours |= !strcmp(name, section_names[kind]);
		for (int j = 0; btf_is_datasec(sec) && !ours && j < btf_vlen(sec); j++, vsi++) {
			const struct btf_type *t = btf__type_by_id(btf, vsi->type);

			if (tagged(btf, vsi->type) && btf_is_var(t))
				return str("'%s' is in section %s; put it into .rodata, .data or "
					   ".bss",
					   btf__str_by_offset(btf, t->name_off), name);
		}
	}
	return NULL;
}

const char *vars_from_btf(const struct btf *btf, const size_t sizes[VAR_KINDS], struct vars *vars)
{
	const char *wrong = tagged_elsewhere(btf);

	if (wrong)
		return wrong;
	for (int kind = 0; kind < VAR_KINDS; kind++) {
		int id = btf__find_by_name_kind(btf, section_names[kind], BTF_KIND_DATASEC);
		const struct btf_var_secinfo *vsi;
		const struct btf_type *sec;

		if (id < 0 || !sizes[kind])
			continue;
		sec = btf__type_by_id(btf, id);
		vsi = btf_var_secinfos(sec);
		for (int i = 0; i < btf_vlen(sec); i++) {
			const char *err = add_var(btf, kind, sizes[kind], &vsi[i], vars);

			if (err)
				return err;
		}
	}
	return NULL;
}

struct var *vars_find(const struct vars *vars, const char *name)
{
	for (int i = 0; i < vars->n; i++)
		if (!strcmp(vars->v[i].name, name))
			return &vars->v[i];
	return NULL;
}

s128 var_load(const struct var *var, const void *section)
{
	const void *p = (const char *)section + var->off;

	switch (var->size) {
	case 1:
		return var->is_signed ? *(const int8_t *)p : *(const uint8_t *)p;
	case 2:
		return var->is_signed ? *(const int16_t *)p : *(const uint16_t *)p;
	case 4:
		return var->is_signed ? (s128) * (const int32_t *)p : *(const uint32_t *)p;
	default:
		return var->is_signed ? (s128) * (const int64_t *)p : (s128) * (const uint64_t *)p;
	}
}

void var_store(const struct var *var, void *section, s128 val)
{
	void *p = (char *)section + var->off;

	switch (var->size) {
	case 1:
		__atomic_store_n((uint8_t *)p, (uint8_t)val, __ATOMIC_RELEASE);
		break;
	case 2:
		__atomic_store_n((uint16_t *)p, (uint16_t)val, __ATOMIC_RELEASE);
		break;
	case 4:
		__atomic_store_n((uint32_t *)p, (uint32_t)val, __ATOMIC_RELEASE);
		break;
	default:
		__atomic_store_n((uint64_t *)p, (uint64_t)val, __ATOMIC_RELEASE);
	}
}

const char *var_when(const struct var *var)
{
	if (!var->param)
		return "counter";
	return var->kind == VAR_RODATA ? "load-time" : "tunable";
}

static int no_such_param(const char *what, const struct vars *vars, const char *name)
{
	const char **names = calloc(vars->n + 1, sizeof(*names));
	char *all = NULL;
	const char *near;
	int n = 0;

	if (!names)
		abort();
	for (int i = 0; i < vars->n; i++) {
		if (!vars->v[i].param)
			continue;
		names[n++] = vars->v[i].name;
		all = all ? str("%s, %s", all, vars->v[i].name) : str("%s", vars->v[i].name);
	}
	near = nearest(name, names, n);
	return fail(E_PARAM,
		    near ? str("did you mean '%s'?", near) :
		    all	 ? str("it has: %s", all) :
			   "it has no parameters",
		    "%s has no parameter '%s'", what, name);
}

int settings_parse(const char *what, const struct vars *vars, char *const *args, int n,
		   bool running, struct setting **out)
{
	struct setting *set = calloc(n + 1, sizeof(*set));

	if (!set)
		abort();
	for (int i = 0; i < n; i++) {
		const char *eq = strchr(args[i], '='), *wrong;
		char *name = str("%.*s", (int)(eq - args[i]), args[i]);
		const struct var *v = vars_find(vars, name);
		s128 val;

		if (!v)
			return no_such_param(what, vars, name);
		if (!v->param)
			return fail(E_PARAM, "counters can only be read", "%s's '%s' is a counter",
				    what, name);
		if (running && v->kind == VAR_RODATA)
			return fail(E_PARAM, str("use kvmext switch %s FILE %s", what, args[i]),
				    "%s's '%s' can be set only when the policy is loaded", what,
				    name);
		wrong = value_parse(eq + 1, v->unit, v->is_bool, &val);
		if (!wrong && (val < v->min || val > v->max))
			wrong = "is out of range";
		if (wrong)
			return fail(E_PARAM,
				    v->is_bool ? str("give on or off") :
						 str("give a number from %s to %s%s%s",
						     value_text(v->min, false),
						     value_text(v->max, false), *v->unit ? " " : "",
						     v->unit),
				    "'%s' for %s's '%s' %s", eq + 1, what, name, wrong);
		for (int j = 0; j < i; j++)
			if (set[j].var == v)
				return fail(E_PARAM, "give it once", "'%s' is given twice", name);
		set[i] = (struct setting){ .var = v, .val = val };
		free(name);
	}
	*out = set;
	return OK;
}
