#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The order on which skip_free rests is right in all of its interleavings, which spin
# checks. The model finds what is wrong where something is.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# Right ones, each both ways to take the log; then wrong ones
right=("" -DFIRST)
wrong=(-DLATE -DNO_SEQ "-DNO_RECHECK" -DNO_AGAIN -DRESET)

# check OPTION...: 0 holds, 1 does not, 2 the model did not run
check() {
	local states errors

	(cd "$tmp" && rm -f pan* free.pml.trail &&
	 spin -a "$@" "$OLDPWD/tests/model/free.pml" >spin.out 2>&1 &&
	 gcc -O2 -w -DSAFETY -DNOREDUCE -o pan pan.c >>spin.out 2>&1 &&
	 ./pan -m100000 >pan.out 2>&1) || return 2
	grep -q 'max search depth too small\|Search not completed' "$tmp/pan.out" &&
		! grep -q 'errors: [1-9]' "$tmp/pan.out" && return 2
	errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$tmp/pan.out")
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$tmp/pan.out")
	[ -n "$errors" ] && [ -n "$states" ] || return 2
	echo "# ${*:-plain}: $states states, $errors errors"
	[ "$errors" = 0 ]
}

echo "1..$((2 * (${#right[@]} + ${#wrong[@]})))"
n=0 failed=0
for log in "" -DMANUAL; do
	for opts in "${right[@]}" "${wrong[@]}"; do
		n=$((n + 1))
		# shellcheck disable=SC2086
		check $log $opts
		got=$?
		want=0
		case " ${wrong[*]} " in *" ${opts:-none} "*) want=1 ;; esac
		what="$([ $want = 0 ] && echo holds || echo is found)"
		if [ $got = $want ]; then
			echo "ok $n ${log:-legacy} ${opts:-as it is} $what"
		else
			[ $got = 2 ] && sed 's/^/# /' "$tmp"/spin.out "$tmp"/pan.out
			echo "not ok $n ${log:-legacy} ${opts:-as it is} $what"
			failed=1
		fi
	done
done
exit $failed
