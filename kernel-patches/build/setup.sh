#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get everything the build takes from Debian, and say where it is.
#
#   kernel-patches/build/setup.sh CONFIG     called by make; writes CONFIG (make variables)
#                                            (KERNEL=debug: of the debug kernel, built if need be)
#   kernel-patches/build/setup.sh packages   print the packages that the build needs
#   kernel-patches/build/setup.sh deps       only check for them (and install them)
#   kernel-patches/build/setup.sh update     pin the newest kernel again
#
# Nothing but the compiler and its like is installed: kernel and kernel source are
# downloaded with apt and unpacked into the cache (cache.sh).  What only tests need,
# tests/machine/fetch.sh gets.
#
# The first run pins the newest kernel that Debian has complete; later runs need
# no network.
. "$(dirname "$0")/cache.sh"

# What the build needs installed.
packages="gcc libc6-dev make patch perl python3 pkg-config libelf-dev zlib1g-dev
	  libsmartcols-dev libncurses-dev pahole clang xz-utils kmod rsync debian-archive-keyring"
# And what the debug kernel and its checks need beside that.
[ "${KERNEL-}" != debug ] || packages+=" bc bison flex sparse"

# What is unpacked of linux-source: KVM, and what builds its tools and tests.
source_paths="Makefile Kbuild Kconfig MAINTAINERS .clang-format arch/x86 include
	      kernel/bpf lib scripts tools usr virt Documentation/virt"
key=$(printf '%s' "$recipe$source_paths" | sha256sum | cut -c1-8)

# The newest kernel of which image, headers, kbuild and source have one version.
choose_kernel() {
	local image krel base v
	for image in $(apt-cache "${aptopt[@]}" pkgnames linux-image-6.12. |
		       grep -E "^linux-image-6\.12\.[0-9]+\+deb$debian-amd64\$" | sort -Vr); do
		krel=${image#linux-image-} base=${krel%%-*}
		for v in $(versions "$image"); do
			has linux-source-6.12 "$v" && has "linux-headers-$krel" "$v" &&
			has "linux-headers-$base-common" "$v" && has "linux-kbuild-$base" "$v" || continue
			printf '%s %s\n' "$krel" "$v"
			return
		done
	done
	return 1
}

pin() {
	local kernel
	apt_update
	kernel=$(choose_kernel) ||
		die "no linux-image-6.12.N+deb$debian-amd64 has headers, kbuild and linux-source-6.12 of its own version" \
		    "looked in the sources of $cache/apt-$codename/sources.list; try again later or another mirror"
	printf 'PIN_KREL=%s\nPIN_KVER=%s\n' $kernel >"$pinfile.$$"
	mv "$pinfile.$$" "$pinfile"
	say PIN "linux ${kernel% *}"
}

get_kernel() {
	local base=${PIN_KREL%%-*} p
	fetch "$1" "linux-image-$PIN_KREL=$PIN_KVER" "linux-headers-$PIN_KREL=$PIN_KVER" \
		"linux-headers-$base-common=$PIN_KVER" "linux-kbuild-$base=$PIN_KVER"
	say UNPACK "linux $PIN_KREL"
	for p in "$1"/deb/*.deb; do dpkg -x "$p" "$1"; done
	rm -rf "$1/deb"
	# Debian 13's packages have /usr/lib/modules only; depmod -b looks in /lib.
	[ -e "$1/lib" ] || ln -s usr/lib "$1/lib"
	/sbin/depmod -b "$1" "$PIN_KREL"
}

get_source() {
	fetch "$1" "linux-source-6.12=$kver"
	local p paths=()
	for p in $source_paths; do paths+=("linux-source-6.12/$p"); done
	unpack_source "$1" "${paths[@]}"
}

# The debug kernel takes the whole source, which is not worth keeping.
get_debug() {
	fetch "$1" "linux-source-6.12=$kver"
	unpack_source "$1"
	say BUILD "linux $KREL (some 15 minutes on 2 cores; log: $cache/debug.log)"
	kernel-patches/build/debug.sh "$1/src" "$KREL" "$1" >"$cache/debug.log" 2>&1 </dev/null || {
		grep -E 'error|\*\*\*' "$cache/debug.log" >&2 || tail -n 15 "$cache/debug.log" >&2
		die "building the debug kernel failed (whole log: $cache/debug.log)"
	}
	rm -rf "$1/src"
}

# bpftool, libbpf and the kernel's user API headers, of the same source
get_tools() {
	local src=$cache/$source_dir/src jobs
	jobs=-j$(nproc)
	say BUILD "libbpf, bpftool and user API headers of linux $kver"
	mkdir "$1/obj" "$1/hdr"
	# bpftool without its optional parts: they depend on what else this machine has.
	{ make $jobs -C "$src/tools/bpf/bpftool" OUTPUT="$1/obj/" \
		feature-clang-bpf-co-re=0 feature-llvm=0 feature-libbfd=0 feature-libcap=0 &&
	  make $jobs -C "$src" O="$1/hdr" INSTALL_HDR_PATH="$1" headers_install; } >"$cache/build.log" 2>&1 </dev/null || {
		tail -n 15 "$cache/build.log" >&2
		die "building libbpf and bpftool failed (whole log: $cache/build.log)"
	}
	mv "$1/obj/bpftool" "$1/obj/libbpf/libbpf.a" "$1/"
	cp -r "$1/obj/libbpf/include/bpf" "$1/include/"
	rm -rf "$1/obj" "$1/hdr"
}

# An installed kernel's version, and where its headers are.
installed_kernel() {
	local b=/lib/modules/$KREL/build newest
	case "$KREL" in
	*-rt-*) die "KREL=$KREL is a PREEMPT_RT kernel, which the series does not support: kvm_save_ops signals eventfds with interrupts off, where PREEMPT_RT allows no spinlock; use ${KREL/-rt-/-}" ;;
	6.12.*+deb*) ;;
	*) die "KREL=$KREL is not a Debian 6.12 kernel (6.12.N+debN-amd64); the series is for those only" ;;
	esac
	[ -e "$b/Makefile" ] ||
		die "no headers for $KREL: $b is missing; run: apt-get install linux-headers-$KREL"
	kver=$(dpkg-query -W -f '${Version}' "linux-headers-$KREL" 2>/dev/null) ||
		die "$b exists, but linux-headers-$KREL is not an installed package: its source version is unknown"
	[ -s "$b/vmlinux" ] ||
		die "$(readlink -f "$b")/vmlinux is missing: modules without BTF cannot carry policies"
	[ -d "$cache/src-$kver-$key" ] && return
	apt_update
	has linux-source-6.12 "$kver" || {
		newest=$(versions linux-source-6.12 | head -n1)
		die "linux-headers-$KREL is version $kver, but apt has linux-source-6.12 only as ${newest:-none}; upgrade the kernel and its headers to that version, or use a mirror that has $kver"
	}
}

case ${1:?CONFIG, packages, deps or update} in
packages) echo $packages; exit ;;
esac
check_packages $packages
case $1 in
deps) exit ;;
update) mkdir -p "$cache"; pin; exit ;;
esac

[ -s "$pinfile" ] || { mkdir -p "$cache"; pin; }
. "$pinfile"
kver=$PIN_KVER
if [ "${KERNEL-}" ]; then
	[ "$KERNEL" = debug ] && [ -z "${KREL-}" ] ||
		die "KERNEL=$KERNEL: there is only KERNEL=debug, and no KREL with it"
	KREL=${kver%%-*}-kvmext-debug
	debug=debug-$kver-$(cat kernel-patches/build/debug.{sh,config} | sha256sum | cut -c1-8)-$(gcc -dumpfullversion)
	make_dir "$debug" get_debug
	root=$cache/$debug
elif [ "${KREL:-$PIN_KREL}" = "$PIN_KREL" ]; then
	KREL=$PIN_KREL root=$cache/kernel-$PIN_KVER-$recipe
	make_dir "kernel-$PIN_KVER-$recipe" get_kernel
else
	root=
	installed_kernel
fi
source_dir=src-$kver-$key
tools_dir=tools-$kver-$key-$(gcc -dumpfullversion)
make_dir "$source_dir" get_source
make_dir "$tools_dir" get_tools

# The pinned kernel's modules go to build/kmod, where the tests look for them.
if [ "$KREL" = "$PIN_KREL" ]; then kmod=build/kmod; else kmod=build/kmod-$KREL; fi

mkdir -p "$(dirname "$1")"
cat >"$1.$$" <<END
# Written by kernel-patches/build/setup.sh.  Plain NAME=value: make, sh and python read it.
KREL=$KREL
KVER=$kver
KROOT=$root
KSRC=$cache/$source_dir/src
KTREE=build/linux-$KREL
KMOD=$kmod
TOOLS=$cache/$tools_dir
LIBBPF_A=$cache/$tools_dir/libbpf.a
LIBBPF_INC=$cache/$tools_dir/include
BPFTOOL=$cache/$tools_dir/bpftool
END
if cmp -s "$1.$$" "$1"; then rm "$1.$$"; else mv "$1.$$" "$1"; fi
