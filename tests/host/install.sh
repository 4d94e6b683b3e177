#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# make uninstall and make modules_uninstall take away all that make install and make
# modules_install put into a folder. What is installed works. Nothing of the tests is
# fetched or installed.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
unset MAKEFLAGS MFLAGS MAKELEVEL TESTS
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root

. tests/lib/host.sh
why=$tmp/log
logged() { "$@" >"$tmp/log" 2>&1; }
files() { (cd "$root" && find . -type f -exec sha256sum {} + && find . -type d) | sort; }

# --- the tool and the policies ----------------------------------------------------

mkdir -p "$root/usr/share/other"
logged make install DESTDIR="$root" PREFIX=/usr; result $? "make install"
[ "$("$root/usr/sbin/kvmext" version 2>"$tmp/log" | head -n 1)" = "$(build/kvmext version | head -n 1)" ]
result $? "the tool that is installed runs"
for p in "$root"/usr/share/kvmext/*.bpf.o; do
	logged "$root/usr/sbin/kvmext" list "$p" || break
done
result $? "it knows every policy beside it"
(cd "$root/usr/share/kvmext" && ls) >"$tmp/log"
grep -qx converge.bpf.o "$tmp/log" && ! grep -q 'misbehave\|probe' "$tmp/log"
result $? "no test's policy is among them"
for m in user/*.[78]; do
	logged cmp "$m" "$root/usr/share/man/man${m##*.}/${m#user/}" || break
done
result $? "the manual pages are there"
make -n install DESTDIR="$root" >"$tmp/log" 2>&1 && ! grep -q 'fetch\.sh\|tests/' "$tmp/log"
result $? "nothing of the tests is needed for it"
logged make uninstall DESTDIR="$root" PREFIX=/usr; result $? "make uninstall"
find "$root" -type f -o -name 'kvmext*' >"$tmp/log"
[ ! -s "$tmp/log" ] && [ -d "$root/usr/share/other" ]; result $? "no file and no folder of ours is left"

logged make install DESTDIR="$root" PREFIX=/usr
echo mine >"$root/usr/share/kvmext/mine.bpf.o"
logged make uninstall DESTDIR="$root" PREFIX=/usr && grep -q 'did not install' "$tmp/log" &&
	[ "$(cat "$root/usr/share/kvmext/mine.bpf.o")" = mine ]
result $? "a policy that somebody else put there stays, and is told"

# --- the modules ------------------------------------------------------------------

dir=$root/lib/modules/$KREL
mkdir -p "$dir/kernel/arch"
cp -r "$KROOT/lib/modules/$KREL/kernel/arch/x86" "$dir/kernel/arch/"
cp -r "$KROOT/lib/modules/$KREL/kernel/virt" "$dir/kernel/"
cp "$KROOT/lib/modules/$KREL"/modules.{order,builtin}* "$dir/"
/sbin/depmod -b "$root" "$KREL"
found() { /sbin/modprobe -d "$root" -S "$KREL" --show-depends kvm-amd 2>"$tmp/log" | sed -n "s,^insmod $dir/\([^ ]*/kvm[^ ]*\).*,\1,p" | xargs; }
before=$(files) stock=$(found)
[[ $stock == kernel/*kvm.ko* ]]; result $? "a folder with the kernel's own modules"
logged make modules_install DESTDIR="$root"; result $? "make modules_install"
[ "$(found)" = "updates/kvm.ko updates/kvm-amd.ko" ]; result $? "ours go before the kernel's own ($(found))"
! logged make modules_uninstall DESTDIR="$root" && grep -q 'give KREL' "$tmp/log"
result $? "modules_uninstall wants to know of which kernel"
logged make modules_uninstall DESTDIR="$root" KREL="$KREL"; result $? "make modules_uninstall"
[ "$(found)" = "$stock" ]; result $? "the kernel's own are found again"
diff <(echo "$before") <(files) >"$tmp/log"; result $? "all is as before"

echo "1..$n"
exit $failed
