#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Fuzz what the tool reads (targets: tests/fuzz/{args,load,object,state,value}.c).
#
#   tests/fuzz/fuzz.sh SECONDS [TARGET...]   each for so long, as many at a time as there are CPUs
#   tests/fuzz/fuzz.sh corpus                add to tests/fuzz/corpus what that found new ways with
#
# What is found is kept in build/fuzz/new, and the next run goes on from there.  An
# input that crashes or breaks a promise is made small and left in build/fuzz/crash:
# put it into the corpus, which tests/host/fuzz.sh runs from then on.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/machine/fetch.sh deps libclang-rt-dev
make -s fuzz-build
seconds=${1:?SECONDS or corpus}
shift
targets=${*:-args load object state value}
export ASAN_OPTIONS=detect_leaks=0

dirs() {
	mkdir -p build/fuzz/{new,seed,crash}/"$1"
	[ "$1" != object ] || cp build/fuzz/seed.bpf.o build/fuzz/seed/object/
	# Before the file what the kernel answers: yes, and nothing to say.
	[ "$1" != load ] || { head -c 6 /dev/zero; cat build/fuzz/policy.bpf.o; } >build/fuzz/seed/load/policy
	echo build/fuzz/new/"$1" tests/fuzz/corpus/"$1" build/fuzz/seed/"$1"
}

one() {
	local t=$1 seconds=$2 log=build/fuzz/$1.log opt=(-max_len=16384 -timeout=20)
	[ "$t" != args ] || opt+=(-dict=tests/fuzz/args.dict)
	if build/fuzz/libfuzzer/"$t" "${opt[@]}" -max_total_time="$seconds" -print_final_stats=1 \
			-artifact_prefix=build/fuzz/crash/"$t"/ $(dirs "$t") >"$log" 2>&1; then
		echo "$t: $(sed -n 's/^Done \([0-9]*\) runs in \(.*\)/\1 runs in \2/p' "$log"), no crash"
		return
	fi
	echo "$t: $(grep -m1 -E 'ERROR|runtime error|^tests/fuzz' "$log" || tail -n1 "$log") ($log)"
	local input
	input=$(sed -n 's/.*Test unit written to //p' "$log")
	[ ! -s "$input" ] ||
		build/fuzz/libfuzzer/"$t" -minimize_crash=1 -max_total_time=30 -exact_artifact_path="$input.min" \
			"$input" >>"$log" 2>&1 || true
	ls "$input" "$input.min" 2>/dev/null | sed "s/^/$t: /"
	return 1
}

if [ "$seconds" = corpus ]; then
	for t in $targets; do
		build/fuzz/libfuzzer/"$t" -merge=1 tests/fuzz/corpus/"$t" $(dirs "$t") 2>&1 | tail -n 1
	done
	du -sh tests/fuzz/corpus
	exit
fi
export -f one dirs
echo $targets | xargs -n 1 -P "$(nproc)" bash -c 'one "$1" "$0" || exit 1' "$seconds"
