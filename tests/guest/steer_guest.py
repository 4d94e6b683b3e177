# SPDX-License-Identifier: GPL-2.0
"""A Linux guest with a tap of several queues, on a KVM host, for the test and the bench of steer.

vCPU 0 has the last of our CPUs for itself. vCPU 1 shares the first one with who sends, with the
VMM's other threads (these two are real-time, so that nothing but vCPU 1 has to wait) and, if
asked for, with a process that is always busy.
"""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, "tests/lib"))     # for tap, which tests import after this

import migrate  # noqa: E402
from migrate import Failed, SLOW  # noqa: E402

KVMEXT = os.path.join(TOP, "build/kvmext")
MAC = "52:54:00:12:34:56"
BURST_US = 12000        # between bursts, on the mean
PACKET_US = 200         # between the packets of a burst
PACKETS = 4
FLOWS = 32
GAP_US = 20000          # for steer: in an emulated host on a busy machine, a burst has pauses
NEAR_US = 19000         # for packets that have to stay together


def initrd(path):
    run = migrate.machine_run()
    mods = run.Modules(run.read_config("packaged"), "stock", None)
    order = mods.order(["virtio_net"])
    with open(f"{TOP}/build/tests/guest/steer_init", "rb") as f:
        files = {"init": (0o100755, f.read()), "proc": (0o40755, b""), "m": (0o40755, b""),
                 "m/order": (0o100644, "".join(f"{m}\n" for m in order).encode())}
    # A console is what the kernel opens for its first process.
    files |= {f"m/{m}": (0o100644, mods.load(m)) for m in order}
    with gzip.open(path, "wb", 1) as f:
        f.write(run.cpio(files))


def host_cpus():
    return sorted(os.sched_getaffinity(0))


class Spinner:
    """A busy process on the CPU of vCPU 1"""

    def __enter__(self):
        self.proc = subprocess.Popen(["sh", "-c", "while :; do :; done"])
        os.sched_setaffinity(self.proc.pid, {Guest.cpus[0]})
        return self

    def __exit__(self, *_):
        self.proc.kill()
        self.proc.wait()


class Guest:
    cpus = None

    def __init__(self, tmp, tap="tap0", vhost=False, queues=2):
        Guest.cpus = Guest.cpus or host_cpus()
        if len(Guest.cpus) < 2:
            raise Failed("two CPUs are needed")
        self.tap, self.tmp, self.lines = tap, tmp, []
        for module in ["tun"] + ["vhost_net"] * vhost:
            subprocess.run(["modprobe", module], check=True)
        rd = f"{tmp}/initrd.gz"
        if not os.path.exists(rd):
            initrd(rd)
        sock = f"{tmp}/{tap}.qmp"
        cmdline = ("console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check nokaslr "
                   "nowatchdog cryptomgr.notests random.trust_cpu=on ipv6.disable=1 rdinit=/init")
        argv = [os.environ.get("KVMEXT_QEMU", "qemu-system-x86_64"), "-accel", "kvm", "-M", "q35",
                "-cpu", "host", "-smp", "2", "-m", "160", "-nodefaults", "-no-reboot",
                "-display", "none", "-serial", "stdio", "-qmp", f"unix:{sock},server=on,wait=off",
                "-kernel", migrate.vmlinux(migrate.pick_kernel(), tmp), "-initrd", rd, "-append", cmdline,
                "-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"
                           f"{f',queues={queues}' if queues > 1 else ''}"
                           f",vhost={'on' if vhost else 'off'}",
                "-device", f"virtio-net-pci,netdev=n0,mac={MAC},romfile="
                           f"{f',mq=on,vectors={2 * queues + 2}' if queues > 1 else ''}"]
        self.err = open(f"{tmp}/{tap}.log", "wb")
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.err)
        self.pid = self.proc.pid
        threading.Thread(target=self.serial, daemon=True).start()
        try:
            self.qmp = migrate.Qmp(sock, lambda: self.proc.poll() is None)
            self.tids = [c["thread-id"] for c in sorted(self.qmp.cmd("query-cpus-fast"),
                                                        key=lambda c: c["cpu-index"])]
            for cmd in (["ip", "addr", "add", "10.9.0.1/24", "dev", tap],
                        ["ip", "link", "set", tap, "up"],
                        ["ip", "neigh", "replace", "10.9.0.2", "lladdr", MAC, "dev", tap]):
                subprocess.run(cmd, check=True)
            self.pin()
            self.wait(r"guest: (up|error)", 120 * SLOW)
            if "up" not in self.said(r"guest: (up|error)"):
                raise Failed(self.said("guest: error"))
        except Exception as err:
            self.err.flush()
            with open(f"{tmp}/{tap}.log") as f:
                said = f.read()[-500:]
            self.kill()
            raise Failed(f"{err}; QEMU said: {said!r}; the guest: {self.lines[-4:]}")

    def pin(self, vcpu1=None):
        self.vcpu1 = self.cpus[0] if vcpu1 is None else vcpu1
        for task in map(int, os.listdir(f"/proc/{self.pid}/task")):
            os.sched_setaffinity(task, {self.cpus[-1] if task == self.tids[0] else
                                        self.vcpu1 if task == self.tids[1] else self.cpus[0]})
            if task not in self.tids:
                os.sched_setscheduler(task, os.SCHED_FIFO, os.sched_param(1))

    def serial(self):
        for raw in self.proc.stdout:
            self.lines.append(raw.decode(errors="replace").strip())

    def said(self, pattern, since=0):
        return next((l for l in self.lines[since:] if re.search(pattern, l)), "")

    def wait(self, pattern, seconds, since=0):
        deadline = time.monotonic() + seconds
        while not self.said(pattern, since):
            if time.monotonic() > deadline or self.proc.poll() is not None:
                raise Failed(f"the guest did not say '{pattern}' within {seconds} s")
            time.sleep(0.05)
        return self.said(pattern, since)

    def ask(self, key, pattern):
        since = len(self.lines)
        self.proc.stdin.write(key)
        self.proc.stdin.flush()
        return self.wait(pattern, 30 * SLOW, since)

    def report(self):
        return {k: int(v) for k, v in re.findall(r"(\w+)=(-?\d+)", self.ask(b"r", "guest: report"))}

    def ping(self, seconds, packets=PACKETS, burst_us=BURST_US):
        # vhost's workers were not there before the guest had its driver.
        self.pin(self.vcpu1)
        cmd = [f"{TOP}/build/tests/guest/steer_ping", FLOWS, seconds, packets, burst_us, PACKET_US, NEAR_US]
        out = subprocess.run(["taskset", "-c", str(self.cpus[0]), "chrt", "-f", "1", *map(str, cmd)],
                             stdout=subprocess.PIPE, text=True, check=True, timeout=(seconds + 60) * SLOW).stdout
        return json.loads(out)

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


class Steer:
    """kvmext steer in the background"""

    def __init__(self, guest, *args, out=None):
        self.out = out or f"{guest.tmp}/steer.out"
        with open(self.out, "wb") as out:
            self.proc = subprocess.Popen(
                [KVMEXT, "steer", "--vm", str(guest.pid), guest.tap, "--gap-us", str(GAP_US),
                 "--every", "0.5", "--json", *args], stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60 * SLOW
        while not self.lines():
            if self.proc.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"steer ended with {self.proc.poll()}: {self.text()}")
            time.sleep(0.1)

    def text(self):
        with open(self.out) as f:
            return f.read()

    def lines(self):
        return [json.loads(l) for l in self.text().splitlines(keepends=True) if l.endswith("\n")]

    def last(self):
        return self.lines()[-1]

    def stop(self):
        """Ctrl-C; its exit status and its last words"""
        self.proc.terminate()
        code = self.proc.wait(30 * SLOW)
        return code, self.last()
