#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top agrees with what VMs say they did, and refuses what cannot be. On stock
# modules it runs all that needs no policy.
cd "$(dirname "$0")/../.." || exit 1
. tests/tool/top.sh

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
	says 'v["apicv_inhibited"] == ["disabled"]'; ok "top says why interrupts are not posted" $?
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

truth
lines_of_text
inhibited
if [ $kind = ours ]; then
	picture
	refusals
	tables
	stalled
fi
done_testing
