#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-trace: what it costs to watch KVM, by kvmext and by others.

1. Host instructions that a tracer adds to an exit, in an emulated host whose TSC counts
   instructions (exits.c, watched.sh): on the exit's own path, as the most frequent count,
   and in all, as the mean of many exits with the tracer's own work on the same CPU. One
   boot has all tracers; by how much a second one differs on the paths is their doubt, and it
   is said which counts are not those of nearly all exits.
2. On this machine's own KVM, if it has one and it is root's: how many exits there are in
   a second of the VM's CPU time with and without, in pairs of runs.
3. There too: what kvmext top takes of a CPU, looking once a second at 1,000 vCPUs, of as
   many small VMs as fit; the rest are simulated in its maps.

Writes build/results/trace.json. Exit status 1 if kvmext costs more than one of the others
for the same figures, by more than the doubt, or top takes more than 5 % of a CPU.

With --tap, for `make test`: the paths in one boot, and the crowd.
"""
import argparse
import json
import os
import pty
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

from exits import AGREE, BOOTS_TRIED, MARK, TOP, Failed, how_sure, percent, read_config
from origin import measured

RESULT = "build/results/trace.json"
KVMEXT = f"{TOP}/build/kvmext"
VMEXITS = f"{TOP}/build/tests/tool/vmexits"
CROWD, CROWD_SECONDS, CROWD_LIMIT = 1000, 10, 5.0   # vCPUs, s, % of a CPU
KINDS = ["cpuid", "msr_write", "io_user"]
ROUNDS = 20
# What each does; ours have to be cheaper than those of others that give the same figures.
TRACERS = {
    "top": "kvmext top: counts and times of exits by reason, for each vCPU, and all else it shows",
    "hist": "kvmext hist exit: histogram of times by reason",
    "trace": "kvmext trace exit: each exit with its time, as text",
    "perf": "perf kvm stat record: each exit's two events into a file; the report comes later",
    "kvm_stat": "kvm_stat -t: counts by reason, of the host",
    "kvmexit": "bcc's kvmexit: counts by reason, for each vCPU",
}
OURS = ["top", "hist", "trace"]
OTHERS = ["perf", "kvm_stat", "kvmexit"]
SURE = 0.7     # of the iterations at least have a count that is sure: a tracer's own work is in others


# --- instructions -------------------------------------------------------------------

def boot(tracers, rounds):
    """{tracer: {kind: {count, mean}, "saw": n, "later": s} or {"cannot": why}}"""
    for again in range(BOOTS_TRIED, 0, -1):
        p = subprocess.run([f"{TOP}/tests/machine/run", "--icount", "--modules", "stock", "--timeout", "3000", "--",
                            "tests/bench/watched.sh", str(rounds), *KINDS, "--", *tracers],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=TOP)
        # Any other status is watched.sh's own
        if p.returncode not in (124, 125):
            break
        print(f"# the machine died; {'again' if again > 1 else 'given up'}", flush=True)
    if p.returncode:
        print("\n".join(f"# {line}" for line in p.stdout.splitlines()))
        raise Failed(f"counting ended with status {p.returncode}")
    out, setup = {}, None
    for line in p.stdout.splitlines():
        if line.startswith(MARK):
            setup = out.setdefault(line[len(MARK):].strip(), {})
        elif line.startswith("#@cannot"):
            setup["cannot"] = line[len("#@cannot"):].strip() or "it said nothing"
        elif line.startswith("#@saw"):
            setup["saw"] = int(line.split()[1])
        elif line.startswith("#@later"):
            setup["later"] = float(line.split()[1])
        elif line.startswith("{"):
            row = json.loads(line)
            # First a short run, for the path, then perhaps a long one.
            if row["kind"] in setup:
                setup[row["kind"]]["mean"] = row["mean"]
                continue
            setup[row["kind"]] = {"count": row["count"], "mean": row["mean"], **how_sure(row)}
    for name in tracers:
        setup = out.setdefault(name, {})
        if "cannot" not in setup and any(k not in setup for k in KINDS):
            if name in ("none", "after", *OURS):
                raise Failed(f"{name} was not counted")
            setup["cannot"] = "it was not counted"
    return out


def unsure(counts):
    """[text] for each count that is not that of nearly all exits"""
    return [f"{kind} under {name}: {c['count']} instructions in {100 * c['share']:.0f} % of the exits, +-{c['doubt']}"
            for name, setup in counts.items() for kind, c in setup.items()
            if kind in KINDS and (c["share"] < SURE or c["doubt"])]


def added(counts, tracer, kind, what="count"):
    return round(counts[tracer][kind][what] - counts["none"][kind][what])


def dearer(counts, doubt=0):
    """(ours, another, kind) where ours adds no less than another that was counted, beyond the doubt"""
    return [(a, b, k) for a in OURS for b in OTHERS for k in KINDS
            if a in counts and k in counts.get(b, {})
            and added(counts, a, k) - doubt >= added(counts, b, k)]


def left_over(counts):
    return [k for k in KINDS if abs(percent(counts["after"][k]["count"], counts["none"][k]["count"])) > AGREE]


# --- this machine's KVM ----------------------------------------------------------------

def why_not_native():
    """Why nothing is measured on this machine's KVM, or None"""
    if os.geteuid():
        return "only root may"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this machine has no /dev/kvm"
    p = subprocess.run([KVMEXT, "hist", "exit", "--for", "0.1"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    return None if p.returncode == 0 else p.stdout.strip()


class Watch:
    """A tracer at work; out() is what it wrote after it ended"""

    def __init__(self, args, screen=False):
        if screen:
            self.pid, self.fd = pty.fork()
            if not self.pid:
                os.environ["TERM"] = "xterm"
                os.execv(args[0], args)
        else:
            self.p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.pid, self.fd = self.p.pid, self.p.stdout.fileno()
        self.screen, self.got = screen, bytearray()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        was = 0
        for _ in range(200):
            now = self.hooks()
            if now and now == was:
                return
            was = now
            time.sleep(0.2)
        raise Failed(f"{' '.join(args)} did not begin: {self.got.decode(errors='replace')[-300:]}")

    def read(self):
        try:
            while data := os.read(self.fd, 65536):
                self.got += data
                # What is of use is at the end.
                del self.got[:-4000]
        except OSError:
            pass

    def hooks(self):
        n = 0
        try:
            for fd in os.listdir(f"/proc/{self.pid}/fd"):
                link = os.readlink(f"/proc/{self.pid}/fd/{fd}")
                n += "perf_event" in link or "bpf_link" in link or "bpf-link" in link
        except OSError:
            pass
        return n

    def cpu(self):
        """s of CPU so far"""
        with open(f"/proc/{self.pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9

    def end(self):
        os.kill(self.pid, signal.SIGINT)
        if self.screen:
            os.waitpid(self.pid, 0)
        else:
            try:
                self.p.wait(20)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        self.reader.join(5)
        return self.got.decode(errors="replace")


def rate(cpuids, outs):
    """Exits of a small VM on this machine in a second of its CPU time, which others who run do not change"""
    p = subprocess.Popen([VMEXITS, "1", str(cpuids), str(outs), "0", "1", "0"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if p.stdout.readline() != "ready\n":
        raise Failed("no VM can be made on this machine")
    p.stdin.write("\n")
    p.stdin.close()
    # Its set-up and end are in it, which are nothing beside so many exits.
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = status
    if "done\n" not in p.stdout.read():
        raise Failed("a VM failed on this machine")
    return (cpuids + outs) / (usage.ru_utime + usage.ru_stime)


def native(pairs):
    loads = {"cpuid": (100000, 0), "io_user": (0, 50000)}
    perf = ["perf", "kvm", "stat", "record", "-a", "-o", "/dev/null"]
    tracers = {"top": [KVMEXT, "top", "--batch", "1"], "hist": [KVMEXT, "hist", "exit"],
               "trace": [KVMEXT, "trace", "exit"], "perf": perf}
    out = {}
    for name, args in tracers.items():
        rows = out.setdefault(name, {})
        for kind, load in loads.items():
            ratios, rates = [], []
            for i in range(pairs):
                both = {}
                # Now one goes first, now the other.
                for watched in (i % 2, 1 - i % 2):
                    w = None
                    try:
                        w = Watch(args) if watched else None
                        both[watched] = rate(*load)
                    except (Failed, OSError) as e:
                        out[name] = {"cannot": str(e)}
                    said = w.end() if w else ""
                    if "cannot" in out[name]:
                        break
                    if w and name != "perf":
                        rows["silent"] = "to user space" in said
                if len(both) < 2:
                    break
                ratios.append(both[1] / both[0])
                rates.append(both[0])
            if "cannot" in out[name]:
                break
            rows[kind] = {"exits_per_cpu_s": round(statistics.median(rates)),
                          "ratio": round(statistics.median(ratios), 3),
                          "ratios": [round(r, 3) for r in sorted(ratios)]}
    return out


def crowd(forms):
    """{form of top: % of a CPU}, how many vCPUs were real"""
    out, real = {}, None
    for form in forms:
        w = Watch([KVMEXT, "top", *([f"--{form}"] if form != "screen" else []), "1"], form == "screen")
        p = subprocess.Popen([f"{TOP}/build/tests/tool/vmcrowd", str(CROWD), str(CROWD)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        m = re.match(r"ready (\d+) (\d+)", p.stdout.readline())
        if not m:
            p.kill()
            w.end()
            raise Failed("the crowd of VMs did not come up")
        real = min(int(m[1]), real) if real is not None else int(m[1])
        # The first look at so many is not like the others.
        time.sleep(2)
        before, start = w.cpu(), time.monotonic()
        time.sleep(CROWD_SECONDS)
        out[form] = round(100 * (w.cpu() - before) / (time.monotonic() - start), 2)
        said = w.end()
        p.stdin.close()
        p.wait()
        if form == "batch":
            seen = re.findall(r"(\d+) VMs, (\d+) vCPUs", said) or re.findall(r"vmcrowd", said)
            if not seen:
                raise Failed("top did not show the crowd")
    return out, real


# --- forms -------------------------------------------------------------------------------

def tap():
    n, bad = 0, 0

    def ok(what, good, skip=None):
        nonlocal n, bad
        n += 1
        bad += not good
        print(f"{'ok' if good else 'not ok'} {n} - {what}{f' # SKIP {skip}' if skip else ''}", flush=True)

    counts = boot(["none", "top", "hist", "trace", "perf", "after"], 1)
    for name in OURS:
        for kind in KINDS:
            what = f"{name} adds {added(counts, name, kind)} instructions to an exit for {kind}"
            if "cannot" in counts["perf"]:
                ok(f"{what}: less than perf kvm stat", True, counts["perf"]["cannot"])
            else:
                other = added(counts, "perf", kind)
                ok(f"{what}: less than perf kvm stat, {other}", 0 < added(counts, name, kind) < other)
    ok(f"nothing is left when they have ended: {counts['after']['cpuid']['count']} instructions for cpuid, "
       f"{counts['none']['cpuid']['count']} before", not left_over(counts))
    why = why_not_native()
    if why:
        ok("top takes less than 5 % of a CPU for 1,000 vCPUs", True, why)
    else:
        cpu, real = crowd(["batch", "json"])
        for form, share in cpu.items():
            ok(f"top --{form} takes {share} % of a CPU for {CROWD} vCPUs, {real} of them real: less than "
               f"{CROWD_LIMIT:g} %", share < CROWD_LIMIT)
    print(f"1..{n}")
    return bad != 0


def bench(pairs):
    tracers = ["none", *TRACERS, "after"]
    counts, again = boot(tracers, ROUNDS), boot(["none", *OURS, "after"], 1)
    both = [(counts[t][k]["count"], again[t][k]["count"]) for t in again for k in KINDS
            if k in counts[t] and k in again[t]]
    apart, doubt = max(abs(percent(b, a)) for a, b in both), max(abs(b - a) for a, b in both)
    failed = []

    print("Host instructions that are added to an exit: on its path, and in all with the tracer's own work meanwhile")
    print(f"  {'':10}" + "".join(f"{k:>24}" for k in KINDS) + "    exits seen")
    made = 4096 * len(KINDS) * (ROUNDS + 1)
    for name in TRACERS:
        c = counts[name]
        # A report that comes later is work too, by CPU time at one instruction a nanosecond.
        if c.get("later"):
            c["report"] = round(c["later"] * 1e9 / c.get("saw", made))
        if "cannot" in c:
            print(f"  {name:10}  does not run here: {c['cannot']}")
            continue
        print(f"  {name:10}" + "".join(f"{added(counts, name, k):+12}{added(counts, name, k, 'mean'):+12}" for k in KINDS)
              + (f"    {100 * min(1, c['saw'] / made):.0f} %" if "saw" in c else "")
              + (f", and +{c['report']} in its report" if "report" in c else ""))
    over = dearer(counts, doubt)
    compared = [b for b in OTHERS if "cannot" not in counts[b]]
    print(f"  {'FAIL' if over or not compared else 'pass'}  each of kvmext's adds less to the path than each of "
          f"{', '.join(compared) or 'nothing else, as none runs'}" + "".join(f"; {a} not less than {b} for {k}" for a, b, k in over))
    if over or not compared:
        failed.append("dearer")
    left = left_over(counts)
    print(f"  {'FAIL' if left else 'pass'}  nothing is left when they have ended")
    if left:
        failed.append("left over")
    print(f"  two boots are at most {apart} % apart, {doubt} instructions")
    for text in unsure(counts):
        print(f"  {text}")

    result = {"machine": "emulated AMD KVM host, stock modules, 1 CPU (QEMU TCG -icount; the TSC counts instructions)",
              "measured": measured(), "kernel": read_config()["KVER"], "what": TRACERS, "exits_of_each_kind": 4096 * ROUNDS,
              "instructions": {t: c if "cannot" in c else
                               {k: {"added": added(counts, t, k), "added_in_all": added(counts, t, k, "mean")}
                                for k in KINDS} | ({"seen": c["saw"]} if "saw" in c else {}) | ({"report": c["report"]} if "report" in c else {})
                               for t, c in counts.items() if t in TRACERS},
              "without": {k: counts["none"][k]["count"] for k in KINDS}, "two_boots_differ_pct": apart}

    why = why_not_native()
    print("\nThis machine's own KVM" + (f": not measured: {why}" if why else f", {os.uname().release}"))
    if why:
        result["native"] = {"cannot": why}
    else:
        rates = native(pairs)
        for name, rows in rates.items():
            if "cannot" in rows:
                print(f"  {name:8} does not run here: {rows['cannot']}")
                continue
            for kind, r in rows.items():
                if isinstance(r, dict):
                    print(f"  {name:8} {kind:8} {r['exits_per_cpu_s']:9} exits a CPU second without; with it x {r['ratio']}"
                          f" (pairs: {' '.join(map(str, r['ratios']))})")
        if any(r.get("silent") for r in rates.values()):
            print("  this KVM does not call kvm_exit: kvmext sees exits to user space alone, perf none")
        try:
            cpu, real = crowd(["batch", "json", "screen"])
        except Failed as e:
            print(f"  top's share of a CPU was not measured: {e}")
            failed.append("crowd")
            cpu, real = {}, None
        for form, share in cpu.items():
            bad = share >= CROWD_LIMIT
            print(f"  {'FAIL' if bad else 'pass'}  top ({form}) takes {share} % of a CPU for {CROWD} vCPUs, "
                  f"{real} of them real: less than {CROWD_LIMIT:g} %")
            if bad:
                failed.append(form)
        result["native"] = {"kernel": os.uname().release, "pairs": pairs, "rates": rates,
                            "crowd": {"vcpus": CROWD, "real": real, "cpu_pct": cpu}}
    os.makedirs(os.path.dirname(f"{TOP}/{RESULT}"), exist_ok=True)
    with open(f"{TOP}/{RESULT}.new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(f.name, f"{TOP}/{RESULT}")
    print(f"  written to {RESULT}")
    return 1 if failed else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--tap", action="store_true", help="the quick form, for make test")
    p.add_argument("--pairs", type=int, default=7, help="of runs on this machine's KVM (7)")
    opts = p.parse_args()
    try:
        return tap() if opts.tap else bench(opts.pairs)
    except Failed as e:
        print(f"{'# ' if opts.tap else '  FAIL  '}{e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
