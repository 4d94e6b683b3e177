#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvmext guest refuses kernels that count on what is in free pages: with KASAN, and with
# debug_pagealloc. No distribution ships them. The emulated machine itself is the guest:
# to be a guest of it takes such a kernel minutes.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
echo 1..6
. tests/lib/host.sh
why=$out/said

# refused(NAME, KERNEL PARAMETERS, REASON): and nothing is left in bpffs
refused() {
	tests/machine/run --kernel debug --modules none --append "$2" -- sh -c '
		build/kvmext guest --port /dev/null --json; echo "exit $?"
		ls /sys/fs/bpf' >"$out/said" 2>&1
	[ $? = 0 ] && grep -qx 'exit 4' "$out/said"
	result $? "$1: exit 4"
	grep -qF "\"message\": \"free pages cannot be told here: $3\"" "$out/said"
	result $? "$1: says '$3'"
	! sed '1,/^exit/d' "$out/said" | grep -q .
	result $? "$1: nothing is left behind"
}

refused KASAN page_poison=0 "this kernel has KASAN"
refused debug_pagealloc "page_poison=0 debug_pagealloc=on" "this kernel guards free pages (debug_pagealloc)"
exit $failed
