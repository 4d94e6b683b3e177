#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A guest under skip_free that takes, frees and writes memory while it migrates has every page at the
destination.

Runs in the test machine. --runs N (2) migrations of one guest, from QEMU to QEMU, that takes, frees and writes
memory at full speed on all vCPUs all the while, under skip_free, every other one with what is free zeroed and
held; prints TAP. With --bench: each mode under each load --times times, a JSON object a line into --out.

  plain   QEMU as it is
  hinting QEMU with virtio-balloon's free-page-hint
  skip    the policy skip_free
  zero    and the guest's free memory zeroed before, and held
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import free_guest
from free_guest import Failed, Guest, KVMEXT, MIB, SLOW, TOP
from tap import ok, plan

MODES = ("plain", "hinting", "skip", "zero")
LOADS = ("idle", "build")
KEEP_MIB = 16


def log(text):
    print(f"# {text}", file=sys.stderr, flush=True)


def tool(*args):
    p = subprocess.run([KVMEXT, *map(str, args)], capture_output=True, text=True, timeout=60 * SLOW)
    if p.returncode:
        raise Failed(f"kvmext {' '.join(map(str, args))} exited {p.returncode}: {p.stderr.strip()}")
    return p.stdout


def cpu_ms(pid, tid=None):
    with open(f"/proc/{pid}/task/{tid or pid}/schedstat") as f:
        return int(f.read().split()[0]) // 1000000


class Skip:
    """Policy and hint for one VM"""

    def __init__(self, guest, zero=None):
        self.guest, self.out = guest, f"{guest.tmp}/{guest.name}.hint"
        tool("load", f"{TOP}/build/bpf/skip_free.bpf.o", "--vm", guest.pid)
        args = ["--zero", str(zero)] if zero is not None else []
        with open(self.out, "wb") as out:
            self.proc = subprocess.Popen([KVMEXT, "hint", "--json", "--vm", str(guest.pid), "--port",
                                          guest.sock, *args], stdout=out, stderr=subprocess.STDOUT)
        self.wait(lambda e: e.get("state") == "trusted", "to be trusted")
        if zero is not None:
            self.wait(lambda e: e.get("event") == "zeroed", "zeroed memory")

    def events(self):
        with open(self.out) as f:
            return [json.loads(l) for l in f if l.startswith("{") and l.endswith("\n")]

    def wait(self, cond, what):
        deadline = time.monotonic() + 120 * SLOW
        while not any(cond(e) for e in self.events()):
            if self.proc.poll() is not None or time.monotonic() > deadline:
                with open(self.out) as f:
                    raise Failed(f"hint waited for {what}: {self.proc.poll()} {f.read()[-400:]}")
            time.sleep(0.05)

    def counts(self):
        return {c["name"]: c["value"] for c in
                json.loads(tool("get", "--json", f"dirty:skip_free@{self.guest.pid}"))["counters"]}

    def end(self):
        self.proc.terminate()
        self.proc.wait(30 * SLOW)
        tool("unload", f"dirty:skip_free@{self.guest.pid}")


def move(src, dst, sock, bandwidth, downtime, limit=120):
    """One migration; what QEMU says of it, and MiB sent when the first pass was over"""
    for vm in (src, dst):
        vm.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    src.qmp.cmd("migrate-set-parameters", **{"max-bandwidth": bandwidth * MIB, "downtime-limit": downtime})
    src.qmp.events.clear()
    src.qmp.cmd("migrate", uri=f"unix:{sock}")
    first, begun, longer = None, time.monotonic(), downtime
    while True:
        src.qmp.wait(0.1)
        info = src.qmp.cmd("query-migrate")
        ram = info.get("ram", {})
        if first is None and ram.get("dirty-sync-count", 0) >= 2:
            first = ram["transferred"]
        if info.get("status") in ("completed", "failed", "cancelled"):
            break
        if time.monotonic() - begun > limit * SLOW:
            # It need not converge: the memory is what is looked at.
            longer *= 2
            src.qmp.cmd("migrate-set-parameters", **{"downtime-limit": min(longer, 200000)})
            limit += 10
        if time.monotonic() - begun > 600 * SLOW:
            raise Failed(f"the migration did not end: {info}")
    if info["status"] != "completed":
        raise Failed(f"the migration {info['status']}: {info.get('error-desc')}; {dst.why()}")
    ram = info["ram"]
    return {"sent_mib": round(ram["transferred"] / MIB, 1),
            "first_pass_mib": round((first or ram["transferred"]) / MIB, 1),
            "total_ms": info["total-time"], "downtime_ms": info["downtime"],
            "rounds": ram["dirty-sync-count"], "zero_pages": ram.get("duplicate"),
            "longest_downtime_allowed_ms": longer}


def verify(guest):
    guest.do("calm", 300)
    guest.do("verify", 300)
    return {k: guest.counts[k] for k in ("pages", "bad", "not_zero")}


def measure(tmp, mode, load, opt):
    row = {"mode": mode, "load": load, "status": "failed"}
    balloon = ",free-page-hint=on,iothread=io0" if mode == "hinting" else ""
    src = dst = skip = None
    try:
        src = Guest(tmp, "src", mem=f"{opt.mem}M", balloon=balloon)
        # The guest has lived: most of its memory has been written once.
        src.do(f"hold {opt.hold}")
        src.do(f"anon {opt.mem - opt.hold - 150}")
        src.do("spawn 20")
        if mode in ("skip", "zero"):
            src.do(f"agent {opt.agent}")
            src.wait("free ones found")
        if load == "build":
            src.do("build 2")
            time.sleep(2)
        row["free_mib"] = round(src.do("stat") / 256)
        dst = Guest(tmp, "dst", mem=f"{opt.mem}M", balloon=balloon, incoming=f"unix:{tmp}/m.sock")
        if mode in ("skip", "zero"):
            skip = Skip(src, opt.keep if mode == "zero" else None)
        row["per_cpu_mib"] = round(src.do("lists") / 256, 1)
        before = [cpu_ms(src.pid, t) for t in src.tids()]
        row |= move(src, dst, f"{tmp}/m.sock", opt.bandwidth, 300)
        row["vcpus_cpu_ms"] = [cpu_ms(src.pid, t) - b for t, b in zip(src.tids(), before)]
        if skip:
            row["policy"] = skip.counts()
            row["hint_cpu_ms"] = cpu_ms(skip.proc.pid)
            skip.end()
            skip = None
        row["memory"] = verify(dst)
        row["status"] = "bad" if row["memory"]["bad"] or row["memory"]["not_zero"] else "completed"
    except Failed as err:
        row["error"] = str(err)
    finally:
        if skip:
            skip.proc.kill()
        for vm in (src, dst):
            if vm:
                vm.kill()
    return row


def bench(opt):
    good = True
    with tempfile.TemporaryDirectory(prefix="free.") as tmp, open(opt.out, "a") as out:
        # In turn, so that what changes on the build machine meets all of them.
        for _ in range(opt.times):
            for load, mode in ((l, m) for l in opt.loads.split(",") for m in opt.modes.split(",")):
                row = measure(tmp, mode, load, opt)
                log(f"{load:6} {mode:8} " + (row.get("error") or " ".join(
                    f"{k}={row[k]}" for k in ("first_pass_mib", "sent_mib", "total_ms", "downtime_ms", "rounds"))
                    + f" {row['memory']}"))
                out.write(json.dumps(row) + "\n")
                out.flush()
                good &= row["status"] == "completed"
    return 0 if good else 1


def storm(opt):
    """One guest on its way through many QEMUs; each time all it holds is right"""
    skipped, lists = 0, "read /proc/sys/vm/percpu_pagelist_high_fraction"
    with tempfile.TemporaryDirectory(prefix="free.") as tmp:
        guest = Guest(tmp, "vm0", mem="256M")
        try:
            guest.do("hold 16")
            guest.do("agent")
            guest.wait("free ones found")
            for run in range(opt.runs):
                guest.do(f"storm {2 + run % 3}")
                skip = Skip(guest, KEEP_MIB if run % 2 else None)
                if not run:
                    ok(guest.do(lists) == 0, "before a migration the guest's lists of free pages are left as they are")
                sock = f"{tmp}/{run}.sock"
                to = Guest(tmp, f"vm{run + 1}", mem="256M", incoming=f"unix:{sock}")
                row = move(guest, to, sock, 4096, 500, limit=6)
                counts = skip.counts()
                skip.end()
                guest.kill()
                guest = to
                # It goes on for a while there before it looks.
                time.sleep(0.5)
                seen = verify(guest)
                skipped += counts["skipped"]
                if not ok(not seen["bad"] and not seen["not_zero"] and counts["skipped"] > 0,
                          f"migration {run + 1}: {counts['skipped']} pages left out; "
                          f"{seen['pages']} pages were looked at so far, all right",
                          f"{seen} {counts} {row}"):
                    break
            time.sleep(free_guest.MOVING + 2)
            ok(guest.do(lists) == 0, "and so they are after it")
            status, said = guest.check()
            ok(status == 0 and said.get("wrong") == 0, "and the agent's bits are right at the end", f"{said}")
        except Failed as err:
            ok(False, f"{opt.runs} migrations", f"{err}; {guest.lines[-5:]}")
            # What its kernel has said
            print("\n".join(f"# {l}" for l in guest.lines if l.startswith("["))[-20000:], flush=True)
        finally:
            guest.kill()
    print(f"# {skipped} pages left out in all", flush=True)
    return plan()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--bench", action="store_true", help="migrations to measure, of each sort")
    p.add_argument("--runs", type=int, default=2, help="migrations of one guest in a storm (2)")
    p.add_argument("--times", type=int, default=3, help="migrations of each sort (3)")
    p.add_argument("--agent", default="", help="options of kvmext guest in the bench, such as --keep-lists")
    p.add_argument("--modes", default=",".join(MODES))
    p.add_argument("--loads", default=",".join(LOADS))
    p.add_argument("--out", default="/dev/stdout")
    for name, value in (("mem", 512), ("hold", 64), ("bandwidth", 40), ("keep", KEEP_MIB)):
        p.add_argument("--" + name, type=int, default=value, help=f"MiB ({value})")
    opt = p.parse_args()
    return bench(opt) if opt.bench else storm(opt)


if __name__ == "__main__":
    sys.exit(main())
