#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Bad input ends with its exit code and one line that says what to do. What was loaded
# stays as it was.
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/tool.sh

good "load" load $B/tool_params.bpf.o

# --- bad input; a policy is loaded all the while --------------------------------

fails 2 "did you mean 'load'" "an unknown command" laod x
fails 2 "which command" "no command"
fails 2 "'--nonsense' is no option" "an unknown option" load --nonsense
fails 2 "which FILE" "load without a file" load
fails 2 "no NAME=VALUE" "load with an argument too many" load $P/noop.bpf.o x
fails 2 "no process id" "load --vm without a number" load $P/noop.bpf.o --vm x
fails 2 "both needed" "mark without a vCPU" mark --vm 1
fails 2 "vm PID is needed" "hint without a VM" hint --port /x
fails 2 "port SOCKET is needed" "hint without a port" hint --vm 1
fails 2 "no number of MiB" "hint --zero without a number" hint --vm 1 --port /x --zero much
fails 7 "has no VM" "hint for what is no VM" hint --vm $$ --port /x
fails 2 "exclude each other" "guest to check and stop" guest --check --stop
# gnuplot need not be there for what is refused before it runs.
mkdir "$tmp/bin"
printf '#!/bin/sh\ncat >/dev/null\n' >"$tmp/bin/gnuplot"
chmod +x "$tmp/bin/gnuplot"
PATH=$tmp/bin:$PATH fails 2 "needs the name of a file" "a picture without a name" dirty --png "" 0.1 1
PATH=$tmp/bin:$PATH fails 2 "cannot write /nonexistent/x.png" "a picture that cannot be written" dirty --png /nonexistent/x.png 1 3600
PATH=$tmp/bin:$PATH fails 2 "cannot write $tmp: Is a directory" "a picture that is a folder" dirty --png "$tmp" 1 3600
fails 2 "for the agent itself" "guest to check, and how to run" guest --check --keep-lists
fails 2 "not expected" "guest with an argument" guest x
fails 4 "no port to the host" "guest without a port" guest
fails 4 "no free pages are kept" "a check where no agent runs" guest --check
fails 5 "cannot open" "a file that is not there" switch params-1.0 /nonexistent
fails 5 "no ELF" "a file that is no ELF" switch params-1.0 $0
fails 5 "no BPF object" "an ELF file that is no BPF object" switch params-1.0 $K
fails 5 "is no file" "a folder" switch params-1.0 /tmp
: >"$tmp/empty.o"
fails 5 "no ELF" "an empty file" switch params-1.0 "$tmp/empty.o"
size=$(stat -c %s $P/noop.bpf.o)
for part in 1 5 9; do
	head -c $((size * part / 10)) $P/noop.bpf.o >"$tmp/cut.o"
	fails 5 "truncated" "an object cut to $part tenths" switch params-1.0 "$tmp/cut.o"
done
cp $P/noop.bpf.o "$tmp/corrupt.o"
sh=$(readelf -hW "$tmp/corrupt.o" | awk '/Start of section headers/ { print $5 }')
head -c 256 /dev/zero | tr '\0' '\377' | dd of="$tmp/corrupt.o" bs=1 seek=$((sh + 128)) conv=notrunc status=none
fails 5 "corrupt" "an object with broken section headers" switch params-1.0 "$tmp/corrupt.o"
llvm-objcopy --remove-section=.BTF $P/noop.bpf.o "$tmp/nobtf.o" 2>/dev/null ||
	objcopy --remove-section=.BTF $P/noop.bpf.o "$tmp/nobtf.o" 2>/dev/null
if [ -s "$tmp/nobtf.o" ]; then
	fails 5 "" "an object without BTF" switch params-1.0 "$tmp/nobtf.o"
fi
fails 5 "no op table" "an object without a table" switch params-1.0 build/user/mark.bpf.o
fails 5 "op tables" "an object with several tables" switch params-1.0 build/tests/kvm/probes/refused.bpf.o
fails 5 "none of kvm_ext's" "another subsystem's table" switch params-1.0 $B/tool_tcp.bpf.o
fails 5 "cannot be linked" "a table without a link" switch params-1.0 $B/tool_legacy.bpf.o
fails 5 "no op of this kernel" "a program for no known op" switch params-1.0 $B/tool_op.bpf.o
fails 5 "no op of its table" "a program that no op names" switch params-1.0 $B/tool_orphan.bpf.o
fails 5 "built for another kernel.*of_another_kernel" "another kernel's object (field)" switch params-1.0 $B/tool_core.bpf.o
fails 5 "kvm_throttle_of_another_kernel()" "another kernel's object (function)" switch params-1.0 $B/tool_kfunc.bpf.o
fails 5 "reads variable_of_another_kernel (__ksym), which this kernel does not have" "another kernel's object (variable)" \
	switch params-1.0 $B/tool_ksym.bpf.o
fails 5 "reads runqueues (__ksym), which has another type" "and one with a variable of another type" \
	switch params-1.0 $B/tool_ksym_type.bpf.o
fails 5 "built for another kernel: .*member.*flags" "a member of another kind" switch params-1.0 $B/tool_member.bpf.o
fails 5 "asks to be pinned" "a map to be pinned" switch params-1.0 $B/tool_pin.bpf.o
fails 5 "out of its range" "a default out of its own range" switch params-1.0 $B/tool_range.bpf.o
fails 5 "'block_ns' is static.*declare it without static" "a static parameter" switch params-1.0 $B/tool_static.bpf.o
fails 5 "'asks' is static.*declare it without static" "a static counter" switch params-1.0 $B/tool_counter.bpf.o
fails 5 "'block_ns' is const.*declare it const volatile" "a const parameter" switch params-1.0 $B/tool_const.bpf.o
fails 5 "'block_ns' is in section .data.mine" "a parameter in a section of its own" switch params-1.0 $B/tool_section.bpf.o
for what in static counter const section; do
	fails 5 "declares a variable wrongly" "list of such a file ($what)" list $B/tool_$what.bpf.o
done
fails 5 "kvm_throttle_ops, kvm_irq_ops, kvm_save_ops and kvm_dirty_ops" "the hint names every table" switch params-1.0 $B/tool_tcp.bpf.o
# Where the kernel's configuration is not to be found
mount -t tmpfs tmpfs /boot
fails 5 "reads the kernel's configuration (CONFIG_HZ, __kconfig).*/boot/config-$(uname -r).*declare CONFIG_HZ __weak" \
	"a policy that needs the kernel's configuration" switch params-1.0 $B/tool_kconfig.bpf.o
echo CONFIG_SMP=y >/boot/config-$(uname -r)
fails 5 "reads CONFIG_HZ.*configuration does not have" "and one without that variable" switch params-1.0 $B/tool_kconfig.bpf.o
echo CONFIG_HZ=y >/boot/config-$(uname -r)
fails 5 "reads CONFIG_HZ.*configuration does not have as declared" "and one where it is no number" switch params-1.0 $B/tool_kconfig.bpf.o
umount /boot
fails 10 "may sleep" "a sleepable program where none may be" switch params-1.0 $B/tool_sleep.bpf.o
fails 10 "verifier refuses 'writes'" "a program that the verifier refuses" switch params-1.0 $B/tool_refused.bpf.o
fails 10 "kvm_throttle_mark_pid is not allowed" "a kfunc in the wrong op" switch params-1.0 $B/tool_pid.bpf.o
fails 10 "invalid" "flags that the kernel does not know" switch params-1.0 $B/tool_flags.bpf.o
fails 6 "did you mean 'small'" "an unknown parameter" switch params-1.0 $B/tool_params.bpf.o smal=1
fails 6 "out of range" "a value too great" switch params-1.0 $B/tool_params.bpf.o small=256
fails 6 "out of range" "a value too small" switch params-1.0 $B/tool_params.bpf.o gain=-101
fails 6 "64 bits" "a value beyond 64 bits" switch params-1.0 $B/tool_params.bpf.o huge=18446744073709551616
fails 6 "whole number" "a value that is no number" switch params-1.0 $B/tool_params.bpf.o small=
fails 6 "neither on nor off" "a switch that is neither" switch params-1.0 $B/tool_params.bpf.o loud=maybe
fails 6 "finer" "a value finer than the unit" switch params-1.0 $B/tool_params.bpf.o target_ms=1500us
fails 6 "twice" "a parameter given twice" switch params-1.0 $B/tool_params.bpf.o small=1 small=2
fails 6 "only be read\|is a counter" "a counter given a value" switch params-1.0 $B/tool_params.bpf.o asks=1
fails 6 "only when the policy is loaded" "a load-time parameter set at run time" set params-1.0 target_ms=5
fails 6 "out of range" "set: one of two is wrong, none is set" set params-1.0 small=1 gain=101
fails 6 "no parameter" "get of an unknown one" get params-1.0 nosuch
fails 7 "has no VM" "a PID that is no VM" load $P/noop.bpf.o --vm $$
fails 7 "no process" "a PID of no process" load $P/noop.bpf.o --vm 4194303
fails 7 "no VM" "status of a process without a VM" status --vm $$
fails 8 "every VM has the policy 'params-1.0' already" "a second policy for the place" load $P/noop.bpf.o
fails 8 "loaded already" "a second one of that name" load $B/tool_params.bpf.o
fails 9 "did you mean 'params-1.0'" "unload an unknown policy" unload params-1
fails 9 "no policy" "switch an unknown policy" switch nosuch $P/noop.bpf.o
fails 9 "no policy" "get of an unknown policy" get nosuch
fails 9 "no policy" "set of an unknown policy" set nosuch a=1
fails 4 "mount -t bpf" "bpffs not mounted" --bpffs "$tmp" load $P/noop.bpf.o
fails 4 "mount -t debugfs" "debugfs not mounted" --debugfs "$tmp" list

user() { setpriv --reuid 65534 --clear-groups --inh-caps=-all $K "$@"; }
for cmd in "load $P/noop.bpf.o" "switch params-1.0 $P/noop.bpf.o" "unload params-1.0" list status \
	   "get params-1.0" "set params-1.0 small=1" "mark --vm 1 --vcpu 0"; do
	before=$(snapshot)
	run user $cmd
	[ $code = 3 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "run it as root" "$tmp/err" &&
		[ "$(snapshot)" = "$before" ]
	ok "${cmd%% *} without privilege: exit 3, one line, nothing changed (got $code)" $?
done
run setpriv --bounding-set=-bpf --inh-caps=-bpf $K load $P/noop.bpf.o
[ $code = 3 ] && grep -q "lacks CAP_BPF" "$tmp/err"; ok "root without CAP_BPF: exit 3" $?

echo N >$SWITCH
fails 4 "kill switch" "switch under the kill switch" switch params-1.0 $P/noop.bpf.o
run $K doctor
[ $code = 4 ]; ok "doctor under the kill switch: exit 4" $?
run $K status
has "kill switch is thrown" "status tells of the kill switch"
good "unload under the kill switch" unload params-1.0
fails 4 "kill switch" "load under the kill switch" load $P/noop.bpf.o
echo Y >$SWITCH

done_testing
