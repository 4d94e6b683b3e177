#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tracers take bounded memory for 4,096 vCPUs and a VM of 1 TiB, as kvmext(8) says.
# Both are simulated in the tracers' own maps, on this machine's kernel.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

skip() { echo "1..0 # SKIP $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root may"
[ -d /sys/module/kvm ] || skip "this machine has no KVM"
run $K hist exit --for 0.1
[ $code = 0 ] || skip "$(head -n 1 "$tmp/err")"

PERCPU_HASH=5
# The tool's memory, and that of its maps, in MiB
mine() { awk '/^VmHWM/ { print int($2 / 1024) }' /proc/$1/status; }
maps() { cat /proc/$1/fdinfo/* 2>/dev/null | awk '/^memlock:/ { n += $2 } END { print int(n / 1048576) }'; }
await() { for _ in $(seq $((600 * slow))); do "$@" && return; sleep 0.1; done; return 1; }
attached() { [ "$(find /proc/$1/fd -lname 'anon_inode:bpf*link' 2>/dev/null | wc -l)" -gt 0 ]; }
under() { echo "$3: $1, may be $2" >>"$tmp/out"; [ -n "$1" ] && [ "$1" -lt "$2" ]; ok "$3: $1 MiB, less than $2" $?; }
# crowd ARGS...: until it has done it
crowd() {
	rm -f "$tmp/in"; mkfifo "$tmp/in"
	build/tests/tool/mapcrowd "$@" <"$tmp/in" >"$tmp/crowd" 2>"$tmp/err" &
	crowd=$!
	exec 5>"$tmp/in"
	await grep -q done "$tmp/crowd"; ok "the crowd is there: mapcrowd $*" $?
}
crowd_ends() { exec 5>&-; wait $crowd; }

: >"$tmp/out"
$K --json dirty 0.5 >"$tmp/dirty" 2>"$tmp/err" 5>&- &
tool=$!
await attached $tool
crowd dirty $((1 << 20))
sleep 2
under "$(mine $tool)" 80 "dirty: 256 GiB touched in 1 TiB by 4,096 vCPUs"
under "$(maps $tool)" 24 "dirty: its maps"
kill -INT $tool
wait $tool
python3 - "$tmp/dirty" $crowd >"$tmp/out" 2>"$tmp/err" <<'END'
import json, sys
vms = [v for line in open(sys.argv[1]) for v in json.loads(line)["vms"] if v["vm"] == int(sys.argv[2])]
last, sent = vms[-1], sum(v["dirtied"] for v in vms)
print(last["ever_pages"], last["ever_exact"], sent, len(last["vcpus"]))
assert sent == 64 << 20 and len(last["vcpus"]) == 4096
assert not last["ever_exact"] and abs(last["ever_pages"] / sent - 1) < 0.05
assert all(v["ever_pages"] <= v["dirtied"] or v["ever_exact"] or abs(v["ever_pages"] / 16384 - 1) < 0.1 for v in last["vcpus"])
END
ok "and what it says is right: all of it dirtied, the pages that ever were to 5 %" $?
crowd_ends

: >"$tmp/out"
$K --json hist exit --per-vcpu >"$tmp/hist" 2>"$tmp/err" 5>&- &
tool=$!
await attached $tool
crowd hist 10
under "$(maps $tool)" 40 "hist --per-vcpu: the maps of 4,096 vCPUs with 10 reasons each"
[ "$(cut -d' ' -f2 "$tmp/crowd")" != $PERCPU_HASH ]
ok "which take no memory for each CPU that the machine may have" $?
kill -INT $tool
await test -s "$tmp/hist"
wait $tool
[ "$(grep -c '"count": 1,$' "$tmp/hist")" -ge 40960 ]; ok "and all of them are shown" $?
crowd_ends

: >"$tmp/out"
$K --json top 0.5 >"$tmp/top" 2>"$tmp/err" 5>&- &
tool=$!
await attached $tool
rm -f "$tmp/in"; mkfifo "$tmp/in"
build/tests/tool/vmcrowd 0 4096 <"$tmp/in" >"$tmp/crowd" 2>>"$tmp/err" &
crowd=$!
exec 5>"$tmp/in"
await grep -q ready "$tmp/crowd"; ok "4,096 VMs for top" $?
sleep 3
under "$(mine $tool)" 80 "top: 4,096 VMs"
under "$(maps $tool)" 24 "top: its maps"
kill -INT $tool
wait $tool
crowd_ends
tail -n 1 "$tmp/top" | grep -q '"vm": '; ok "which it shows" $?
done_testing
