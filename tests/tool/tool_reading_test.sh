#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Commands that read change nothing, whatever they meet. A pin that cannot be read for a
# passing reason is not one that is gone.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

OBJ_GET=7 MAP_BY_ID=14 INFO=15 LINK_BY_ID=30
deny() { build/tests/tool/denybpf "$@"; }
# All of bpffs, with the times of its changes
pins() { find $PINS -printf '%p %y %m %i %T@\n' | sort; }
same() { [ "$(pins)" = "$before" ] && [ "$(policy)" = 1 ]; }

good "load" load $B/tool_params.bpf.o
before=$(pins)
for err in 12:ENOMEM 23:ENFILE 1:EPERM 5:EIO; do
	name=${err#*:} err=${err%:*}
	cmds=(list "get params-1.0 small")
	[ $name != ENOMEM ] || cmds+=(status doctor "get params-1.0" "list $P/noop.bpf.o")
	for cmd in "${cmds[@]}"; do
		run deny $err $OBJ_GET $K $cmd
		[ $code = 0 ] && [ ! -s "$tmp/err" ] && same
		ok "$cmd while BPF_OBJ_GET fails with $name: exit 0, nothing changed (got $code)" $?
	done
	run deny $err $OBJ_GET $K list
	has "^params-1.0 .* active .* ?$" "$name: list says that the pins are not known"
	run deny $err $OBJ_GET $K get params-1.0 small
	is 7 "$name: get finds the variable by another way"
done
run deny 12 $OBJ_GET $K --json list
grep -q '"pinned": null' "$tmp/out"; ok "not known is null in JSON" $?
# The same for the other questions that are asked about a pin.
run deny 12 $INFO $K list
[ $code = 0 ] && same; ok "list while nothing tells about itself: nothing changed" $?
has "^params-1.0 .* ?$" "and it says that the pins are not known"
run deny 12 $INFO $K get params-1.0 small
[ $code = 4 ] && grep -q "cannot read the variables of policy 'params-1.0': Cannot allocate memory; try again" "$tmp/err" && same
ok "get then says what failed, not that there is no such variable (got $code)" $?
# By its id, as of a policy that another program loaded
(cd $PINS && rm params-1%2e0/data params-1%2e0/rodata params-1%2e0/bss)
before=$(pins)
for cmd in $LINK_BY_ID $MAP_BY_ID; do
	run deny 12 $cmd $K get params-1.0 small
	[ $code = 4 ] && grep -q "Cannot allocate memory; try again" "$tmp/err" && same
	ok "get by the link's id while command $cmd of bpf() fails: exit 4 (got $code)" $?
done
run $K get params-1.0 small
is 7 "and finds it when none fails"

# Those that write leave alone what they cannot read.
for err in 12:ENOMEM:4 1:EPERM:3; do
	IFS=: read -r err name want <<<"$err"
	for cmd in "unload params-1.0" "switch params-1.0 $P/noop.bpf.o" "load $P/noop.bpf.o"; do
		w=$want; [ "${cmd%% *}" != load ] || w=8
		run deny $err $OBJ_GET $K $cmd
		[ $code = $w ] && [ "$(wc -l <"$tmp/err")" = 1 ] && [ -e $PINS/params-1%2e0/link ] && [ "$(policy)" = 1 ]
		ok "$cmd while BPF_OBJ_GET fails with $name: exit $w, one line, nothing is gone (got $code)" $?
	done
done
run deny 12 $OBJ_GET $K unload params-1.0
grep -q "cannot read the pins of 'params-1.0': Cannot allocate memory; try again" "$tmp/err"
ok "and it says what to do" $?
run $K list
has "^params-1.0 .* active .* yes$" "all is well afterwards"

# What a killed tool left, a reader passes over and a writer takes away.
mkdir -m 700 $PINS/~noop
before=$(pins)
# 28: BPF_LINK_CREATE
run deny 1 28 $K doctor
has "^APICv or AVIC *warning *cannot be looked at: Operation not permitted" "doctor says why nothing is known of APICv"
for cmd in list status "get params-1.0" doctor; do
	run $K $cmd
	[ $code = 0 ] && [ ! -s "$tmp/err" ] && same; ok "$cmd beside a folder that was left: nothing changed" $?
done
good "set" set params-1.0 small=3
[ ! -e $PINS/~noop ]; ok "a command that writes tidies up" $?
# A tool that was killed before the last step of load: in force, in its first folder.
mv $PINS/params-1%2e0 $PINS/~params-1%2e0
before=$(pins)
run $K list
has "^params-1.0 .* active .* yes$" "a policy in force whose load was killed is the tool's"
run $K get params-1.0 small
is 3 "and can be read"
same; ok "and is left as it is" $?
good "unload it" unload params-1.0
[ "$(policy)" = 0 ] && [ -z "$(ls $PINS)" ]; ok "nothing is left" $?

done_testing
