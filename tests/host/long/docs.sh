#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The kernel's own tools render the page of the series, Documentation/virt/kvm/kvm-ext.rst,
# and have no warning about it, nor about any kernel-doc of the series. A mistake is found.
set -u
cd "$(dirname "$0")/../../.." || exit 1
. build/config.mk
unset MAKEFLAGS MFLAGS MAKELEVEL
html=build/docs/html/kvm-ext.html
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. tests/lib/host.sh

echo 1..7
rm -f $html
make docs >"$tmp/log" 2>&1
result $? "make docs renders the page without a warning"
[ $failed = 0 ] || sed 's/^/# /' "$tmp/log"
for table in throttle irq save dirty; do
	grep -q "kvm_${table}_ops" $html
	result $? "the page has kvm_${table}_ops"
done

# The same tree with one mistake
mkdir -p "$tmp/tree"
cp -r "$KTREE"/{Documentation,include} "$tmp/tree/"
mkdir -p "$tmp/tree/arch/x86/include"
cp -r "$KTREE/arch/x86/kvm" "$tmp/tree/arch/x86/"
cp -r "$KTREE/arch/x86/include/asm" "$tmp/tree/arch/x86/include/"
cp -r "$KTREE/virt" "$tmp/tree/"
docs() { kernel-patches/build/docs.sh build/config.mk "$tmp/tree" "$tmp/docs" >"$tmp/log" 2>&1; }
header=$tmp/tree/include/linux/kvm_ext_throttle.h
cp "$header" "$tmp/header"
sed -i 's/^ \* @npages:/ * @no_such_member:/' "$header"
! docs && grep -q no_such_member "$tmp/log"
result $? "a member that is not there is a warning"
cp "$tmp/header" "$header"
sed -i 's/^=====*$/====/' "$tmp/tree/Documentation/virt/kvm/kvm-ext.rst"
! docs && grep -q kvm-ext.rst "$tmp/log"
result $? "a heading that is underlined too short is a warning"
exit $failed
