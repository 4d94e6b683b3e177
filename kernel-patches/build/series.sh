#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Edit the series as commits.
#
#   kernel-patches/build/series.sh CONFIG edit [DIR]     make DIR (build/series), a git tree of
#                                                        the kernel's source with the series as commits
#   kernel-patches/build/series.sh CONFIG export [DIR]   write its commits back to kernel-patches/, and
#                                                        their sizes to its README.md
#   kernel-patches/build/series.sh CONFIG table          print these sizes
#
# The tag "base" is the source without the series.  A repair belongs into the commit that
# it repairs: commit it as "fixup! SUBJECT", then git rebase -i --autosquash base.
set -euo pipefail
export LC_ALL=C

die() { printf 'kvm_ext: %s\n' "$@" >&2; exit 1; }

. "$1"
here=$(cd "$(dirname "$0")/.." && pwd)
dir=${3:-build/series}

# Each patch's subject, files, and lines added and removed, as in the cover letter.
table() {
	local p subject
	for p in "$here"/*.patch; do
		subject=$(sed -n '/^Subject: /,/^$/p' "$p" | sed 's/^Subject: \[PATCH [0-9/]*\] //' | tr -d '\n')
		git apply --numstat "$p" | awk -v s="$subject" '{ f++; a += $1; d += $2 }
			END { printf "| %s | %d | %d | %d |\n", s, f, a, d }'
	done
	cat "$here"/*.patch | git apply --numstat - | awk '{ f[$3]; a += $1; d += $2 }
		END { printf "| all | %d | %d | %d |\n", length(f), a, d }'
}

case ${2-} in
edit)
	[ ! -e "$dir" ] || die "$dir is there already; export or remove it first"
	mkdir -p "$dir.tmp/arch/x86"
	cp -r "$KSRC/arch/x86/"{kvm,include} "$dir.tmp/arch/x86/"
	cp -r "$KSRC/"{include,virt,MAINTAINERS} "$dir.tmp/"
	mkdir -p "$dir.tmp/Documentation/virt"
	cp -r "$KSRC/Documentation/virt/kvm" "$dir.tmp/Documentation/virt/"
	chmod -R u+w "$dir.tmp"
	cd "$dir.tmp"
	git init -q
	git config user.name "kvm_ext maintainers"
	git config user.email "maintainers@users.noreply.h-seed-2ec3ed7a.example"
	git add -A
	git commit -q -m "linux $KVER"
	git tag base
	git am -q "$here"/*.patch
	cd - >/dev/null
	mv "$dir.tmp" "$dir"
	echo "$dir: $(git -C "$dir" rev-list --count base..) commits on linux $KVER"
	;;
export)
	[ -d "$dir/.git" ] || die "$dir is no git tree; make one with: make series-edit"
	new=$(mktemp -d)
	trap 'rm -rf "$new"' EXIT
	# The same bytes from the same commits, whoever exports them with whatever git.
	git -C "$dir" format-patch -q --zero-commit --no-signature -N --numbered \
		--abbrev=12 -o "$new" base..
	for p in "$new"/*.patch; do
		cmp -s "$p" "$here/${p##*/}" || cp "$p" "$here/"
	done
	for p in "$here"/*.patch; do
		[ -e "$new/${p##*/}" ] || rm "$p"
	done
	table >"$new/table"
	sed -i -e "/^| patch | files | added | removed |$/,/^$/{/^| [^p]/d}" \
		-e "/^| patch | files | added | removed |$/{n;r $new/table
}" "$here/README.md"
	echo "kernel-patches: $(ls "$here"/*.patch | wc -l) patches"
	;;
table)
	table
	;;
*)
	die "usage: kernel-patches/build/series.sh CONFIG {edit|export|table} [DIR]"
	;;
esac
