#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Build the debug kernel and lay it out as Debian's packages do, so that the
# modules, the machine and the tests use it as they use the packaged one.
#
#   kernel-patches/build/debug.sh SOURCE KREL DIR
#
# DIR gets what linux-image, linux-headers and linux-kbuild would put there, and
# boot/vmlinux-KREL, with debug information, for scripts/faddr2line and gdb.
# setup.sh calls it, once for every version of this file, debug.config, gcc and
# the source.  The kernel is built without the series: that goes on top, by
# tree.sh, and an edited patch builds KVM's modules only.
set -euo pipefail
export LC_ALL=C LOCALVERSION= KBUILD_BUILD_TIMESTAMP=kvm_ext DEBIAN_KERNEL_NO_CC_VERSION_CHECK=y

src=$1 krel=$2 dir=$3
base=${krel%%-*} fragment=$(dirname "$(readlink -f "$0")")/debug.config
hdr=usr/src/linux-headers-$krel common=usr/src/linux-headers-$base-common kbuild=usr/lib/linux-kbuild-$base
obj=$dir/obj
unset MAKEFLAGS MFLAGS MAKELEVEL

mkdir -p "$obj"
make -C "$src" O="$obj" KCONFIG_ALLCONFIG="$fragment" allnoconfig
# kconfig drops without a word what depends on something missing.
lost=$(grep -E '^(CONFIG_|# CONFIG_.* is not set)' "$fragment" | while read -r line; do
	o=${line#\# }
	o=${o%%[= ]*}
	case "$line" in
	\#*) ! grep -q "^$o=" "$obj/.config" || echo "$line" ;;
	*) grep -qxF -- "$line" "$obj/.config" || echo "$line" ;;
	esac
done)
[ -z "$lost" ] || { printf 'debug.config asks for what kconfig did not give:\n%s\n' "$lost" >&2; exit 1; }
make -j"$(nproc)" -C "$src" O="$obj" bzImage modules

mkdir -p "$dir/boot" "$dir/$hdr/arch/x86/include" "$dir/$hdr/include" "$dir/$common/arch/x86" "$dir/$kbuild/tools"
make -C "$src" O="$obj" INSTALL_MOD_PATH="$dir" INSTALL_MOD_STRIP=1 DEPMOD=/sbin/depmod modules_install
rm -f "$dir/lib/modules/$krel"/{build,source}
cp "$obj/arch/x86/boot/bzImage" "$dir/boot/vmlinuz-$krel"
cp "$obj/.config" "$dir/boot/config-$krel"
cp "$obj/System.map" "$dir/boot/System.map-$krel"
mv "$obj/vmlinux" "$dir/boot/vmlinux-$krel"

cp "$obj/.config" "$obj/Module.symvers" "$dir/$hdr/"
cp -a "$obj/include/"{config,generated} "$dir/$hdr/include/"
cp -a "$obj/arch/x86/include/generated" "$dir/$hdr/arch/x86/include/"
# As Debian's: what resolve_btfids and pahole read, without the code.
objcopy -j .BTF -j .BTF_ids --set-section-flags .BTF=alloc,readonly \
	"$dir/boot/vmlinux-$krel" "$dir/$hdr/vmlinux"
printf 'include /%s/Makefile\n' "$common" >"$dir/$hdr/Makefile"

cp -a "$src/Makefile" "$src/include" "$dir/$common/"
cp -a "$src/arch/x86/"{Makefile*,include} "$dir/$common/arch/x86/"
ln -s "../../lib/${kbuild##*/}/scripts" "../../lib/${kbuild##*/}/tools" "$dir/$common/"

cp -a "$src/scripts" "$dir/$kbuild/"
cp -a "$obj/scripts" "$dir/$kbuild/"
for t in objtool/objtool bpf/resolve_btfids/resolve_btfids; do
	install -D "$obj/tools/$t" "$dir/$kbuild/tools/$t"
done
find "$dir/$kbuild/scripts" \( -name '*.o' -o -name '.*.cmd' -o -name '*.d' \) -delete
rm -rf "$obj"
