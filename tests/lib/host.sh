# SPDX-License-Identifier: GPL-2.0
# What the shell tests of the build machine share; sourced from the top of the checkout.
#
# result STATUS WHAT [FILE]: the next line of TAP.  If it failed, the end of FILE, or else of
# the file that $why names, says why.
n=0 failed=0 why=
result() {
	n=$((n + 1))
	[ "$1" != 0 ] || { echo "ok $n $2"; return; }
	echo "not ok $n $2"
	failed=1
	[ -z "${3-$why}" ] || tail -n 40 "${3-$why}" | sed 's/^/#   /'
}
