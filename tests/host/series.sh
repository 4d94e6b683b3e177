#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Every patch of the series applies with no fuzz and passes checkpatch --strict. The
# modules build after it, alone and without a warning.
#
# A series that passed once is not built again until it, the kernel, the compiler or this
# test changes.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
. tests/host/passed.sh
tree=build/series-$KREL
unset MAKEFLAGS MFLAGS MAKELEVEL	# not the outer make's jobs
patches=(kernel-patches/*.patch)
[ -e "${patches[0]}" ] || { echo "1..0 # SKIP no patches in kernel-patches/"; exit 0; }

echo 1..$((3 * ${#patches[@]}))
. tests/lib/host.sh

passed=$(passed_file kernel-patches/build/tree.sh "${patches[@]}")
known=
[ -e "$passed" ] && known=1
export KBUILD_BUILD_TIMESTAMP=kvm_ext DEBIAN_KERNEL_NO_CC_VERSION_CHECK=y

for ((i = 0; i < ${#patches[@]}; i++)); do
	p=${patches[i]} name=$(basename "${patches[i]}" .patch)
	if [ "$known" ]; then
		result 0 "$name applies (as before)"
		result 0 "$name builds (as before)"
	else
		log=$(kernel-patches/build/tree.sh build/config.mk $tree "${patches[@]:0:i + 1}" 2>&1)
		applied=$?
		[ -z "$log" ] || sed 's/^/# /' <<<"$log"
		result $applied "$name applies without fuzz"
		status=1
		if [ $applied = 0 ]; then
			make -j"$(nproc)" -C $tree M=arch/x86/kvm modules >$tree.log 2>&1
			status=$?
			if [ $status != 0 ]; then
				tail -n 20 $tree.log | sed 's/^/# /'
			elif grep -q 'warning:\|WARNING:' $tree.log; then
				grep 'warning:\|WARNING:' $tree.log | sed 's/^/# /'
				status=1
			fi
		fi
		result $status "$name builds without warnings"
	fi
	# The tree is part of one, hence --no-tree.  New files lie below virt/kvm and
	# arch/x86/kvm, which MAINTAINERS has already: nothing to add there.
	# It leaves a file where it runs, hence the cd.
	log=$(cd build && "$KSRC/scripts/checkpatch.pl" --root="$KSRC" --no-tree --strict --no-summary -q \
		--ignore FILE_PATH_CHANGES "../$p" 2>&1)
	status=$?
	[ -z "$log" ] || sed 's/^/# /' <<<"$log"
	result $status "$name is clean by checkpatch --strict"
done
[ $failed != 0 ] || : >"$passed"
exit $failed
