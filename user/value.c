// SPDX-License-Identifier: GPL-2.0
/* Integers with units, as people write and read them. */
#include "kvmext.h"

#include <ctype.h>
#include <strings.h>

char *value_text(s128 v, bool is_bool)
{
	char buf[48], *p = buf + sizeof(buf);
	bool neg = v < 0;
	unsigned __int128 u = neg ? -(unsigned __int128)v : (unsigned __int128)v;

	if (is_bool)
		return str(v ? "on" : "off");
	*--p = 0;
	do {
		*--p = '0' + (int)(u % 10);
		u /= 10;
	} while (u);
	if (neg)
		*--p = '-';
	return str("%s", p);
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
