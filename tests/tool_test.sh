#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool, on a host with kvm_ext's modules: every command, and every kind of bad
# input with its exit code and one line.  After each failure what was loaded must
# be as it was.
cd "$(dirname "$0")/.." || exit 1
. tests/tool/lib.sh

# --- happy paths --------------------------------------------------------------

good "doctor finds all well" doctor
has "Policies can be loaded" "doctor says so"
good "list with nothing loaded" list
good "load with parameters" load $B/tool_params.bpf.o small=9 target_ms=2s strict=on
good "list" list
has "^params-1.0 *throttle *all *active.*yes$" "list shows it active and pinned"
good "get all" get params-1.0
has "^target_ms *2000 *ms *load-time *1 to 10000" "get shows value, unit, kind and range"
good "get one" get params-1.0 small
is 9 "get one prints the bare value"
good "set several" set params-1.0 small=0xc block_ns=3ms gain=-7 loud=off huge=18446744073709551615 medium=-2
run $K get params-1.0 small && is 12 "0x is understood"
run $K get params-1.0 block_ns && is 3000000 "ms is converted"
run $K get params-1.0 gain && is -7 "a negative value"
run $K get params-1.0 huge && is 18446744073709551615 "the widest value"
run $K get params-1.0 loud && is off "a switch"
run $K get params-1.0 medium && is -2 "set leaves no byte of a neighbour wrong"
good "switch" switch params-1.0 $P/noop.bpf.o
good "list" list
has "^noop *throttle *all *active" "the other is in force"
good "switch to one of the same name" switch noop $P/noop.bpf.o
[ "$(ls $PINS)" = noop ]; ok "one folder of pins is left" $?
good "unload" unload noop
[ "$(policy)" = 0 ] && [ -z "$(ls $PINS 2>/dev/null)" ]; ok "nothing is loaded or pinned" $?
good "quiet load" -q load $P/noop.bpf.o
is "" "it says nothing"
good "quiet unload" -q unload noop
run setpriv --reuid 65534 --clear-groups --inh-caps=-all $K list $B/tool_params.bpf.o
[ $code = 0 ]; ok "list FILE needs no privilege" $?
has "^block_ns *u64 *tunable *2000000 *0 to 100000000 *ns" "list FILE shows parameters"
run $K --help && has "Exit codes" "--help tells the exit codes"
run $K load --help && has "NAME=VALUE" "load --help"
run $K --version && has "libbpf" "--version"

# --- VMs ----------------------------------------------------------------------

good "load for every VM" load $B/tool_params.bpf.o
start_vm
good "load for one VM beside it" load $P/noop.bpf.o --vm $vm
good "switch that one" switch noop@$vm $B/tool_params.bpf.o block_ns=5ms
good "list" list
has "^params-1.0@$vm *throttle *$vm *active" "it is called NAME@PID"
good "mark" mark --vm $vm --vcpu 0
sleep 1
good "status" status
has "^VM $vm (vmhold): policy params-1.0, 2 vCPUs, dirty logging on" "status shows the VM"
has "^ *0 yes *[1-9]" "vCPU 0 is marked and was blocked"
has "^ *1 no *0 " "vCPU 1 is not"
run $K get params-1.0@$vm asks && [ "$(cat "$tmp/out")" -gt 0 ]; ok "the policy counts asks" $?
good "unmark" unmark --vm $vm --vcpu 0
run $K --json status --vm $vm
python3 -c '
import json, sys
s = json.load(sys.stdin)
(vm,) = s["vms"]
v0, v1 = vm["vcpus"]
assert vm["policy"] == "params-1.0" and not v0["marked"] and v0["blocks"] > 0
assert v0["dirty"] > 0 and v0["dirty_per_s"] > 0 and v1["blocks"] == 0
assert 0.2 < s["interval_ns"] / 1e9 < 2
' <"$tmp/out" 2>"$tmp/err"
ok "status --json has the same as numbers" $?
fails 7 "no vCPU 7" "mark a vCPU that is not there" mark --vm $vm --vcpu 7
json "status" status
json "list" list
json "get" get params-1.0@$vm
json "get one" get params-1.0@$vm asks
json "set" set params-1.0@$vm gain=3
json "mark" mark --vm $vm --vcpu 1
json "doctor" doctor
json "list FILE" list $B/tool_params.bpf.o $P/noop.bpf.o
json "switch" switch params-1.0@$vm $P/noop.bpf.o
json "switch back" switch noop@$vm $B/tool_params.bpf.o
json "an error" load $B/tool_refused.bpf.o
[ $code = 10 ] && grep -q '"code": 10' "$tmp/out" && grep -q '"name": "refused"' "$tmp/out"
ok "the error has code and name" $?
json "a wrong option" list --nonsense
[ $code = 2 ]; ok "a wrong option is exit 2 with --json too" $?

$K -q set params-1.0@$vm go_wrong=1
sleep 0.5
good "status of an ejected policy" status
has "ejected for: policy, code -5: asked to fail" "status says why it was ejected"
good "list" list
has "^params-1.0@$vm .*ejected" "list says ejected"
good "an ejected policy can be switched" switch params-1.0@$vm $P/noop.bpf.o
grep -q "name=noop vm=$vm .*state=active" $STATE; ok "and then one is in force again" $?
stop_vm
good "list" list
has "^noop@$vm .*vm-gone" "list says that the VM has exited"
fails 7 "VM is gone" "switch for a VM that has exited" switch noop@$vm $P/noop.bpf.o
fails 7 "no process" "mark in a VM that has exited" mark --vm $vm --vcpu 0
fails 7 "no process" "status of a VM that has exited" status --vm $vm
good "unload it" unload noop@$vm

start_vm 2
fails 7 "several VMs" "load for a process with two VMs" load $P/noop.bpf.o --vm $vm
fails 7 "several VMs" "mark in a process with two VMs" mark --vm $vm --vcpu 0
stop_vm

# --- bad input; a policy is loaded all the while --------------------------------

fails 2 "did you mean 'load'" "an unknown command" laod x
fails 2 "which command" "no command"
fails 2 "'--nonsense' is no option" "an unknown option" load --nonsense
fails 2 "which FILE" "load without a file" load
fails 2 "no NAME=VALUE" "load with an argument too many" load $P/noop.bpf.o x
fails 2 "no process id" "load --vm without a number" load $P/noop.bpf.o --vm x
fails 2 "both needed" "mark without a vCPU" mark --vm 1
fails 5 "cannot open" "a file that is not there" switch params-1.0 /nonexistent
fails 5 "no ELF" "a file that is no ELF" switch params-1.0 $0
fails 5 "no BPF object" "an ELF file that is no BPF object" switch params-1.0 $K
fails 5 "is no file" "a folder" switch params-1.0 /tmp
: >"$tmp/empty.o"
fails 5 "no ELF" "an empty file" switch params-1.0 "$tmp/empty.o"
size=$(stat -c %s $P/noop.bpf.o)
for part in 1 5 9; do
	head -c $((size * part / 10)) $P/noop.bpf.o >"$tmp/cut.o"
	fails 5 "truncated" "an object cut to $part tenths" switch params-1.0 "$tmp/cut.o"
done
cp $P/noop.bpf.o "$tmp/corrupt.o"
sh=$(readelf -hW "$tmp/corrupt.o" | awk '/Start of section headers/ { print $5 }')
head -c 256 /dev/zero | tr '\0' '\377' | dd of="$tmp/corrupt.o" bs=1 seek=$((sh + 128)) conv=notrunc status=none
fails 5 "corrupt" "an object with broken section headers" switch params-1.0 "$tmp/corrupt.o"
llvm-objcopy --remove-section=.BTF $P/noop.bpf.o "$tmp/nobtf.o" 2>/dev/null ||
	objcopy --remove-section=.BTF $P/noop.bpf.o "$tmp/nobtf.o" 2>/dev/null
if [ -s "$tmp/nobtf.o" ]; then
	fails 5 "" "an object without BTF" switch params-1.0 "$tmp/nobtf.o"
fi
fails 5 "no op table" "an object without a table" switch params-1.0 $P/mark.bpf.o
fails 5 "op tables" "an object with several tables" switch params-1.0 $B/refused.bpf.o
fails 5 "none of kvm_ext's" "another subsystem's table" switch params-1.0 $B/tool_tcp.bpf.o
fails 5 "cannot be linked" "a table without a link" switch params-1.0 $B/tool_legacy.bpf.o
fails 5 "no op of this kernel" "a program for no known op" switch params-1.0 $B/tool_op.bpf.o
fails 5 "no op of its table" "a program that no op names" switch params-1.0 $B/tool_orphan.bpf.o
fails 5 "built for another kernel.*of_another_kernel" "another kernel's object (field)" switch params-1.0 $B/tool_core.bpf.o
fails 5 "kvm_throttle_of_another_kernel()" "another kernel's object (function)" switch params-1.0 $B/tool_kfunc.bpf.o
fails 5 "out of its range" "a default out of its own range" switch params-1.0 $B/tool_range.bpf.o
fails 10 "may sleep" "a sleepable program where none may be" switch params-1.0 $B/tool_sleep.bpf.o
fails 10 "verifier refuses 'writes'" "a program that the verifier refuses" switch params-1.0 $B/tool_refused.bpf.o
fails 10 "kvm_throttle_mark_pid is not allowed" "a kfunc in the wrong op" switch params-1.0 $B/tool_pid.bpf.o
fails 10 "invalid" "flags that the kernel does not know" switch params-1.0 $B/tool_flags.bpf.o
fails 6 "did you mean 'small'" "an unknown parameter" switch params-1.0 $B/tool_params.bpf.o smal=1
fails 6 "out of range" "a value too great" switch params-1.0 $B/tool_params.bpf.o small=256
fails 6 "out of range" "a value too small" switch params-1.0 $B/tool_params.bpf.o gain=-101
fails 6 "64 bits" "a value beyond 64 bits" switch params-1.0 $B/tool_params.bpf.o huge=18446744073709551616
fails 6 "whole number" "a value that is no number" switch params-1.0 $B/tool_params.bpf.o small=
fails 6 "neither on nor off" "a switch that is neither" switch params-1.0 $B/tool_params.bpf.o loud=maybe
fails 6 "finer" "a value finer than the unit" switch params-1.0 $B/tool_params.bpf.o target_ms=1500us
fails 6 "twice" "a parameter given twice" switch params-1.0 $B/tool_params.bpf.o small=1 small=2
fails 6 "only be read\|is a counter" "a counter given a value" switch params-1.0 $B/tool_params.bpf.o asks=1
fails 6 "only when the policy is loaded" "a load-time parameter set at run time" set params-1.0 target_ms=5
fails 6 "out of range" "set: one of two is wrong, none is set" set params-1.0 small=1 gain=101
fails 6 "no parameter" "get of an unknown one" get params-1.0 nosuch
fails 7 "has no VM" "a PID that is no VM" load $P/noop.bpf.o --vm $$
fails 7 "no process" "a PID of no process" load $P/noop.bpf.o --vm 4194303
fails 7 "no VM" "status of a process without a VM" status --vm $$
fails 8 "every VM has the policy 'params-1.0' already" "a second policy for the place" load $P/noop.bpf.o
fails 8 "loaded already" "a second one of that name" load $B/tool_params.bpf.o
fails 9 "did you mean 'params-1.0'" "unload an unknown policy" unload params-1
fails 9 "no policy" "switch an unknown policy" switch nosuch $P/noop.bpf.o
fails 9 "no policy" "get of an unknown policy" get nosuch
fails 9 "no policy" "set of an unknown policy" set nosuch a=1
fails 4 "mount -t bpf" "bpffs not mounted" --bpffs "$tmp" load $P/noop.bpf.o
fails 4 "mount -t debugfs" "debugfs not mounted" --debugfs "$tmp" list

user() { setpriv --reuid 65534 --clear-groups --inh-caps=-all $K "$@"; }
for cmd in "load $P/noop.bpf.o" "switch params-1.0 $P/noop.bpf.o" "unload params-1.0" list status \
	   "get params-1.0" "set params-1.0 small=1" "mark --vm 1 --vcpu 0"; do
	before=$(snapshot)
	run user $cmd
	[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "run it as root" "$tmp/err" &&
		[ "$(snapshot)" = "$before" ]
	ok "${cmd%% *} without privilege: exit 3, one line, nothing changed (got $code)" $?
done
run setpriv --bounding-set=-bpf --inh-caps=-bpf $K load $P/noop.bpf.o
[ $code = 3 ] && grep -q "lacks CAP_BPF" "$tmp/err"; ok "root without CAP_BPF: exit 3" $?

echo N >$SWITCH
fails 4 "kill switch" "switch under the kill switch" switch params-1.0 $P/noop.bpf.o
run $K doctor
[ $code = 4 ]; ok "doctor under the kill switch: exit 4" $?
run $K status
has "kill switch is on" "status tells of the kill switch"
good "unload under the kill switch" unload params-1.0
fails 4 "kill switch" "load under the kill switch" load $P/noop.bpf.o
echo Y >$SWITCH

# --- attached by another --------------------------------------------------------

build/tests/tool/attach $B/tool_params.bpf.o >"$tmp/attach" &
kid=$!
for _ in $(seq 100); do grep -q ready "$tmp/attach" && break; sleep 0.1; done
good "list with a policy of another program" list
has "^params-1.0 .*active.* no$" "it is there, not pinned by the tool"
good "its parameters are known too" set params-1.0 small=77
run $K get params-1.0 small && is 77 "and can be set"
fails 8 "another program" "it is not switched" switch params-1.0 $P/noop.bpf.o
good "it can be unloaded" unload params-1.0
[ "$(policy)" = 0 ]; ok "and is gone" $?
kill $kid
wait $kid 2>/dev/null

# --- modules --------------------------------------------------------------------

$K -q load $P/noop.bpf.o
rmmod kvm_amd 2>/dev/null
! rmmod kvm 2>"$tmp/err"; ok "the kvm module cannot go while a policy is loaded" $?
good "unload" unload noop
rmmod kvm
run $K list
[ $code = 4 ] && grep -q "kvm module is not loaded" "$tmp/err"; ok "no kvm module: exit 4" $?

unpatched() {
	local text=$1 what=$2 cmd
	shift 2
	for cmd in "load $P/noop.bpf.o" list status "mark --vm $$ --vcpu 0" "unload x"; do
		run $K $cmd
		[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "$text" "$tmp/err"
		ok "$what: ${cmd%% *} is exit 4, one line (got $code)" $?
	done
	run $K doctor
	[ $code = 4 ] && grep -q missing "$tmp/out"; ok "$what: doctor is exit 4" $?
}
objcopy --remove-section=.BTF "$KVMEXT_KMOD/kvm.ko" "$tmp/kvm.ko" && insmod "$tmp/kvm.ko"
if [ -d /sys/module/kvm ]; then
	unpatched "has no BTF" "a kvm module without BTF"
	rmmod kvm
fi
root=$(sed -n 's/^KROOT=//p' build/config.mk)
stock=$root/lib/modules/$(uname -r)/kernel/arch/x86/kvm/kvm.ko
[ -e "$stock" ] || { xz -dc "$stock.xz" >"$tmp/stock.ko"; stock=$tmp/stock.ko; }
insmod "$stock"
if [ -d /sys/module/kvm ]; then
	unpatched "no kvm_ext patches" "an unpatched kernel"
	rmmod kvm
fi

# As it was, for the next test.
insmod "$KVMEXT_KMOD/kvm.ko" && insmod "$KVMEXT_KMOD/kvm-amd.ko"
good "doctor finds all well again" doctor

json_check

done_testing
