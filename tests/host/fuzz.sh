#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What fuzzing found worth keeping passes with sanitizers. They are gcc's, so this needs
# no more than the build. `make fuzz` looks for more.
set -u
cd "$(dirname "$0")/../.." || exit 1
log=build/fuzz/replay.log
mkdir -p build/fuzz
make -s fuzz-replay >$log 2>&1 || { tail -n 20 $log >&2; exit 1; }
export ASAN_OPTIONS=detect_leaks=0

echo 1..7
n=0 failed=0
ok() {
	n=$((n + 1))
	[ "$2" = 0 ] && { echo "ok $n - $1"; return; }
	echo "not ok $n - $1"
	failed=1
	# The input named last is the one.
	{ grep '^tests/fuzz/corpus' $log | tail -n 1
	  grep -E 'ERROR|runtime error|^tests/fuzz/[a-z]*\.c|^    #[0-9] ' $log | head -n 10; } | sed 's/^/#   /'
}
for t in args load object state value; do
	files=(tests/fuzz/corpus/$t/*)
	(build/fuzz/replay/$t "${files[@]}") >$log 2>&1
	ok "$t: ${#files[@]} inputs" $?
done
# As tests/fuzz/fuzz.sh has it: the kernel's answers, then the file.
{ head -c 6 /dev/zero; cat build/fuzz/policy.bpf.o; } >build/fuzz/policy.load
FUZZ_WANT=0 build/fuzz/replay/load build/fuzz/policy.load >$log 2>&1
ok "load: a good file gets to its end" $?
build/fuzz/replay/value --overrun tests/fuzz/corpus/value/* >$log 2>&1
[ $? != 0 ] && grep -q heap-buffer-overflow $log
ok "a read behind the input is noticed" $?
exit $failed
