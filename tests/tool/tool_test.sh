#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Every command of the tool works on a host with kvm_ext's modules.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

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

$K -q unload params-1.0

# --- attached by another --------------------------------------------------------

build/tests/tool/attach $B/tool_params.bpf.o >"$tmp/attach" &
kid=$!
for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/attach" && break; sleep 0.1; done
good "list with a policy of another program" list
has "^params-1.0 .*active.* no$" "it is there, not pinned by the tool"
good "its parameters are known too" set params-1.0 small=77
run $K get params-1.0 small && is 77 "and can be set"
fails 8 "another program" "it is not switched" switch params-1.0 $P/noop.bpf.o
good "it can be unloaded" unload params-1.0
[ "$(policy)" = 0 ]; ok "and is gone" $?
kill $kid
wait $kid 2>/dev/null

json_check
done_testing
