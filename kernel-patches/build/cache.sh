# SPDX-License-Identifier: GPL-2.0
#
# The cache, and how packages of Debian get into it: for setup.sh and tests/machine/fetch.sh.
#
# apt runs on a package list of its own there, so that neither /etc/apt nor the system's
# lists change, and no root is needed.  Every folder of the cache is named after the version
# it holds and the recipe that made it, and is renamed into place when it is complete, so a
# killed run leaves nothing half done and several checkouts can share the cache.
set -euo pipefail
export LC_ALL=C

# Raise this when the way a folder of the cache is made changes.
recipe=1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvm_ext

. /etc/os-release
debian=${VERSION_ID:-?} codename=${VERSION_CODENAME:-?}
# The kernel that this Debian's build takes
pinfile=$cache/pin-$codename
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

say() { printf '  %-7s %s\n' "$1" "$2"; }
die() { printf 'kvm_ext: %s\n' "$@" >&2; exit 1; }

# check_packages PACKAGE...: install what is missing, or say how
check_packages() {
	local have missing='' p
	command -v dpkg-query >/dev/null ||
		die "this build takes its kernel from Debian; dpkg-query is not here, so this is no Debian" \
		    "use a Debian 12 or 13 machine or container"
	have=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' "$@" 2>/dev/null || true)"
	for p; do
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
	say APT "ask Debian for its newest versions"
	apt-get -qq "${aptopt[@]}" update >&2 ||
		die "apt-get update failed for the sources in $d/sources.list; is the network up?"
}

versions() { apt-cache "${aptopt[@]}" madison "$1" 2>/dev/null | awk -F' *[|] *' '/ Packages$/ { print $2 }' | sort -Vru; }
has() { versions "$1" | grep -Fxq -- "$2"; }

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

# unpack_source DIR [PATH...]: DIR/src from the package in DIR/deb, all of it or PATHs
unpack_source() {
	local dir=$1; shift
	say UNPACK "linux-source-6.12 $kver"
	mkdir "$dir/src"
	dpkg --fsys-tarfile "$dir"/deb/*.deb | tar -xO ./usr/src/linux-source-6.12.tar.xz | xz -dc -T0 |
		tar -x -C "$dir/src" --strip-components=1 --no-same-owner "$@"
	rm -rf "$dir/deb"
}

apt_options
