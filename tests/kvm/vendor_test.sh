#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A kvm.ko with policies and a vendor module without never load together, nor the other
# way round. They disagree about struct kvm_vcpu, and the first guest would hang the
# host.
#
# A kernel with symbol versions (MODVERSIONS) finds out by itself. Debian's 7.x has none:
# a module that is loaded by force, its versions ignored, is what all are there.
#
# And all three of our modules have one version, which DKMS compares.
cd "$(dirname "$0")/../.." || exit 1
if [ "${KVMEXT_SLOW-}" ]; then
	echo "1..0 # SKIP a module that is loaded by force turns the debug kernel's lockdep off"
	exit 0
fi
if [ "$KVMEXT_MACHINE" = native ]; then
	echo "1..0 # SKIP a module that is loaded by force taints this machine's kernel"
	exit 0
fi
. tests/lib/tool.sh
# Said by a kernel without lockdep too.
echo "# expect-splat: Disabling lock debugging due to kernel taint"

# force FILE: load it, versions of symbols not looked at
force() {
	python3 - "$1" 2>"$tmp/err" >"$tmp/out" <<-'END'
	import ctypes, os, sys
	IGNORE_MODVERSIONS, FINIT_MODULE = 1, 313
	libc = ctypes.CDLL(None, use_errno=True)
	fd = os.open(sys.argv[1], os.O_RDONLY)
	if libc.syscall(FINIT_MODULE, fd, b"", IGNORE_MODVERSIONS):
	    sys.exit(os.strerror(ctypes.get_errno()))
	END
}

# refused WHAT FILE SYMBOL: it does not load, by force for want of SYMBOL and no other reason
refused() {
	local what=$1 file=$2 symbol=$3 refused
	run insmod "$file"
	[ $code != 0 ] && [ ! -d /sys/module/kvm_amd ]; ok "$what is refused" $?
	rmmod kvm_amd 2>/dev/null
	dmesg -C
	! force "$file"; refused=$?
	dmesg >"$tmp/out"
	[ $refused = 0 ] && [ ! -d /sys/module/kvm_amd ] && grep -q "kvm_amd: Unknown symbol $symbol (err -2)" "$tmp/out"
	ok "$what is refused by force too, for want of $symbol()" $?
	rmmod kvm_amd 2>/dev/null
}

base=/lib/modules/$(uname -r)/kernel/arch/x86/kvm
for m in kvm kvm-amd; do
	if [ -e "$base/$m.ko" ]; then cp "$base/$m.ko" "$tmp/"; else xz -dc "$base/$m.ko.xz" >"$tmp/$m.ko"; fi
done
rmmod kvm_amd kvm

insmod "$KVMEXT_KMOD/kvm.ko" || exit 1
refused "a stock kvm-amd on our kvm.ko" "$tmp/kvm-amd.ko" kvm_x86_vendor_init
force "$KVMEXT_KMOD/kvm-amd.ko"; ok "our kvm-amd loads on our kvm.ko by the same force" $?
rmmod kvm_amd kvm

insmod "$tmp/kvm.ko" || exit 1
refused "our kvm-amd on a stock kvm.ko" "$KVMEXT_KMOD/kvm-amd.ko" kvm_x86_vendor_init_kvm_ext
force "$tmp/kvm-amd.ko"; ok "a stock kvm-amd loads on a stock kvm.ko by the same force" $?
rmmod kvm_amd kvm

for m in kvm kvm-amd kvm-intel; do modinfo -F version "$KVMEXT_KMOD/$m.ko"; done >"$tmp/out"
[ "$(wc -l <"$tmp/out")" = 3 ] && [ "$(sort -u "$tmp/out" | wc -l)" = 1 ]
ok "kvm, kvm-amd and kvm-intel have one version" $?

# As it was, for the next test.
insmod "$KVMEXT_KMOD/kvm.ko" && insmod "$KVMEXT_KMOD/kvm-amd.ko"
good "doctor finds all well again" doctor

done_testing
