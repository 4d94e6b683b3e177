#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tool copes with other kvm modules: none, one without BTF, and the distribution's.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

# --- modules --------------------------------------------------------------------

$K -q load $P/noop.bpf.o
rmmod kvm_amd 2>/dev/null
! rmmod kvm 2>"$tmp/err"; ok "the kvm module cannot go while a policy is loaded" $?
run $K list
has "^noop " "a policy is known without a vendor module too"
good "unload" unload noop
rmmod kvm
run $K list
[ $code = 4 ] && grep -q "kvm module is not loaded" "$tmp/err"; ok "no kvm module: exit 4" $?

unpatched() {
	local text=$1 what=$2 cmd
	shift 2
	for cmd in "load $P/noop.bpf.o" list status "mark --vm $$ --vcpu 0" "unload x"; do
		run $K $cmd
		[ $code = 4 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "$text" "$tmp/err"
		ok "$what: ${cmd%% *} is exit 4, one line (got $code)" $?
	done
	run $K doctor
	[ $code = 4 ] && grep -q missing "$tmp/out"; ok "$what: doctor is exit 4" $?
}
objcopy --remove-section=.BTF "$KVMEXT_KMOD/kvm.ko" "$tmp/kvm.ko" && insmod "$tmp/kvm.ko"
if [ -d /sys/module/kvm ]; then
	unpatched "has no BTF" "a kvm module without BTF"
	rmmod kvm
fi
stock=/lib/modules/$(uname -r)/kernel/arch/x86/kvm/kvm.ko
[ -e "$stock" ] || { xz -dc "$stock.xz" >"$tmp/stock.ko"; stock=$tmp/stock.ko; }
insmod "$stock"
if [ -d /sys/module/kvm ]; then
	unpatched "no kvm_ext patches" "an unpatched kernel"
	rmmod kvm
fi

# As it was, for the next test.
insmod "$KVMEXT_KMOD/kvm.ko" && insmod "$KVMEXT_KMOD/kvm-amd.ko"
good "doctor finds all well again" doctor

done_testing
