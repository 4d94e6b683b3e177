# SPDX-License-Identifier: GPL-2.0
"""The AMD machine: QEMU's emulation of SVM with nested paging.

QEMU 10, built from Debian's source with two races repaired (qemu.patch), both still in
QEMU in 2026, both only with a thread for each CPU:

- Loading FPU state on any CPU writes the flags of the first one, unlocked
  (cpu_clear_ignne()).  A VMRUN there may be left without nested paging, which kills the
  guest, and the CPU without the global interrupt flag, which hangs the host.
- A store to code invalidates its translations before the byte is stored.  A CPU that
  translates in between keeps the old byte: the kernel patches its text (static keys)
  and dies of an int3 that is no longer there.

With --emulator packaged it is Debian's own binary, to see them.  vm_test and the host
test patched-text look for them.
"""

import os
import socket
import sys

KVM_MODULE = "kvm-amd"
KMOD = {}                   # where a module is, other than in KMOD: what to append
MAKE = "make modules"
# What the first stage needs to reach the build machine's root folder.
BOOT_MODULES = ["9pnet_virtio", "9p", "overlay"]
PORTS = {"out": "out", "ctl": "ctl", "dmesg": "dmesg"}      # virtio-serial ports
MEM = "2G"
HAS_NOT = ["file"]
CHATTY = False              # what it prints is news


def kmod(top, cfg):
    """The folder of our modules, in the machine"""
    return f"{top}/{cfg['KMOD']}"


def channel():
    """Our end and the emulator's"""
    return [s.detach() for s in socket.socketpair()]


def cpus(opts):
    """How many CPUs the machine has"""
    return opts.cpus or (1 if opts.icount else 2)


def command(opts, cfg, initrd, console, ports):
    """The emulator's command line and environment; ports: {channel: inherited socket}"""
    krel, kroot = cfg["KREL"], cfg["KROOT"]
    emulator = cfg["QEMU" if opts.emulator == "packaged" else "EMULATOR"]
    if not os.path.exists(emulator):
        print(f"machine: {emulator} is missing; run make machine-amd", file=sys.stderr)
        sys.exit(125)
    append = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"
    # A busy build machine may keep the emulated timer from ticking when Linux tests it,
    # and have Linux find the TSC unstable: then KVM kicks vCPUs to tell them the time.
    append += " no_timer_check tsc=reliable"
    args = [emulator, "-nodefaults", "-M", "q35", "-cpu", "max,+svm,+npt",
            "-smp", str(cpus(opts)), "-m", opts.mem, "-nic", "none", "-display", "none",
            "-no-reboot", "-kernel", f"{kroot}/boot/vmlinuz-{krel}", "-initrd", initrd]
    if opts.icount:
        # Time, random numbers and addresses depend on nothing outside.
        args += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-seed", "1",
                 "-rtc", "base=2026-01-01,clock=vm"]
        append += " nokaslr"
    else:
        args += ["-accel", f"tcg,thread={'single' if opts.one_thread else 'multi'}"]
    share = "security_model=none,multidevs=remap"
    args += ["-virtfs", f"local,path=/,mount_tag=hostroot,readonly=on,{share}"]
    if opts.out:
        args += ["-virtfs", f"local,path={opts.out.replace(',', ',,')},mount_tag=out,{share}"]
    if opts.shell:
        args += ["-serial", "mon:stdio"]
    else:
        args += ["-monitor", "none", "-chardev", f"file,id=console,path={console}",
                 "-serial", "chardev:console", "-device", "virtio-serial-pci"]
    for name, fd in ports.items():
        args += ["-chardev", f"socket,id={name},fd={fd}",
                 "-device", f"virtserialport,chardev={name},name={name}"]
    return args + opts.emulator_arg + ["-append", f"{append} {opts.append}".strip()], None
