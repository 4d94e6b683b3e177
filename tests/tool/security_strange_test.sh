#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool neither trusts nor obeys what strangers leave for root to find: folders and
# links in bpffs, names, texts and objects.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

T=build/tests/tool
user() { setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@"; }
modes() { find "$1" -printf '%y %m %U %G\n' | sort -u; }

# --- bpffs for all to write to -------------------------------------------------------

(umask 0 && $K -q load $B/tool_params.bpf.o)
run modes $PINS
is "d 700 0 0
f 600 0 0" "pins are for root alone with umask 0 too"
good "unload" unload params-1.0

chmod 755 "$tmp"
mkdir "$tmp/bpf" "$tmp/victim"
mount -t bpf -o mode=1777 bpf "$tmp/bpf"
victim() { mkdir -p "$tmp/victim"; touch "$tmp"/victim/{link,ops,data,rodata,bss}; }
# strange WHAT HINT: no command trusts what is there, and none touches it
strange() {
	local cmd
	victim
	for cmd in list status "get x" "unload x" "load $P/noop.bpf.o"; do
		run $K --bpffs "$tmp/bpf" $cmd
		[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "$2" "$tmp/err" &&
			[ "$(ls "$tmp/victim" | wc -l)" = 5 ] && [ "$(policy)" = 0 ]
		ok "$1: ${cmd%% *}: exit 4, and nothing removed (got $code)" $?
	done
	run $K --bpffs "$tmp/bpf" doctor
	[ $code = 4 ] && grep -q "$2" "$tmp/out"; ok "$1: doctor tells" $?
}
user mkdir "$tmp/bpf/kvmext"
user ln -s "$tmp/victim" "$tmp/bpf/kvmext/x"
strange "a stranger's folder with a link in it" "not root's alone"
rm -r "$tmp/bpf/kvmext"
user ln -s "$tmp/victim" "$tmp/bpf/kvmext"
strange "a stranger's link" "is no folder"
rm "$tmp/bpf/kvmext"
mkdir "$tmp/bpf/kvmext"
chmod 777 "$tmp/bpf/kvmext"
user ln -s "$tmp/victim" "$tmp/bpf/kvmext/x"
strange "root's folder that all may write to" "not root's alone"
rm -r "$tmp/bpf/kvmext"

good "load into a bpffs for all to write to" --bpffs "$tmp/bpf" load $P/noop.bpf.o
run modes "$tmp/bpf/kvmext"
is "d 700 0 0
f 600 0 0" "pins there are for root alone"
run user mv "$tmp/bpf/kvmext" "$tmp/bpf/other"
[ $code != 0 ] && [ -e "$tmp/bpf/kvmext" ]; ok "and nobody else takes them away" $?
good "unload" --bpffs "$tmp/bpf" unload noop
umount "$tmp/bpf"
mount -t bpf -o uid=65534,mode=700 bpf "$tmp/bpf"
mkdir "$tmp/bpf/kvmext"
strange "a stranger's bpffs" "can take"
umount "$tmp/bpf"

# --- what strangers write, and root reads -----------------------------------------------

# No control character but the ends of lines, none of Unicode's either.
plain() { ! LC_ALL=C grep -qaP '[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]' "$1"; }
printf 'a\033[31m\n' >"$tmp/esc"
plain "$tmp/esc"; [ $? != 0 ]; ok "an escape sequence is seen" $?
cp $B/tool_escape.bpf.o "$tmp/"$'o\033[31m.o'
run $K list "$tmp/"$'o\033[31m.o'
[ $code = 0 ] && plain "$tmp/out" && grep -q '^depth ' "$tmp/out"; ok "list FILE: texts are harmless" $?
run $K load "$tmp/"$'o\033[31m.o' $'x\302\233=1'
[ $code = 6 ] && plain "$tmp/err"; ok "an error about it is harmless" $?
run $K -v list "$tmp/"$'o\033[31m.o'
plain "$tmp/err" && [ -s "$tmp/err" ]; ok "libbpf's log is harmless" $?
json "list FILE" list "$tmp/"$'o\033[31m.o'
cp $T/vmhold "$tmp/"$'v\033[31m\302\233m'
: >"$tmp/vm"
"$tmp/"$'v\033[31m\302\233m' >"$tmp/vm" &
vm=$!
for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/vm" && break; sleep 0.1; done
good "load" load $B/tool_escape.bpf.o
run $K status
[ $code = 0 ] && plain "$tmp/out" && grep -q "^VM $vm (v" "$tmp/out"; ok "status: a VM's name is harmless" $?
run $K get escape
[ $code = 0 ] && plain "$tmp/out" && grep -q '^depth ' "$tmp/out"; ok "get: texts are harmless" $?
json "status" status
json "get" get escape
stop_vm
good "unload" unload escape

# Root who lists a stranger's file is nobody by the time libbpf sees it.
mkfifo "$tmp/fifo"
exec 7<>"$tmp/fifo"
head -c 65536 /dev/zero >&7
$K list $P/noop.bpf.o >&7 &
kid=$!
for _ in $(seq $((50 * slow))); do grep -qs pipe_write "/proc/$kid/wchan" && break; sleep 0.1; done
grep -E '^(Uid|Groups|CapEff|NoNewPrivs)' "/proc/$kid/status" | tr -s '\t ' ' ' >"$tmp/out"
has "^Uid: 65534 65534 65534 65534" "list FILE drops root"
has "^CapEff: 0000000000000000" "and capabilities"
exec 7>&-
kill $kid 2>/dev/null
wait $kid 2>/dev/null

json_check
done_testing
