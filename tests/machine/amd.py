# SPDX-License-Identifier: GPL-2.0
"""The AMD machine: QEMU's emulation of SVM with nested paging.

QEMU 10, because 7.2 with one thread per CPU runs stale translations of code that
the kernel patches (static keys), and crashes the emulated host within seconds.

QEMU 10 has a race of its own, still there in 2026: loading FPU state on any CPU writes
the flags of the first one (cpu_clear_ignne() in target/i386/tcg), unlocked.  A VMRUN
there may be left without nested paging, which kills the guest, and the CPU without the
global interrupt flag, which hangs the host.  So a machine with a thread for each CPU
gets one CPU more than asked for, its first, and the command runs on the others.
vm_test has the test for it.
"""

import socket

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
    """how many CPUs the emulator has, and which of them the command gets (None: all)"""
    n = opts.cpus or (1 if opts.icount else 2)
    if n == 1 or opts.icount or opts.one_thread:
        return n, None
    return n + 1, f"1-{n}"


def command(opts, cfg, initrd, console, ports):
    """The emulator's command line and environment; ports: {channel: inherited socket}"""
    krel, kroot = cfg["KREL"], cfg["KROOT"]
    append = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"
    # A busy build machine may keep the emulated timer from ticking when Linux tests it,
    # and have Linux find the TSC unstable: then KVM kicks vCPUs to tell them the time.
    append += " no_timer_check tsc=reliable"
    args = [cfg["QEMU"], "-nodefaults", "-M", "q35", "-cpu", "max,+svm,+npt",
            "-smp", str(cpus(opts)[0]), "-m", opts.mem, "-nic", "none", "-display", "none",
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
