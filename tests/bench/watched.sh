#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# In the emulated host: what an exit costs under one tracer after the other.
#   watched.sh ROUNDS KIND... -- TRACER...
# For tests/bench/trace.py, which reads: "#@setup TRACER", what build/tests/bench/exits
# prints, "#@saw N" (exits that the tracer shows, where it tells), "#@later S" (CPU time
# that a report takes afterwards) or "#@cannot WHY".
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk 2>/dev/null || :
rounds=$1; shift
kinds=()
while [ "$1" != -- ]; do kinds+=("$1"); shift; done
shift
tmp=$(mktemp -d)
K=build/kvmext
kvm_stat=$KSRC/tools/kvm/kvm_stat/kvm_stat

# A short run is for the path: in a long one events may get lost, which is a shorter path.
exits() {
	build/tests/bench/exits "${kinds[@]}"
	[ "$rounds" = 1 ] || build/tests/bench/exits -r "$rounds" "${kinds[@]}"
}
cannot() { echo "#@cannot $*"; }

# hooks PID: how many events or links it holds
hooks() { find "/proc/$1/fd" -lname 'anon_inode:*perf_event*' -o -lname 'anon_inode:bpf*link' 2>/dev/null | wc -l; }

# watch CMD...: start it, wait until it has hooked itself in and no more come, count, stop it
watch() {
	local n=0 was=-1 i
	"$@" >"$tmp/out" 2>"$tmp/err" &
	pid=$!
	for i in $(seq 200); do
		kill -0 $pid 2>/dev/null || break
		n=$(hooks $pid)
		[ "$n" -gt 0 ] && [ "$n" = "$was" ] && break
		was=$n
		sleep 1
	done
	if [ "$n" = 0 ] || ! kill -0 $pid 2>/dev/null; then
		cannot "$(cat "$tmp/out" "$tmp/err" | grep . | tail -n 1)"
		kill -9 $pid 2>/dev/null
		wait $pid
		return
	fi
	exits
	# What was started in the background may ignore SIGINT.
	kill -INT $pid; sleep 2; kill -TERM $pid 2>/dev/null
	wait $pid
}

for tracer do
	echo "#@setup $tracer"
	case $tracer in
	none | after) exits ;;
	top) watch $K top --batch 1 ;;
	hist) watch $K hist exit ;;
	trace)
		watch $K trace exit
		sed -n 's/^\([0-9]*\) events in .*, \([0-9]*\) lost.*/#@saw \1/p' "$tmp/out" ;;
	perf)
		command -v perf >/dev/null || { cannot "perf is not installed (apt install linux-perf)"; continue; }
		# It looks for modules in there, file by file, for minutes.
		mountpoint -q /lib/modules || mount -t tmpfs none /lib/modules
		watch perf kvm stat record -a -o "$tmp/perf.data"
		TIMEFORMAT='%U %S'
		{ time perf kvm -i "$tmp/perf.data" stat report >"$tmp/report" 2>&1 </dev/null; } 2>"$tmp/time"
		sed -n 's/^ *Total Samples:\([0-9]*\).*/#@saw \1/p' "$tmp/report"
		awk '{ print "#@later", $1 + $2 }' "$tmp/time"
		rm -f "$tmp/perf.data" ;;
	kvm_stat) watch python3 "$kvm_stat" -t -l ;;
	kvmexit)
		command -v kvmexit-bpfcc >/dev/null || { cannot "kvmexit-bpfcc is not installed (apt install bpfcc-tools)"; continue; }
		watch kvmexit-bpfcc ;;
	esac
done
