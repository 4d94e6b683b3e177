#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A Debian 13 that has no more than the build's list of packages builds and installs the
# tool, the policies and the modules. It installs no other package and downloads nothing
# of the tests.
set -u
cd "$(dirname "$0")/../../.." || exit 1
[ "$(id -u)" = 0 ] || { echo "1..0 # SKIP only root may"; exit 0; }
unset MAKEFLAGS MFLAGS MAKELEVEL KREL KERNEL TESTS
log=build/clean-install.log
rm -rf build/trixie-build
mkdir -p build

echo 1..5
. tests/lib/host.sh
why=$log

tests/machine/trixie --build -- sh -c '
	dpkg-query -W >/tmp/before
	make install DESTDIR=/tmp/root && echo "## installed" &&
	/tmp/root/usr/local/sbin/kvmext version && echo "## runs" &&
	make modules && echo "## modules"
	dpkg-query -W | diff /tmp/before - && echo "## no more packages"
	ls build' >$log 2>&1
for what in "installed:make install" "runs:the tool runs" "modules:make modules" "no more packages:no package was installed"; do
	grep -qx "## ${what%%:*}" $log; result $? "${what#*:}"
done
! grep -qi 'qemu\|bochs\|selftests' $log && [ ! -e build/trixie-build/machine.mk ]
result $? "nothing of the tests was downloaded"
exit $failed
