#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A person can type what README.md says, in its order, on a host with one VM. Commands and the
# policy are taken from the page; tests/host/readme.sh checks that none is left out.
#
# "KREL=$(uname -r)" alone is left out where modules are built: it asks for linux-headers as an
# installed package, which the build machine has unpacked in its cache.  The kernel is the same
# one.
cd "$(dirname "$0")/../.." || exit 1
if [ "${KVMEXT_SLOW-}" ]; then
	echo "1..0 # SKIP README.md is about the packaged kernel"
	exit 0
fi
if [ "$KVMEXT_MACHINE" = native ]; then
	echo "1..0 # SKIP it installs to this machine's folders, and reloads its KVM"
	exit 0
fi
. tests/lib/tool.sh
unset MAKEFLAGS MFLAGS MAKELEVEL
PATH=/usr/local/sbin:$PATH

# depmod takes minutes for all that Debian has, in an emulator: KVM and what it needs will do.
modules=/lib/modules/$(uname -r)
mkdir -p "$tmp/modules"
(cd "$modules" && cp --parents modules.builtin* modules.order \
	$(modprobe --show-depends kvm_amd | sed -n "s,^insmod $modules/\([^ ]*\).*,\1,p") "$tmp/modules/")
mount --bind "$tmp/modules" "$modules" && depmod

# page HEADING [N]: run the commands below it, of its Nth block of commands
page() {
	local command
	last=
	while IFS= read -r command; do
		[[ $command = *modules_uninstall ]] || command=${command/'KREL=$(uname -r) '/}
		eval "$command" >"$tmp/out" 2>"$tmp/err" </dev/null
		ok "$1: $command" $?
		[ "$(type -t "after_${command%% *}")" != function ] || "after_${command%% *}" "$command"
	done < <(tests/lib/readme.py commands README.md "$@" | cut -f 2-)
}
series() { [ -e $SWITCH ]; }
nothing() {
	[ "$(policy)" = 0 ] && [ -z "$(ls $PINS 2>/dev/null)" ] && ! grep -q '^vcpu .* marked=1' $STATE
	ok "$1 leaves no policy, pin or mark" $?
}

# --- install ------------------------------------------------------------------

# As a kernel is without us.
rmmod kvm_amd kvm && modprobe kvm_amd
! series; ok "before, the kernel's own modules are loaded" $?
page "Install and roll back" 1
series; ok "Install and roll back: the series is loaded" $?
[ "$(command -v kvmext)" = /usr/local/sbin/kvmext ]; ok "Install and roll back: kvmext is installed" $?

# --- one VM -------------------------------------------------------------------

cp build/tests/tool/vmhold "$tmp/qemu-system-x86_64"
: >"$tmp/vm"
"$tmp/qemu-system-x86_64" >"$tmp/vm" &
vm=$!
for _ in $(seq $((100 * slow))); do grep -q ready "$tmp/vm" && break; sleep 0.1; done

after_kvmext() {
	case $1 in
	*" doctor") has "Policies can be loaded" "doctor finds all well" ;;
	*" status "*) has "^VM $vm " "status shows the VM" ;;
	*" top "*) [ "$(grep -c "^ *$vm " "$tmp/out")" -ge 5 ]; ok "top shows the VM every second" $? ;;
	*" mark "*)
		sleep 2
		[ "$(field "vcpu pid=$vm id=0" blocks)" -gt 0 ] && [ "$(field "vcpu pid=$vm id=1" blocks)" = 0 ]
		ok "hold blocks the marked vCPU and no other" $? ;;
	*" set hold"*) run kvmext get "hold@$vm" us; is 500 "hold is tuned" ;;
	esac
}
page "Use it on one VM"
nothing "Use it on one VM"

# --- a policy -----------------------------------------------------------------

file=$(sed -n 's/.*[Ss]ave it as `\(bpf\/[a-z_]*\.bpf\.c\)`.*/\1/p' README.md)
[ "$file" ] && [ ! -e "$file" ] && tests/lib/readme.py block README.md c "Write a policy" >"$file"
ok "Write a policy: the page has it, and where it goes (${file:-nowhere})" $?
page "Write a policy"
nothing "Write a policy"

# --- emergency ----------------------------------------------------------------

good "a policy is in charge" load $P/noop.bpf.o --vm $vm
after_echo() {
	[ "$(cat $SWITCH)" = "$(cut -d ' ' -f 2 <<<"$1")" ]; ok "the switch is as it was set" $?
	case $1 in
	*" N "*)
		fails 4 "" "another cannot be loaded meanwhile" load $P/stun.bpf.o
		sleep 0.3
		calls=$(field "policy table=throttle name=noop" calls)
		sleep 0.5
		[ "$calls" = "$(field "policy table=throttle name=noop" calls)" ]; ok "the policy is not called" $? ;;
	*" Y "*)
		sleep 0.5
		[ "$(field "policy table=throttle name=noop" calls)" -gt "$calls" ]; ok "the policy is called" $? ;;
	esac
}
after_cat() { has "^policy table=throttle name=noop .*state=active" "the file shows who is in charge"; }
page "Emergency"
good "it goes" unload noop@$vm
stop_vm

line=$(tr '\n' ' ' <README.md | sed -n 's/.*add `\(kvm\.ext_enable=N\)` to the kernel.s command line.*/\1/p')
echo "$(cat /proc/cmdline) ${line:-nothing}" >"$tmp/cmdline"
mount --bind "$tmp/cmdline" /proc/cmdline
modprobe -r kvm_amd kvm && modprobe kvm_amd
[ "$(cat $SWITCH)" = N ]; ok "Emergency: on the kernel's command line, $line turns every hook off" $?
umount /proc/cmdline

# --- back ---------------------------------------------------------------------

page "Install and roll back" 2
[ -d /sys/module/kvm_amd ] && ! series; ok "Install and roll back: the kernel's own modules are back" $?
ls -d /usr/local/sbin/kvmext* /usr/local/share/kvmext /usr/local/share/man/man*/kvm* >"$tmp/out" 2>"$tmp/err"
[ ! -s "$tmp/out" ]; ok "Install and roll back: nothing of the tool is left" $?

# As it was, for the next test.
umount "$modules"
rm -f "$file" "build/${file%.c}.o"
rmmod kvm_amd kvm
insmod "$KVMEXT_KMOD/kvm.ko" && insmod "$KVMEXT_KMOD/kvm-amd.ko"
good "doctor finds all well again" doctor

done_testing
