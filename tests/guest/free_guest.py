# SPDX-License-Identifier: GPL-2.0
"""A Linux guest that tells which of its pages are free, on a KVM host: for the tests and the bench."""

import contextlib
import json
import os
import re
import socket
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
PORT = "org.kvm_ext.free"
MIB = 1 << 20
MOVING = 3              # s, FREE_MOVING_MS


def initrd(path):
    """Init, the tool and its libraries, the balloon's driver"""
    run = migrate.machine_run()
    mods = run.Modules(run.read_config("packaged"), "stock", None)
    order = mods.order(["virtio_balloon"])
    files = {"proc": (0o40755, b""), "sys": (0o40755, b""), "dev": (0o40755, b""), "tmp": (0o40755, b""),
             "m/order": (0o100644, "".join(f"{m}\n" for m in order).encode())}
    files |= {f"m/{m}": (0o100644, mods.load(m)) for m in order}
    for name in run.with_libraries([KVMEXT]):
        # Without what only a debugger reads: the guest unpacks it in an emulator.
        small = path + ".strip"
        subprocess.run(["strip", "-o", small, name], check=True)
        with open(small, "rb") as f:
            files["kvmext" if name == KVMEXT else name.lstrip("/")] = (0o100755, f.read())
    with open(f"{TOP}/build/tests/guest/free_init", "rb") as f:
        files["init"] = (0o100755, f.read())
    with open(path + ".new", "wb") as f:
        f.write(run.cpio(files))
    os.rename(path + ".new", path)


class Guest:
    """QEMU with a guest, or with one that is to come (@incoming)"""

    def __init__(self, tmp, name="guest", mem="512M", cpus=2, append="", extra=(), incoming=None,
                 balloon="", wait=True):
        self.tmp, self.name, self.lines = tmp, name, []
        rd = f"{tmp}/initrd"
        if not os.path.exists(rd):
            initrd(rd)
        self.sock, qmp = f"{tmp}/{name}.free", f"{tmp}/{name}.qmp"
        cmdline = ("console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check nokaslr "
                   "nowatchdog cryptomgr.notests random.trust_cpu=on ipv6.disable=1 "
                   f"memhp_default_state=online_movable rdinit=/init {append}")
        argv = [os.environ.get("KVMEXT_QEMU", "qemu-system-x86_64"), "-name", name, "-accel", "kvm",
                "-M", "q35", "-cpu", "host", "-smp", str(cpus), "-m", mem, "-nodefaults", "-no-reboot",
                "-display", "none", "-serial", "stdio", "-qmp", f"unix:{qmp},server=on,wait=off",
                "-kernel", migrate.vmlinux(migrate.pick_kernel(), tmp), "-initrd", rd, "-append", cmdline,
                "-device", "virtio-serial-pci,max_ports=4",
                "-chardev", f"socket,id=free,path={self.sock},server=on,wait=off",
                "-device", f"virtserialport,chardev=free,name={PORT}",
                *(("-object", "iothread,id=io0") if "io0" in balloon else ()),
                "-device", f"virtio-balloon-pci,id=balloon{balloon}", *extra]
        if incoming:
            argv += ["-incoming", incoming]
        self.err = open(f"{tmp}/{name}.log", "wb")
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err)
        self.pid = self.proc.pid
        threading.Thread(target=self.serial, daemon=True).start()
        try:
            self.qmp = migrate.Qmp(qmp, lambda: self.proc.poll() is None)
            if wait and not incoming:
                self.wait(r"guest: up", 120)
        except Exception as err:
            text = f"{err}; {self.why()}"
            self.kill()
            raise Failed(text)

    def tids(self):
        return [c["thread-id"] for c in self.qmp.cmd("query-cpus-fast")]

    def serial(self):
        for raw in self.proc.stdout:
            self.lines.append(raw.decode(errors="replace").strip())

    def why(self):
        self.err.flush()
        with open(f"{self.tmp}/{self.name}.log", errors="replace") as f:
            said = f.read()[-300:]
        return f"QEMU {self.name} ({self.proc.poll()}) said {said!r}; its guest {self.lines[-5:]}"

    def wait(self, pattern, seconds=60, since=0):
        deadline = time.monotonic() + seconds * SLOW
        at = since
        while True:
            while at < len(self.lines):
                if re.search(pattern, self.lines[at]):
                    return self.lines[at]
                if "guest: error" in self.lines[at]:
                    raise Failed(f"the guest gave up: {self.lines[at]}")
                at += 1
            if time.monotonic() > deadline or self.proc.poll() is not None:
                raise Failed(f"the guest did not say '{pattern}' within {seconds} s; {self.why()}")
            time.sleep(0.02)

    def tell(self, line):
        self.proc.stdin.write(line.encode() + b"\n")
        self.proc.stdin.flush()

    def do(self, line, seconds=120):
        """Have it obey; what it answered: a number, and pages, bad and not_zero so far"""
        since = len(self.lines)
        self.tell(line)
        said = self.wait(f"guest: done {line.split()[0]} ", seconds, since)
        m = re.search(r"done \S+ (-?\d+) pages=(\d+) bad=(\d+) not_zero=(\d+)", said)
        self.counts = dict(zip(("pages", "bad", "not_zero"), map(int, m.groups()[1:])))
        return int(m.group(1))

    def tool(self, *args, seconds=120):
        """kvmext in the guest: exit status, what it printed"""
        since = len(self.lines)
        status = self.do("exec /kvmext " + " ".join(args), seconds)
        return status, "\n".join(l for l in self.lines[since:] if not l.startswith("guest: done"))

    def check(self):
        status, text = self.tool("guest", "--check", "--json")
        try:
            return status, json.loads(text[text.index("{"):text.rindex("}") + 1])
        except ValueError:
            return status, {"text": text}

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.err.close()


@contextlib.contextmanager
def moving(say):
    """A host that says so all the time"""
    over = threading.Event()

    def run():
        say("moving")
        while not over.wait(0.25):
            say("moving")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Port:
    """The host's end of the port, by hand"""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.buf = b""

    def say(self, line):
        self.sock.sendall(line.encode() + b"\n")

    def line(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds * SLOW
        seen = []
        while time.monotonic() < deadline:
            while b"\n" in self.buf:
                line, self.buf = self.buf.split(b"\n", 1)
                seen.append(line.decode(errors="replace"))
                if re.search(pattern, seen[-1]):
                    return seen
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                break
            if not data:
                break
            self.buf += data
        raise Failed(f"no '{pattern}' came from the guest within {seconds} s, but {seen[-3:]}")

    def register(self):
        """(cookie, frames, [gfn of each page])"""
        self.say("register")
        lines = self.line(r"^end$")
        at = max(i for i, l in enumerate(lines) if l.startswith("area 1 "))
        _, _, cookie, pfns, pages = lines[at].split()
        gfns = []
        for l in lines[at + 1:-1]:
            first, count = map(int, l.split()[1:])
            gfns += range(first, first + count)
        if len(gfns) != int(pages):
            raise Failed(f"{len(gfns)} of {pages} pages were told")
        return cookie, int(pfns), gfns

    def beat(self, cookie, n):
        """Ask, again and again as a host does, until it answers"""
        for last in (False, False, True):
            self.say(f"beat {n}")
            try:
                return self.line(f"^alive {cookie} {n}$", 10)
            except Failed:
                if last:
                    raise

    def close(self):
        self.sock.close()
