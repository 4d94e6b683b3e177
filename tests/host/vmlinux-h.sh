#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# vmlinux.h in git is what the series gives, to the byte for the kernel that its first
# line names. Another point release has other types in it. There the tables and what we
# export must read the same. Every policy must compile with that kernel's header (libbpf
# finds fields by name when it loads).
set -u
cd "$(dirname "$0")/../.." || exit 1
. build/config.mk
[ -e vmlinux.h ] || { echo "1..0 # SKIP no vmlinux.h in git yet; make vmlinux.h-update writes it"; exit 0; }
make -s build/vmlinux.h >&2 || exit 1

made_for=$(sed -n '1s/.*Types of linux \([^ ]*\) .*/\1/p' vmlinux.h)
if [ "$made_for" = "$KVER" ]; then
	echo 1..1
	if cmp -s <(tail -n +2 vmlinux.h) <(tail -n +2 build/vmlinux.h); then
		echo "ok 1 vmlinux.h is that of the series on $KVER"
		exit 0
	fi
	diff <(tail -n +2 vmlinux.h) <(tail -n +2 build/vmlinux.h) | head -n 20 | sed 's/^/# /'
	echo "not ok 1 vmlinux.h is that of the series on $KVER: run make vmlinux.h-update"
	exit 1
fi

ours() { awk '/^(struct|enum) kvm_(ext|throttle|dirty_source)[a-z_]* \{/,/^\}/' "$1"; grep -E 'extern .*kvm_(ext|throttle)' "$1"; }
policies=(bpf/*.bpf.c user/*.bpf.c)
echo "# vmlinux.h was made for $made_for; this is $KVER, where it is not compared byte by byte"
echo 1..$((1 + ${#policies[@]}))
failed=0
if diff <(ours vmlinux.h) <(ours build/vmlinux.h) | sed 's/^/# /' | tee /dev/stderr | grep -q .; then
	echo "not ok 1 the tables read the same on both"
	failed=1
else
	echo "ok 1 the tables read the same on both"
fi 2>&1
n=1
for p in "${policies[@]}"; do
	n=$((n + 1))
	if log=$(clang -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -Ibuild -Ibpf \
			-isystem "$LIBBPF_INC" -c "$p" -o /dev/null 2>&1); then
		echo "ok $n $p compiles with the types of $KVER"
	else
		sed 's/^/# /' <<<"$log"
		echo "not ok $n $p compiles with the types of $KVER"
		failed=1
	fi
done
exit $failed
