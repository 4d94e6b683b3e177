#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The index in tests/README.md has the claim of every test, word for word. No sentence of
# a claim has more than 25 words. Every test that the runner takes is in the index.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo 1..3
. tests/lib/host.sh
why=$tmp/why

tests/host/index.py >"$tmp/index" 2>"$tmp/why" &&
	sed '1,/^<!-- index: /d; /^<!-- end of the index/,$d' tests/README.md | sed 1d |
	diff - "$tmp/index" >"$tmp/why"
result $? "the index is what tests/host/index.py prints (--write puts it there)"

tests/host/index.py --long >"$tmp/why" 2>&1 && [ -z "$(tr -d '[:space:]' <"$tmp/why")" ]
result $? "no sentence of a claim is too long"

# It names them all when it is asked for one that is none.
known=$(tests/run no-such-test 2>&1; tests/run --kernel debug no-such-test 2>&1)
for t in $(sed "s/.*there are: //" <<<"$known"); do
	grep -q "^- \`$t\`" "$tmp/index" || echo "$t is not in the index"
done >"$tmp/why"
[ "$(wc -w <<<"$known")" -gt 50 ] && [ ! -s "$tmp/why" ]
result $? "every test that the runner takes is in it"
exit $failed
