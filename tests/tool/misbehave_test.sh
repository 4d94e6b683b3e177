#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A guest goes on under the worst answers that a policy can give, loaded through the
# tool. A policy that gives up is ejected with a reason that a person can read. Other
# answers are clamped or refused.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

# Page faults of the guest so far: it takes them as it writes, so while it makes progress.
written() { cat /sys/kernel/debug/kvm/"$vm"-*/pf_taken; }

progress() {
	local before i
	before=$(written)
	for i in $(seq $((50 * slow))); do
		[ "$(written)" -gt "$((before + 20))" ] && break
		sleep 0.1
	done
	[ "$(written)" -gt "$((before + 20))" ]
	ok "$1: the guest goes on" $?
}

# ejected MODE KIND CODE TEXT WHAT: it is, and both the tool and the log say why
ejected() {
	local mode=$1 kind=$2 err=$3 text=$4 what=$5 i before
	before=$(dmesg | wc -l)
	run $K load $B/misbehave.bpf.o --vm $vm mode="$mode"
	for i in $(seq $((150 * slow))); do
		[ "$(field policy state)" = ejected ] && break
		sleep 0.1
	done
	run $K list
	has ejected "$what: ejected"
	[ "$(field policy kind)" = "$kind" ] && [ "$(field policy code)" = "$err" ]
	ok "$what: kind $kind, code $err" $?
	run $K status
	has "$text" "$what: status says: $text"
	for i in $(seq $((20 * slow))); do
		dmesg | tail -n +$((before + 1)) | grep -q 'kvm: ext: throttle policy "misbehave".*ejected' && break
		sleep 0.1
	done
	dmesg | tail -n +$((before + 1)) >"$tmp/out"
	has "ejected: $kind: .*$text" "$what: and so does the kernel's log"
	progress "$what"
	good "$what: it can be unloaded" unload misbehave@$vm
}

# lives MODE WHAT: it stays in charge for a second of it
lives() {
	run $K load $B/misbehave.bpf.o --vm $vm mode="$1"
	progress "$2"
	sleep 1
	# An emulated CPU that is not run while it runs the policy makes a call slow; then anew.
	for _ in $(seq $((slow - 1))); do
		[ "$(field policy state) $(field policy kind)" = "ejected slow" ] || break
		run $K unload misbehave@$vm
		run $K load $B/misbehave.bpf.o --vm $vm mode="$1"
		sleep 1
	done
	[ "$(field policy state)" = active ]
	ok "$2: nothing to eject for" $?
}

start_vm
# Marks of the tool's outlive policies.  Loaded once, as a mark needs no policy.
good 'a vCPU is marked' mark --vm $vm --vcpu 0

lives 0 'well'
good 'well: unload' unload misbehave@$vm
lives 1 'huge answers'
[ "$(field policy clamped)" -gt 0 ]; ok 'huge answers: counted as clamped' $?
good 'huge answers: unload' unload misbehave@$vm
lives 8 'no such vCPU'
run $K get misbehave@$vm found; is 0 'no such vCPU: none was found'
good 'no such vCPU: unload' unload misbehave@$vm
lives 9 'mark storm'
good 'mark storm: unload' unload misbehave@$vm

ejected 2 answers 64 '64 answers outside the allowed set, the last -1 to block()' negative
ejected 3 answers 64 '64 answers outside the allowed set' random
ejected 4 policy -4 'gave up in dirtied, as it was told' 'error from dirtied'
ejected 5 policy -5 'gave up in block, as it was told' 'error from block'
ejected 6 policy -6 'gave up in dirty_log, as it was told' 'error from dirty_log'
ejected 7 slow 16 '16 calls in a minute took over 20 ms' slow

good 'an ejected one leaves its place to the next' load $P/noop.bpf.o --vm $vm
[ "$(field policy state)" = active ]; ok 'which is in charge' $?
good 'and can be unloaded' unload noop@$vm
stop_vm
[ "$(policy)" = 0 ]; ok 'nothing is left' $?
echo 1..$n
exit $((bad > 0))
