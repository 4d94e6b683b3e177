#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# kvmext trace, hist and top agree on the Intel machine with KVM's own counts, and with a
# guest's known number of exits. VMX has exits, names and hooks of its own.
# This is for busybox's shell, which that machine has.
#
# Machines: intel
# Files: build/kvmext build/tests/tool/vmexits
cd "$(dirname "$0")/../.." || exit 1

CPUIDS=40 OUTS=20 HALTS=5
K=build/kvmext
tmp=$(mktemp -d)
n=0 bad=0

# ok WHAT STATUS FILE: what is shown if it is not
ok() {
	n=$((n + 1))
	if [ "$2" = 0 ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		tail -n 20 "$3" | cut -c1-3000 | sed 's/^/#   /'
		bad=1
	fi
}
# is WHAT GOT WANTED FILE
is() { [ "$2" = "$3" ]; ok "$1: $2 of $3" $? "$4"; }
# attached PID: it has its programs in place
attached() {
	for _ in $(seq 300); do
		ls -l /proc/$1/fd 2>/dev/null | grep -q 'bpf.link' && return
		kill -0 $1 2>/dev/null || return
		sleep 0.2
	done
}
stat() { awk -v name="$1" '$1 == "vcpu" && $3 == name { print $4 }' $tmp/vm; }
# events PATTERN: how many of the trace
events() { grep -c "$1" $tmp/trace; }

mkfifo $tmp/go
build/tests/tool/vmexits 1 $CPUIDS $OUTS 0 1 $HALTS <$tmp/go >$tmp/vm 2>&1 &
vm=$!
exec 5>$tmp/go
for _ in $(seq 100); do grep -q ready $tmp/vm && break; sleep 0.1; done

$K --json trace exits irq --vm $vm 5>&- >$tmp/trace 2>&1 &
trace=$!
$K --json hist exit --vm $vm 5>&- >$tmp/hist 2>&1 &
hist=$!
$K top --json 1 --vm $vm 5>&- >$tmp/top 2>&1 &
top=$!
for p in $trace $hist $top; do attached $p; done
for _ in $(seq 300); do [ -s $tmp/top ] && break; sleep 0.2; done
sleep 2
echo >&5
for _ in $(seq 300); do grep -q 'done\|failed' $tmp/vm && break; sleep 0.1; done
sleep 2
exec 5>&-
wait $trace; ok "trace ends with its VM" $? $tmp/trace
wait $hist; ok "hist ends with its VM" $? $tmp/hist
kill -INT $top
wait $top; ok "top ends when asked" $? $tmp/top

exits=$(stat exits)
is "trace: CPUID exits as the guest made" "$(events '"reason": *"CPUID"')" $CPUIDS $tmp/trace
is "trace: exits as KVM counts" "$(events '"event": *"exit"')" "$exits" $tmp/trace
is "trace: halts" "$(events '"reason": *"HLT"')" $HALTS $tmp/trace
is "trace: port writes to user space" "$(events '"user": *"KVM_EXIT_IO"')" $((OUTS + 1)) $tmp/trace
is "hist: CPUID exits" "$(awk '/"reason"/ { on = /"CPUID"/ } on && /"count"/ { print $2 + 0; exit }' $tmp/hist)" \
	$CPUIDS $tmp/hist
is "top: exits, the VM's and its vCPU's" \
	"$(tail -n 1 $tmp/top | grep -o '"exits": *[0-9]*' | awk -F: '{ n += $2 } END { print n + 0 }')" $((2 * exits)) $tmp/top
is "the VM's own counts are there" "$(stat halt_exits)" $HALTS $tmp/vm
echo "1..$n"
rm -rf "$tmp"
exit $bad
