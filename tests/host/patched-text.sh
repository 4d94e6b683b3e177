#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The emulator runs kernel text as it is when it was patched. Loading FPU state on one
# CPU does not touch a guest on another (tests/machine/qemu.patch). The modules are
# stock, so that nothing of ours is in it. With --emulator packaged both fail.
#
# An emulator that passed is not tried again until it, the kernel or the machine changes.
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
. tests/host/passed.sh
passed=$(passed_file tests/machine/{run,init,amd.py} tests/host/patched_text.py)
if [ $# = 0 ] && [ -e "$passed" ]; then
	echo 1..1
	echo "ok 1 - patched text and FPU state are the emulator's right ones (as before)"
	exit 0
fi
tests/machine/run --cpus 3 --modules stock --timeout 400 -- tests/host/patched_text.py "$@"
status=$?
[ $# != 0 ] || [ $status != 0 ] || : >"$passed"
exit $status
