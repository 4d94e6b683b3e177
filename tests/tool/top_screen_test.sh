#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext top on a terminal, and kvmext dirty, agree with what VMs say they did.
cd "$(dirname "$0")/../.." || exit 1
. tests/tool/top.sh

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

screen
dirty_pages
not_logged
done_testing
