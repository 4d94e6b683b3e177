# SPDX-License-Identifier: GPL-2.0
# What the tests of top and dirty share: VMs that do as they are told, and say what they did.
. tests/lib/tool.sh
# The KVM modules that are loaded
kind=$([ -e $SWITCH ] && echo ours || echo stock)

# verdicts CMD...: its lines "ok WHAT" and "bad WHAT: why" are tests
verdicts() {
	"$@" >"$tmp/verdicts" 2>"$tmp/err"; code=$?
	: >"$tmp/out"
	while read -r verdict what; do
		case $verdict in
		'#') echo "# $what" ;;
		*) [ "$verdict" = ok ]; ok "$what" $? ;;
		esac
	done <"$tmp/verdicts"
	[ $code = 0 ]; ok "all of them were looked at" $?
}

lines() { wc -l <"$1"; }
await() { for _ in $(seq $((600 * slow))); do "$@" && return; sleep 0.1; done; return 1; }
longer() { [ "$(lines "$1")" -gt "$2" ]; }
# An interval that begins and ends from now on
next() { local want=$(($(lines "$tmp/top") + ${1:-2})); await longer "$tmp/top" $((want - 1)); }
# Have vmtrue do it, and wait until it says that it did
tell() { local was; was=$(lines "$tmp/truth"); echo "$@" >&3; await longer "$tmp/truth" "$was"; }
# The same for a second VM, whose dirty pages come by a ring
tell_ring() { local was; was=$(lines "$tmp/truth.ring"); echo "$@" >&4; await longer "$tmp/truth.ring" "$was"; }
mkfifo "$tmp/do" "$tmp/do.ring"

# Two VMs that do as they are told
start_true() {
	: >"$tmp/truth"
	: >"$tmp/truth.ring"
	build/tests/tool/vmtrue <"$tmp/do" >"$tmp/truth" 2>"$tmp/truth.err" &
	true_vm=$!
	exec 3>"$tmp/do"
	build/tests/tool/vmtrue ring <"$tmp/do.ring" >"$tmp/truth.ring" 2>>"$tmp/truth.err" 3>&- &
	ring_vm=$!
	exec 4>"$tmp/do.ring"
}
end_true() { exec 3>&- 4>&-; wait $true_vm && wait $ring_vm; }
