#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# top, trace and hist work on this machine's own KVM and kernel. The guest goes to user
# space a known number of times. A KVM that does not tell its exits, as on a paravirtual
# host, has no others.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

skip() { echo "1..0 # SKIP $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root may"
[ -w /dev/kvm ] || skip "this machine has no /dev/kvm"
run $K hist exit --for 0.1
[ $code = 0 ] || skip "$(head -n 1 "$tmp/err")"

OUTS=50 SLOWS=3 MS=40 HALTS=5
mkfifo "$tmp/go"
build/tests/tool/vmexits 2 200 $OUTS $SLOWS $MS $HALTS <"$tmp/go" >"$tmp/vm" 2>&1 &
vm=$!
exec 5>"$tmp/go"
for _ in $(seq 100); do grep -q ready "$tmp/vm" && break; sleep 0.1; done
pids=()
tracer() {
	local name=$1; shift
	"$@" 5>&- >"$tmp/$name" 2>"$tmp/$name.err" &
	pids+=($!)
}
tracer top $K top --json 0.5
tracer trace $K --json trace exit --vm $vm
tracer hist $K --json hist exit --per-vcpu --vm $vm
tracer perfetto $K trace exit --vm $vm --perfetto "$tmp/trace.json"
# At work once they hold links, and no more come.
for p in "${pids[@]}"; do
	was=0
	for _ in $(seq 600); do
		now=$(find /proc/$p/fd -lname 'anon_inode:bpf*link' 2>/dev/null | wc -l)
		[ "$now" -gt 0 ] && [ "$now" = $was ] && break
		was=$now
		sleep 0.2
	done
done
echo >&5
for _ in $(seq 600); do grep -q 'done\|failed' "$tmp/vm" && break; sleep 0.1; done
grep -q done "$tmp/vm"; ok "the guest ran" $?
# top has looked again, twice
at=$(wc -l <"$tmp/top")
for _ in $(seq 600); do [ "$(wc -l <"$tmp/top")" -gt $((at + 1)) ] && break; sleep 0.1; done
exec 5>&-
wait $vm
kill -INT "${pids[0]}"
bad_ends=0
for p in "${pids[@]}"; do wait "$p" || bad_ends=1; done
cat "$tmp"/*.err >"$tmp/err"; : >"$tmp/out"
[ $bad_ends = 0 ]; ok "each tracer ended with exit status 0" $?

cat >"$tmp/check.py" <<'EOP'
import json, sys
tmp, vm, outs, slows, ms, halts = sys.argv[1], *map(int, sys.argv[2:])
def check(what, good, *more):
    print("ok" if good else "bad", what, *([] if good else more), flush=True)
want = [outs + slows + 1] * 2
tops = [json.loads(l) for l in open(tmp + "/top")]
events = [json.loads(l) for l in open(tmp + "/trace")]
end, exits = events[-1]["end"], [e for e in events if e.get("event") == "exit"]
hist = json.load(open(tmp + "/hist"))
silent = end["silent"]
print("#", "this KVM tells only its exits to user space" if silent else "this KVM tells its exits")
check("all agree on what this KVM tells", tops[-1]["silent"] == hist["silent"] == silent)
user = [sum(e["vcpu"] == v and (e["reason"] if silent else e.get("user")) == "KVM_EXIT_IO" for e in exits) for v in (0, 1)]
check("trace: as many exits to user space as the guest made", user == want, user, want)
check("nothing was lost", end["lost"] == 0, end)
slow = [sum(e["vcpu"] == v and e.get("ns", 0) >= ms * 10**6 and "KVM_EXIT_IO" in e.values() for e in exits) for v in (0, 1)]
check("trace: the slow ones take as long as they do", slow == [slows] * 2, slow)
def late(v):
    return sum(b["count"] for h in hist["histograms"] if h["vcpu"] == v and h["vm"] == vm and h["reason"] in ("KVM_EXIT_IO", "io")
               for b in h["buckets"] if b["to_ns"] is None or b["to_ns"] > ms * 10**6)
check("hist --per-vcpu: they are in their buckets", [late(0), late(1)] == [slows] * 2, late(0), late(1))
last = [v for s in tops for v in s["vms"] if v["vm"] == vm][-1]
if silent:
    n = [sum(h["count"] for h in hist["histograms"] if h["vcpu"] == v) for v in (0, 1)]
    # The last one is followed by no return.
    check("hist counts all but the last of each vCPU", n == [w - 1 for w in want], n)
    n = [c["total"]["exits"] for c in last["vcpus"]]
    check("top counts as many", n == want, n)
    check("top says which hook that is from", tops[-1]["hooks"]["exit"] == "tp_btf/kvm_fpu")
else:
    n = [sum(e["vcpu"] == v for e in exits) for v in (0, 1)]
    check("top counts as many exits as trace", [c["total"]["exits"] for c in last["vcpus"]] == n, n)
check("top: vCPU 0 halted, vCPU 1 did not", last["vcpus"][0]["total"]["halted_ns"] > last["vcpus"][1]["total"]["halted_ns"])
names = {e["args"]["name"] for e in json.load(open(tmp + "/trace.json")) if e["name"] == "thread_name"}
check("the Perfetto file has a track per vCPU", names == {"vCPU 0", "vCPU 1"}, names)
EOP
python3 "$tmp/check.py" "$tmp" $vm $OUTS $SLOWS $MS $HALTS >"$tmp/checks" 2>"$tmp/err"
[ $? = 0 ]; ok "what they wrote can be read" $?
while read -r verdict what; do
	case $verdict in
	'#') echo "# $what" ;;
	*) echo "$what" >"$tmp/out"; [ "$verdict" = ok ]; ok "$what" $? ;;
	esac
done <"$tmp/checks"

run $K doctor
for figure in exit fault dirty throttle inject "injection latency" halted "wake-up latency" ready policy; do
	has "^figure: $figure  *\(ok\|warning\) " "doctor tells the hook for: $figure"
done
done_testing
