#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A variable that a policy offers is read and written where the policy has it, in
# whichever section that is.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

seen() {
	for _ in $(seq $((50 * slow))); do
		run $K get bss seen
		[ "$(cat "$tmp/out")" != "$1" ] || break
		sleep 0.1
	done
	is "$1" "$2"
}

run $K list $B/tool_own.bpf.o
has "^knob *u64 *tunable *5 " "a section called .data.data is not taken for .data"
good "load a policy that has one, and a .data.bss" load $B/tool_own.bpf.o
run $K get own knob; is 5 "get is not, either"
good "set" set own knob=6
run $K get own knob; is 6 "nor is set"
run $K get own asks; is 0 "and .data.bss is not taken for .bss"
good "unload" unload own

start_vm
good "mark" mark --vm $vm --vcpu 0
good "load with a parameter in .bss" load $B/tool_bss.bpf.o in_bss=7
seen 1007002 "the policy has the value that load gave it"
good "set one that is in .bss" set bss in_bss=34
seen 1034002 "the policy has it, and its neighbours are as they were"
good "set one in .data, at the same place there" set bss first=5
seen 5034002 "the policy has it"
good "set one that is static and volatile" set bss own=9
seen 5034009 "the policy has it"
run $K get bss in_bss
is 34 "get reads it where it is"
good "unload" unload bss
build/tests/tool/attach $B/tool_bss.bpf.o >"$tmp/attach" &
kid=$!
for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/attach" && break; sleep 0.1; done
good "set it in a policy that another program loaded" set bss in_bss=55 own=6
seen 1055006 "the policy has it"
kill $kid
wait $kid 2>/dev/null
stop_vm

done_testing
