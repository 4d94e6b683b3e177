#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The series applies to every linux-source-6.12 that Debian 12 and 13 offer, with fuzz
# 0, or with fuzz 1 and a warning. A kernel that it is not for is refused by name.
#
# What Debian offers is asked once, and again after make update.  Sources that are not in
# the cache are downloaded, 150 MB each.
set -u
cd "$(dirname "$0")/../../.." || exit 1
sources=$(tests/machine/fetch.sh sources) || exit 1
patches=("$PWD"/kernel-patches/*.patch)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

echo 1..$(($(wc -l <<<"$sources") + 5))
. tests/lib/host.sh
files=$(sed -n 's,^\(---\|+++\) [ab]/\([^\t]*\).*,\2,p' "${patches[@]}" | sort -u)

# try FUZZ: the whole series on copies of the files that it names
try() {
	local p f
	rm -rf "$tmp/src" && mkdir "$tmp/src" || return 1
	for f in $files; do
		[ ! -e "$src/$f" ] || (cd "$src" && cp --parents "$f" "$tmp/src/") || return 1
	done
	for p in "${patches[@]}"; do
		patch -d "$tmp/src" -p1 --fuzz="$1" --no-backup-if-mismatch -f <"$p" >"$tmp/log" 2>&1 || {
			echo "# linux-source-6.12 $version, fuzz $1: ${p##*/}"
			grep -i 'FAILED\|find file' "$tmp/log" | sed 's/^/#   /'
			return 1
		}
	done
}

while read -r version src; do
	fuzz=0
	try 0 || { fuzz=1; try 1; }
	result $? "the series applies to linux-source-6.12 $version$([ $fuzz = 0 ] || echo ', with fuzz 1')"
done <<<"$sources"

# refused KREL WORDS
refused() {
	local log
	log=$(KREL=$1 kernel-patches/build/setup.sh "$tmp/config.mk" 2>&1) || grep -q "$2" <<<"$log"
	local status=$?
	[ ! -e "$tmp/config.mk" ] || status=1
	[ $status = 0 ] || sed 's/^/# /' <<<"$log"
	result $status "$1 is refused by name"
}
refused 6.12.117+deb13-rt-amd64 'PREEMPT_RT'
refused 6.1.0-50-amd64 'not a Debian 6.12 kernel'

# A patch that fits but for the outermost line of context, and one that fits nowhere
cat >"$tmp/fuzz.patch" <<'END'
--- a/virt/kvm/Kconfig
+++ b/virt/kvm/Kconfig
@@ -8,6 +8,7 @@
        not what stands there
 
 config HAVE_KVM_PFNCACHE
+# one line more
        bool
 
 config HAVE_KVM_IRQCHIP
END
sed 's/PFNCACHE/NOTHING_LIKE_IT/' "$tmp/fuzz.patch" >"$tmp/none.patch"
. build/config.mk
log=$(kernel-patches/build/tree.sh build/config.mk "$tmp/tree" "$tmp/fuzz.patch" 2>&1)
[ $? = 0 ] && grep -q "WARNING: .*with fuzz 1" <<<"$log" && grep -q '^# one line more' "$tmp/tree/virt/kvm/Kconfig"
status=$?
[ $status = 0 ] || sed 's/^/# /' <<<"$log"
result $status "tree.sh applies a patch with fuzz 1 and says so"
! log=$(kernel-patches/build/tree.sh build/config.mk "$tmp/tree" "$tmp/none.patch" 2>&1)
result $? "tree.sh refuses a patch that needs more"

echo x >"$tmp/x"
objcopy --add-section .BTF.base="$tmp/x" $KMOD/kvm-amd.ko "$tmp/kvm-amd.ko"
kernel-patches/build/check-vermagic.sh "$KREL" $KMOD/kvm-amd.ko && ! log=$(kernel-patches/build/check-vermagic.sh "$KREL" "$tmp/kvm-amd.ko" 2>&1)
result $? "a module with .BTF.base, whose types the kernel renumbers, is refused"
exit $failed
