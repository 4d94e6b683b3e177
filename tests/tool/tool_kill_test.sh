#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool leaves nothing half done when killed at any step, when the VM exits meanwhile,
# and when two run at once.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

# --- VM that exits meanwhile ----------------------------------------------------

wrong=0
for delay in 0 0.05 0.1 0.2 0.3; do
	start_vm
	$K -q load $P/noop.bpf.o --vm $vm 2>"$tmp/err" &
	load=$!
	sleep $delay
	stop_vm
	wait $load
	code=$?
	[ $code = 0 ] || [ $code = 7 ] || wrong=1
	[ $code != 0 ] || $K -q unload noop@$vm || wrong=1
	[ "$(policy)" = 0 ] && [ -z "$(ls $PINS 2>/dev/null)" ] || wrong=1
done
ok "a VM that exits while its policy is loaded: loaded, or exit 7, nothing left over" $wrong

# --- two at once ----------------------------------------------------------------

$K -q load $P/noop.bpf.o 2>"$tmp/err" & a=$!
$K -q load $B/tool_params.bpf.o 2>"$tmp/err2" & b=$!
wait $a; ca=$?; wait $b; cb=$?
{ [ $ca$cb = 08 ] || [ $ca$cb = 80 ]; } && [ "$(policy)" = 1 ] && [ "$(ls $PINS | wc -l)" = 1 ]
ok "two loads at once: one gets the place, one exit 8 ($ca, $cb)" $?
for p in $($K --json list | sed -n 's/.*"instance": "\(.*\)".*/\1/p'); do $K -q unload $p; done

# --- kill -9 --------------------------------------------------------------------

# After a load that was killed: nothing, or one that is whole, by what list says; and so it
# is when the next command that writes has tidied up.
whole() {
	local said
	run $K --json list
	if grep -q '"pinned": false' "$tmp/out"; then
		# A link that was in no folder goes a moment after its maker.
		sleep 0.2
		run $K --json list
	fi
	[ $code = 0 ] || return 1
	if ls $PINS | grep -q '~' || [ "$(ls $PINS | wc -l)" -gt 1 ]; then
		said=$(grep -v '"calls"\|"age_ns"' "$tmp/out")
		run $K unload no-such-policy
		[ $code = 9 ] && ! ls $PINS | grep -q '~' || return 1
		run $K --json list
		[ $code = 0 ] && [ "$(grep -v '"calls"\|"age_ns"' "$tmp/out")" = "$said" ] || return 1
	fi
	case "$(policy)" in
	0) [ -z "$(ls $PINS 2>/dev/null)" ] ;;
	1) grep -q '"state": "active"' "$tmp/out" && grep -q '"pinned": true' "$tmp/out" &&
		[ "$(ls $PINS | wc -l)" = 1 ] && $K get "$(field policy name)" >"$tmp/out" 2>"$tmp/err" ;;
	*) return 1 ;;
	esac
}

wrong=0 left=0 step=0
while step=$((step + 1)); do
	build/tests/tool/dieat $step $K -q load $B/tool_params.bpf.o 2>"$tmp/err"
	code=$?
	[ $code = 137 ] || break
	whole || { wrong=1; echo "# not whole after step $step"; }
	[ "$(policy)" = 0 ] || { left=$((left + 1)); $K -q unload params-1.0 || wrong=1; }
done
[ $wrong = 0 ] && [ $code = 0 ] && [ $step -gt 6 ]
ok "load killed at each of $((step - 1)) steps: nothing ($((step - 1 - left))) or a whole policy ($left)" $?

# The same for switch, by turns there and back; the link stays the same.
link=$(field policy link)
for to in $P/noop.bpf.o $B/tool_params.bpf.o; do
	wrong=0 done=0 step=0
	from=$(field policy name)
	name=$(basename $to .bpf.o); [ $name = noop ] || name=params-1.0
	while step=$((step + 1)); do
		build/tests/tool/dieat $step $K -q switch $from $to 2>"$tmp/err"
		code=$?
		[ $code = 137 ] || break
		whole && [ "$(policy)" = 1 ] && [ "$(field policy link)" = "$link" ] ||
			{ wrong=1; echo "# not whole after step $step"; }
		case "$(field policy name)" in
		"$name") done=$((done + 1)); $K -q switch $name $([ $from = noop ] && echo $P/noop || echo $B/tool_params).bpf.o || wrong=1 ;;
		"$from") ;;
		*) wrong=1 ;;
		esac
	done
	[ $wrong = 0 ] && [ $code = 0 ] && [ $step -gt 8 ]
	ok "switch $from to $name killed at each of $((step - 1)) steps: old ($((step - 1 - done))) or new ($done), same link" $?
done
# One name for both: the folders change places.
wrong=0 step=0
while step=$((step + 1)); do
	build/tests/tool/dieat $step $K -q switch params-1.0 $B/tool_params.bpf.o small=$step 2>"$tmp/err"
	code=$?
	[ $code = 137 ] || break
	whole && [ "$(policy)" = 1 ] || { wrong=1; echo "# not whole after step $step"; }
	$K -q set params-1.0 small=200 && [ "$($K get params-1.0 small)" = 200 ] || wrong=1
done
[ $wrong = 0 ] && [ $code = 0 ] && [ "$($K get params-1.0 small)" = $step ]
ok "switch to the same name killed at each of $((step - 1)) steps" $?

wrong=0 step=0
for _ in 1 2 3 4 5; do
	$K -q unload params-1.0 2>"$tmp/err" &
	kid=$!
	sleep 0.$((RANDOM % 4))$((RANDOM % 10))
	kill -9 $kid 2>/dev/null
	wait $kid 2>/dev/null
	whole || wrong=1
	[ "$(policy)" = 1 ] || $K -q load $B/tool_params.bpf.o || wrong=1
done
ok "unload killed at random moments: still there, or gone" $wrong

good "unload" unload params-1.0
done_testing
