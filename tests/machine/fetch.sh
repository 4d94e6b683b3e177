#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get what the tests need beside the build: emulators, KVM's selftests, other Debians.
#
#   tests/machine/fetch.sh               Debian's QEMU, for the guests of guests; write build/machine.mk
#   tests/machine/fetch.sh emulator      build the AMD machine's emulator too, where that says
#   tests/machine/fetch.sh bochs         get the Intel machine's emulator too, likewise
#   tests/machine/fetch.sh selftests     build KVM's selftests too, likewise
#   tests/machine/fetch.sh deps [PACKAGE...]   only check for Debian packages, and PACKAGEs
#                                        besides (and install them)
#   tests/machine/fetch.sh update        pin the newest QEMU again
#   tests/machine/fetch.sh sources       get KVM's part of every linux-source-6.12 that Debian 12
#                                        and 13 offer; print a line "VERSION FOLDER" for each
#   tests/machine/fetch.sh trixie [build]   make a Debian 13 folder that can build and test,
#                                        or only build; print its path
#
# Runs after kernel-patches/build/setup.sh, on the same cache.
cd "$(dirname "$0")/../.."
. kernel-patches/build/cache.sh

# What tests call, what Debian's QEMU is linked with, and what building QEMU takes.
packages="busybox-static gnuplot-nox spin mandoc groff-base jq qemu-system-x86
	  ninja-build libglib2.0-dev libattr1-dev python3-venv"
# What Debian 13's folder has besides: what every Debian machine has, and the tests call.
trixie_packages="iproute2 procps psmisc util-linux git"

# QEMU 10 on both: what is known about the test machine (amd.py) is of that.
pin() {
	local qemu
	apt_update
	qemu=$(versions qemu-system-x86 | grep -m1 '^1:10\.') ||
		die "QEMU 10 is needed for the test machine; $codename offers $(versions qemu-system-x86 | tr '\n' ' ')"
	printf 'PIN_QEMU=%s\n' "$qemu" >"$qemu_pin.$$"
	mv "$qemu_pin.$$" "$qemu_pin"
	say PIN "QEMU ${qemu#*:}"
}

# KVM's selftests, of the source that the build has, on the user API headers made for it
get_selftests() {
	local src=$KSRC/tools/testing/selftests/kvm jobs
	jobs=-j$(nproc)
	say BUILD "KVM's selftests of linux $KVER"
	make $jobs -C "$src" OUTPUT="$1" INSTALL_HDR_PATH="$TOOLS" \
		KHDR_INCLUDES="-isystem $TOOLS/include" >"$cache/build.log" 2>&1 </dev/null || {
		tail -n 15 "$cache/build.log" >&2
		die "building KVM's selftests failed (whole log: $cache/build.log)"
	}
	cp "$src"/x86_64/*.sh "$1/x86_64/"
	rm -rf "$1/lib"
	find "$1" -name '*.[od]' -delete
}

get_qemu() {
	local p seabios=seabios
	case $PIN_QEMU in *~bpo*) seabios+=/$codename-backports ;; esac
	fetch "$1" qemu-system-{x86,common,data}="$PIN_QEMU" $seabios ipxe-qemu
	say UNPACK "QEMU ${PIN_QEMU#*:}"
	for p in "$1"/deb/*.deb; do dpkg -x "$p" "$1"; done
	rm -rf "$1/deb"
	# Runs from wherever the folder is, in the test machine too.
	cat >"$1/qemu-system-x86_64" <<-'END'
	#!/bin/sh
	d=$(dirname "$(readlink -f "$0")")
	QEMU_MODULE_DIR=$d/usr/lib/x86_64-linux-gnu/qemu exec "$d/usr/bin/qemu-system-x86_64" \
		-L "$d/usr/share/qemu" -L "$d/usr/share/seabios" -L "$d/usr/lib/ipxe/qemu" "$@"
	END
	chmod +x "$1/qemu-system-x86_64"
	local lost
	lost=$(ldd "$1/usr/bin/qemu-system-x86_64" | awk '/not found/ { print $1 }')
	[ -z "$lost" ] || die "QEMU ${PIN_QEMU#*:} wants libraries that are not installed:" $lost
}

# The AMD machine's emulator: the same QEMU with tests/machine/qemu.patch, and nothing in it
# that the machine has not.  Firmware is the packaged one's.  Of Debian's source package only
# what upstream wrote is taken: its own part goes from the mirror with each new revision.
get_emulator() {
	local d=$1/apt src=$1/src upstream=${PIN_QEMU#*:} v log=$cache/emulator.log
	upstream=${upstream%%-*}
	mkdir -p "$src"
	# Debian 12 has QEMU 10 in its backports, and meson too: its own is too old.
	if [ "$codename" = bookworm ]; then
		apt_folder "$d" bookworm-backports
	else
		apt_folder "$d" "$codename" "$codename-security"
	fi
	sed -i 's/^deb \(.*\)/&\ndeb-src \1/' "$d/sources.list"
	apt_options "$d"
	say APT "ask for QEMU's source"
	apt-get -qq "${aptopt[@]}" -o Acquire::Languages=none update >&2 ||
		die "apt-get update failed for the sources in $d/sources.list; is the network up?"
	v=$(apt-cache "${aptopt[@]}" showsrc --only-source qemu | sed -n 's/^Version: //p' |
		grep -m1 -F ":$upstream-") ||
		die "Debian has no source of QEMU $upstream any more" "to pin the newest version: make update"
	(cd "$d" && apt-get -q "${aptopt[@]}" source --download-only --tar-only "qemu=$v" &&
	 apt-get -q "${aptopt[@]}" download meson) >"$log" 2>&1 || {
		tail -n 15 "$log" >&2
		die "apt-get could not download QEMU's source or meson"
	}
	say BUILD "QEMU $upstream with tests/machine/qemu.patch (some 4 minutes on 2 cores; log: $log)"
	dpkg -x "$d"/meson_*.deb "$1/meson"
	tar -x -C "$src" --strip-components=1 --no-same-owner --exclude='*/roms/*' -f "$d"/qemu_*.orig.tar.xz
	mkdir "$1/obj"
	(patch -d "$src" -p1 --no-backup-if-mismatch <tests/machine/qemu.patch &&
	  cd "$1/obj" && export PYTHONPATH=$1/meson/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1 &&
	  "$src/configure" --python=/usr/bin/python3 --target-list=x86_64-softmmu --with-devices-x86_64=kvm_ext \
		--without-default-features --without-default-devices --enable-system --enable-tcg \
		--enable-virtfs --enable-attr --disable-debug-info --disable-docs --disable-download \
		--disable-install-blobs --disable-werror &&
	  ninja -j "$(nproc)" qemu-system-x86_64) >>"$log" 2>&1 </dev/null || {
		grep -m5 -E 'FAILED|[Ee]rror' "$log" >&2 || tail -n 15 "$log" >&2
		die "building the AMD machine's QEMU failed (whole log: $log)" \
		    "with Debian's own, which has the faults that this one has not: tests/machine/run --emulator packaged"
	}
	strip -o "$1/qemu" "$1/obj/qemu-system-x86_64"
	rm -rf "$d" "$src" "$1/obj" "$1/meson"
	cat >"$1/qemu-system-x86_64" <<-END
	#!/bin/sh
	p=$cache/qemu-${PIN_QEMU#*:}-$recipe
	exec "\$(dirname "\$(readlink -f "\$0")")/qemu" \
		-L "\$p/usr/share/qemu" -L "\$p/usr/share/seabios" -L "\$p/usr/lib/ipxe/qemu" "\$@"
	END
	chmod +x "$1/qemu-system-x86_64"
	apt_options
}

# Debian 13's Bochs, what boots its CD, and all that they are linked with: it runs on
# libraries of its own.  Of no other version, see tests/machine/intel.py.
get_bochs() {
	local d=$1/apt p
	apt_folder "$d" trixie
	apt_options "$d"
	say APT "ask for Bochs"
	apt-get -qq "${aptopt[@]}" -o Acquire::Languages=none update >&2 ||
		die "apt-get update failed for trixie; is the network up?"
	p=$(versions bochs | grep -m1 '^3\.0[+-]') ||
		die "Debian 13 has no Bochs 3.0 any more, but: $(versions bochs | tr '\n' ' ')"
	apt-get -qq "${aptopt[@]}" --no-install-recommends --download-only -y install "bochs=$p" bochs-term \
		isolinux syslinux-common xorriso >"$d/log" 2>&1 || {
		tail -n 15 "$d/log" >&2
		die "apt-get could not download Bochs and what it is linked with"
	}
	say UNPACK "Bochs $p"
	for p in "$d"/cache/archives/*.deb; do dpkg -x "$p" "$1"; done
	rm -rf "$d" "$1"/usr/share/{doc,man,locale,icons,themes}
	apt_options
}

# KVM's part of one linux-source-6.12, to try the series on
get_kvm() {
	fetch "$1" "linux-source-6.12=$kver"
	unpack_source "$1" linux-source-6.12/{MAINTAINERS,Documentation/virt/kvm,arch/x86/kvm,arch/x86/include/asm,virt/kvm} \
		linux-source-6.12/include/{linux,trace/events}
}

# Which versions there are is asked once, and again by make update: a run of the tests
# needs no network.
sources_of_all() {
	local d=$cache/apt-sources list=$cache/sources-6.12.list
	apt_options "$d"
	for kver in $(cat "$list" 2>/dev/null || echo none); do
		[ -d "$cache/kvm-$kver-$recipe" ] || rm -f "$list"
	done
	if [ ! -s "$list" ]; then
		apt_folder "$d" bookworm{,-security,-backports} trixie{,-security}
		say APT "ask for every linux-source-6.12" >&2
		apt-get -qq "${aptopt[@]}" -o Acquire::Languages=none update >&2 ||
			die "apt-get update failed for the sources in $d/sources.list; is the network up?"
		versions linux-source-6.12 >"$list.$$"
		[ -s "$list.$$" ] || die "neither Debian 12 nor 13 offers linux-source-6.12"
		mv "$list.$$" "$list"
	fi
	for kver in $(cat "$list"); do
		make_dir "kvm-$kver-$recipe" get_kvm >&2
		printf '%s %s\n' "$kver" "$cache/kvm-$kver-$recipe/src"
	done
}

# A Debian 13 with all that the build takes, for make test-trixie: from Debian 12 too.
get_trixie() {
	local list=$cache/trixie.list p
	sources trixie trixie-security >"$list"
	say BUILD "a Debian 13 folder (a minute or two; log: $cache/trixie.log)"
	# Its mounts are its own: whatever ends it, none is left in a folder that is removed.
	unshare --mount --propagation private mmdebstrap --mode=root --variant=apt --components=main --include="$(echo $all_packages | tr ' ' ,)" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--skip=cleanup/apt/lists trixie "$1/root" "$list" >"$cache/trixie.log" 2>&1 </dev/null || {
		tail -n 15 "$cache/trixie.log" >&2
		die "mmdebstrap could not make a Debian 13 folder (whole log: $cache/trixie.log)"
	}
}

qemu_pin=$cache/pin-qemu-$codename
if [ "${1-}" = trixie ]; then
	all_packages=$(kernel-patches/build/setup.sh packages)
	[ "${2-}" = build ] || all_packages+=" $packages $trixie_packages"
	folder=trixie-$(printf '%s' "$recipe$all_packages" | sha256sum | cut -c1-8)
	[ "$(id -u)" = 0 ] || die "a Debian 13 folder can be made and used by root only"
	check_packages mmdebstrap >&2
	make_dir "$folder" get_trixie >&2
	echo "$cache/$folder/root"
	exit
fi
check_packages $packages $([ "${1-}" != deps ] || echo "${@:2}")
mkdir -p "$cache"
case ${1-} in
deps) exit ;;
update) rm -f "$cache/sources-6.12.list"; pin; exit ;;
sources) sources_of_all; exit ;;
'' | emulator | bochs | selftests) ;;
*) die "$1: there are emulator, bochs, selftests, deps, update, sources and trixie" ;;
esac

[ -e build/config.mk ] || die "build/config.mk is missing; run make first"
. build/config.mk
# Until 2026-11 the kernel's pin had QEMU's too.
[ ! -s "$pinfile" ] || . "$pinfile"
[ "${PIN_QEMU-}" ] || [ -s "$qemu_pin" ] || pin
[ ! -s "$qemu_pin" ] || . "$qemu_pin"
# By what it is made of: the version, the patch, how it is built, and by which compiler.
emulator=emulator-${PIN_QEMU#*:}-$({ declare -f get_emulator; cat tests/machine/qemu.patch; } |
	sha256sum | cut -c1-8)-$(gcc -dumpfullversion)
selftests=selftests-${TOOLS##*/tools-}
make_dir "qemu-${PIN_QEMU#*:}-$recipe" get_qemu
case ${1-} in
emulator) make_dir "$emulator" get_emulator ;;
bochs) make_dir "bochs-3.0-$recipe" get_bochs ;;
selftests) make_dir "$selftests" get_selftests ;;
esac

cat >build/machine.mk.$$ <<END
# Written by tests/machine/fetch.sh.  Plain NAME=value: sh and python read it.
SELFTESTS=$cache/$selftests
QEMU=$cache/qemu-${PIN_QEMU#*:}-$recipe/qemu-system-x86_64
EMULATOR=$cache/$emulator/qemu-system-x86_64
BOCHS=$cache/bochs-3.0-$recipe
END
mv build/machine.mk.$$ build/machine.mk
