#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A VM is named by its VMM's process everywhere, also if a thread that is long gone made
# it. A thread's id in its place is an error at once.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

await() { for _ in $(seq $((200 * slow))); do "$@" && return; sleep 0.1; done; return 1; }

start_vm 1 thread
for kind in vm vcpu irq_vm save_vm dirty_vm; do
	grep -q "^$kind pid=$vm " $STATE && ! grep "^$kind pid=" $STATE | grep -qv "^$kind pid=$vm "
	ok "the state file's $kind has the process" $?
done
good "load" load $B/tool_params.bpf.o --vm $vm
good "mark" mark --vm $vm --vcpu 0
sleep 0.5
good "status" status --vm $vm
has "^VM $vm (vmhold): policy params-1.0, 2 vCPUs" "status has the process and its name"
has "^ *0 yes" "and its vCPUs"

$K top --json 0.5 >"$tmp/top" 2>"$tmp/top.err" &
top=$!
await sh -c "[ \$(wc -l <$tmp/top) -ge 8 ]"
kill $top
wait $top 2>/dev/null
python3 - "$tmp/top" "$vm" >"$tmp/out" 2>"$tmp/err" <<'END'
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1])][1:]
vm = int(sys.argv[2])
was = 0
for l in lines:
    assert [v["vm"] for v in l["vms"]] == [vm], l["vms"]
    v = l["vms"][0]
    assert v["name"] == "vmhold", v
    n = v["total"]["exits"]
    assert n >= was, (n, was)
    was = n
assert was > 0
print(len(lines), "intervals")
END
ok "top has the process, its name, in each interval, with totals that go on: $(tail -n1 "$tmp/out")" $?
run $K top -b --vm $vm 0.5 2
has "^ *$vm " "top --vm finds it"

trace() { run $K --json trace "$1" --vm $vm --for 1; }
for ev in dirty throttle exit; do
	trace $ev
	grep -v '"\(begin\|end\)"' "$tmp/out" >"$tmp/events"
	[ $code = 0 ] && [ -s "$tmp/events" ] && ! grep -qv "\"vm\": $vm\b" "$tmp/events"
	ok "trace $ev --vm shows events, all of the process" $?
	cp "$tmp/events" "$tmp/out"
done
run $K --json hist block --per-vcpu --vm $vm --for 1
grep -q "\"vm\": $vm\b" "$tmp/out"; ok "hist block --vm has it" $?
run $K --json hist irq --vm $vm --for 1
[ $code = 0 ]; ok "hist irq --vm" $?
run $K --json dirty --vm $vm 1 1
grep -q "\"vm\": $vm\b" "$tmp/out"; ok "dirty --vm has it" $?

# Whoever asks for an end gets it, with the output so far: dirty and top as the others.
for sig in HUP QUIT TERM INT; do
	for cmd in "dirty --vm $vm 0.2" "top --batch --vm $vm 0.2"; do
		# shellcheck disable=SC2086
		env --default-signal=HUP,QUIT,INT $K --json $cmd >"$tmp/out" 2>"$tmp/err" </dev/null &
		pid=$!
		for _ in $(seq $((100 * slow))); do [ -s "$tmp/out" ] && break; sleep 0.1; done
		kill -$sig $pid
		timeout $((10 * slow)) tail --pid=$pid -f /dev/null
		wait $pid && [ -s "$tmp/out" ] && [ ! -s "$tmp/err" ]
		ok "SIG$sig ends ${cmd%% *}, with exit 0" $?
	done
done
$K -q unload params-1.0@$vm

# --- a thread's id -----------------------------------------------------------------------

tid=$(ls /proc/$vm/task | grep -vx $vm | head -n1)
fails 7 "$tid (vmhold) is a thread of process $vm.*; use --vm $vm" "load --vm with a thread's id" load $P/noop.bpf.o --vm $tid
for cmd in "status" "mark --vcpu 0" "top -b 1" "dirty 1" "trace exit" "hist exit"; do
	fails 7 "is a thread of process $vm.*; use --vm $vm" "${cmd%% *} --vm with a thread's id" $cmd --vm $tid
done

# --- the VM ends --------------------------------------------------------------------------

for args in "top --json" "top -b" "dirty"; do
	$K $args --vm $vm 0.5 >"$tmp/$(echo $args | tr -d ' ')" 2>&1 &
	kids="${kids:-} $!"
done
for f in top--json top-b dirty; do await [ -s "$tmp/$f" ]; done
sleep 1
stop_vm
gone() { for k in $kids; do kill -0 $k 2>/dev/null && return 1; done; return 0; }
await gone
ok "top, as JSON and as lines, and dirty end when the VM does" $?
wrong=0
for k in $kids; do wait $k || wrong=1; done
[ $wrong = 0 ]; ok "with exit status 0" $?
tail -n1 "$tmp/top-b" >"$tmp/out"
has "VM $vm has exited" "and say so"

# --- the VM ends, its VMM lives on ----------------------------------------------------------

coproc TRUE { exec build/tests/tool/vmtrue; }
vm=$TRUE_PID kids=
echo "exits 1" >&${TRUE[1]}
read -r _ <&${TRUE[0]}
for args in "trace exit" "hist exit"; do
	$K $args --vm $vm >"$tmp/$(echo $args | tr -d ' ')" 2>&1 &
	kids="$kids $!"
done
for f in traceexit histexit; do await grep -q watching "$tmp/$f"; done
echo close >&${TRUE[1]}
read -r _ <&${TRUE[0]}
await gone; ok "trace and hist end when the VM is closed" $?
kill $kids 2>/dev/null
wrong=0
for k in $kids; do wait $k || wrong=1; done
[ $wrong = 0 ] && kill -0 $vm; ok "with exit status 0, and its VMM lives" $?
cat "$tmp/traceexit" "$tmp/histexit" >"$tmp/out"
[ "$(grep -c "VM $vm has exited" "$tmp/out")" = 2 ]; ok "and say so" $?
kill $vm
wait $vm 2>/dev/null

# --- a VM with two files, and a process that merely has them --------------------------------

start_vm 1 dup
heir=$(pgrep -P $vm)
[ "$(ls -l /proc/$vm/fd /proc/$heir/fd | grep -c anon_inode:kvm-vm)" = 4 ]; ok "two processes with two files of a VM" $?
fails 9 "no policy 'skip_free' is loaded for VM $vm" "hint: it is one VM" hint --vm $vm --port "$tmp/none"
modprobe -q tun
fails 7 "VM $vm has no tap tap9" "steer: it is one VM" steer --vm $vm tap9
for cmd in "load $P/noop.bpf.o" "status" "mark --vcpu 0" "top -b 0.5 1" "dirty 0.5 1" "trace exit --for 1"; do
	fails 7 "process $heir (vmhold) has no VM" "${cmd%% *} --vm with a process that only has the files" $cmd --vm $heir
done
stop_vm

# --- a VMM whose first thread has ended ----------------------------------------------------

start_vm 1 headless
await grep -q "^State:.*Z" /proc/$vm/status
[ -z "$(ls /proc/$vm/fd 2>/dev/null)" ]; ok "a VMM whose first thread has ended has no files there" $?
run $K top -b --vm $vm 0.5 3
[ $code = 0 ] && [ "$(grep -c "^ *$vm " "$tmp/out")" -ge 2 ] && ! grep -q "has exited" "$tmp/out"
ok "top --vm finds it, and it has not exited" $?
run $K --json trace exit --vm $vm --for 1
[ $code = 0 ] && grep -q "\"vm\": $vm\b" "$tmp/out"; ok "and trace --vm" $?
fails 9 "no policy 'skip_free' is loaded for VM $vm" "hint finds it" hint --vm $vm --port "$tmp/none"
stop_vm

# --- a disk that is full -------------------------------------------------------------------

start_vm
was=$SECONDS
run $K trace exit --perfetto /dev/full --for 600
[ $code = 1 ] && [ $((SECONDS - was)) -lt $((60 * slow)) ] && grep -q "cannot write /dev/full: No space" "$tmp/err"
ok "trace --perfetto onto a full disk stops at once (after $((SECONDS - was)) s, exit $code)" $?
stop_vm

done_testing
