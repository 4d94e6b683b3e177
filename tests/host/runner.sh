#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The runner counts a build that fails. Its guess of the time left is right with nothing
# remembered, with something, and with a file that is none.
set -u
cd "$(dirname "$0")/../.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL TESTS QUICK
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo 1..10
. tests/lib/host.sh

none="0 passed, 1 failed, 0 skipped"
make test test_needs=no-such-target >"$tmp/out" 2>"$tmp/err"
[ $? != 0 ] && [ "$(tail -n1 "$tmp/out")" = "$none" ]
result $? "make test: a build that fails is one failure, and make fails"
make test KREL=6.12.0+deb99-none >"$tmp/out" 2>"$tmp/err"
[ $? != 0 ] && [ "$(tail -n1 "$tmp/out")" = "$none" ]
result $? "so is a kernel that cannot be had"
.ci/run test_needs=no-such-target >"$tmp/out" 2>&1
[ $? != 0 ] && [ "$(tail -n1 "$tmp/out")" = "$none" ]
result $? ".ci/run: the count is the last line of all that is said"

# What PYTHON says of the runner's module r, given DURATIONS in its cache
try() {
	rm -rf "$tmp/cache"
	mkdir -p "$tmp/cache/kvm_ext"
	[ -z "$2" ] || echo "$2" >"$tmp/cache/kvm_ext/durations.json"
	XDG_CACHE_HOME=$tmp/cache python3 -B - "$3" >"$tmp/out" 2>&1 <<-'PY'
	import importlib.machinery, importlib.util, sys
	loader = importlib.machinery.SourceFileLoader("r", "tests/run")
	r = importlib.util.module_from_spec(importlib.util.spec_from_loader("r", loader))
	loader.exec_module(r)
	now = 1000.0
	r.time.monotonic = lambda: now
	p = r.Progress()
	exec(sys.argv[1])
	PY
	local code=$?
	[ $code = 0 ] || sed 's/^/# /' "$tmp/out"
	result $code "$1"
}

two='p.lane([("host a", 60), ("host b", 120)]); p.lane([("intel c", 300), ("intel d", 200)])'
try "nothing remembered: the guesses, of the longer lane" "" \
	"$two; assert p.left() == 500, p.left()"
try "what is remembered goes before the guess" '{"host b": 20, "intel c": 100}' \
	"$two; assert p.left() == 300, p.left()"
for bad in '{"host a": ' '[1, 2]' '{"host a": "x"}'; do
	try "a file that is none is nothing remembered: $bad" "$bad" \
		"$two; assert p.left() == 500, p.left()"
done
try "lanes at the same time; a test that takes twice its guess doubles the rest" "" "$two
p.begin(0); p.begin(1); now += 30
assert p.left() == 470, p.left()
now += 150; p.end(0, 'host a', True)
assert p.done == 1 and p.total == 4
assert p.left() == 2 * 500 - 180, p.left()
now += 1000
assert p.left() == 2 * 200, p.left()"
try "a test that ended well is remembered, one that was stopped is not" '{"host a": 20, "x": 7}' "$two
p.begin(0); now += 40; p.end(0, 'host a', True); now += 240; p.end(0, 'host b', False)
p.remember()
assert r.Progress().known == {'host a': 30, 'x': 7}, r.Progress().known"
exit $failed
