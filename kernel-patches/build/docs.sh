#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Render Documentation/virt/kvm of the series with the kernel source's own tools.
#
#   kernel-patches/build/docs.sh CONFIG TREE [DIR]     called by make docs
#
# TREE is a kernel tree that has the series, as tree.sh and series.sh make them.  DIR
# (build/docs) gets html/, and src/, the tree that Sphinx reads: Documentation's tools of
# the same linux-source, and links to the code in TREE.  The exit status is 1 if
# kernel-doc -Wall or Sphinx warns about a file that the series adds or changes.  Warnings
# that the source has without the series do not count.
. "$(dirname "$0")/cache.sh"

unset KBUILD_BUILD_TIMESTAMP	# kernel-doc has its own idea of it
config=$1 tree=$(readlink -f "$2") dir=${3:-build/docs}
page=Documentation/virt/kvm/kvm-ext.rst
. "$config"
kver=$KVER

check_packages python3-sphinx

# What Sphinx runs on: its configuration and its extensions.
docs_paths="Documentation/conf.py Documentation/sphinx Documentation/sphinx-static scripts/kernel-doc"
get_docs() {
	fetch "$1" "linux-source-6.12=$kver"
	local p paths=()
	for p in $docs_paths; do paths+=("linux-source-6.12/$p"); done
	unpack_source "$1" "${paths[@]}"
}
docs=docs-$kver-$(printf '%s' "$recipe$docs_paths" | sha256sum | cut -c1-8)
make_dir "$docs" get_docs
docs=$cache/$docs/src

rm -rf "$dir"/{src,html,doctrees}
mkdir -p "$dir/src/Documentation/virt" "$dir/html"
dir=$(readlink -f "$dir")
cp -r "$docs/Documentation/"{conf.py,sphinx,sphinx-static} "$dir/src/Documentation/"
cp -r "$KSRC/Documentation/virt/kvm" "$dir/src/Documentation/virt/"
# TREE has all of the pages, or only those of the series.
cp -r "$tree/Documentation/virt/kvm/." "$dir/src/Documentation/virt/kvm/"
chmod -R u+w "$dir/src"
ln -s "$tree/"{arch,include,virt} "$dir/src/"
ln -s "$docs/scripts" "$dir/src/"
cd "$dir/src"

# The files of the series: what the source does not have, or not so.
ours=$(for f in Documentation/virt/kvm/*.rst $(find -L include/linux/kvm* include/trace/events/kvm* \
	arch/x86/include/asm/kvm* arch/x86/kvm virt/kvm -name '*.[ch]' ! -name '*.mod.c'); do
	cmp -s "$f" "$KSRC/$f" || echo "$f"
done)
[ -e $page ] || die "$tree/$page is missing: $tree does not have the series"

# Line numbers move, so they do not tell a new warning from an old one.
kernel_doc() { { "$docs/scripts/kernel-doc" -none -Wall "$1/$2" 2>&1 || :; } | sed "s,^$1/,," ; }
nameless() { sed 's/:[0-9]*: /: /' | sort; }

say DOC "kernel-doc -Wall"
for f in $ours; do
	case $f in *.rst) continue ;; esac
	new=$(kernel_doc "$dir/src" "$f")
	[ "$new" ] || continue
	old=
	[ ! -e "$KSRC/$f" ] || old=$(kernel_doc "$KSRC" "$f")
	[ "$(nameless <<<"$new" | comm -23 - <(nameless <<<"$old"))" ] || continue
	printf '%s\n' "$new"
done >"$dir/warnings"

say SPHINX "$dir/html"
srctree=$dir/src KERNELDOC=scripts/kernel-doc PYTHONDONTWRITEBYTECODE=1 \
	sphinx-build -q -b html -c Documentation -d "$dir/doctrees" \
	-D version="$kver" -D release="$kver" -D kerneldoc_srctree="$dir/src" \
	-D kerneldoc_bin="$dir/src/scripts/kernel-doc" -D html_theme=alabaster \
	-w "$dir/sphinx.log" Documentation/virt/kvm "$dir/html" >/dev/null 2>&1 ||
	{ tail -n 15 "$dir/sphinx.log" >&2; die "sphinx-build failed (whole log: $dir/sphinx.log)"; }
{
	for f in $ours; do grep -F -- "$f:" "$dir/sphinx.log" || :; done
	grep -F "kernel-doc '" "$dir/sphinx.log" || :
} | sed "s,$dir/src/,,g" | sort -u >>"$dir/warnings"

# What the code no longer has would vanish from the page without a word.
awk '/^\.\. kernel-doc:: / { file = $3 }
     /^ *:identifiers: / { on = 1; $1 = "" }
     !NF { on = 0 }
     on { for (i = 1; i <= NF; i++) if ($i != "") print file, $i }' $page |
while read -r f id; do
	scripts/kernel-doc -rst -function "$id" "$f" 2>&1 | grep '^\.\. c:' >/dev/null ||
		echo "$page: $f has no kernel-doc of $id"
done >>"$dir/warnings"

if [ -s "$dir/warnings" ]; then
	sed 's/^/  /' "$dir/warnings" >&2
	die "$(wc -l <"$dir/warnings") warnings about the documentation of the series"
fi
say DOCS "$dir/html/kvm-ext.html"
