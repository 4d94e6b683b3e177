#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The checks of the debug kernel work, and the judge of kernel logs sees each. splat.c
# provokes one splat of every kind in a machine, and tests/run judges the log.
set -u
cd "$(dirname "$0")/../.." || exit 1
# Lockdep ends its watch with the first wrong lock: what it sees goes first.
# A broken list is an oops, of which the machine dies: last.
kinds="rcu srcu order sleep schedule cpu warn refcount object heap vmalloc stack page list"
declare -A says=(
	[heap]="KASAN: slab-use-after-free" [vmalloc]="KASAN: vmalloc-out-of-bounds"
	[stack]="KASAN: stack-out-of-bounds" [page]="pagealloc: "
	[list]="list_del corruption" [refcount]="refcount_t: addition on 0"
	[object]="ODEBUG: init active" [rcu]="suspicious RCU usage" [srcu]="suspicious RCU usage"
	[sleep]="sleeping function called from invalid context"
	[schedule]="scheduling while atomic" [cpu]="using smp_processor_id() in preemptible"
	[warn]="WARNING: CPU" [order]="possible circular locking dependency"
)

log=build/tests/debug/dmesg
mkdir -p build/tests/debug
cat >build/tests/debug/provoke <<-'EOF'
	#!/bin/sh
	insmod build/tests/debug/splat.ko || exit 1
	for k in nothing "$@"; do
		echo "kvm_ext-test: $k" >/dev/kmsg
		echo $k >/sys/module/splat/parameters/provoke || exit 1
	done
EOF
echo 1..$((2 * $(wc -w <<<"$kinds") + 3))
. tests/lib/host.sh

tests/machine/run --kernel debug --modules none --timeout 600 --dmesg $log \
	--append printk.devkmsg=on -- sh build/tests/debug/provoke $kinds >&2 2>$log.err
[ $? = 125 ] && grep -q panicked $log.err
result $? "the debug kernel does every wrong thing and dies of the last only"
# Of a machine that died, the log is its console.
sed -i 's/\r$//' $log
verdict=$(tests/run --judge $log)
[ $? = 1 ]
result $? "a run with such a log fails"
# of(KIND): the part of the log in which it was provoked
of() { sed -n "/kvm_ext-test: $1\$/,/kvm_ext-test: /p" $log; }
for k in $kinds; do
	of $k | grep -qF "${says[$k]}"
	result $? "$k: the kernel says '${says[$k]}'"
	grep -q "^not ok - $k: the kernel log has: " <<<"$verdict" && grep -qF "${says[$k]}" <<<"$verdict"
	result $? "$k: the judge names it"
done
! grep -qE '^not ok - (boot|nothing):' <<<"$verdict"
result $? "no splat where nothing was provoked"
[ $failed = 0 ] || sed 's/^/# /' <<<"$verdict"
exit $failed
