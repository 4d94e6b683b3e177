#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The layers of user/ point one way: command, policy or tracer library, base.  A module is
# X.c with X.h.  A header that a .bpf.c includes as well is the format between the two, and
# stands for itself.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT

# includes FOLDER: "A B" for each module A that includes one B
includes() {
	local formats f to from
	formats=" $(sed -n 's|^#include "\(user/\)\?\([^"]*\.h\)"|\2|p' "$1"/*.bpf.[ch] | sort -u | tr '\n' ' ')"
	module() { [[ $formats = *" $1 "* ]] && echo "$1" || echo "${1%.[ch]}"; }
	for f in $(cd "$1" && ls -- *.[ch] | grep -v '\.bpf\.[ch]$'); do
		from=$(module "$f")
		for to in $(sed -n 's|^#include "\(user/\)\?\([^"/]*\.h\)"|\2|p' "$1/$f"); do
			[ -e "$1/$to" ] || continue
			to=$(module "$to")
			[ "$from" = "$to" ] || echo "$from $to"
		done
	done
}

# calls: the same, of objects that use functions or data of one another
calls() {
	local f
	for f in user/*.c; do
		[[ $f = *.bpf.c ]] || (cd build/user && nm -A "$(basename "${f%.c}").o") || return 1
	done | awk '
		{ module = $1; sub(/\.o:.*/, "", module); kind = $(NF - 1); name = $NF }
		kind ~ /^[TDBRVW]$/ { home[name] = module }
		kind == "U" { uses[module " " name] }
		END { for (u in uses) { split(u, p, " "); if (p[2] in home && home[p[2]] != p[1]) print p[1], home[p[2]] } }
	' | sort -u
}

n=0 failed=0
ok() {
	n=$((n + 1))
	[ "$2" = 0 ] && { echo "ok $n - $1"; return; }
	sed 's/^/# /' "$tmp/log"
	echo "not ok $n - $1"
	failed=1
}
# circle FILE: whether there is one among these pairs; tsort(1) names its modules
circle() { ! tsort "$1" >/dev/null 2>"$tmp/log"; }
# one_way FILE: pairs enough to be of the tool, and no circle
one_way() {
	[ "$(wc -l <"$1")" -gt 100 ] || { wc -l "$1" >"$tmp/log"; return 1; }
	! circle "$1"
}

echo 1..6
includes user >"$tmp/includes"
one_way "$tmp/includes"; ok "no module includes one that includes it" $?
calls >"$tmp/calls" && one_way "$tmp/calls"; ok "no module calls one that calls it" $?
# What commands.h lists is for the two main(): nobody else uses anything of those modules.
cat "$tmp/includes" "$tmp/calls" | awk '
	$1 == "main" || $1 == "kvmext-guest" { next }
	$2 == "commands" { command[$1] }
	{ user[$2] = user[$2] " " $1 }
	END { for (c in command) if (c in user) print c " is used by" user[c] }
' >"$tmp/log"
[ ! -s "$tmp/log" ]; ok "nobody but main uses a command" $?

readelf -d build/kvmext-guest >"$tmp/needs" && grep -q 'NEEDED.*libelf' "$tmp/needs" &&
	! grep -E 'NEEDED.*(ncurses|tinfo|smartcols)' "$tmp/needs" >"$tmp/log"
ok "the guest's agent needs no library for screens and tables" $?

mkdir "$tmp/user" && cp user/*.[ch] "$tmp/user/"
echo '#include "out.h"' >>"$tmp/user/text.h"
includes "$tmp/user" >"$tmp/bad"
circle "$tmp/bad" && grep -qx 'tsort: text' "$tmp/log"; ok "a header that includes one above it is found" $?
{ cat "$tmp/calls"; echo "object load"; } >"$tmp/bad"
circle "$tmp/bad" && grep -qx 'tsort: object' "$tmp/log"; ok "a call of one above is found" $?
exit $failed
