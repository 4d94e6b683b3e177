#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool works with only the capabilities that the manual names, also for VMs of other
# users. With fewer it says which it lacks. In a pid namespace VMs have other ids than
# in the kernel's records, and it says so.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

CAPS=+bpf,+perfmon,+sys_admin
# uid 0 with these alone: neither CAP_SYS_PTRACE nor CAP_DAC_OVERRIDE
few() { setpriv --bounding-set=-all,$CAPS --inh-caps=-all "$@"; }
# as before, and may open the VMM's files, but not see what they are
reader() { setpriv --bounding-set=-all,$CAPS,+dac_override,+dac_read_search --inh-caps=-all "$@"; }
# another user, with these alone
other() { setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all,$CAPS --ambient-caps=-all,$CAPS "$@"; }

chmod 666 /dev/kvm
: >"$tmp/vm"
setpriv --reuid 1234 --regid 1234 --clear-groups --inh-caps=-all build/tests/tool/vmhold >"$tmp/vm" &
vm=$!
for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/vm" && break; sleep 0.1; done

grep -q . <(few ls /proc/$vm/fd 2>/dev/null); [ $? != 0 ]; ok "who has these may not look at the VMM's files" $?
few setpriv -d >"$tmp/out"; : >"$tmp/err"
grep -qi 'bounding set: perfmon,bpf\|bounding set: sys_admin,perfmon,bpf' "$tmp/out"; ok "and has no other" $?
for who in few reader; do
	for cmd in "doctor" "load $P/noop.bpf.o --vm $vm" "list" "status --vm $vm" "mark --vm $vm --vcpu 0" \
		   "get noop@$vm" "switch noop@$vm $B/tool_params.bpf.o" "set params-1.0@$vm small=3" \
		   "top -b --vm $vm 0.5 1" "trace exit --vm $vm --for 0.5" "hist exit --vm $vm --for 0.5" \
		   "dirty --vm $vm 0.5 1" "unmark --vm $vm --vcpu 0" "unload params-1.0@$vm"; do
		run $who $K $cmd
		[ $code = 0 ]; ok "$who: ${cmd%% *}: exit 0 (got $code)" $?
	done
	run $who $K load $P/noop.bpf.o --vm $$
	[ $code = 7 ] && grep -q "has no VM" "$tmp/err"; ok "$who: a process without a VM is told from one with (got $code)" $?
done
setpriv --reuid 1234 --regid 1234 --clear-groups --inh-caps=-all sleep 1000 &
idler=$!
run few $K --debugfs "$tmp" top -b --vm $idler 0.5 1
[ $code = 7 ] && grep -q "has no VM" "$tmp/err"; ok "a process without a VM is told where debugfs is not mounted, too (got $code)" $?
kill $idler
for cap in bpf perfmon sys_admin; do
	run setpriv --bounding-set=-$cap --inh-caps=-all $K list
	CAP=CAP_$(echo $cap | tr a-z A-Z)
	[ $code = 3 ] && grep -q "lacks $CAP; " "$tmp/err"; ok "root without $CAP is told so" $?
done

# --- what single commands need besides ----------------------------------------------------

# lacks CAP WHAT CMD...: exit 3, one line that names it
lacks() {
	local cap=$1 what=$2
	shift 2
	run "$@"
	[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "; give it $cap" "$tmp/err"; ok "$what without $cap: exit 3, which names it (got $code)" $?
}
modprobe -q tun
for who in few reader; do
	lacks CAP_SYS_PTRACE "$who: steer" $who $K steer --vm $vm tap9
	lacks CAP_SYS_PTRACE "$who: steer --off --vm" $who $K steer --off --vm $vm tap9
done
ip tuntap add dev tap9 mode tap multi_queue user 1234
lacks CAP_NET_ADMIN "steer --off" few $K steer --off tap9
run $K steer --off tap9
[ $code = 0 ]; ok "and with it, it is given back" $?
ip link del tap9

chmod 755 "$tmp"
mkdir "$tmp/theirs"
chown 1234 "$tmp/theirs"
setpriv --reuid 1234 --regid 1234 --clear-groups --inh-caps=-all python3 -c '
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
time.sleep(1000)' "$tmp/theirs/port" &
server=$!
for _ in $(seq $((100 * slow))); do [ -S "$tmp/theirs/port" ] && break; sleep 0.1; done
good "load" load $P/skip_free.bpf.o --vm $vm
lacks CAP_DAC_OVERRIDE "hint, at another user's socket," few $K hint --vm $vm --port "$tmp/theirs/port" --for 1
run reader $K hint --vm $vm --port "$tmp/theirs/port" --for 1
[ $code = 0 ]; ok "and with it, it runs (got $code)" $?
good "unload" unload skip_free@$vm
kill $server

sysctl -q kernel.kptr_restrict=0 kernel.perf_event_paranoid=2
: >"$tmp/port"
lacks CAP_SYSLOG "guest" few $K guest --port "$tmp/port"
grep -q "refused.*CAP_SYSLOG" "$tmp/port"; ok "and its host is told" $?

run other $K list
[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "CAP_DAC_READ_SEARCH" "$tmp/err"
ok "another user with these is told what he lacks to read root's files" $?
run other $K load $P/noop.bpf.o
[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "CAP_DAC_" "$tmp/err" && [ "$(policy)" = 0 ]
ok "and so for load" $?

# --- a pid namespace ----------------------------------------------------------------------

for how in "-p -f" "-p -f --mount-proc"; do
	for cmd in list status "load $P/noop.bpf.o" "load $P/noop.bpf.o --vm 1" "mark --vm 1 --vcpu 0" "top -b 0.5 1" \
		   "trace exit --for 1" "hist exit --for 1" "dirty 1 1"; do
		run unshare $how $K $cmd
		[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && [ "$(policy)" = 0 ] &&
			grep -q "this is a pid namespace.*; run it on the host" "$tmp/err"
		ok "unshare $how: ${cmd%% *}: exit 4 and why (got $code)" $?
	done
	run unshare $how $K list $P/noop.bpf.o
	[ $code = 0 ]; ok "unshare $how: list FILE needs no process ids" $?
	run unshare $how $K doctor
	[ $code = 4 ] && grep -q "^process ids *missing *of a pid namespace" "$tmp/out"; ok "unshare $how: doctor says so" $?
done
stop_vm

done_testing
