#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool tells policies of several tables apart that have the same name and are for
# the same VMs.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

good "load a throttle policy" load $P/noop.bpf.o
good "load an irq policy of the same name" load $P/noop_irq.bpf.o
run $K list
has "^noop *throttle *all *active" "the one is called by its name"
has "^irq:noop *irq *all *active" "the other with its table"
fails 8 "a policy 'irq:noop' is loaded already" "the same once more" load $P/noop_irq.bpf.o
fails 8 "is a throttle policy" "switch to another table's" switch noop $P/spread.bpf.o
run $K get throttle:noop rounds
[ $code = 0 ]; ok "a table may be said of the first, too" $?
run $K get irq:noop ends
[ $code = 0 ] && grep -qx 0 "$tmp/out"; ok "a counter of the irq policy" $?
good "load a save policy of that name" load $P/noop_save.bpf.o
run $K list
has "^save:noop *save *all *active" "it is called with its table as well"
good "unload the one" unload noop
run $K list
has "^irq:noop" "the other is there still"
has "^save:noop" "and the third"
good "switch the third, by its whole name" switch save:noop $P/same_vcpu.bpf.o resumes=8
run $K get save:same_vcpu
has "^resumes *8 " "what switch was given is set"
good "unload it" unload save:same_vcpu
good "switch, the name alone" switch noop $P/run_first.bpf.o weight=8
good "set" set run_first budget=5
run $K get irq:run_first
has "^budget *5 " "it is set"
has "^weight *8 " "and so is what switch was given"
fails 9 "did you mean 'irq:run_first'" "a name that is nearly right" unload irq:run_firs
run $K --json status
python3 -c '
import json, sys
s = json.load(open(sys.argv[1]))
p, = s["policies"]
assert (p["instance"], p["name"], p["table"]) == ("irq:run_first", "run_first", "irq"), p
assert isinstance(s["irq"], list) and isinstance(s["save"], list)' "$tmp/out"
ok "status as JSON" $?
[ "$(ls $PINS)" = irq:run_first ]; ok "its pins are a folder of that name" $?

build/tests/tool/vmhold & vm=$!
for i in $(seq 200); do grep -q "^irq_vm pid=$vm " $STATE && break; sleep 0.1; done
good "load one for a VM" load $P/noop_irq.bpf.o --vm $vm
good "and a throttle policy for it" load $P/noop.bpf.o --vm $vm
good "and one for its exits" load $P/same_vcpu.bpf.o --vm $vm
run $K list
has "^irq:noop@$vm *irq" "the one has its VM in its name"
has "^noop@$vm *throttle" "and the other"
run $K status --vm $vm
has "^VM $vm, irq: policy noop" "status tells the table's figures of a VM"
has "^VM $vm, save: policy same_vcpu" "and the other table's"
has "^ *ID .* KINDS CLASSES RESUMES ASKS SWAPPED KEPT .* CPUID" "and its vCPUs'"
good "unload it, with its table and VM" unload save:same_vcpu@$vm
good "load one for its dirty log" load $P/skip_free.bpf.o --vm $vm
sleep 0.3
run $K status --vm $vm
has "^VM $vm, dirty: policy skip_free offered_to 1 harvests [1-9]" "it is asked"
run $K get dirty:skip_free@$vm no_lease
[ $code = 0 ] && grep -qx '[1-9][0-9]*' "$tmp/out"; ok "and says that there is no agent" $?
run $K get dirty:skip_free@$vm skipped
[ $code = 0 ] && grep -qx 0 "$tmp/out"; ok "and leaves out nothing" $?
good "unload it" unload skip_free@$vm
good "unload the VM's, name and VM alone" unload noop@$vm
good "and the irq policy" unload irq:noop@$vm
kill $vm
wait $vm 2>/dev/null
build/tests/tool/vmhold 1 ring & vm=$!
for i in $(seq 200); do grep -q "^irq_vm pid=$vm " $STATE && break; sleep 0.1; done
fails 10 "has a dirty ring" "a VM with a dirty ring" load $P/skip_free.bpf.o --vm $vm
kill $vm
good "unload, the name alone" unload run_first
run $K list
[ ! -s $PINS/irq* ] && [ -z "$(ls $PINS)" ]; ok "nothing is left" $?

done_testing
