#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top and dirty against VMs that say what they did.
#   top_run.sh ours|stock PART...     by the KVM modules that are loaded; which parts
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh
kind=$1
shift

# verdicts CMD...: its lines "ok WHAT" and "bad WHAT: why" are tests
verdicts() {
	"$@" >"$tmp/verdicts" 2>"$tmp/err"; code=$?
	: >"$tmp/out"
	while read -r verdict what; do
		case $verdict in
		'#') echo "# $what" ;;
		*) [ "$verdict" = ok ]; ok "$what" $? ;;
		esac
	done <"$tmp/verdicts"
	[ $code = 0 ]; ok "all of them were looked at" $?
}

lines() { wc -l <"$1"; }
await() { for _ in $(seq $((600 * slow))); do "$@" && return; sleep 0.1; done; return 1; }
longer() { [ "$(lines "$1")" -gt "$2" ]; }
# An interval that begins and ends from now on
next() { local want=$(($(lines "$tmp/top") + ${1:-2})); await longer "$tmp/top" $((want - 1)); }
# Have vmtrue do it, and wait until it says that it did
tell() { local was; was=$(lines "$tmp/truth"); echo "$@" >&3; await longer "$tmp/truth" "$was"; }
# The same for a second VM, whose dirty pages come by a ring
tell_ring() { local was; was=$(lines "$tmp/truth.ring"); echo "$@" >&4; await longer "$tmp/truth.ring" "$was"; }
mkfifo "$tmp/do" "$tmp/do.ring"

# Two VMs that do as they are told
start_true() {
	: >"$tmp/truth"
	: >"$tmp/truth.ring"
	build/tests/tool/vmtrue <"$tmp/do" >"$tmp/truth" 2>"$tmp/truth.err" &
	true_vm=$!
	exec 3>"$tmp/do"
	build/tests/tool/vmtrue ring <"$tmp/do.ring" >"$tmp/truth.ring" 2>>"$tmp/truth.err" 3>&- &
	ring_vm=$!
	exec 4>"$tmp/do.ring"
}
end_true() { exec 3>&- 4>&-; wait $true_vm && wait $ring_vm; }

# --- top against the truth ------------------------------------------------------

truth() {
	$K top --json 1 >"$tmp/top" 2>"$tmp/top.err" &
	top=$!
	await longer "$tmp/top" 0; ok "top writes an object an interval" $?

	start_true
	tell exits 1000 && tell dirty 300 && tell_ring dirty 200 && tell halt 1500 && tell dirty 700 &&
		tell irq && tell_ring dirty 300 && tell halt 1500
	ok "the VMs did as they were told" $?
	next
	end_true; ok "the VMs ended well" $?

	blocked=0 blocked_ns=0 blocks=0
	if [ "$kind" = ours ]; then
		$K -q load $P/stun.bpf.o
		start_vm
		blocked=$vm
		$K mark --vm $vm --vcpu 0 >/dev/null
		sleep 2
		$K unmark --vm $vm --vcpu 0 >/dev/null
		# No block is under way now: the kernel's own figures stand still.
		sleep 0.5
		blocked_ns=$(sed -n "s/^vcpu pid=$vm id=0 .* blocked_ns=\([0-9]*\).*/\1/p" $STATE)
		blocks=$(sed -n "s/^vcpu pid=$vm id=0 .* blocks=\([0-9]*\).*/\1/p" $STATE)
		next
		stop_vm
		$K -q unload stun
	fi
	next 3
	kill -INT $top
	wait $top; ok "top ends well by SIGINT" $?
	[ ! -s "$tmp/top.err" ]; ok "and has nothing to complain of" $?
	verdicts tests/tool/top_check.py $kind "$tmp/top" "$tmp/truth" $true_vm $blocked $blocked_ns $blocks \
		"$tmp/truth.ring" $ring_vm
}

# --- lines, a busy VM --------------------------------------------------------------

lines_of_text() {
	start_vm
	run $K top --batch --unfold --vm $vm 1 1
	[ $code = 0 ] && [ ! -s "$tmp/err" ]; ok "top --batch" $?
	has "^ *$vm vmhold .*npf" "it shows the VM and its exits by name"
	has "^ *$vm   vcpu 1 " "and its vCPUs"
	[ "$(grep -c "^ *[0-9][0-9]* " "$tmp/out")" = 3 ]; ok "and no other" $?
	if [ "$kind" = stock ]; then
		awk -v vm=$vm '$1 == vm && $2 == "vmhold" { exit !($7 == "-" && $14 == "-" && $15 == "-" && $16 == "-") }' "$tmp/out"
		ok "blocked, policy, asks and blocks are - on stock modules" $?
	fi
	run $K top --batch --filter nothing 0.2 1
	[ $code = 0 ] && ! grep -q vmhold "$tmp/out"; ok "--filter hides it" $?
	stop_vm
	start_vm 2
	run $K top --batch --unfold --vm $vm 1 1
	[ "$(grep -c "^ *$vm vmhold " "$tmp/out")" = 2 ] && [ "$(grep -c "^ *$vm   vcpu [01] " "$tmp/out")" = 4 ]
	ok "two VMs of one process are two" $?
	stop_vm
}

# --- nobody reads, or it is stopped ------------------------------------------------------

stalled() { verdicts tests/tool/top_stall.py $K; }

# --- policies of all tables, and APICv ------------------------------------------------------

# What the last object says of VM $vm: a Python expression of v, the VM, and d, the object
says() {
	tail -n 1 "$tmp/top" >"$tmp/last"
	python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
v = next(v for v in d["vms"] if v["vm"] == int(sys.argv[2]))
print(v["policies"], v["apicv_inhibited"], d["state_reads"])
sys.exit(not eval(sys.argv[3]))' "$tmp/last" "$vm" "$1" >"$tmp/out" 2>"$tmp/err"
}

tables() {
	start_vm
	$K top --json 0.5 >"$tmp/top" 2>"$tmp/top.err" &
	top=$!
	await longer "$tmp/top" 1
	for p in stun noop_irq noop_save noop_dirty; do $K -q load $P/$p.bpf.o; done
	await says 'v["policies"] == {"throttle": "stun", "irq": "noop", "save": "noop", "dirty": "noop"}'
	ok "top knows the policies of all tables" $?
	was=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["state_reads"])' "$tmp/last")
	next 8
	says "d['state_reads'] == $was"; ok "and does not read the state file while nothing changes" $?
	run $K top --batch --vm $vm 0.5 1
	has "^ *$vm vmhold .* stun,irq:noop,save:noop,dirty:noop " "they are named in text"
	run $K top --batch --filter save:noop 0.5 1
	has "^ *$vm vmhold " "--filter finds them"
	run unshare --time --boottime 100000 --fork $K --json list
	python3 -c 'import json, sys
sys.exit(not all(p["age_ns"] > 10 ** 14 for p in json.load(open(sys.argv[1]))["policies"]))' "$tmp/out"
	ok "a policy's age counts what the machine was suspended" $?
	for p in stun irq:noop save:noop dirty:noop; do $K -q unload $p; done
	await says 'not any(v["policies"].values())'; ok "and that they are gone" $?
	kill -INT $top
	wait $top
	[ ! -s "$tmp/top.err" ]; ok "top has nothing to complain of" $?
	stop_vm
}

# The machine has no AVIC.
inhibited() {
	start_vm
	$K top --json 0.5 3 >"$tmp/top" 2>"$tmp/err"
	says 'v["apicv_inhibited"] == ["disabled"]'; ok "top says why interrupts take the long way" $?
	run $K top --batch --vm $vm 0.5 2
	has "^APICv or AVIC is inhibited (disabled): $vm$" "in text too"
	run $K doctor
	has "^APICv or AVIC *warning *inhibited (disabled) in 1 VM: $vm .*modprobe" "doctor says so, and what to do"
	stop_vm
}

# --- what cannot be -----------------------------------------------------------------

refusals() {
	fails 2 "nothing to sort by" "top --sort exit" top --sort exit
	fails 2 "is not 0.1 to 3600" "top 0" top 0
	fails 2 "no count" "top 1 x" top 1 x
	fails 7 "has no VM" "top --vm of no VM" top --vm $$
	fails 7 "no process" "dirty --vm of no process" dirty --vm 4194303
	fails 2 "control characters" "dirty --png to a strange name" dirty --png $'a\nsystem "id"'
	K="env PATH=$tmp $K" fails 4 "apt install gnuplot" "dirty --png without gnuplot" dirty --png "$tmp/x.png"
}

# --- on a terminal ------------------------------------------------------------------

screen() {
	start_vm
	verdicts tests/tool/top_screen.py $K $vm
	stop_vm
}

# --- dirty ---------------------------------------------------------------------------

dirty_pages() {
	start_vm
	run $K dirty --vm $vm 1 2
	[ $code = 0 ] && [ ! -s "$tmp/err" ]; ok "dirty" $?
	has "^source: the dirty log" "it says where it looks"
	has "^ *$vm *0 *[1-9]" "vCPU 0 dirties pages"
	! grep -q "^ *$vm *1 " "$tmp/out"; ok "vCPU 1 does not" $?
	[ "$(grep -c '^gfn .*|.*[^ |].*|$' "$tmp/out")" = 4 ]; ok "the heat map has the guest's 256 pages in 4 rows" $?
	LC_ALL=C grep -q '[^[:print:][:space:]]' "$tmp/out"; [ $? = 1 ]; ok "in plain characters" $?
	stop_vm

	$K dirty --json 1 >"$tmp/dirty" &
	dirty=$!
	await longer "$tmp/dirty" 0
	start_true
	tell dirty 300 && tell_ring dirty 300 && tell dirty 300 && tell_ring dirty 200 && tell dirty 700
	ok "the VMs did as they were told" $?
	await longer "$tmp/dirty" $(($(lines "$tmp/dirty") + 1))
	end_true
	kill -INT $dirty
	wait $dirty; ok "dirty ends well by SIGINT" $?
	cat >"$tmp/check.py" <<'END'
import json, sys
for what, truth, pid, distinct in (("log", sys.argv[2], int(sys.argv[3]), 2100), ("ring", sys.argv[4], int(sys.argv[5]), 900)):
    vms = [v for line in open(sys.argv[1]) for v in json.loads(line)["vms"] if v["vm"] == pid]
    log = [list(map(int, l.split()[1:])) for l in open(truth)]
    got = [sum(c["dirtied"] for v in vms for c in v["vcpus"] if c["id"] == i) for i in (0, 1)]
    want = [sum(l[i] for l in log) for i in (0, 1)]
    print("ok" if got == want else "bad", f"pages dirtied equal the dirty {what}:", got, want)
    ranges = sum(r["dirtied"] for v in vms for r in v["ranges"])
    print("ok" if ranges == sum(want) else "bad", "so do the ranges:", ranges, sum(want))
    ever = vms[-1]["ever_pages"] if vms else None
    print("ok" if ever == distinct else "bad", "each page counts once in the set:", ever, distinct)
END
	verdicts python3 "$tmp/check.py" "$tmp/dirty" "$tmp/truth" $true_vm "$tmp/truth.ring" $ring_vm
}

# A VM whose dirty pages are not logged
not_logged() {
	mkfifo "$tmp/go"
	build/tests/tool/vmexits 1 1 1 0 0 0 <"$tmp/go" >"$tmp/vm" &
	vm=$!
	exec 5>"$tmp/go"
	await grep -q ready "$tmp/vm"
	run $K dirty --vm $vm 0.5 1
	has "^ *$vm *all *- *- *- *-$" "dirty shows - for a VM that is not logged"
	has "^-: dirty logging is off" "and says why, and what to do"
	run $K --json dirty --vm $vm 0.5 1
	has "\"vm\": $vm,\"logging\": false,.*\"dirtied\": null,.*\"ever_pages\": null" "in JSON null"
	# top meets a vCPU when it runs.
	$K --json top 0.5 --vm $vm >"$tmp/top" 2>"$tmp/err" &
	top=$!
	await longer "$tmp/top" 1
	echo >&5
	await grep -q done "$tmp/vm"
	next
	kill -INT $top
	wait $top
	python3 -c '
import json, sys
vms = [v for l in open(sys.argv[1]) for v in json.loads(l)["vms"]]
assert vms and all(x[k] is None for v in vms for x in [v] + v["vcpus"] for k in ("dirty_per_s", "dirty_mib_per_s")), vms' "$tmp/top" >"$tmp/out" 2>&1
	ok "and top likewise" $?
	exec 5>&-
	wait $vm
	start_vm
	run $K --json dirty --vm $vm 1 1
	has "\"vm\": $vm,\"logging\": true,.*\"dirtied\": [1-9]" "and figures for one that is"
	run $K --json top --vm $vm 1 2
	tail -n 1 "$tmp/out" >"$tmp/top"
	cp "$tmp/top" "$tmp/out"
	has "\"dirty_per_s\": [0-9]" "top, too"
	stop_vm
}

# --- dirty --png ------------------------------------------------------------------------

# What gnuplot drew is decoded: the frame's inside is coloured where pages got dirty.
picture() {
	if ! command -v gnuplot >"$tmp/null"; then
		n=$((n + 1))
		echo "ok $n - dirty --png # SKIP gnuplot is not installed (apt install gnuplot-nox)"
		return
	fi
	cat >"$tmp/png.py" <<'END'
import struct, sys, zlib
data = open(sys.argv[1], "rb").read()
assert data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG"
at, packed = 8, b""
while at < len(data):
    size, kind = struct.unpack(">I4s", data[at:at + 8])
    if kind == b"IHDR":
        width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[at + 8:at + 8 + size])
    if kind == b"IDAT":
        packed += data[at + 8:at + 8 + size]
    at += size + 12
assert (depth, interlace) == (8, 0) and colour in (2, 6), (depth, colour, interlace)
n = 3 if colour == 2 else 4
raw, above, coloured, at = zlib.decompress(packed), bytearray(width * n), 0, 0
for y in range(height):
    how, row = raw[at], bytearray(raw[at + 1:at + 1 + width * n])
    at += 1 + width * n
    for i in range(width * n):
        a, b, c = (row[i - n] if i >= n else 0), above[i], (above[i - n] if i >= n else 0)
        p = a + b - c
        paeth = a if abs(p - a) <= abs(p - b) and abs(p - a) <= abs(p - c) else b if abs(p - b) <= abs(p - c) else c
        row[i] = row[i] + (0, a, b, (a + b) // 2, paeth)[how] & 255
    above = row
    # The legend is at the right.
    coloured += sum(max(row[i:i + 3]) - min(row[i:i + 3]) > 60 for i in range(0, width * 4 // 5 * n, n))
share = coloured / (width * 4 // 5 * height)
print("ok" if share > 0.4 else "bad", sys.argv[2], f"is drawn: {100 * share:.0f} % of it is coloured")
END
	start_vm
	for columns in 1 3; do
		rm -f "$tmp/heat map's.png"
		run $K dirty --vm $vm --png "$tmp/heat map's.png" 0.5 $columns
		[ $code = 0 ] && [ ! -s "$tmp/err" ] && grep -q "^wrote .*heat map's.png" "$tmp/out"
		ok "dirty --png of $columns intervals" $?
		verdicts python3 "$tmp/png.py" "$tmp/heat map's.png" "the picture of $columns intervals"
	done
	stop_vm
}

for part do $part; done
done_testing
