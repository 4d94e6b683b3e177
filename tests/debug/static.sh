#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The series adds no warning of sparse (C=1), nor of gcc with W=1, to what KVM's own
# files have. KVM is built without the series and with it, and the warnings are
# compared.
#
# A series that passed is not built again until it, the kernel or the tools change.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
unset MAKEFLAGS MFLAGS MAKELEVEL	# not the outer make's jobs
export LC_ALL=C KBUILD_BUILD_TIMESTAMP=kvm_ext DEBIAN_KERNEL_NO_CC_VERSION_CHECK=y
dir=build/static
mkdir -p $dir
echo 1..4
. tests/lib/host.sh

# build LOG [PATCH...]: all of KVM, and every warning about it to LOG, sorted, without
# line numbers; what follows from a warning ("note: in included file") is none itself
build() {
	local log=$1; shift
	local key
	key=$KVER-$(cat "$0" kernel-patches/build/tree.sh "$@" /dev/null | sha256sum)-$(gcc -dumpfullversion)-$(sparse --version)
	[ "$(cat "$log.key" 2>/dev/null)" != "$key" ] || return 0
	rm -f "$log.key"
	kernel-patches/build/tree.sh build/config.mk $dir/tree "${@:-none}" || return 1
	# "clean" leaves the objects of virt/kvm, of a run that was stopped too.
	find $dir/tree/arch/x86/kvm $dir/tree/virt/kvm -name '*.o' -delete
	make -k -j"$(nproc)" -C $dir/tree M=arch/x86/kvm W=1 C=1 modules >"$log.all" 2>&1 || {
		grep -E 'error|\*\*\*' "$log.all" | head -n 20 | sed 's/^/# /'
		return 1
	}
	grep -E '(warning|error): ' "$log.all" | sed -E 's/:[0-9]+(:[0-9]+)?: /: /' | sort >"$log"
	printf '%s\n' "$key" >"$log.key"
}

build $dir/base
result $? "KVM without the series builds with W=1 under sparse"
build $dir/series kernel-patches/*.patch
result $? "KVM with the series builds with W=1 under sparse"

# That sparse and W=1 were at work: KVM's own files have a few of each.
[ "$(grep -c 'context imbalance' $dir/base)" -gt 0 ] && ! grep -q 'too many errors' $dir/base $dir/series
result $? "sparse went through all files ($(wc -l <$dir/base) warnings of KVM's own)"
new=$(comm -13 $dir/base $dir/series)
[ -z "$new" ]
result $? "the series adds no warning"
[ -z "$new" ] || sed 's/^/# new: /' <<<"$new"
exit $failed
