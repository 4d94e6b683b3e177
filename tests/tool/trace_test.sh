#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext trace and hist agree with a guest that exits a known number of times, and with
# KVM's own counts. Runs on any KVM. Without kvm_ext's modules it leaves out what
# concerns policies.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

CPUIDS=200 OUTS=50 SLOWS=3 MS=40 HALTS=10

# up FILE PID: until the tracer that writes to FILE is at work, or gone
up() {
	for _ in $(seq $((600 * slow))); do
		grep -q 'watching\|"begin"' "$1" && return
		kill -0 "$2" 2>/dev/null || return
		sleep 0.1
	done
}

# guest ARGS: a VM of tests/tool/vmexits that waits for "go"
guest() {
	rm -f "$tmp/go"
	mkfifo "$tmp/go"
	build/tests/tool/vmexits "$@" <"$tmp/go" >"$tmp/vm" 2>&1 &
	vm=$!
	exec 5>"$tmp/go"
	for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/vm" && return; sleep 0.1; done
}
go() {
	echo >&5
	for _ in $(seq $((600 * slow))); do grep -q 'done\|failed' "$tmp/vm" && break; sleep 0.1; done
	exec 5>&-
	wait $vm
}
# tracer NAME ARGS: in the background, until the VM has exited
tracer() {
	local name=$1; shift
	$K "$@" --vm $vm 5>&- >"$tmp/$name.out" 2>"$tmp/$name.err" &
	pids+=($!)
	names+=("$name")
}

# --- everything at once, of one guest -----------------------------------------

guest 2 $CPUIDS $OUTS $SLOWS $MS $HALTS
pids=() names=()
tracer all --json trace exit irq fault
tracer slow --json trace exits --min-us $((MS * 1000)) --vcpu 0
tracer reason --json trace --reason CPUID --vcpu 1
tracer perfetto trace exit irq --perfetto "$tmp/trace.json"
tracer tiny trace exit --buffer 4
tracer hist-json --json hist exit --for 600
tracer inject --json hist inject --for 600
tracer wakeup hist wakeup
tracer hist-vcpu --json hist exit --per-vcpu
$K top --json 0.5 --vm $vm 5>&- >"$tmp/top.out" 2>"$tmp/top.err" &
top=$!
for i in "${!pids[@]}"; do
	case ${names[i]} in
	hist-json | hist-vcpu | inject) ;;
	*) up "$tmp/${names[i]}.out" "${pids[i]}" ;;
	esac
done
# These say nothing before the end; they came up along with the others.
for p in "${pids[@]}" $top; do
	for _ in $(seq $((600 * slow))); do
		ls -l /proc/$p/fd 2>/dev/null | grep -q 'bpf_link\|bpf-link' && break
		kill -0 $p 2>/dev/null || break
		sleep 0.1
	done
done
sleep 1
# However slow the machine: who is stopped does not empty its buffer in time.
tiny=${pids[4]}
kill -STOP "$tiny"
go
kill -CONT "$tiny"
grep -q done "$tmp/vm"; ok "the guest ran" $?
bad_ends=
for i in "${!pids[@]}"; do wait "${pids[i]}" || bad_ends+=" ${names[i]}"; done
# Until top has looked at it for the last time
looks=$(wc -l <"$tmp/top.out")
for _ in $(seq 600); do [ "$(wc -l <"$tmp/top.out")" -gt $((looks + 1)) ] && break; sleep 0.1; done
kill -INT $top
wait $top || bad_ends+=" top"
echo "$bad_ends" >"$tmp/out"; cat "$tmp"/*.err >"$tmp/err"
[ -z "$bad_ends" ]; ok "every tracer ended with its VM, exit 0" $?

cat >"$tmp/check.py" <<'EOP'
import json, re, sys
tmp, vm, cpuids, outs, slows, ms, halts = sys.argv[1], *map(int, sys.argv[2:])
stat = {}
for l in open(tmp + "/vm"):
    w = l.split()
    if w[0] == "vcpu":
        stat[int(w[1]), w[2]] = int(w[3])
exits = stat[0, "exits"] + stat[1, "exits"]

def lines(name):
    return [json.loads(l) for l in open(f"{tmp}/{name}.out")]

def events(name, kind):
    return [e for e in lines(name) if e.get("event") == kind]

def end(name):
    return lines(name)[-1]["end"]

def check(what, good, *more):
    print("ok" if good else "bad", what, *([] if good else more))

def guarded(what, f):
    try:
        r = f()
        check(what, *(r if isinstance(r, tuple) else (r,)))
    except Exception as e:
        check(what, False, repr(e))

def count(es, **want):
    return sum(all(e.get(k) == v for k, v in want.items()) for e in es)

ex = events("all", "exit")
for v in 0, 1:
    n = count(ex, vcpu=v, reason="cpuid")
    check(f"vCPU {v}: as many CPUID exits as the guest made", n == cpuids * (v + 1), n)
    n = count(ex, vcpu=v, user="KVM_EXIT_IO")
    check(f"vCPU {v}: as many exits to user space", n == outs + slows + 1, n)
    n = count(ex, vcpu=v)
    check(f"vCPU {v}: exits equal KVM's count", n == stat[v, "exits"], n, stat[v, "exits"])
n = count(ex, reason="hlt")
check("halts equal KVM's count", n == stat[0, "halt_exits"] == halts, n, stat[0, "halt_exits"])
n = count(events("all", "inject"), vcpu=0)
check("interrupts injected equal KVM's count", n == stat[0, "irq_injections"], n, stat[0, "irq_injections"])
check("the VM is the one asked for", all(e["vm"] == vm for e in ex))
check("faults have an address", events("all", "fault") and all("gpa" in e for e in events("all", "fault")))
check("nothing was lost", end("all")["lost"] == 0, end("all"))
check("the end counts the events", end("all")["exit"]["events"] == len(ex) and
      end("all")["events"] == len(lines("all")) - 2, end("all"))
slow = events("slow", "exit")
check("--min-us: nothing shorter, no other vCPU", slow and all(e["ns"] >= ms * 10**6 and e["vcpu"] == 0 for e in slow))
long = [e for e in ex if e["vcpu"] == 0 and e.get("ns", 0) >= ms * 10**6]
n = count(slow, user="KVM_EXIT_IO")
check("--min-us: the slow writes are there", n >= slows, n)
# Two tracers read the clock one after the other: on the edge they may differ.
check("--min-us: what the whole trace has", abs(len(slow) - len(long)) <= 2, len(slow), len(long))
r = lines("reason")
check("--reason and --vcpu: only those", count(r, reason="cpuid", vcpu=1) == 2 * cpuids == len(r) - 2, len(r))
m = re.search(r"^(\d+) events in .* s, (\d+) lost$", open(tmp + "/tiny.out").read(), re.M)
seen, lost = map(int, m.groups()) if m else (0, 0)
check("a tiny buffer loses events and counts them", seen and lost and seen + lost == exits, seen, lost, exits)
check("and warns", f"{lost} events were lost" in open(tmp + "/tiny.err").read())

def perfetto():
    t = json.load(open(tmp + "/trace.json"))
    tracks = {e["args"]["name"]: e["tid"] for e in t if e["name"] == "thread_name" and e["pid"] == vm}
    x = [e for e in t if e["ph"] == "X" and e["name"] == "cpuid"]
    return (sorted(tracks) == ["vCPU 0", "vCPU 1"] and len(set(tracks.values())) == 2 and
            sum(e["tid"] == tracks["vCPU 1"] for e in x) == 2 * cpuids and
            sum(e["tid"] == tracks["vCPU 0"] for e in x) == cpuids and
            all(e["dur"] > 0 for e in x)), tracks, len(x)
guarded("the Perfetto file parses and has a track per vCPU", perfetto)

def hist(name):
    return json.load(open(f"{tmp}/{name}.out"))

def hist_exit():
    hs = {h["reason"]: h for h in hist("hist-json")["histograms"]}
    io = hs["io"]
    # The last exit of each vCPU is followed by no entry, so has no length.
    late = sum(b["count"] for b in io["buckets"] if b["from_ns"] >= 2**25)
    return (hs["cpuid"]["count"] == 3 * cpuids and sum(h["count"] for h in hs.values()) == exits - 2 and
            all(sum(b["count"] for b in h["buckets"]) == h["count"] for h in hs.values()) and
            late >= 2 * slows and io["max_ns"] >= ms * 10**6), hs.keys(), late, exits
guarded("hist exit: counts, and the slow writes in their bucket", hist_exit)

def hist_vcpu():
    hs = {(h["vm"], h["vcpu"], h["reason"]): h["count"] for h in hist("hist-vcpu")["histograms"]}
    n = [sum(c for (_, v, _), c in hs.items() if v == k) for k in (0, 1)]
    return (hs[vm, 0, "cpuid"] == cpuids and hs[vm, 1, "cpuid"] == 2 * cpuids and
            n == [stat[k, "exits"] - 1 for k in (0, 1)]), hs
guarded("hist --per-vcpu: each vCPU has its own", hist_vcpu)

def top():
    last = [v for l in lines("top") for v in l["vms"]][-1]
    totals = {c["id"]: c["total"] for c in last["vcpus"]}
    # KVM counts one that it has to inject once more as another.
    once = [sum(e["vcpu"] == k and "again" not in e for e in events("all", "inject")) for k in (0, 1)]
    return all(totals[k]["exits"] == stat[k, "exits"] and totals[k]["injected"] == once[k]
               for k in (0, 1)), totals, stat, once
guarded("top: exits equal KVM's count, each interrupt injected counts once", top)

def hist_inject():
    (h,) = hist("inject")["histograms"]
    return 1 <= h["count"] <= stat[0, "irq_injections"], h
guarded("hist inject: at most once an interrupt", hist_inject)

text = open(tmp + "/wakeup.out").read()
m = re.search(r"^wakeup: (\d+), mean", text, re.M)
check("hist wakeup, in text: at most once a wake-up", m and 1 <= int(m[1]) <= stat[0, "halt_wakeup"], text[:300])
EOP
python3 "$tmp/check.py" "$tmp" $vm $CPUIDS $OUTS $SLOWS $MS $HALTS >"$tmp/checks" 2>"$tmp/err"
grep '^vcpu' "$tmp/vm" >"$tmp/out"
[ -s "$tmp/checks" ]; ok "the traces can be read" $?
while read -r verdict what; do
	echo "$what" >"$tmp/out"
	[ "$verdict" = ok ]; ok "$what" $?
done <"$tmp/checks"

# --- a run that is killed ---------------------------------------------------------

guest 1 5000 0 0 0 0
$K trace exit --perfetto "$tmp/killed.json" 5>&- >"$tmp/killed.out" 2>&1 &
tr=$!
up "$tmp/killed.out" $tr
go
for _ in $(seq $((100 * slow))); do grep -q cpuid "$tmp/killed.json" 2>/dev/null && break; sleep 0.1; done
kill -9 $tr
wait $tr 2>/dev/null
python3 - "$tmp/killed.json" >"$tmp/out" 2>"$tmp/err" <<'EOP'
import json, sys
text = open(sys.argv[1]).read()
assert text.endswith("},\n"), text[-100:]
assert any(e["name"] == "cpuid" for e in json.loads(text.rstrip(",\n") + "]"))
EOP
ok "a killed run leaves whole lines" $?

# --- files: a disk that is full, a trace that was there before ------------------------

mkdir "$tmp/small"
mount -t tmpfs -o size=4k small "$tmp/small"
guest 1 5 2000 0 0 0
$K trace exit --perfetto "$tmp/small/trace.json" --vm $vm 5>&- >"$tmp/out" 2>"$tmp/err" &
tr=$!
up "$tmp/out" $tr
go
wait $tr
[ $? = 1 ] && grep -q "^kvmext: cannot write .*: No space left" "$tmp/err"; ok "a disk that is full ends it" $?
python3 - "$tmp/small/trace.json" >"$tmp/out" 2>"$tmp/err" <<'EOP'
import json, sys
text = open(sys.argv[1]).read()
assert text.endswith("},\n"), text[-100:]
json.loads(text.rstrip(",\n") + "]")
EOP
ok "and leaves whole lines" $?
umount "$tmp/small"
echo old >"$tmp/old.json"
# 28: BPF_LINK_CREATE
run build/tests/tool/denybpf 1 28 $K trace exit --for 1 --perfetto "$tmp/old.json"
[ $code = 10 ] && [ "$(cat "$tmp/old.json")" = old ]; ok "a trace that does not begin leaves the old file" $?

# --- interrupts, by what their vCPU did -----------------------------------------------

mkfifo "$tmp/true"
build/tests/tool/vmtrue <"$tmp/true" >"$tmp/vm" 2>&1 &
vm=$!
exec 5>"$tmp/true"
$K --json hist irq --vm $vm --vcpu 1 5>&- >"$tmp/irq.out" 2>"$tmp/irq.err" &
tr=$!
for _ in $(seq 600); do
	ls -l /proc/$tr/fd 2>/dev/null | grep -q 'bpf_link\|bpf-link' && break
	kill -0 $tr 2>/dev/null || break
	sleep 0.1
done
sleep 1
for _ in $(seq 20); do echo irq >&5; done
echo exits 1 >&5
for _ in $(seq 600); do grep -q exits "$tmp/vm" && break; sleep 0.1; done
kill -INT $tr
wait $tr
exec 5>&-
wait $vm
got=$(grep -c '^irq 1$' "$tmp/vm")
python3 - "$tmp/irq.out" "$got" >"$tmp/out" 2>"$tmp/irq.err" <<'EOP'
import json, sys
d = json.load(open(sys.argv[1]))
hs = d["histograms"]
print(d)
assert sum(h["came"] for h in hs) == int(sys.argv[2]) == 20 and not d["lost"] and not d["stray"]
assert all(h["vcpu"] == 1 and h["came"] >= h["count"] == sum(b["count"] for b in h["buckets"]) for h in hs)
EOP
ok "hist irq: as many as the guest got, each once" $?

# --- what is refused ---------------------------------------------------------------

fails 2 "no event 'exist'" "an unknown event" trace exist
fails 2 "did you mean 'cpuid'" "an unknown reason" trace --reason cpuidd
fails 2 "no number of micro" "a bad length" trace --min-us x
fails 2 "no vCPU number" "a bad vCPU" trace --vcpu -1
fails 2 "no number of sec" "a bad time" hist exit --for 0
fails 2 "no power of two" "a bad buffer" trace --buffer 5
fails 2 "reason is for exits" "a reason of what has none" trace irq --reason cpuid
fails 2 "of what" "hist of nothing" hist
fails 2 "no histogram" "hist of something unknown" hist exitz
fails 7 "no process" "a VM that is not there" trace --vm 4194303
fails 7 "has no VM" "a process without a VM" hist exit --vm $$
run setpriv --reuid 65534 --clear-groups --inh-caps=-all $K trace exit --for 1
[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ]; ok "without privilege: exit 3, one line" $?
run $K doctor
has "^figure: exit *ok *BTF tracepoint" "doctor tells how exits are had"
has "^exit names *ok *[1-9][0-9][0-9], of /sys" "doctor tells where names are from"

# --- policies ------------------------------------------------------------------------

run $K --json trace exit --for 0.2 --perfetto "$tmp/short.json"
python3 -c '
import json, sys
a, b = [json.loads(l) for l in open(sys.argv[1])]
assert list(a) == ["begin"] and list(b) == ["end"], (a, b)' "$tmp/out" 2>>"$tmp/err"
ok "--json with --perfetto: begin and end" $?

if [ ! -e $STATE ]; then
	run $K --json trace exit policy --for 0.2
	python3 -c '
import json, sys
ls = [json.loads(l) for l in open(sys.argv[1])]
assert "begin" in ls[0] and "end" in ls[-1] and "missing" in ls[1], ls[:3]
m = ls[1]["missing"]
assert (m["event"], m["all"], m["error"]) == ("policy", True, None) and "kvm_ext_take" in m["points"], m' "$tmp/out" 2>>"$tmp/err"
	ok "without kvm_ext: begin is first, then what is missing" $?
	run $K hist block --for 1
	[ $code = 4 ] && grep -q "no tracepoint kvm_throttle_block" "$tmp/err"
	ok "without kvm_ext: hist block says what is missing" $?
	run $K trace policy throttle --for 1
	[ $code = 4 ] && [ "$(grep -c 'no .* events: this kernel lacks' "$tmp/err")" = 2 ]
	ok "without kvm_ext: a line for each kind of event that is not there" $?
	done_testing
fi

start_vm
pids=() names=()
tracer throttle --json trace throttle policy dirty
tracer block --json hist block
up "$tmp/throttle.out" "${pids[0]}"
for _ in $(seq $((600 * slow))); do ls -l /proc/${pids[1]}/fd | grep -q 'bpf_link\|bpf-link' && break; sleep 0.1; done
$K -q load $P/stun.bpf.o block=20ms
$K -q mark --vm $vm --vcpu 0
sleep 2
$K -q unload stun
field vcpu blocks >"$tmp/blocks"
stop_vm
wait "${pids[@]}"
python3 - "$tmp" >"$tmp/checks" 2>"$tmp/err" <<'EOP'
import json, sys
tmp = sys.argv[1]
es = [json.loads(l) for l in open(tmp + "/throttle.out")]
b = [e for e in es if e.get("event") == "block"]
h = json.load(open(tmp + "/block.out"))["histograms"][0]
# Granted is what is left as it falls asleep: nearly all, or less after a kick.
full = [e for e in b if e["end"] == "timer" and 19 * 10**6 < e["granted_ns"] <= 20 * 10**6]
def check(what, good, *more):
    print("ok" if good else "bad", what, *([] if good else more))
check("blocks are of the vCPU that is marked", b and all(e["vcpu"] == 0 for e in b))
# A vCPU that waits for a CPU between the answer and the sleep has that much less to sleep.
short = [e for e in full if e["ns"] < e["granted_ns"]]
check("a block is as long as was asked for", len(full) > 10 and len(short) <= len(full) / 10, len(full), short)
kinds = [e["event"] for e in es if e.get("event") in ("attach", "detach")]
check("the policy comes and goes", kinds == ["attach", "detach"], kinds)
check("marks, asks, rounds and dirtied pages are there",
      {"mark", "ask", "dirty_log", "dirty"} <= {e.get("event") for e in es})
check("dirtied pages are of the memory that is logged",
      all(0x10000 <= e["gfn"] < 0x10100 for e in es if e.get("event") == "dirty"))
check("hist block: as many, each in the right bucket",
      h["count"] == len(b) == sum(k["count"] for k in h["buckets"]) and
      all(k["count"] == sum(k["from_ns"] <= e["ns"] < k["to_ns"] for e in b) for k in h["buckets"]), h, len(b))
EOP
while read -r verdict what; do
	echo "$what" >"$tmp/out"
	[ "$verdict" = ok ]; ok "$what" $?
done <"$tmp/checks"
[ -s "$tmp/checks" ]; ok "the trace of a policy can be read" $?

# irq_test's own policy chooses among what its guest programmed.
$K --json trace route >"$tmp/route.out" 2>"$tmp/err" &
pid=$!
up "$tmp/route.out" $pid
build/tests/kvm/irq_test -t flat >"$tmp/out" 2>&1; ok "interrupts are routed" $?
kill -INT $pid
wait $pid; ok "trace route ends when asked" $?
python3 - "$tmp/route.out" >"$tmp/out" 2>"$tmp/err" <<'EOP'
import json, sys
es = [e for e in map(json.loads, open(sys.argv[1])) if e.get("event") == "route"]
print(len(es), es[:3])
sys.exit(not (len(es) > 20 and all(e["candidates"] >= 2 and -1 <= e["answer"] < e["candidates"] for e in es) and
              any(e["answer"] not in (-1, e["own"]) for e in es) and {e["vcpu"] for e in es} - {None, -1}))
EOP
ok "trace route: who was chosen, of whom" $?
done_testing
