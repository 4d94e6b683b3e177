#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Live-migrate a real QEMU guest under one throttle or another, and measure it.

Runs on a KVM host as root: inside the test machine (`tests/machine/run`), or on
real hardware. Only python3's standard library and QEMU are needed.

  migrate.py --modes none,converge              each mode with a guest of its own
  migrate.py --modes none,converge --same-guest after a cancelled migration the same
                                                guest is migrated under the next mode

One JSON object per migration is appended to --out as soon as it is known; progress
goes to stderr. How it measures:

* Shares are CPU time of the source's vCPU threads (/proc/PID/task/TID/schedstat) over
  the host's monotonic clock, from the start of the migration up to the moment when QEMU
  stops the guest for the switch-over: the stop itself is `downtime_ms`, a number of its own.
  v1_* is the last vCPU, which only computes, and v0_share the first writer; `shares` and
  `worst2s` have every vCPU. The worst 2 s is the lowest share in any window of at least 2 s.
* vCPU threads are pinned, all other threads of both QEMUs and this program run on host CPU 0
  beside the writers (as libvirt's emulatorpin would do), so that what the computing vCPU
  loses, it lost to the throttle. vCPU threads have a better nice value than the rest: only
  the throttle, and not QEMU's copying on the same CPU, is to slow the writers down.
* rounds, sent_mib, total_ms and downtime_ms are QEMU's own (query-migrate).
"""

import argparse
import ctypes
import gzip
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
SAMPLE = 0.2        # seconds between two looks at schedstat
WINDOW = 2.0        # "worst 2 s"
BOOT_TIMEOUT = 120
# How much longer than usual to wait for things: the debug machine sets it.
SLOW = int(os.environ.get("KVMEXT_SLOW", "1"))
# What this program may use, before it keeps to the first of them.
CPUS = sorted(os.sched_getaffinity(0))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What makes each mode: the accelerator, QEMU's capabilities and parameters, our policy, and
# whether the policy wants to be told which vCPU to throttle.
MODES = {
    "none": {},
    "auto-converge": {"caps": ["auto-converge"]},
    # The figures that testbed.md's authors tuned by hand to this very load.
    "dirty-limit": {"ring": 1024, "caps": ["dirty-limit"], "params": {"vcpu-dirty-limit": 1}},
    "uniform": {"policy": "uniform"},
    "stun": {"policy": "stun", "mark": True},
    "converge": {"policy": "converge"},
    "converge-ring": {"policy": "converge", "ring": 4096},
}


class Failed(Exception):
    """A run cannot go on. Says what was tried, what was found, what to do."""


def log(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def machine_run():
    """tests/machine/run as a module: what it knows of kernel modules, libraries and archives"""
    loader = importlib.machinery.SourceFileLoader("machine_run", f"{TOP}/tests/machine/run")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("machine_run", loader))
    loader.exec_module(module)
    return module


class Progress:
    """One line that is rewritten (live) or one line every few seconds (log)."""

    def __init__(self, style):
        self.live = style == "live"
        self.last = 0
        self.width = 0

    def show(self, text):
        now = time.monotonic()
        if now - self.last < (0.9 if self.live else 4.9):
            return
        self.last = now
        if self.live:
            self.width = max(self.width, len(text))
            sys.stderr.write("\r" + text.ljust(self.width))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self):
        if self.live and self.width:
            sys.stderr.write("\r" + " " * self.width + "\r")
            sys.stderr.flush()
        self.width = 0
        self.last = 0


class Qmp:
    """QEMU's control socket: commands, and events with the time at which they came."""

    def __init__(self, path, alive):
        deadline = time.monotonic() + 30 * SLOW
        self.sock = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError as err:
                if not alive() or time.monotonic() > deadline:
                    raise Failed(f"connecting to QEMU's control socket {path}: {err}")
                time.sleep(0.05)
        self.buf = b""
        self.events = []
        self.recv(30)
        self.cmd("qmp_capabilities")

    def recv(self, timeout):
        """One message, or None when none came in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buf:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except (socket.timeout, BlockingIOError):
                return None
            except OSError as err:
                raise Failed(f"QEMU's control socket broke: {err}")
            if not data:
                raise Failed("QEMU closed its control socket: it ended; see its log")
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        msg = json.loads(line)
        if "event" in msg:
            self.events.append((time.monotonic(), msg["event"], msg.get("data", {})))
        return msg

    def cmd(self, name, timeout=60 * SLOW, **args):
        req = {"execute": name}
        if args:
            req["arguments"] = args
        self.sock.settimeout(timeout)
        self.sock.sendall(json.dumps(req).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            msg = self.recv(deadline - time.monotonic())
            if msg is None:
                raise Failed(f"QEMU did not answer {name} within {timeout} s")
            if "return" in msg:
                return msg["return"]
            if "error" in msg:
                raise Failed(f"QEMU refused {name} {args}: {msg['error']['desc']}")

    def wait(self, seconds):
        """Take in events until the time is up or one has come."""
        deadline = time.monotonic() + seconds
        seen = len(self.events)
        while len(self.events) == seen and time.monotonic() < deadline:
            self.recv(deadline - time.monotonic())

    def when(self, event):
        return next((t for t, name, _ in self.events if name == event), None)


class Vm:
    """One QEMU: its process, control socket and serial line."""

    def __init__(self, opt, name, ring, incoming=None):
        self.name = name
        self.lines = []         # (monotonic time, text) of the guest's serial line
        self.log = os.path.join(opt.tmp, f"{name}.qemu.log")
        sock = os.path.join(opt.tmp, f"{name}.qmp")
        accel = opt.accel + (f",dirty-ring-size={ring}" if ring else "")
        cmdline = ("console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check nokaslr "
                   "nowatchdog cryptomgr.notests random.trust_cpu=on rdinit=/init "
                   f"load.rate={opt.rate} load.ws={opt.ws} load.writers={opt.writers} "
                   f"load.cpus={opt.cpus} load.pattern={opt.pattern}")
        argv = [opt.qemu, "-name", name, "-accel", accel, "-M", opt.machine, "-cpu", opt.cpu_model,
                "-smp", str(opt.cpus), "-m", str(opt.mem), "-nodefaults", "-no-reboot",
                "-display", "none", "-serial", "stdio", "-qmp", f"unix:{sock},server=on,wait=off",
                "-kernel", opt.kernel, "-initrd", opt.initrd, "-append", cmdline]
        if incoming:
            argv += ["-incoming", incoming]
        self.argv = argv
        self.stderr = open(self.log, "wb")
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.stderr)
        self.reader = threading.Thread(target=self.read_serial, daemon=True)
        self.reader.start()
        try:
            self.qmp = Qmp(sock, lambda: self.proc.poll() is None)
            self.tids = [c["thread-id"] for c in sorted(self.qmp.cmd("query-cpus-fast"),
                                                        key=lambda c: c["cpu-index"])]
            self.pin(opt)
        except Failed as err:
            text = f"{err}; {self.why()}"
            self.kill()
            raise Failed(text)

    def read_serial(self):
        for raw in self.proc.stdout:
            self.lines.append((time.monotonic(), raw.decode(errors="replace").strip()))

    def pin(self, opt):
        """vCPUs that compute have the second CPU (one each, where there are enough); writers
        and everything else of QEMU have the first."""
        host = CPUS
        for task in os.listdir(f"/proc/{self.proc.pid}/task"):
            try:
                os.sched_setaffinity(int(task), {host[0]})
            except ProcessLookupError:
                pass
        for n, tid in enumerate(self.tids):
            cpu = 0 if n < opt.writers else 1 + (n - opt.writers) % max(1, len(host) - 1)
            os.sched_setaffinity(tid, {host[min(cpu, len(host) - 1)]})
            # this counts only among threads of one session (autogroup): QEMU stays in ours
            os.setpriority(os.PRIO_PROCESS, tid, opt.nice)

    def why(self):
        """What QEMU and the guest said last."""
        self.stderr.flush()
        with open(self.log, errors="replace") as f:
            said = f.read().strip().splitlines()
        guest = [text for _, text in self.lines if text]
        code = self.proc.poll()
        state = "still runs" if code is None else f"ended with {code}"
        return (f"QEMU '{self.name}' {state}, its last words: {said[-1] if said else 'none'}; "
                f"its guest's: {guest[-1] if guest else 'none'}")

    def wait_line(self, pattern, timeout, since=0, show=None):
        """The first line of the guest from number `since` on that matches."""
        timeout *= SLOW
        deadline = time.monotonic() + timeout
        n = since
        while True:
            while n < len(self.lines):
                found = re.search(pattern, self.lines[n][1])
                if found:
                    return n, found
                if "guest: error" in self.lines[n][1]:
                    raise Failed(f"the guest gave up: {self.lines[n][1]}")
                n += 1
            if self.proc.poll() is not None:
                raise Failed(f"waiting for the guest to print '{pattern}': {self.why()}")
            if time.monotonic() > deadline:
                raise Failed(f"the guest did not print '{pattern}' within {timeout} s; {self.why()}")
            if show:
                show()
            time.sleep(0.05)

    def progress(self, since=0):
        """The guest's own counters: [(host time, guest ms, pages written, rounds, bad)]."""
        out = []
        for when, text in self.lines[since:]:
            m = re.search(r"guest: t=(\d+) w=(\d+) c=(\d+) bad=(\d+)", text)
            if m:
                out.append((when, *map(int, m.groups())))
        return out

    def verify(self, timeout=60):
        """Have the guest check every page it owns."""
        since = len(self.lines)
        self.proc.stdin.write(b"v")
        self.proc.stdin.flush()
        _, m = self.wait_line(r"guest: memory (ok|BAD) pages=(\d+) bad=(\d+)", timeout, since)
        return {"memory": m.group(1), "pages": int(m.group(2)), "bad": int(m.group(3))}

    def cpu_times(self, field=0):
        """Seconds of CPU that each vCPU thread has had (field 1: has waited for)."""
        out = []
        for tid in self.tids:
            with open(f"/proc/{self.proc.pid}/task/{tid}/schedstat") as f:
                out.append(int(f.read().split()[field]) / 1e9)
        return out

    def kill(self):
        self.proc.kill()
        self.proc.wait()
        self.stderr.close()


class Policy:
    """A throttle policy of ours on one VM, through the kvmext tool."""

    def __init__(self, opt, name, vm, mark):
        self.opt, self.name, self.vm = opt, name, vm
        obj = os.path.join(opt.bpf, name + ".bpf.o")
        for path, what in ((opt.kvmext, "the tool"), (obj, "the policy")):
            if not os.path.exists(path):
                raise Failed(f"{what} {path} is not there: build it with `make`")
        self.tool("load", obj, "--vm", str(vm.proc.pid), *opt.param)
        if mark:
            try:
                for vcpu in range(opt.writers):
                    self.tool("mark", "--vm", str(vm.proc.pid), "--vcpu", str(vcpu))
            except Failed:
                self.unload()
                raise

    def tool(self, *args):
        argv = [self.opt.kvmext, *args]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=30 * SLOW)
        except (OSError, subprocess.TimeoutExpired) as err:
            raise Failed(f"`{' '.join(argv)}`: {err}")
        if done.returncode:
            raise Failed(f"`{' '.join(argv)}` exited {done.returncode}: "
                         f"{(done.stderr or done.stdout).strip()}")
        return done.stdout

    def status(self):
        return json.loads(self.tool("status", "--vm", str(self.vm.proc.pid), "--json"))

    def unload(self):
        self.tool("unload", f"{self.name}@{self.vm.proc.pid}")


def find_vcpus(status):
    """The per-vCPU entries of `kvmext status --json`, in order of vCPU."""
    if isinstance(status, dict):
        for key, value in status.items():
            if key == "vcpus" and isinstance(value, list):
                return value
        status = list(status.values())
    if isinstance(status, list):
        for value in status:
            found = find_vcpus(value)
            if found:
                return found
    return []


def vcpu_field(vcpu, *names):
    for name in names:
        if name in vcpu:
            return vcpu[name]
    return None


def worst_window(samples, vcpu):
    """The lowest share in any window of WINDOW seconds (a few ms more, by the sampling)."""
    worst = None
    end = 0
    for start in range(len(samples)):
        while end < len(samples) and samples[end][0] - samples[start][0] < WINDOW - 0.01:
            end += 1
        if end == len(samples):
            break
        share = ((samples[end][1][vcpu] - samples[start][1][vcpu]) /
                 (samples[end][0] - samples[start][0]))
        worst = share if worst is None else min(worst, share)
    return worst


def shares(samples):
    if len(samples) < 2:
        return [], []
    span = samples[-1][0] - samples[0][0]
    vcpus = range(len(samples[0][1]))
    whole = [(samples[-1][1][v] - samples[0][1][v]) / span for v in vcpus]
    worst = [worst_window(samples, v) for v in vcpus]
    return whole, worst


def stalls(samples):
    """How often the host itself stood still: a vCPU thread has then had more CPU time between
    two looks than time has passed, for what was lost before. Such a run measures its host."""
    return sum(any((c - b) / (t1 - t0) > 1.3 for b, c in zip(before, after))
               for (t0, before), (t1, after) in zip(samples, samples[1:]))


def pct(x):
    return None if x is None else round(100 * x, 2)


def load_rate(progress):
    """MiB/s that the guest's writers wrote, between two of its own lines, by the host's clock."""
    if len(progress) < 2 or progress[-1][0] == progress[0][0]:
        return None
    return round((progress[-1][2] - progress[0][2]) * 4096 / MIB /
                 (progress[-1][0] - progress[0][0]), 1)


def boot(opt, mode, progress, name="source"):
    """A guest under load: RAM filled, working set written once, and then warmed up."""
    start = time.monotonic()
    vm = Vm(opt, name, MODES[mode].get("ring"))
    try:
        def show():
            progress.show(f"  {mode:13} booting the guest {time.monotonic() - start:4.0f} s")

        n, _ = vm.wait_line(r"guest: load running", BOOT_TIMEOUT, show=show)
        booted = time.monotonic()
        first = vm.cpu_times()
        # one whole pass over the working set at the asked rate, or the first round of the
        # migration would be cheaper than the later ones
        vm.wait_line(r"guest: t=[1-9]\d*", BOOT_TIMEOUT, n)
        while time.monotonic() - booted < opt.warm_up:
            if vm.proc.poll() is not None:
                raise Failed(f"warming up: {vm.why()}")
            time.sleep(0.1)
        span = time.monotonic() - booted
        vm.before = {
            "boot_s": round(booted - start, 1),
            "load_mib_s": load_rate(vm.progress(n)),
            "shares": [pct((b - a) / span) for a, b in zip(first, vm.cpu_times())],
        }
        return vm
    except BaseException:
        vm.kill()
        raise


def configure(opt, vm, mode):
    spec = MODES[mode]
    caps = [{"capability": c, "state": c in spec.get("caps", ())}
            for c in ("auto-converge", "dirty-limit")
            if c in spec.get("caps", ()) or c == "auto-converge"]
    caps.append({"capability": "events", "state": True})
    vm.qmp.cmd("migrate-set-capabilities", capabilities=caps)
    vm.qmp.cmd("migrate-set-parameters", **{"max-bandwidth": opt.bandwidth * MIB,
                                            "downtime-limit": opt.downtime,
                                            **spec.get("params", {})})


def migrate(opt, vm, mode, progress, hook=None):
    """Migrate the running `vm`; returns its result row and the destination."""
    spec = MODES[mode]
    row = {"mode": mode, "status": "failed", "total_ms": None, "downtime_ms": None,
           "rounds": None, "sent_mib": None, "v0_share": None, "v1_share": None,
           "v1_worst2s": None}
    row["before"] = getattr(vm, "before", None)
    dst = policy = None
    try:
        uri = "unix:" + os.path.join(opt.tmp, "link")
        dst = Vm(opt, "destination", spec.get("ring"), incoming=uri)
        vm.qmp.events.clear()
        configure(opt, vm, mode)
        if spec.get("policy"):
            policy = Policy(opt, spec["policy"], vm, spec.get("mark"))
        limit = opt.none_limit if mode == "none" else opt.limit
        cancelled = False
        info = {}
        began = len(vm.lines)
        samples = [(time.monotonic(), vm.cpu_times())]
        waited = vm.cpu_times(1)
        vm.qmp.cmd("migrate", uri=uri)
        start = time.monotonic()
        asked = 0
        while True:
            vm.qmp.wait(max(0.005, samples[-1][0] + SAMPLE - time.monotonic()))
            now = time.monotonic()
            stop = vm.qmp.when("STOP")
            if stop is None:
                if now - samples[-1][0] >= SAMPLE - 0.01:
                    samples.append((now, vm.cpu_times()))
            ended = any(name == "MIGRATION" and data.get("status") in
                        ("completed", "failed", "cancelled")
                        for _, name, data in vm.qmp.events)
            if ended or now - asked >= 1:
                asked = now
                info = vm.qmp.cmd("query-migrate")
                ram = info.get("ram", {})
                recent = [s for s in samples if s[0] > now - 1.2]
                part = shares(recent)[0] if len(recent) > 1 else []
                progress.show(
                    f"  {mode:13} {now - start:4.0f} s  round {ram.get('dirty-sync-count', 0):2}  "
                    f"{ram.get('remaining', 0) / MIB:6.1f} MiB left  "
                    f"{ram.get('mbps', 0) / 8 / 1.048576:5.1f} MiB/s  CPU of the vCPUs "
                    + " ".join(f"{100 * s:3.0f}%" for s in part))
                if info.get("status") in ("completed", "failed", "cancelled"):
                    break
                if hook and not cancelled and hook(now - start, vm, policy):
                    cancelled = True
                if now - start > limit and not cancelled:
                    cancelled = True
                    row["ran_ms"] = round(1000 * (now - start))
                    # what it had come to, before QEMU clears it
                    row["rounds"] = ram.get("dirty-sync-count")
                    row["sent_mib"] = round(ram.get("transferred", 0) / MIB, 1)
                    row["remaining_mib"] = round(ram.get("remaining", 0) / MIB, 1)
                    vm.qmp.cmd("migrate_cancel")
                if now - start > limit + 60 * SLOW:
                    raise Failed(f"the migration did not end {limit + 60 * SLOW:.0f} s after its start, "
                                 f"not even cancelled: {info}")
        progress.end()
        if cancelled:
            samples = [s for s in samples if s[0] <= start + row.get("ran_ms", 10**9) / 1000 + 0.05]
            row["status"] = "not-converged" if "ran_ms" in row else info["status"]
            if info["status"] == "completed":   # it won the race with our cancel
                row["status"] = "completed"
        else:
            row["status"] = info["status"]
        if info["status"] == "completed":
            ram = info["ram"]
            row.update(total_ms=info["total-time"], downtime_ms=info["downtime"],
                       rounds=ram["dirty-sync-count"],
                       sent_mib=round(ram["transferred"] / MIB, 1),
                       setup_ms=info.get("setup-time"))
        elif info["status"] == "failed":
            row["error"] = info.get("error-desc", "QEMU gives no reason") + "; " + dst.why()
        stop = vm.qmp.when("STOP")
        if stop is not None:
            samples = [s for s in samples if s[0] < stop]
        whole, worst = shares(samples)
        if whole:
            row.update(v0_share=pct(whole[0]), v1_share=pct(whole[-1]),
                       v1_worst2s=pct(worst[-1]), shares=[pct(s) for s in whole],
                       worst2s=[pct(s) for s in worst])
            row["stalls"] = stalls(samples)
            # ready to run, and another thread had the CPU: what the throttle did not do
            span = samples[-1][0] - samples[0][0]
            row["wait"] = [pct((b - a) / span) for a, b in zip(waited, vm.cpu_times(1))]
        row["load_mib_s"] = load_rate(vm.progress(began))
        if policy:
            row["policy"] = policy.status()
            blocked = [vcpu_field(v, "blocked_ns") for v in find_vcpus(row["policy"])]
            if blocked and None not in blocked:
                row["blocked_ms"] = [round(b / 1e6, 1) for b in blocked]
            policy.unload()
            policy = None
        if row["status"] == "completed":
            row["destination"] = check_destination(vm, dst)
            if row["destination"]["verdict"] != "ok":
                row["status"] = "guest-broken"
    except Failed as err:
        progress.end()
        row["status"] = "failed"
        row["error"] = str(err)
        if dst and dst.proc.poll() is not None:
            row["error"] += "; " + dst.why()
    finally:
        if policy:
            try:
                policy.unload()
            except Failed as err:
                row["error"] = row.get("error", "") + f"; and afterwards {err}"
    return row, dst


def check_destination(src, dst):
    """The guest must go on where it was: counters that only grow, memory as it wrote it."""
    out = {"verdict": "ok"}
    before = src.progress()[-1]
    try:
        # It prints by its clock, which may be far ahead of what it did on a busy host.
        for _ in range(20):
            dst.wait_line(r"guest: t=\d+", 20, len(dst.lines))
            first, last = dst.progress()[0], dst.progress()[-1]
            out["progress"] = {"source": before[1:], "destination": last[1:]}
            # counts of the writers and of the computing vCPUs
            goes_on = last[2] > first[2] >= before[2] and last[3] > first[3] >= before[3]
            if goes_on:
                break
        if not goes_on:
            out["verdict"] = "no progress"
        out.update(dst.verify())
        if out["memory"] != "ok":
            out["verdict"] = "memory bad"
    except Failed as err:
        out["verdict"] = str(err)
    return out


def pack_initrd(opt):
    """An initramfs with the guest as /init and a console: newc cpio, no tool needed."""
    def entry(name, mode, data=b"", rdev=(0, 0)):
        entry.ino += 1
        head = "070701" + "".join(f"{v:08x}" for v in (
            entry.ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name) + 1, 0))
        out = head.encode() + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        return out + b"\0" * (-len(out) % 4)
    entry.ino = 0
    if not os.path.exists(opt.guest):
        raise Failed(f"the guest {opt.guest} is not there: build it with `make`")
    with open(opt.guest, "rb") as f:
        program = f.read()
    path = os.path.join(opt.tmp, "initrd.gz")
    with gzip.open(path, "wb", 1) as f:
        f.write(entry("dev", 0o040755) + entry("dev/console", 0o020600, rdev=(5, 1)) +
                entry("proc", 0o040755) + entry("init", 0o100755, program) +
                entry("TRAILER!!!", 0))
    return path


def pick_kernel():
    """The packaged kernel that this tree was built for, else the one that runs."""
    tried = []
    try:
        with open(os.path.join(TOP, "build/config.mk")) as f:
            cfg = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line)
        tried.append(f"{cfg['KROOT']}/boot/vmlinuz-{cfg['KREL']}")
    except (OSError, KeyError):
        pass
    tried.append(f"/boot/vmlinuz-{os.uname().release}")
    for path in tried:
        if os.path.exists(path):
            return path
    raise Failed(f"no kernel for the guest, looked for {' and '.join(tried)}; "
                 "run make, or name one with --kernel")


def vmlinux(path, tmp):
    """The ELF kernel inside a bzImage: QEMU starts it directly (PVH), which spares the guest
    the unpacking, seconds under emulation. Any doubt, and the bzImage itself will do."""
    cached = os.path.join(TOP, "build/tests/guest/vmlinux-" + os.path.basename(path))
    if os.path.exists(cached) and os.path.getmtime(cached) >= os.path.getmtime(path):
        return cached
    with open(path, "rb") as f:
        image = f.read()
    if image[0x202:0x206] != b"HdrS":
        return path
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1f1] + 1) * 512 + offset
    # the payload ends with the size of what is packed in it
    packed, size = image[start:start + length - 4], image[start + length - 4:start + length]
    if packed[:4] != b"\x28\xb5\x2f\xfd":    # not zstd, which Debian uses
        return path
    try:
        zstd = ctypes.CDLL("libzstd.so.1")     # dpkg needs it: there on every Debian
    except OSError:
        return path
    size = struct.unpack("<I", size)[0]
    elf = ctypes.create_string_buffer(size)
    zstd.ZSTD_decompress.restype = ctypes.c_size_t
    got = zstd.ZSTD_decompress(elf, ctypes.c_size_t(size), packed, ctypes.c_size_t(len(packed)))
    if got != size or elf.raw[:4] != b"\x7fELF":
        return path
    for where in (cached, os.path.join(tmp, "vmlinux")):
        try:
            with open(where + ".new", "wb") as f:
                f.write(elf)
            os.rename(where + ".new", where)
            return where
        except OSError:
            continue
    return path


def options(argv):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--modes", default="none,converge",
                   help="in this order, of: " + ", ".join(MODES))
    p.add_argument("--runs", type=int, default=1, help="repeat the whole list")
    p.add_argument("--out", help="file to append one JSON object per migration to")
    p.add_argument("--same-guest", action="store_true",
                   help="go on with the same guest after a migration that was cancelled")
    p.add_argument("--progress", choices=("live", "log"),
                   default="live" if sys.stderr.isatty() else "log")
    p.add_argument("--param", action="append", default=[], metavar="NAME=VALUE",
                   help="parameter of the policy (default: its own defaults)")
    for name, dflt, text in (
            ("rate", 40, "MiB/s that the guest dirties"), ("ws", 64, "MiB it dirties"),
            ("writers", 1, "vCPUs that dirty"), ("cpus", 2, "vCPUs"), ("mem", 192, "MiB of RAM"),
            ("bandwidth", 20, "MiB/s of the link"), ("downtime", 300, "ms allowed"),
            ("limit", 120, "s after which a migration is cancelled"),
            ("none-limit", 60, "the same for mode none")):
        p.add_argument("--" + name, type=int, default=dflt, help=f"{text} ({dflt})")
    p.add_argument("--pattern", choices=("seq", "rand"), default="seq")
    p.add_argument("--warm-up", type=float, default=None,
                   help="s of load before the migration (the time of one pass, and at least 2)")
    p.add_argument("--qemu", help="the VMM to measure ($KVMEXT_QEMU, else Debian's)")
    p.add_argument("--kernel", help="of the guest (default: the kernel this tree is built for)")
    p.add_argument("--machine", default="q35")
    p.add_argument("--accel", default="kvm", help="kvm; tcg to try this program where there is none")
    p.add_argument("--guest", default=os.path.join(TOP, "build/tests/guest/migrate_init"))
    p.add_argument("--kvmext", default=os.path.join(TOP, "build/kvmext"))
    p.add_argument("--bpf", default=os.path.join(TOP, "build/bpf"))
    p.add_argument("--loads", help="JSON list of objects with options to run one after the other, "
                   'e.g. [{"modes":"converge","rate":80}]')
    opt = p.parse_args(argv)
    for mode in opt.modes.split(","):
        if mode not in MODES:
            p.error(f"unknown mode '{mode}', there are: {', '.join(MODES)}")
    return opt


def prepare(opt, tmp):
    """What the options leave open."""
    opt.tmp = tmp
    # The debug machine measures nothing, and QEMU's other threads are to get on there.
    opt.nice = -10 if SLOW == 1 else 0
    opt.cpu_model = "host" if opt.accel == "kvm" else "max"
    opt.warm_up_given = opt.warm_up
    opt.qemu = opt.qemu or os.environ.get("KVMEXT_QEMU") or "qemu-system-x86_64"
    if opt.accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Failed("/dev/kvm cannot be opened: load kvm_amd or kvm_intel, and run as root")
    if not shutil.which(opt.qemu):
        raise Failed(f"no QEMU '{opt.qemu}': name one with --qemu")
    opt.kernel = vmlinux(opt.kernel or pick_kernel(), tmp)
    opt.initrd = pack_initrd(opt)
    done = subprocess.run([opt.qemu, "--version"], capture_output=True, text=True)
    opt.version = (done.stdout.splitlines() or ["unknown: " + done.stderr.strip()])[0]


def series(opt, progress):
    """All modes of one load; yields a row each."""
    if opt.warm_up_given is None:
        opt.warm_up = max(2.0, opt.ws / opt.rate + 0.5)
    modes = opt.modes.split(",")
    src = None
    try:
        for n, mode in enumerate(modes):
            dst = None
            try:
                if src is None:
                    src = boot(opt, mode, progress)
                row, dst = migrate(opt, src, mode, progress)
            except Failed as err:
                progress.end()
                row = {"mode": mode, "status": "failed", "error": str(err)}
            row["load"] = {k: getattr(opt, k) for k in (
                "rate", "ws", "writers", "cpus", "pattern", "mem", "bandwidth", "downtime")}
            row["qemu"] = opt.version
            row["host"] = f"Linux {os.uname().release}, {os.cpu_count()} CPUs"
            if dst:
                dst.kill()
            # a source that was never stopped serves again, where the next mode can use its accelerator
            after = modes[n + 1:n + 2]
            if src and not (opt.same_guest and row["status"] == "not-converged" and after and
                            MODES[after[0]].get("ring") == MODES[mode].get("ring")):
                src.kill()
                src = None
            yield row
    finally:
        if src:
            src.kill()


def describe(row):
    if row.get("error"):
        return f"{row['mode']:13} {row['status']}: {row['error']}"
    text = f"{row['mode']:13} {row['status']}"
    if row.get("total_ms") is not None:
        text += f" in {row['total_ms'] / 1000:.1f} s, down {row['downtime_ms']} ms"
    elif row.get("ran_ms"):
        text += f", stopped at {row['ran_ms'] / 1000:.0f} s"
    text += (f", {row['rounds']} rounds, {row['sent_mib']} MiB sent; writer {row['v0_share']} %, "
             f"computing vCPU {row['v1_share']} % (worst 2 s {row['v1_worst2s']} %)")
    if row.get("stalls"):
        text += f"; NOISY, the host stood still {row['stalls']} times"
    if row.get("destination"):
        text += f"; at the destination: memory {row['destination'].get('memory', 'not checked')}"
    return text


def main(argv):
    opt = options(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    progress = Progress(opt.progress)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = open(opt.out, "a") if opt.out else sys.stdout
    tmp = tempfile.mkdtemp(prefix="migrate.")
    good = True
    try:
        prepare(opt, tmp)
        loads = json.loads(opt.loads) if opt.loads else [{}]
        for run in range(opt.runs):
            for load in loads:
                one = argparse.Namespace(**{**vars(opt), **load})
                for row in series(one, progress):
                    row["run"] = run + 1
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    log("  " + describe(row))
                    good = good and row["status"] in ("completed", "not-converged")
    except Failed as err:
        log(f"migrate.py: {err}")
        return 2
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
