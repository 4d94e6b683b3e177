#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Users without rights can do nothing, neither with kvmext nor by hand. At the end root
# does by hand what they tried, so that none of it fails for another reason.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

T=build/tests/tool
LINK=$PINS/params-1%2e0/link OPS=$PINS/params-1%2e0/ops
# What Docker leaves a container's root.
CAPS=+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap
CAPS=-all,$CAPS,+net_bind_service,+sys_chroot,+kill,+audit_write

# --- who -----------------------------------------------------------------------

# A user without any rights.
user() { setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "$@"; }
# His own container: he is root there, with all capabilities.
rootless() { user unshare -U -r -m -p -f --mount-proc "$@"; }
# The container of the host's root: uid 0, no CAP_BPF, no CAP_SYS_ADMIN.
container() {
	unshare -m -p -f --mount-proc sh -c '
		umount /sys/fs/bpf /sys/kernel/debug /sys/kernel/tracing
		mount -o remount,bind,ro /sys
		exec setpriv --bounding-set="$0" --inh-caps=-all "$@"' "$CAPS" "$@"
}
# uid 0 on the host itself, without these two.
bare() { setpriv --bounding-set=-bpf,-sys_admin --inh-caps=-bpf,-sys_admin "$@"; }

# Everything that one of them may want to be otherwise.
whole() {
	snapshot
	ls -lnR $PINS
	sed -n 's/^vcpu .* id=\([0-9]*\).* marked=\([01]\).*/\1 \2/p' $STATE
	cat $SWITCH
}
before=
unchanged() { [ "$(whole)" = "$before" ]; }
# refused WHAT ERROR: byhand says this error
refused() {
	[ $code != 0 ] && grep -Eqx "$2" "$tmp/out"
	local status=$?
	ok "$who, by hand: $1: $(tail -n1 "$tmp/out")" $status
}
# barred WHAT: it failed, and what it said
barred() {
	[ $code != 0 ]
	local status=$?
	ok "$who: $1: $(head -n1 "$tmp/err")" $status
}

good "load" load $B/tool_params.bpf.o
start_vm
good "mark" mark --vm $vm --vcpu 1
prog=$(. build/config.mk; "$BPFTOOL" prog | sed -n 's/^\([0-9]*\): struct_ops .*/\1/p' | head -n1)
link=$(field policy link)
map=$(. build/config.mk; "$BPFTOOL" map | sed -n 's/^\([0-9]*\): struct_ops .*/\1/p' | head -n1)
[ "$prog" ] && [ "$link" ] && [ "$map" ]
ok "program, link and map have ids: $prog, $link, $map" $?

# --- pins ----------------------------------------------------------------------

modes() { find "$1" -printf '%y %m %U %G\n' | sort -u; }
run modes $PINS
is "d 700 0 0
f 600 0 0" "pins are for root alone"

# --- with the tool, and by hand ---------------------------------------------------

before=$(whole)
for who in user rootless container bare; do
	for cmd in "load $P/noop.bpf.o" "switch params-1.0 $P/noop.bpf.o" \
		   "unload params-1.0" list status "get params-1.0" "set params-1.0 small=1" \
		   "mark --vm $vm --vcpu 0" "unmark --vm $vm --vcpu 1"; do
		run $who $K $cmd
		[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && [ ! -s "$tmp/out" ] &&
			grep -q '^kvmext: .*; run it as root' "$tmp/err"
		ok "$who: ${cmd%% *}: exit 3, one line (got $code)" $?
	done
	run $who $K --json unload params-1.0
	cp "$tmp/out" "$tmp/json.$who"
	[ $code = 3 ] && [ ! -s "$tmp/err" ] && grep -q '"code": 3' "$tmp/out"
	ok "$who: --json: code 3" $?
	unchanged; ok "$who: nothing changed by kvmext" $?

	run $who $T/byhand load $P/noop.bpf.o; refused "load" EPERM
	run $who $T/byhand mark $vm 0; refused "mark" EPERM
	run $who $T/byhand link $link; refused "the link, by its id" EPERM
	run $who $T/byhand map $map; refused "the map, by its id" EPERM
	run $who $T/byhand prog $prog; refused "the program, by its id" EPERM
	# uid 0 that sees the host's own bpffs and sysfs is the owner of what is there.
	if [ $who != bare ]; then
		for f in link ops data rodata bss; do
			run $who $T/byhand get "$PINS/params-1%2e0/$f"; refused "pin '$f'" "EACCES|ENOENT"
		done
		run $who $T/byhand update $LINK $OPS; refused "switch" "EACCES|ENOENT"
		run $who rm -r $PINS; barred "rm -r of the pins"
		run $who mv $PINS /sys/fs/bpf/other; barred "mv of the pins"
		run $who sh -c "echo N >$SWITCH"; barred "the kill switch"
		run $who cat $STATE; barred "the state file"
		run $who mount -t debugfs debugfs /mnt; barred "mount debugfs"
		run $who mount -t bpf bpf /mnt; barred "mount bpffs"
	fi
	unchanged; ok "$who: nothing changed by hand" $?
done
# CAP_SYS_ADMIN stands for CAP_BPF too; CAP_BPF does not get at the module's types.
who="root without CAP_SYS_ADMIN"
no_admin() { setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"; }
run no_admin $T/byhand load $P/noop.bpf.o; refused "load" "EPERM|ESRCH"
run no_admin $T/byhand mark $vm 0; refused "mark" "EPERM|EINVAL"

# --- positive controls: root does all of it -----------------------------------------

done_by_root() { [ $code = 0 ]; ok "root, by hand: $1" $?; }
for f in link ops data rodata bss; do
	run $T/byhand get "$PINS/params-1%2e0/$f"; done_by_root "pin '$f'"
done
run $T/byhand link $link; done_by_root "the link, by its id"
run $T/byhand map $map; done_by_root "the map, by its id"
run $T/byhand prog $prog; done_by_root "the program, by its id"
run $T/byhand mark $vm 0; done_by_root "mark"
unchanged; [ $? != 0 ]; ok "and that shows" $?
good "unmark" unmark --vm $vm --vcpu 0
mount -t bpf bpf /mnt && mount -t debugfs debugfs /mnt && umount /mnt /mnt
ok "root mounts bpffs and debugfs" $?
cat $STATE >"$tmp/out"; grep -q '^policy' "$tmp/out"; ok "root reads the state" $?
echo N >$SWITCH; [ "$(cat $SWITCH)" = N ]; ok "root turns the kill switch" $?
echo Y >$SWITCH
rm -r $PINS; [ ! -e $PINS ] && [ "$(policy)" = 0 ]; ok "root's rm -r of the pins unloads" $?
run $T/byhand load $P/noop.bpf.o; done_by_root "load"
stop_vm

json_check
done_testing
