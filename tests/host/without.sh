#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# KVM with the series builds also where an option is off that its code uses, with W=1
# and without a warning. CONFIG_KVM_EXT is off so that every hook has its stub; 32-bit
# KVM is always so. The other option is CONFIG_KVM_SMM.
#
# A series that passed is not built again until it, the kernel, the compiler or this test
# changes.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
. tests/host/passed.sh
unset MAKEFLAGS MFLAGS MAKELEVEL	# not the outer make's jobs
export KBUILD_BUILD_TIMESTAMP=kvm_ext DEBIAN_KERNEL_NO_CC_VERSION_CHECK=y
options="KVM_EXT KVM_SMM"

passed=$(passed_file kernel-patches/build/tree.sh kernel-patches/*.patch)

echo 1..2
n=0 failed=0
for o in $options; do
	n=$((n + 1))
	name="KVM builds with CONFIG_$o=n, W=1 and no warning"
	tree=build/without-$o
	if [ -e "$passed-$o" ]; then
		echo "ok $n $name (as before)"
		continue
	fi
	if WITHOUT=$o kernel-patches/build/tree.sh build/config.mk $tree >$tree.log 2>&1 &&
	   ! grep -q "CONFIG_$o[= ]" $tree/include/{config/auto.conf,generated/autoconf.h} &&
	   make -k -j"$(nproc)" -C $tree M=arch/x86/kvm W=1 modules >>$tree.log 2>&1 &&
	   ! grep -qi 'warning:' $tree.log; then
		echo "ok $n $name"
		: >"$passed-$o"
	else
		grep -iE 'error|warning:|\*\*\*' $tree.log | head -n 20 | sed 's/^/# /'
		echo "not ok $n $name (all of it: $tree.log)"
		failed=1
	fi
done
exit $failed
