#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Get everything the build takes from Debian, and say where it is.
#
#   kernel-patches/setup.sh CONFIG     called by make; writes CONFIG (make variables)
#                                      (KERNEL=debug: of the debug kernel, built if need be)
#   kernel-patches/setup.sh deps [PACKAGE...]   only check for Debian packages, and PACKAGEs
#                                      besides (and install them)
#   kernel-patches/setup.sh update     pin the newest kernel and QEMU again
#   kernel-patches/setup.sh selftests  build KVM's selftests too, where CONFIG says
#   kernel-patches/setup.sh emulator   build the AMD machine's emulator too, likewise
#   kernel-patches/setup.sh bochs      get the Intel machine's emulator too, likewise
#   kernel-patches/setup.sh sources    get KVM's part of every linux-source-6.12 that Debian 12
#                                      and 13 offer; print a line "VERSION FOLDER" for each
#   kernel-patches/setup.sh trixie     make a Debian 13 folder that can build and test; print its path
#
# Nothing but the compiler and its like is installed: kernel, kernel source and
# the QEMU that emulates the test machine are downloaded with apt and unpacked
# into a cache.  apt runs on a package list of its own there, so that neither
# /etc/apt nor the system's lists change, and no root is needed.
#
# The first run pins the newest kernel that Debian has complete; later runs need
# no network.  Every folder of the cache is named after the version it holds and
# the recipe that made it, and is renamed into place when it is complete, so a
# killed run leaves nothing half done and several checkouts can share the cache.
set -euo pipefail
export LC_ALL=C

# What the build needs installed.
packages="gcc libc6-dev make patch perl python3 pkg-config libelf-dev zlib1g-dev
	  libsmartcols-dev libncurses-dev pahole clang xz-utils kmod rsync busybox-static
	  debian-archive-keyring qemu-system-x86 gnuplot-nox spin"
# And what the debug kernel and its checks need beside that.
[ "${KERNEL-}" != debug ] || packages+=" bc bison flex sparse"

# What is unpacked of linux-source: KVM, and what builds its tools and tests.
source_paths="Makefile Kbuild Kconfig MAINTAINERS .clang-format arch/x86 include
	      kernel/bpf lib scripts tools usr virt Documentation/virt"
# Raise this when the way a folder of the cache is made changes.
recipe=1

# What Debian 13's folder has besides: what every Debian machine has, and the tests call.
trixie_packages="iproute2 procps psmisc util-linux git"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvm_ext

say() { printf '  %-7s %s\n' "$1" "$2"; }
die() { printf 'kvm_ext: %s\n' "$@" >&2; exit 1; }

check_packages() {
	local have missing='' p
	command -v dpkg-query >/dev/null ||
		die "this build takes its kernel from Debian; dpkg-query is not here, so this is no Debian" \
		    "use a Debian 12 or 13 machine or container"
	have=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' $packages 2>/dev/null || true)"
	for p in $packages; do
		case "$have" in *" ii $p "*) ;; *) missing+=" $p" ;; esac
	done
	[ "$missing" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		die "Debian packages are missing; run this as root, then make again:" \
		    "  apt-get update && apt-get install -y --no-install-recommends$missing"
	fi
	say APT "install$missing"
	export DEBIAN_FRONTEND=noninteractive
	local log=/tmp/kvm_ext-apt.$$
	if ! { apt-get -q update && apt-get -q install -y --no-install-recommends $missing; } >$log 2>&1; then
		tail -n 15 $log >&2
		die "apt-get could not install:$missing (whole log: $log)"
	fi
	rm -f $log
}

# apt_options [DIR]: a private apt: own sources, lists and an empty status file.
apt_options() {
	aptdir=${1:-$cache/apt-$codename}
	aptopt=(-o Dir::Etc::sourcelist="$aptdir/sources.list" -o Dir::Etc::sourceparts=-
		-o Dir::State="$aptdir" -o Dir::State::status="$aptdir/status" -o Dir::Cache="$aptdir/cache"
		-o APT::Sandbox::User= -o APT::Default-Release=)
}

# The mirror this machine uses for a suite, else Debian's own.
mirror() {
	local m
	m=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
		awk -v s="$1" '$2 == s && $3 == "main" { print $1; exit }')
	printf '%s\n' "${m:-http://deb.debian.org/$2}"
}

# sources SUITE...: their lines for a sources.list
sources() {
	local s sign="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
	for s; do
		case $s in
		*-security) echo "deb $sign $(mirror "$s" debian-security) $s main" ;;
		*) echo "deb $sign $(mirror "${s%-backports}" debian) $s main" ;;
		esac
	done
}

# apt_folder DIR SUITE...: make DIR such a private apt's
apt_folder() {
	local d=$1; shift
	mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
	: >"$d/status"
	sources "$@" >"$d/sources.list"
}

apt_update() {
	local d=$cache/apt-$codename
	apt_folder "$d" "$codename" "$codename"-{security,backports}
	say APT "ask for the newest kernel"
	apt-get -qq "${aptopt[@]}" update >&2 ||
		die "apt-get update failed for the sources in $d/sources.list; is the network up?"
}

versions() { apt-cache "${aptopt[@]}" madison "$1" 2>/dev/null | awk -F' *[|] *' '/ Packages$/ { print $2 }' | sort -Vru; }
has() { versions "$1" | grep -Fxq -- "$2"; }

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
	local kernel qemu
	apt_update
	kernel=$(choose_kernel) ||
		die "no linux-image-6.12.N+deb$debian-amd64 has headers, kbuild and linux-source-6.12 of its own version" \
		    "looked in the sources of $cache/apt-$codename/sources.list; try again later or another mirror"
	# QEMU 10 on both: what is known about the test machine (tests/machine/amd.py) is of that.
	qemu=$(versions qemu-system-x86 | grep -m1 '^1:10\.') ||
		die "QEMU 10 is needed for the test machine; $codename offers $(versions qemu-system-x86 | tr '\n' ' ')"
	printf 'PIN_KREL=%s\nPIN_KVER=%s\nPIN_QEMU=%s\n' $kernel "$qemu" >"$pinfile.$$"
	mv "$pinfile.$$" "$pinfile"
	say PIN "linux ${kernel% *}, QEMU ${qemu#*:}"
}

# fetch DIR PACKAGE=VERSION...: download and unpack into DIR
fetch() {
	local dir=$1; shift
	[ -d "$aptdir/lists/partial" ] || apt_update
	mkdir -p "$dir/deb"
	local get=(apt-get -q "${aptopt[@]}" download "$@")
	# The lists may be older than a package's last rebuild: ask again once.
	(cd "$dir/deb" && { "${get[@]}" || { apt_update; "${get[@]}"; }; }) 2>"$dir/err" |
		sed -un 's/^Get:[0-9]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* \[\(.*\)\]$/  GET     \1 (\2)/p' || {
			grep -v '^W:' "$dir/err" >&2 || :
			die "apt-get could not download: $*" \
			    "if Debian dropped that version: make update (pins the newest)"
		}
	rm -f "$dir/err"
}

# make_dir NAME FUNCTION: fill $cache/NAME once, by calling FUNCTION TMPDIR
make_dir() {
	[ -d "$cache/$1" ] && return
	mkdir -p "$cache"
	exec 9>"$cache/.lock"
	flock -n 9 || { say WAIT "for another build that fills $cache"; flock 9; }
	if [ ! -d "$cache/$1" ]; then
		rm -rf "$cache"/tmp.*
		tmp=$cache/tmp.$1
		mkdir -p "$tmp"
		"$2" "$tmp"
		mv "$tmp" "$cache/$1"
	fi
	exec 9>&-
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

# unpack_source DIR [PATH...]: DIR/src from the package in DIR/deb, all of it or PATHs
unpack_source() {
	local dir=$1; shift
	say UNPACK "linux-source-6.12 $kver"
	mkdir "$dir/src"
	dpkg --fsys-tarfile "$dir"/deb/*.deb | tar -xO ./usr/src/linux-source-6.12.tar.xz | xz -dc -T0 |
		tar -x -C "$dir/src" --strip-components=1 --no-same-owner "$@"
	rm -rf "$dir/deb"
}

# The debug kernel takes the whole source, which is not worth keeping.
get_debug() {
	fetch "$1" "linux-source-6.12=$kver"
	unpack_source "$1"
	say BUILD "linux $KREL (some 15 minutes on 2 cores; log: $cache/debug.log)"
	kernel-patches/debug.sh "$1/src" "$KREL" "$1" >"$cache/debug.log" 2>&1 </dev/null || {
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

# KVM's selftests, of the same source, on the user API headers made above
get_selftests() {
	local src=$cache/$source_dir/src/tools/testing/selftests/kvm jobs
	jobs=-j$(nproc)
	say BUILD "KVM's selftests of linux $kver"
	make $jobs -C "$src" OUTPUT="$1" INSTALL_HDR_PATH="$cache/$tools_dir" \
		KHDR_INCLUDES="-isystem $cache/$tools_dir/include" >"$cache/build.log" 2>&1 </dev/null || {
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

# What building QEMU takes installed, beside all the rest.
emulator_packages="ninja-build libglib2.0-dev libattr1-dev python3-venv"

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
	unshare --mount --propagation private mmdebstrap --mode=root --variant=apt --components=main --include="$(echo $packages | tr ' ' ,)" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--skip=cleanup/apt/lists trixie "$1/root" "$list" >"$cache/trixie.log" 2>&1 </dev/null || {
		tail -n 15 "$cache/trixie.log" >&2
		die "mmdebstrap could not make a Debian 13 folder (whole log: $cache/trixie.log)"
	}
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

. /etc/os-release
debian=${VERSION_ID:-?} codename=${VERSION_CODENAME:-?}
key=$(printf '%s' "$recipe$source_paths" | sha256sum | cut -c1-8)
pinfile=$cache/pin-$codename
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

apt_options
[ "${1-}" != deps ] || packages+=" $emulator_packages ${*:2}"
[ "${1-}" != emulator ] || packages+=" $emulator_packages"
if [ "${1-}" = trixie ]; then
	# What runs there, and what the tests call besides.
	packages+=" $trixie_packages $emulator_packages"
	folder=trixie-$(printf '%s' "$recipe$packages" | sha256sum | cut -c1-8)
	[ "$(id -u)" = 0 ] || die "a Debian 13 folder can be made and used by root only"
	(packages=mmdebstrap; check_packages)
	make_dir "$folder" get_trixie >&2
	echo "$cache/$folder/root"
	exit
fi
check_packages
case ${1:?CONFIG, deps, update, selftests, emulator, bochs, sources or trixie} in
deps) exit ;;
update) mkdir -p "$cache"; rm -f "$cache/sources-6.12.list"; pin; exit ;;
sources) mkdir -p "$cache"; sources_of_all; exit ;;
esac

[ -s "$pinfile" ] || { mkdir -p "$cache"; pin; }
. "$pinfile"
kver=$PIN_KVER
if [ "${KERNEL-}" ]; then
	[ "$KERNEL" = debug ] && [ -z "${KREL-}" ] ||
		die "KERNEL=$KERNEL: there is only KERNEL=debug, and no KREL with it"
	KREL=${kver%%-*}-kvmext-debug
	debug=debug-$kver-$(cat kernel-patches/debug.{sh,config} | sha256sum | cut -c1-8)-$(gcc -dumpfullversion)
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
selftests_dir=selftests-${tools_dir#tools-}
if [ "$1" = selftests ]; then
	make_dir "$selftests_dir" get_selftests
	exit
fi
if [ "$1" = bochs ]; then
	make_dir "bochs-3.0-$recipe" get_bochs
	exit
fi
make_dir "qemu-${PIN_QEMU#*:}-$recipe" get_qemu
# By what it is made of: the version, the patch, how it is built, and by which compiler.
emulator=emulator-${PIN_QEMU#*:}-$({ declare -f get_emulator; cat tests/machine/qemu.patch; } |
	sha256sum | cut -c1-8)-$(gcc -dumpfullversion)
if [ "$1" = emulator ]; then
	make_dir "$emulator" get_emulator
	exit
fi

# The pinned kernel's modules go to build/kmod, where the tests look for them.
if [ "$KREL" = "$PIN_KREL" ]; then kmod=build/kmod; else kmod=build/kmod-$KREL; fi

mkdir -p "$(dirname "$1")"
cat >"$1.$$" <<END
# Written by kernel-patches/setup.sh.  Plain NAME=value: make, sh and python read it.
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
SELFTESTS=$cache/$selftests_dir
QEMU=$cache/qemu-${PIN_QEMU#*:}-$recipe/qemu-system-x86_64
EMULATOR=$cache/$emulator/qemu-system-x86_64
BOCHS=$cache/bochs-3.0-$recipe
END
if cmp -s "$1.$$" "$1"; then rm "$1.$$"; else mv "$1.$$" "$1"; fi
