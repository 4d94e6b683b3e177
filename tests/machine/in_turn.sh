#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What tests/run has a machine do: run tests in turn, each between marks, in output and
# kernel log.
#
#   in_turn.sh LIMIT 'TEST|PARAMETERS'...
#
# LIMIT: seconds for each test.  PARAMETERS: of KVM's vendor module, which is loaded again
# when the test before had others.  For busybox's shell too.

limit=$1 loaded=
shift

# reload PARAMETERS: kvm.ko too, because it keeps some of the vendor module's parameters
reload() {
	rmmod "kvm_$KVMEXT_MACHINE"
	# A VM that is killed may end a little after its process.
	for _ in 1 2 3 4 5 6 7 8 9; do
		rmmod kvm 2>/dev/null && break
		sleep 1
	done
	insmod "$KVMEXT_KMOD/kvm.ko" && insmod "$KVMEXT_KMOD/kvm-$KVMEXT_MACHINE.ko" $1
}

for t; do
	parameters=${t#*|} t=${t%%|*}
	if [ "$parameters" != "$loaded" ]; then
		reload "$parameters" || exit 1
		loaded=$parameters
	fi
	echo "#@kvm_ext begin $t"
	echo "kvm_ext-test: $t" >/dev/kmsg
	timeout -k 5 "$limit" "./$t"
	echo "#@kvm_ext end $?"
done
