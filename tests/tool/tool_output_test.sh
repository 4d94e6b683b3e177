#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool prints names in UTF-8 as they are, one JSON document a command and one line
# an error. It prints its version and that of the modules, and the VMs that a policy was
# taken from.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

unset LANG LC_ALL LC_CTYPE

# --- names --------------------------------------------------------------------------------

# named NAME: a VM whose process is called that
named() {
	cp build/tests/tool/vmhold "$tmp/$1"
	: >"$tmp/vm"
	"$tmp/$1" >"$tmp/vm" &
	vm=$!
	for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/vm" && return; sleep 0.1; done
}
named 'vmhöld 時'
run $K status --vm $vm
has "^VM $vm (vmhöld 時): " "status prints a name in UTF-8 as it is, in a locale that has none"
python3 - "$vm" "$K" >"$tmp/out" 2>"$tmp/err" <<'END'
import json, subprocess, sys
vm, kvmext = sys.argv[1:]
raw = subprocess.run([kvmext, "--json", "top", "--vm", vm, "0.5", "2"], stdout=subprocess.PIPE).stdout
last = json.loads(raw.decode("utf-8").splitlines()[-1])
assert [v["name"] for v in last["vms"]] == ["vmhöld 時"], last["vms"]
assert "vmhöld 時".encode() in raw
END
ok "top --json has it as it is, in UTF-8" $?
stop_vm
# Latin-1, a character cut in two, a form too long, half a pair; a control of C1, and one that turns writing round
named $'\xe9\xe6\x99\xc0\xaf\xed\xa0\x80\xc2\x9b'
python3 - "$vm" "$K" >"$tmp/out" 2>"$tmp/err" <<'END'
import json, subprocess, sys
vm, kvmext = sys.argv[1:]
raw = subprocess.run([kvmext, "--json", "top", "--vm", vm, "0.5", "2"], stdout=subprocess.PIPE).stdout
last = json.loads(raw.decode("utf-8").splitlines()[-1])
name, = [v["name"] for v in last["vms"]]
assert len(name) == 10, name
assert b"\\ufffd" in raw or name == "?" * 10, (name, raw[:300])
text = subprocess.run([kvmext, "status", "--vm", vm], stdout=subprocess.PIPE).stdout.decode("utf-8")
assert f"VM {vm} (??????????): " in text, text
END
ok "what is no UTF-8 is shown as such, and output stays UTF-8" $?
stop_vm
cp $P/noop.bpf.o "$tmp/"$'n\xe9\xc3\xa9\xe2\x80\xae"\\.bpf.o'
run $K --json list "$tmp/"$'n\xe9\xc3\xa9\xe2\x80\xae"\\.bpf.o'
python3 -c '
import json, sys
raw = open(sys.argv[1], "rb").read()
name = json.loads(raw.decode("utf-8"))["files"][0]["file"].rpartition("/")[2]
assert name == "n\ufffd\u00e9\u202e\"\\.bpf.o", ascii(name)
assert b"\\ufffd\xc3\xa9\\u202e\\\"\\\\" in raw, raw' "$tmp/out" 2>"$tmp/err"
ok "JSON: a wrong byte is U+FFFD, controls are escaped, the rest is as it is" $?
run $K list $B/tool_utf8.bpf.o
python3 -c '
import sys, unicodedata
lines = open(sys.argv[1], encoding="utf-8").read().splitlines()[1:]
cells = lambda s: sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in s)
at = {cells(l[:l.index(w)]) for l, w in zip(lines, ("MEANING", "Größe é 時間", "Länge", "two columns"))}
assert len(lines) == 4 and len(at) == 1, (at, lines)' "$tmp/out" 2>"$tmp/err"
ok "the columns of a table stand below each other, whatever is in them" $?
good "load" load $B/tool_utf8.bpf.o
run $K get utf8
has "^micro *2 *µs " "get prints a unit in UTF-8"
good "a unit in UTF-8 is understood" set utf8 micro=5µs
json "get" get utf8
good "unload" unload utf8

# --- one document, one line -----------------------------------------------------------------

for args in "-j nonsense" "-vj list --nonsense" "nonsense -j" "list -qj --nonsense" "--json" "load -j $P/noop.bpf.o --vm 4194303" \
	    "help nonsense -j" "help a b -j" "top --nonsense -bj" "top --nonsense -ujb"; do
	run $K $args
	cp "$tmp/out" "$tmp/json.$(echo "$args" | tr -cd a-z)"
	[ $code != 0 ] && [ ! -s "$tmp/err" ] && grep -q '"error"' "$tmp/out"; ok "kvmext $args: the error is in JSON" $?
done
for args in "help" "help load" "list --help" "load --usage" "-V"; do json "$(echo "asked-$args" | tr -cd a-zV-)" $args; done
grep -q '"kvmext": "0\.' "$tmp/json.asked--V"; ok "-V --json says which version" $?
python3 -c 'import json, sys; assert "Usage: kvmext load" in json.load(open(sys.argv[1]))["help"]' "$tmp/json.asked-helpload" 2>"$tmp/err"
ok "help --json has the text" $?
mkdir -m 700 /sys/fs/bpf/kvmext-guest
json "ended" guest --stop
good "load" load $P/noop.bpf.o
# Another policy is loaded there, and which one cannot be seen: one line, not two.
mkdir -m 777 "$tmp/bpf"
mount -t bpf -o mode=0700 bpf "$tmp/bpf"
run $K --bpffs "$tmp/bpf" load $B/tool_params.bpf.o
[ $code = 8 ] && [ "$(wc -l <"$tmp/err")" = 1 ]; ok "another policy is loaded there: exit 8, one line" $?
umount "$tmp/bpf"
mkdir -p "$tmp/dbg/kvm/ext"
echo "version 7" >"$tmp/dbg/kvm/ext/state"
run $K --debugfs "$tmp/dbg" load $B/tool_params.bpf.o
[ $code = 8 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "every VM has the policy 'of someone else' already" "$tmp/err"
ok "and so where nobody can say who has it" $?
run $K --json --debugfs "$tmp/dbg" load $B/tool_params.bpf.o
cp "$tmp/out" "$tmp/json.taken"
[ $code = 8 ] && [ ! -s "$tmp/err" ]; ok "with --json, too" $?
good "unload" unload noop

# --- help, version --------------------------------------------------------------------------

run $K help
[ $code = 0 ] && cp "$tmp/out" "$tmp/help" && run $K --help && cmp -s "$tmp/out" "$tmp/help"; ok "help is --help" $?
for cmd in load switch unload list status get set mark unmark doctor top dirty trace hist steer guest hint help version; do
	grep -q "^  .*\b$cmd\b" "$tmp/help"; ok "help has $cmd" $?
done
for cmd in load unmark version help; do
	run $K help $cmd
	[ $code = 0 ] && grep -q "^Usage: kvmext $cmd" "$tmp/out"; ok "help $cmd says how it is called" $?
done
good "version" version
has "^kvmext 0\.[0-9]* (libbpf " "it says its own"
has "^kvm modules.*: state file version 1, which this kvmext reads$" "and that of the modules, and that they match"
json "version" version
grep -q '"match": true' "$tmp/out"; ok "in JSON, too" $?
run setpriv --reuid 65534 --clear-groups --inh-caps=-all $K version
[ $code = 0 ] && grep -q "state file cannot be read: Permission denied" "$tmp/out"; ok "who may not read it is told so" $?

# fake TEXT: a state file
fake() { printf '%s\n' "$@" >"$tmp/dbg/kvm/ext/state"; }
for head in "version 2" "version" "policy table=throttle name=x vm=0" ""; do
	fake "$head" "policy table=throttle name=x vm=0 link=1 state=active"
	run $K --debugfs "$tmp/dbg" version
	[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "do not match.*; install the tool and the kvm modules of one release" "$tmp/err"
	ok "a state file that begins with '$head': version: exit 4, one line (got $code)" $?
	cmds=(list)
	[ "$head" != "version 2" ] || cmds+=(status "get x" "unload x")
	for cmd in "${cmds[@]}"; do
		run $K --debugfs "$tmp/dbg" $cmd
		[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "reads version 1; install the tool" "$tmp/err"
		ok "${cmd%% *} then: exit 4, one line (got $code)" $?
	done
done
fake "version 2"
run $K --debugfs "$tmp/dbg" --json top 0.2 2
python3 -c '
import json, sys
samples = [json.loads(l) for l in open(sys.argv[1])]
assert len(samples) == 2 and all("vms" in s and s["policies_known"] is False for s in samples), samples' "$tmp/out" 2>>"$tmp/err"
[ $? = 0 ] && [ $code = 0 ]; ok "top then: samples alone, which say that policies are not known" $?
run $K --debugfs "$tmp/dbg" top -b 0.2 1
[ $code = 0 ] && [ ! -s "$tmp/err" ] && grep -q "policies are not known: kvmext list says why" "$tmp/out"
ok "and so in text" $?
run $K --json top 0.2 1
has '"policies_known": true' "and that they are, where the file can be read"
run $K --debugfs "$tmp/dbg" --json version
cp "$tmp/out" "$tmp/json.mismatch"
[ $code = 4 ] && grep -q '"match": false' "$tmp/out" && grep -q '"code": 4' "$tmp/out"; ok "and as JSON it is one document with an error in it" $?

# --- taken from a VM -----------------------------------------------------------------------

fake "version 1" \
	'policy table=throttle name=a vm=0 link=1 state=active seq=5 since_ns=1 calls=9 taken=2' \
	'policy table=irq name=a vm=0 link=2 state=active seq=6 since_ns=1 calls=9 taken=0' \
	'policy table=throttle name=b vm=11 link=3 state=active seq=7 since_ns=1 calls=9' \
	'taken table=throttle policy=a vm=12 seq=5 kind=answers msg="64 answers outside the allowed set, the last \"-1\""' \
	'taken table=throttle policy=a vm=13 seq=5 kind=slow msg="16 calls"' \
	'taken table=throttle policy=a vm=14 seq=4 kind=slow msg="of one before it"' \
	'taken table=throttle policy=b vm=11 kind=slow msg="without a number"'
run $K --debugfs "$tmp/dbg" list
has "^a *throttle .* 9 *2 VMs *1 " "list says from how many VMs"
has "^irq:a *irq .* 9 *- *2 " "and not of another table's policy of that name"
has "^b@11 *throttle .* 9 *1 VM *3 " "nor of a VM's own"
run $K --debugfs "$tmp/dbg" status --interval 0
has '^  taken from VM 12 for: answers: 64 answers outside the allowed set, the last "-1"; ' "status says from which, and why"
has '^  taken from VM 13 for: slow: 16 calls; ' "each of them"
grep -q "VM 14" "$tmp/out"; [ $? != 0 ]; ok "but not what was taken of the policy before it" $?
for cmd in list status; do
	run $K --debugfs "$tmp/dbg" --json $cmd
	python3 -c '
import json, sys
s = json.load(open(sys.argv[1]))
a, irq, b = s["policies"]
assert a["taken_from"] == [
    {"vm": 12, "kind": "answers", "msg": "64 answers outside the allowed set, the last \"-1\""},
    {"vm": 13, "kind": "slow", "msg": "16 calls"}], a
assert irq["taken_from"] == [] and [t["vm"] for t in b["taken_from"]] == [11], (irq, b)' "$tmp/out" 2>"$tmp/err"
	ok "$cmd --json has the same" $?
done
fake "version 1" 'policy table=throttle name=7 vm=0 link=1 state=ejected seq=5 kind=policy code=-1 msg="42" dump="43"' \
	'vm pid=11 policy=7 vcpus=1 logging=0 harvests=0 ring_resets=0 last_dirty=0' \
	'vcpu pid=11 id=0 idx=0 marked=0 blocks=0 blocked_ns=0 dirty_write=5' \
	'vm pid=12 policy=7 vcpus=1 logging=1 harvests=0 ring_resets=0 last_dirty=0' \
	'vcpu pid=12 id=0 idx=0 marked=0 blocks=0 blocked_ns=0 dirty_write=5'
run $K --debugfs "$tmp/dbg" --json status --interval 10
python3 -c '
import json, sys
s = json.load(open(sys.argv[1]))
(p,), (off, on) = s["policies"], s["vms"]
assert (p["name"], p["msg"], p["dump"], p["code"]) == ("7", "42", "43", -1), p
assert off["vcpus"][0]["dirty_per_s"] is None and on["vcpus"][0]["dirty_per_s"] == 0, s["vms"]' "$tmp/out" 2>>"$tmp/err"
ok "JSON: a message of digits is text, and what is not logged is null" $?
run $K --debugfs "$tmp/dbg" status --interval 10
[ "$(grep -c "^ *0 .*  *5  *-$" "$tmp/out")" = 1 ] && [ "$(grep -c "^ *0 .*  *5  *0$" "$tmp/out")" = 1 ]
ok "and - in text" $?
awk 'BEGIN {
	print "version 1"
	for (vm = 11; vm < 15; vm++) {
		print "vm pid=" vm " policy=- vcpus=4096 logging=1"
		for (i = 0; i < 4096; i++)
			print "vcpu pid=" vm " id=" i " idx=" i " marked=0 blocks=0 blocked_ns=0 dirty_write=5"
	}
	print "vm pid=14 policy=- vcpus=1 logging=1"
	print "vcpu pid=14 id=7 idx=7 marked=0 blocks=0 blocked_ns=0 dirty_write=5"
}' >"$tmp/dbg/kvm/ext/state"
(ulimit -t $((20 * slow)); $K --debugfs "$tmp/dbg" --json status --interval 10) >"$tmp/json" 2>"$tmp/err"
python3 -c '
import json, sys
vms = json.load(open(sys.argv[1]))["vms"]
assert [len(vm["vcpus"]) for vm in vms] == [4096] * 4 + [1]
assert all("dirty_per_s" in v for vm in vms for v in vm["vcpus"])' "$tmp/json" >"$tmp/out" 2>>"$tmp/err"
ok "status of 16,384 vCPUs takes no minute, and each has its rates" $?
fake "version 1" "policy table=throttle name=a vm=0 link=1 state=active"
run $K --debugfs "$tmp/dbg" list
[ $code = 0 ] && grep -q "^a *throttle *all *active" "$tmp/out"; ok "a kernel that takes nothing from VMs is understood" $?
# By the kernel itself
start_vm
$K --json trace policy >"$tmp/take" 2>"$tmp/err" &
tr=$!
for _ in $(seq $((600 * slow))); do
	grep -q '"begin"' "$tmp/take" && break
	kill -0 $tr 2>/dev/null || break
	sleep 0.1
done
good "mark" mark --vm $vm --vcpu 0
good "load a policy that answers what is not allowed" load $B/misbehave.bpf.o mode=2
for _ in $(seq $((150 * slow))); do grep -q "^taken\|state=ejected" $STATE && break; sleep 0.1; done
run $K status
has "^policy 'misbehave' .*: active since" "it stays loaded"
has "^  taken from VM $vm for: answers: 64 answers outside the allowed set" "and status says from which VM it was taken"
run $K list
has "^misbehave .* active .* 1 VM " "and list"
good "unload it" unload misbehave
kill -INT $tr
wait $tr
python3 - "$tmp/take" $vm >"$tmp/out" 2>"$tmp/err" <<'END'
import json, sys
es = [e for e in map(json.loads, open(sys.argv[1])) if "event" in e]
print(es)
attach, take, detach = es
assert [e["event"] for e in es] == ["attach", "take", "detach"]
assert take["vm"] == int(sys.argv[2]) and take["policy"] == attach["policy"] == detach["policy"]
assert (take["name"], take["table"], take["kind"]) == ("misbehave", "throttle", "answers")
assert take["message"].startswith("64 answers outside the allowed set")
END
ok "trace policy has it: from which VM, which policy, and why" $?
stop_vm

json_check
done_testing
