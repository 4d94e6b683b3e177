#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The judge of kernel logs fails a run for one line of each kind of splat, and names the
# line. It passes lines that only look like one. test-debug provokes real splats.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

readarray -t splats <<'END'
WARNING: CPU: 1 PID: 99 at arch/x86/kvm/mmu/mmu.c:6877 __kvm_mmu_invalidate_addr+0x3a/0x50 [kvm]
WARNING: possible circular locking dependency detected
WARNING: suspicious RCU usage
WARNING: inconsistent lock state
BUG: KASAN: slab-use-after-free in kvm_ext_detach+0x11/0x20 [kvm]
BUG: sleeping function called from invalid context at kernel/locking/mutex.c:585
BUG: scheduling while atomic: core_test/99/0x00000002
BUG: using smp_processor_id() in preemptible [00000000] code: core_test/99
BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!
BUG: Bad page state in process core_test  pfn:1234
BUG: unable to handle page fault for address: ffffc90000001000
BUG: MAX_LOCKDEP_CHAINS too low!
INFO: possible recursive locking detected
INFO: trying to register non-static key.
INFO: task kvm-nx-lpage-re:99 blocked for more than 480 seconds.
turning off the locking correctness validator.
Disabling lock debugging due to kernel taint
kernel BUG at lib/list_debug.c:65!
list_del corruption. prev->next should be ffff888, but was ffff889. (prev=ffff888)
refcount_t: underflow; use-after-free.
ODEBUG: free active (active state 0) object: ffff888 object type: work_struct hint: f+0x0
pagealloc: memory corruption
Oops: general protection fault, probably for non-canonical address 0xdffffc0000000001
UBSAN: array-index-out-of-bounds in arch/x86/kvm/ext_throttle.c:1:2
rcu: INFO: rcu_preempt self-detected stall on CPU
watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [core_test:99]
Kernel panic - not syncing: corrupted stack end detected inside scheduler
END
readarray -t harmless <<'END'
kasan: KernelAddressSanitizer initialized (generic)
Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
rcu: Preemptible hierarchical RCU implementation.
kvm: ext: throttle policy "misbehave" (vm 99) ejected: slow: 16 calls in a minute took over 20 ms
page_owner is enabled
mem auto-init: stack:all(zero), heap alloc:off, heap free:off
END

echo 1..$((${#splats[@]} + 3))
. tests/lib/host.sh
log() { printf '[    1.234567] %s\n' "$@" >>"$tmp/log"; }

log "${harmless[@]}"
tests/run --judge "$tmp/log" >"$tmp/out"
result $? "a log without splats passes"
for i in "${!splats[@]}"; do log "kvm_ext-test: ./t$i" "${splats[i]}"; done
log "kvm_ext-test: ./harmless" "${harmless[@]}"
tests/run --judge "$tmp/log" >"$tmp/out"
[ $? = 1 ] && grep -q "^0 passed, ${#splats[@]} failed" "$tmp/out"
result $? "a log of ${#splats[@]} splats fails, each a failure of its own"
for i in "${!splats[@]}"; do
	grep -q "^not ok - t$i: the kernel log has: " "$tmp/out"
	result $? "named: ${splats[i]:0:60}"
done
! grep -q harmless "$tmp/out"
result $? "and nothing else"
exit $failed
