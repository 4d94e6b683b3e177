# SPDX-License-Identifier: GPL-2.0
"""The Intel machine: Bochs's emulation of VMX, with EPT, PML, APICv and posted interrupts.

Bochs 3.0 and no other: 2.7 has no posted interrupts, and 3.1 divides wrongly and panics
Linux.  It has no paravirtual devices, so what the command needs is put on a CD with the
kernel, and its channels are serial ports.

All CPUs run in one thread, and time is the number of instructions: every run is alike.
"""
import os
import subprocess
import sys

KVM_MODULE = "kvm-intel"
KMOD = {"kvm-intel": "-bochs"}
MAKE = "make machine-intel"
BOOT_MODULES = []           # it has nothing of the build machine's
PORTS = {"out": "/dev/ttyS1", "ctl": "/dev/ttyS2", "dmesg": "/dev/ttyS3"}
MEM = "512M"
HAS_NOT = ["shell", "out", "icount"]
CHATTY = True
# How many instructions a second of the machine has.  Bochs's own idea, 2.4 G, makes
# every sleep and timer as many times slower for who waits.
KHZ = 50000


def kmod(top, cfg):
    """The folder of our modules, in the machine"""
    return "/m"


def channel():
    """Our end and the emulator's"""
    return os.pipe()


def bochs(cfg, program, *args):
    """Command and environment of a program of Debian 13, on libraries of its own"""
    root = cfg["BOCHS"]
    lib = f"{root}/usr/lib/x86_64-linux-gnu"
    env = dict(os.environ, BXSHARE=f"{root}/usr/share/bochs", LTDL_LIBRARY_PATH=f"{lib}/bochs/plugins")
    return [f"{root}/usr/lib64/ld-linux-x86-64.so.2", "--library-path", f"{lib}:{lib}/pulseaudio",
            f"{root}/usr/bin/{program}", *args], env


def cpus(opts):
    """How many CPUs the machine has"""
    return opts.cpus or 2


def iso(cfg, tmp, append):
    """A CD that boots the kernel"""
    root, d = cfg["BOCHS"], f"{tmp}/iso"
    os.mkdir(d)
    for src, name in ((f"{root}/usr/lib/ISOLINUX/isolinux.bin", "isolinux.bin"),
                      (f"{root}/usr/lib/syslinux/modules/bios/ldlinux.c32", "ldlinux.c32"),
                      (f"{cfg['KROOT']}/boot/vmlinuz-{cfg['KREL']}", "vmlinuz"),
                      (f"{tmp}/initrd", "initrd")):
        # isolinux.bin is written to; the rest need not be copied.
        if name == "isolinux.bin":
            with open(src, "rb") as f, open(f"{d}/{name}", "wb") as g:
                g.write(f.read())
        else:
            os.symlink(src, f"{d}/{name}")
    with open(f"{d}/isolinux.cfg", "w") as f:
        f.write(f"default kvm_ext\nlabel kvm_ext\nkernel vmlinuz\ninitrd initrd\nappend {append}\n")
    args, env = bochs(cfg, "xorriso", "-as", "mkisofs", "-quiet", "-f", "-o", f"{tmp}/cd.iso",
                      "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4",
                      "-boot-info-table", d)
    p = subprocess.run(args, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace")
    if p.returncode:
        sys.exit(f"machine: xorriso could not make a CD:\n{p.stdout}")


def command(opts, cfg, initrd, console, ports, model="tigerlake"):
    """The emulator's command line and environment; ports: {channel: inherited pipe}"""
    append = ("console=ttyS0 quiet loglevel=3 panic=-1 oops=panic mitigations=off nokaslr nowatchdog "
              f"no_timer_check tsc_early_khz={KHZ} lpj={KHZ // 10} hpet=disable clocksource=tsc tsc=reliable "
              "random.trust_cpu=on idle=halt")
    if not os.path.exists(cfg["BOCHS"]):
        print(f"machine: {cfg['BOCHS']} is missing; run {MAKE}", file=sys.stderr)
        sys.exit(125)
    tmp = os.path.dirname(initrd)
    iso(cfg, tmp, f"{append} {opts.append}".strip())
    megs = int(opts.mem[:-1]) * {"M": 1, "G": 1024}[opts.mem[-1]]
    rc = ["config_interface: textconfig", 'display_library: rfb, options="timeout=0"',
          f"cpu: model={model}, count={cpus(opts)}, quantum=32, ips=10000000, ignore_bad_msrs=1",
          f"memory: guest={megs}, host={megs}",
          'romimage: file="$BXSHARE/BIOS-bochs-latest", options=fastboot',
          'vgaromimage: file="$BXSHARE/VGABIOS-lgpl-latest"',
          f"ata0-master: type=cdrom, path={tmp}/cd.iso, status=inserted", "boot: cdrom",
          "clock: sync=none, time0=1", "sound: driver=dummy", "speaker: enabled=0", "private_colormap: enabled=0",
          f"log: {tmp}/log", "panic: action=fatal", "error: action=ignore", "info: action=ignore",
          f"com1: enabled=1, mode=file, dev={console}"]
    rc += [f"com{int(PORTS[n][-1]) + 1}: enabled=1, mode=file, dev=/dev/fd/{fd}" for n, fd in ports.items()]
    with open(f"{tmp}/bochsrc", "w") as f:
        f.write("\n".join(rc + opts.emulator_arg) + "\n")
    # It has a debugger, which is to go on.
    with open(f"{tmp}/go", "w") as f:
        f.write((opts.debugger or "c").replace(";", "\n") + "\n")
    dbg = ["-debugger"] if opts.debugger else []
    args, env = bochs(cfg, "bochs-bin", "-q", *dbg, "-f", f"{tmp}/bochsrc", "-rc", f"{tmp}/go")
    # Its display is an open TCP port, the first free one of 50; of two that look for one at the
    # same time both may end with none.  So each has a network of its own, and nobody else sees it.
    return ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else []), *args], env
