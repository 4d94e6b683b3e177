#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A kernel that is locked down, as by Secure Boot, bars modules that are not signed, not
# policies. At its second level it also bars BPF that reads the kernel's memory. doctor
# says so, and each command that cannot run.
#
# In a machine of its own, never on this one, since nothing undoes it.
cd "$(dirname "$0")/../.." || exit 1
[ "${1-}" = inside ] || KVMEXT_HOST= exec tests/machine/run -- "tests/host/${0##*/}" inside
. tests/lib/tool.sh

mount -t securityfs securityfs /sys/kernel/security
run $K doctor
grep -q "^lockdown *ok " "$tmp/out"; ok "doctor: no lockdown is well" $?

# at LEVEL: policies load, modules do not
at() {
	echo "$1" >/sys/kernel/security/lockdown
	run $K doctor
	[ $code = 0 ] && grep -q "^lockdown *warning .*\[$1\] .*sign .* enrolled key (MOK)" "$tmp/out" &&
		grep -q "^state file *ok" "$tmp/out"
	ok "$1: doctor says to sign the modules, and that policies can be loaded (exit $code)" $?
	for p in converge run_first adaptive skip_free; do good "$1: load $p" load $P/$p.bpf.o; done
	good "$1: status" status
	for t in throttle:converge irq:run_first save:adaptive dirty:skip_free; do $K -q unload $t; done
	# It is loaded already: without lockdown the kernel says that.
	run insmod "$KVMEXT_KMOD/kvm-amd.ko"
	[ $code != 0 ] && grep -q "Operation not permitted" "$tmp/out" "$tmp/err"
	ok "$1: a module that is not signed does not load" $?
}
start_vm
at integrity
at confidentiality
for cmd in "top -b 0.1 1" "trace exit --for 0.1" "hist exit --for 0.1" "dirty --vm $vm 0.1 1"; do
	run $K $cmd
	[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "lockdown (confidentiality) bars that; boot with" "$tmp/err"
	ok "confidentiality: ${cmd%% *} says why it does not run (got $code)" $?
done
run $K guest --port /dev/null
[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "lockdown (confidentiality) keeps" "$tmp/err"
ok "confidentiality: so does guest (got $code)" $?
stop_vm
done_testing
