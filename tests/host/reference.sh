#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The reference in bpf/README.md is what the kernel-doc of the series says, and has every op and
# every kfunc that a policy can use.
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
page=bpf/README.md
. tests/lib/host.sh

echo 1..6
said=$(kernel-patches/build/reference.py "$KTREE" --check 2>&1)
result $? "the page is made from the headers as they are (make reference)" <(echo "$said")

# A word more in a header, and the page is not right any more
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp"/{include,arch/x86,virt}
cp -r "$KTREE/include/linux" "$tmp/include/"
cp -r "$KTREE/arch/x86/kvm" "$tmp/arch/x86/"
cp -r "$KTREE/virt/kvm" "$tmp/virt/"
kernel-patches/build/reference.py "$tmp" --check >/dev/null 2>&1
result $? "a copy of the tree is as good"
header=$(grep -l '^struct kvm_throttle_ops {' "$tmp"/include/linux/*.h)
sed -i 's/^\( \* @name:.*\)/\1, and more/' "$header"
said=$(kernel-patches/build/reference.py "$tmp" --check 2>&1)
[ $? = 1 ] && grep -q '^+.*, and more' <<<"$said"
result $? "a word more in a header is found" <(echo "$said")

# What the BPF side of the build knows, in vmlinux.h and in what policies include
struct() { sed -n "/^struct kvm_${1}_ops {/,/^}/p" vmlinux.h; }
tables=$(sed -n 's/^struct kvm_\([a-z]*\)_ops {$/\1/p' vmlinux.h | sort | while read -r t; do
	struct "$t" | grep -q 'char name\[' && struct "$t" | grep -q '(\*' && echo "$t"; done)
said=$(sed -n 's/^### struct kvm_\([a-z]*\)_ops$/\1/p' $page | sort | diff - <(echo "$tables"))
[ -z "$said" ] && [ "$tables" ]
result $? "the tables are those of vmlinux.h" <(echo "$said")
ops=$(for t in $tables; do struct "$t" | sed -n "s/.*(\*\([a-z_]*\))(.*/$t: \1/p"; done | sort)
said=$(sed -n 's/^#### \([a-z]*: [a-z_]*\)$/\1/p' $page | grep -v '^kfunc: \|: constants$' | sort | diff - <(echo "$ops"))
[ -z "$said" ] && [ "$ops" ]
result $? "and so are the ops" <(echo "$said")
said=$(sed -n 's/^#### kfunc: //p' $page | sort |
	diff - <(sed -n 's/^extern .*[ *]\(kvm_[a-z_]*\)(.*/\1/p' bpf/kvmext.bpf.h | sort))
result $? "the kfuncs are those of bpf/kvmext.bpf.h" <(echo "$said")
exit $failed
