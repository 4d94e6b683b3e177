#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Make the tree that the KVM modules are built in, and apply the series to it.
#
#   kernel-patches/build/tree.sh CONFIG TREE [PATCH...]      default: kernel-patches/*.patch
#
# The tree is what Debian's linux-headers packages are (headers, configuration,
# symbol versions, vmlinux with BTF, kbuild), in one folder, with arch/x86/kvm
# and virt of linux-source beside it: modules built in it fit the packaged kernel,
# and nothing of the kernel but KVM has to be compiled.
#
# The series is applied to pristine copies of the files it names, and only files
# that came out different go into the tree: an edited patch rebuilds no more than
# the objects it changes.
#
# WITHOUT='KVM_EXT ...' in the environment: build without these options, to see that it
# can be done.  Such modules fit no kernel.
set -euo pipefail
export LC_ALL=C

die() { printf 'kvm_ext: %s\n' "$@" >&2; exit 1; }

config=$1 tree=$2; shift 2
. "$config"
[ $# != 0 ] || set -- kernel-patches/*.patch
[ -e "$1" ] || set --

hdr=$KROOT/usr/src/linux-headers-$KREL
[ -d "$hdr" ] || hdr=$(readlink -f "/lib/modules/$KREL/build")
common=$KROOT$(sed -n 's,^include \(.*\)/Makefile$,\1,p' "$hdr/Makefile")
kbuild=$KROOT/usr/lib/linux-kbuild-${KREL%%-*}
for d in "$hdr" "$common" "$kbuild"; do
	[ -d "$d" ] || die "$d is missing: linux-headers-$KREL is not complete; reinstall it and what it depends on"
done

tmp=$(mktemp -d "${TMPDIR:-/tmp}/kvm_ext.XXXXXX")
trap 'rm -rf "$tmp" "$tree.tmp"' EXIT
trap 'exit 130' INT TERM

# A tree of other packages, of another debug kernel, or of older rules is made anew.
stamp="$KREL $KVER ${KROOT##*/} $(sha256sum <"$0")"
if [ "$(cat "$tree/.kvm_ext-base" 2>/dev/null)" != "$stamp" ]; then
	rm -rf "$tree" "$tree.tmp"
	mkdir -p "$tree.tmp"
	cp -a "$common/." "$tree.tmp/"
	rm "$tree.tmp/scripts" "$tree.tmp/tools"
	cp -a "$hdr"/{.config,Module.symvers,vmlinux,arch,include} "$kbuild/." "$tree.tmp/"
	cp -a "$KSRC/arch/x86/kvm" "$tree.tmp/arch/x86/"
	cp -a "$KSRC/virt" "$tree.tmp/"
	cp -a "$hdr/include/config/auto.conf" "$hdr/include/generated/autoconf.h" "$tree.tmp/"
	chmod -R u+w "$tree.tmp"
	printf '%s\n' "$stamp" >"$tree.tmp/.kvm_ext-base"
	mv "$tree.tmp" "$tree"
fi

files=
[ $# = 0 ] || files=$(sed -n 's,^\(---\|+++\) [ab]/\([^\t]*\).*,\2,p' "$@" | sort -u)
for f in $files; do
	[ -e "$KSRC/$f" ] || continue
	# The headers packages carry only headers; of those, the very same ones.
	if [ -e "$common/$f" ]; then
		cmp -s "$common/$f" "$KSRC/$f" ||
			die "$f differs between linux-headers of $KREL and linux-source-6.12 $KVER: these are not one version"
	fi
	mkdir -p "$tmp/$(dirname "$f")"
	cp "$KSRC/$f" "$tmp/$f"
done

# One line of context may have changed, but that is told: it can apply to the wrong place.
for p; do
	apply() { patch -d "$tmp" -p1 --no-backup-if-mismatch -f "$@" <"$p" >"$tmp/.log" 2>&1; }
	apply --fuzz=0 --dry-run && { apply --fuzz=0; continue; }
	apply --fuzz=1 --dry-run || {
		grep -v '^checking file' "$tmp/.log" | sed 's/^/  /' >&2
		die "$p does not apply to linux-source-6.12 $KVER, not with fuzz 1 either; nothing was changed in $tree"
	}
	apply --fuzz=1
	printf 'kvm_ext: WARNING: %s applies to linux-source-6.12 %s with fuzz 1 only; read these hunks:\n' "$p" "$KVER" >&2
	grep -B1 -i 'with fuzz' "$tmp/.log" | sed 's/^/  /' >&2
done

# Files of an earlier series that this one does not touch go back as well.
touched=$(cat "$tree/.kvm_ext-touched" 2>/dev/null || :)
printf '%s\n' $touched $files | sort -u >"$tree/.kvm_ext-touched"
for f in $(cat "$tree/.kvm_ext-touched"); do
	new=$tmp/$f
	case " ${files//$'\n'/ } " in *" $f "*) ;; *) new=$KSRC/$f ;; esac
	if [ ! -e "$new" ]; then
		rm -f "$tree/$f"
	elif ! cmp -s "$new" "$tree/$f"; then
		mkdir -p "$tree/$(dirname "$f")"
		cp "$new" "$tree/$f"
	fi
done
printf '%s\n' $files >"$tree/.kvm_ext-touched"

# The headers packages carry the outcome of kconfig, not what it takes to run it.
# Options that the series adds are for this build, so all of them are on.
options=
[ $# = 0 ] || options=$(sed -n 's/^+config \([A-Z0-9_]*\)$/\1/p' "$@" | sort -u)
settle() {
	{ without "$tree/${2##*/}"; for o in $options; do printf "$1\n" "$o"; done; } >"$tmp/.settle"
	cmp -s "$tmp/.settle" "$tree/$2" || cp "$tmp/.settle" "$tree/$2"
}
without() {
	local o args=()
	for o in ${WITHOUT-}; do args+=(-e "/^\(#define \)\?CONFIG_$o[= ]/d"); done
	sed "${args[@]}" -e '' "$1"
}
for o in ${WITHOUT-}; do options=$(sed "/^$o$/d" <<<"$options"); done
for o in $options; do
	[ -e "$tree/include/config/$o" ] || : >"$tree/include/config/$o"
done
settle 'CONFIG_%s=y' include/config/auto.conf
settle '#define CONFIG_%s 1' include/generated/autoconf.h
