# SPDX-License-Identifier: GPL-2.0
# What the tests of the tool share; sourced from the top of the checkout.
set -u

K=build/kvmext
P=build/bpf
B=build/tests/tool/bad
PINS=/sys/fs/bpf/kvmext
STATE=/sys/kernel/debug/kvm/ext/state
SWITCH=/sys/module/kvm/parameters/ext_enable
# How many times slower than usual the machine may be.
slow=${KVMEXT_SLOW:-1}
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT

n=0 bad=0 last=
ok() {
	local what=$1 status=$2
	n=$((n + 1))
	if [ "$status" = 0 ]; then
		echo "ok $n - $what"
	else
		echo "not ok $n - $what"
		sed 's/^/#   /' "$tmp/out" "$tmp/err" 2>/dev/null
		bad=$((bad + 1))
	fi
}

# run CMD...: $code, $tmp/out, $tmp/err
run() { "$@" >"$tmp/out" 2>"$tmp/err" </dev/null; code=$?; }

# What is loaded, and what in it is set; calls and times left out.
snapshot() {
	grep '^policy' $STATE 2>/dev/null | sed 's/ \(calls\|since_ns\|clamped\|slow\)=[0-9]*//g'
	ls -R $PINS 2>/dev/null
	[ ! -d "$PINS/params-1%2e0" ] || $K get params-1.0 | grep -v counter
}

# good WHAT ARGS...: succeeds and says nothing on stderr
good() {
	local what=$1; shift
	last=
	run $K "$@"
	[ $code = 0 ] && [ ! -s "$tmp/err" ]
	ok "$what" $?
}

# fails CODE TEXT WHAT ARGS...: that exit code, one line that has TEXT and says
# what to do (after a semicolon), the same as JSON, and nothing changed
fails() {
	local want=$1 text=$2 what=$3 before
	shift 3
	before=${last:-$(snapshot)}
	run $K "$@"
	last=$(snapshot)
	[ $code = "$want" ] && [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] &&
		grep -q -- "$text" "$tmp/err" && grep -q '^kvmext: .*; ' "$tmp/err" &&
		[ "$last" = "$before" ]
	ok "$what: exit $want, one line, nothing changed (got $code)" $?
}

has() { grep -q -- "$1" "$tmp/out"; ok "$2" $?; }
is() { [ "$(cat "$tmp/out")" = "$1" ]; ok "$2" $?; }
# All that --json wrote is checked in one go by json_check: python starts slowly.
json() {
	local what=$1; shift
	last=
	run $K --json "$@"
	cp "$tmp/out" "$tmp/json.$what"
	[ ! -s "$tmp/err" ]; ok "$what --json: nothing on stderr (exit $code)" $?
}
json_check() {
	python3 - "$tmp"/json.* <<-'END' >"$tmp/out" 2>"$tmp/err"
	import json, sys
	for name in sys.argv[1:]:
	    try:
	        assert isinstance(json.load(open(name)), dict)
	        print("ok", name.rpartition(".")[2])
	    except Exception as e:
	        print("bad", name.rpartition(".")[2], e)
	END
	cp "$tmp/out" "$tmp/json"
	while read -r verdict what; do
		[ "$verdict" = ok ]; ok "$what --json is one JSON document" $?
	done <"$tmp/json"
}

start_vm() {
	last=
	: >"$tmp/vm"
	build/tests/tool/vmhold "$@" >"$tmp/vm" &
	vm=$!
	for _ in $(seq $((100 * slow))); do
		grep -q ready "$tmp/vm" && return
		sleep 0.1
	done
}
stop_vm() { last=; kill -9 "$vm"; wait "$vm" 2>/dev/null; }
policy() { grep -c '^policy' $STATE; }
field() { sed -n "s/^$1 .*[ ]$2=\([^ ]*\).*/\1/p" $STATE | head -n1; }

done_testing() {
	echo "1..$n"
	exit $((bad != 0))
}
