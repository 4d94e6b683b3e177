#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-exits: what an exit costs the host, in instructions from exit to entry.

In an emulated host whose TSC counts instructions (QEMU's with --icount, Bochs's with one
CPU) a guest reads the TSC round one exiting instruction, thousands of times a kind
(exits.c, with the kinds); the most frequent count is taken, and said how sure it is: how many
iterations had it, and by how much other counts that are nearly as frequent, or a second boot's,
differ. That much is its doubt. Where a limit is within the doubt the verdict is "unsure", which
is no failure: in Bochs runs are not alike to the digit.

What a table costs an OUT to user space and back is counted for a policy with no op at all, of
each table, and for the ops of interrupt routing one by one; what an interrupt costs (irq.c) with
nothing attached.

Guests that compute and exit now and then (exits -w) take instructions in all: their
own work's, which are the same, and the host's.

A thread that sleeps on the CPU of a guest that does nothing but exit (exits -l) is woken by
a timer interrupt: how late that comes is how long interrupts are off at the worst, how late
the thread runs is who waits for a vCPU.

In Bochs its debugger then says which functions an exit's instructions are in, for what is
handled in the fastpath: one exit, of stock and under same_vcpu.

Writes build/results/exits.json, for another machine exits-MACHINE.json. Exit status 1 if
patched modules with nothing attached, or under eager, cost more than LIMIT per cent over
stock for any kind; if a table costs more than ADDS says, or an interrupt more than INTERRUPT over
stock; if same_vcpu does not take LEAST per cent off those in FASTPATH, where
KVM can handle them in the fastpath at all; if adaptive does not make guests in GAIN cheaper by GAIN
per cent in all, or makes any other dearer by WORSE; or if under adaptive interrupts or threads
are later by more than LATER per cent.

With --tap, for `make test`: one boot, and stock's counts from the cache if modules,
programs, emulator and machine are what they were. A count that is not sure fails there.
"""
import argparse
import base64
import bisect
import collections
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, f"{TOP}/tests/lib")
from config import read_config     # noqa: E402
from origin import measured         # noqa: E402

PROGRAM = "build/tests/bench/exits"
IRQ = "build/tests/bench/irq"
CACHE = os.path.expanduser("~/.cache/kvm_ext")
LIMIT = 0.5    # %
LEAST, AIM = 50, 65    # % below stock, for
FASTPATH = ["cpuid", "ioeventfd", "msr_write"]
GAIN = {"cpuid": 3, "io": 3}   # % of all instructions
LATER = 10   # %
# % of all instructions, for the other loads. select() is asked each 10 ms, and takes some 1,400
# instructions: of 200,000 in Bochs, of tens of millions on hardware.
WORSE = 0.5
AGREE = 0.1
# In Bochs some kinds take six instructions less in one process than in another.
APART = {"amd": AGREE, "intel": 0.5, "bochs-amd": 0.5}
SURE = 0.9     # the part of the iterations that has a count which is sure,
RIVAL = 0.25   # and as many of those, in another count, put it in doubt
# What an OUT to user space and back may take more than with nothing attached, instructions
ADDS = {"empty_throttle": 0, "empty_irq": 0, "empty_save": 0, "empty_dirty": 0,
        "irq_route": 0, "irq_run": 150, "irq_all": 150, "save_all": 40}
INTERRUPT = 6  # what KVM_SIGNAL_MSI or a write to an irqfd may take more than on stock
BOOTS_TRIED = 3   # before a machine that died is given up
# What XCR0, XSS and PKRU of guest and host take, cycles an exit: of the series that moved them
# out of KVM's inner loop, posted on 2025-10-30. On hardware; no count of ours has them in it.
SWAP_CYCLES = {"intel": 300, "bochs-amd": 500}
MARK = "#@setup "
# Kernel text is above, all of a guest of ours below.
KERNEL = 1 << 63

BOCHS = ["--cpus=1", f"--file={PROGRAM}", f"--file={IRQ}", "--file=build/kvmext"]
# What tests/machine/run is told for it, and what it is. Stock's kvm-intel has its posted
# interrupts where Bochs does not take them, so all go without APICv.
MACHINES = {
    "amd": (["--icount"], "emulated AMD KVM host, 1 CPU (QEMU TCG -icount; the TSC counts instructions)"),
    "intel": (["--vendor-args=enable_apicv=0", *BOCHS],
              "emulated Intel KVM host, 1 CPU (Bochs; the TSC counts instructions), PML, no APICv"),
    "bochs-amd": (BOCHS, "emulated AMD KVM host, 1 CPU (Bochs; the TSC counts instructions), nrip-save, no AVIC"),
}
# Without nrip-save KVM has to decode an instruction to know its length, not with IRQs off.
NO_NRIPS = {"amd": "QEMU's SVM has no nrip-save, so nothing is handled in the fastpath here, whatever a policy says"}

# A boot: modules, and in this order what is counted in it: name, policies that are loaded
# meanwhile, kinds (none: all). The last one shows that nothing is left of a policy that is gone.
SHORT = ["cpuid", "io_user"]
BOOTS = {
    "stock": [("stock", [], [])],
    # What is counted before io_user changes it by some instructions: like with like
    "ours": [("patched", [], []), ("nothing", [], SHORT),
             *((name, [name], SHORT) for name in ADDS if not name.endswith("_all")),
             ("irq_all", ["noop_irq"], SHORT), ("save_all", ["noop_save"], SHORT),
             ("noop", ["noop", "noop_irq", "noop_save", "noop_dirty"], []), ("eager", ["eager"], []),
             ("same_vcpu", ["same_vcpu"], []), ("adaptive", ["adaptive"], []), ("after", [], [])],
}
# These also say what an interrupt costs
INTERRUPTED = ["stock", "patched", "after"]
# By the name that a policy has when it is loaded
LOADED = {"noop": "throttle:noop", "noop_irq": "irq:noop", "noop_save": "save:noop", "noop_dirty": "dirty:noop",
          **{name: f"{name.split('_')[1]}:empty" for name in ADDS if name.startswith("empty_")}}
# What is a matter of time, for the loads. By itself adaptive takes for frequent what comes each
# millisecond: on hardware each 3 million instructions, in Bochs, whose clock is slow, each 19,000.
# Once in 100 ms is as near to the former as it can be set.
SCALED = {"adaptive": "hot=1"}


class Failed(Exception):
    pass


def machine_run(machine, modules, script, *args):
    """What a shell script prints there"""
    for again in range(BOOTS_TRIED, 0, -1):
        p = subprocess.run([f"{TOP}/tests/machine/run", "--timeout=3600", "--machine", machine, *MACHINES[machine][0], "--modules",
                            modules, *args, "--", "sh", "-c", "set -e\n" + "\n".join(script)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", cwd=TOP)
        if not p.returncode:
            return p.stdout
        print("\n".join(f"# {line}" for line in p.stdout.splitlines()[-20:]), flush=True)
        # Any other status is the script's own
        if p.returncode not in (124, 125):
            break
        print(f"# the machine with {modules} modules died; {'again' if again > 1 else 'given up'}", flush=True)
    raise Failed(f"counting with {modules} modules ended with status {p.returncode}")


def path(policy):
    where = "bpf" if os.path.exists(f"{TOP}/bpf/{policy}.bpf.c") else "tests/kvm/probes"
    return f"build/{where}/{policy}.bpf.o"


def how_sure(row):
    """Of a line of exits.c: {share of the iterations, doubt in instructions, other counts: shares}"""
    had, n = row["had_it"], row["iterations"]
    also = {c: had_c for c, had_c in row.get("counts", [])[1:] if had_c >= RIVAL * had}
    return {"share": round(had / n, 3), "doubt": max((abs(c - row["count"]) for c in also), default=0),
            "also": {c: round(had_c / n, 3) for c, had_c in also.items()}}


def interrupts(row):
    """A line of irq.c as two of exits.c"""
    return [{"kind": kind, "count": row[kind], "iterations": 4096, "had_it": row[f"{kind}_had_it"]} for kind in ("msi", "irqfd")]


class Boot:
    """What was counted in one, by set-up"""

    def __init__(self):
        self.counts = {}   # {set-up: {kind: count}}
        self.irqs = {}     # the same of interrupts
        self.sure = {}     # {set-up: {kind: how_sure()}}
        self.saved = {}    # {set-up: writes of XCR0, XSS and PKRU}
        self.work = {}     # {set-up: {load: row}}
        self.late = {}     # {set-up: {way: row}}
        self.missing = []  # what could not be had

    def add(self, setup, row):
        if "load" in row:
            self.work.setdefault(setup, {})[row.pop("load")] = row
        elif "latency" in row:
            self.late.setdefault(setup, {})[row.pop("latency")] = row
        elif "kept" in row:
            self.saved[setup] = row
        elif "msi" in row:
            for r in interrupts(row):
                self.irqs.setdefault(setup, {})[r["kind"]] = r["count"]
                self.sure.setdefault(setup, {})[r["kind"]] = how_sure(r)
        else:
            self.counts.setdefault(setup, {})[row["kind"]] = row["count"]
            self.sure.setdefault(setup, {})[row["kind"]] = how_sure(row)

    def doubt(self, a, b, kind):
        """By how much a difference of two set-ups may be off, instructions"""
        return sum(self.sure.get(name, {}).get(kind, {}).get("doubt", 0) for name in (a, b))

    def second(self, other):
        """Another boot of the same: what differs is doubt. Returns the most that does, per cent, and what."""
        off = (0, "none")
        for mine, theirs in (self.counts, other.counts), (self.irqs, other.irqs):
            for name in mine.keys() & theirs.keys():
                for kind in mine[name].keys() & theirs[name].keys():
                    a, b = mine[name][kind], theirs[name][kind]
                    sure = self.sure[name][kind]
                    sure["doubt"] = max(sure["doubt"], abs(b - a))
                    sure["second_boot"] = b
                    off = max(off, (abs(percent(b, a)), f"{kind}, {name}"))
        return off

    def unsure(self):
        """[text] for each count that is not sure"""
        out = []
        for name, kinds in self.sure.items():
            for kind, s in kinds.items():
                if s["share"] >= SURE and not s["doubt"]:
                    continue
                count = self.counts.get(name, {}).get(kind) or self.irqs[name][kind]
                out.append(f"{kind}, {name}: {count} in {100 * s['share']:.0f} % of the iterations"
                           + "".join(f", {c} in {100 * share:.0f} %" for c, share in s["also"].items())
                           + (f", {s['second_boot']} in a second boot" if s.get("second_boot", count) != count else "")
                           + f": +-{s['doubt']}")
        return out


def boot(machine, modules, loads=False, short=False):
    """Count in one boot

    loads: and latency; short: without the policies that answer exits, where none is answered"""
    script, out, setup = [], Boot(), None
    for name, policies, kinds in BOOTS[modules]:
        if short and machine in NO_NRIPS and name in ("same_vcpu", "adaptive"):
            continue
        script += [f"echo '{MARK}{name}'", *(f"build/kvmext -q load {path(p)}" for p in policies)]
        script += [" ".join([PROGRAM, *kinds])]
        if not kinds:
            script += [f"{PROGRAM} -x cpuid"]
        if name in INTERRUPTED:
            script += [f"{IRQ} count"]
        if loads and not kinds:
            script += [f"build/kvmext -q set {p} {SCALED[p]}" for p in policies if p in SCALED]
            # The rest is worth having without them
            script += [f"{PROGRAM} {opt} || echo '#@missing {opt}, {name}'" for opt in ("-w", "-l")]
        script += [f"build/kvmext -q unload {LOADED.get(p, p)}" for p in policies]
    for line in machine_run(machine, modules, script).splitlines():
        if line.startswith(MARK):
            setup = line[len(MARK):].strip()
        elif line.startswith("#@missing "):
            out.missing.append(line[len("#@missing "):])
        elif line.startswith("{"):
            out.add(setup, json.loads(line))
    return out


def symbols(text):
    """Sorted addresses of a kernel's functions, and their names"""
    packed = "".join(line for line in text.splitlines() if re.fullmatch(r"[A-Za-z0-9+/=]+", line))
    syms = sorted((int(f[0], 16), " ".join(f[2:])) for f in
                  map(str.split, gzip.decompress(base64.b64decode(packed)).decode().splitlines()))
    return [a for a, _ in syms], [n for _, n in syms]


def profile(machine, modules, policy):
    """Function by function one exit of each kind: {kind: [traced, [[function, instructions]...]]}"""
    rounds, steps = 3, 6000
    script = [f"build/kvmext -q load build/bpf/{policy}.bpf.o"] if policy else []
    # By serial line: what is never executed is left out
    script += ["grep -E ' [tT] ' /proc/kallsyms | grep -v ' __pfx_' | gzip -c | base64"]
    script += [f"{PROGRAM} -r {rounds} -m {kind} >/dev/null" for kind in FASTPATH]
    stops = rounds * len(FASTPATH) * ["c", "trace on", f"s {steps}", "trace off"]
    with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
        addrs, names = symbols(machine_run(machine, modules, script, "--chatter", trace.name, "--debugger",
                                           ";".join(['setmagicbps "bx"', *stops, "c"])))
        exits, now = [], None
        for line in trace:
            if line.startswith("Tracing enabled"):
                exits.append(now := collections.Counter())
                entered = left = False
                continue
            m = re.match(r"\(0\)\.\[\d+\] \[0x[0-9a-f]+\] [0-9a-f]+:([0-9a-f]+) ", line)
            if not m or left:
                continue
            addr = int(m[1], 16)
            # The first exit behind the mark, until the guest goes on
            if addr >= KERNEL:
                entered = True
                now[names[bisect.bisect(addrs, addr) - 1]] += 1
            elif entered:
                left = True
    if len(exits) != rounds * len(FASTPATH):
        raise Failed(f"the debugger saw {len(exits)} marks, not {rounds * len(FASTPATH)}")
    out = {}
    for i, kind in enumerate(FASTPATH):
        # A timer's interrupt may be in one of them
        c = sorted(exits[i * rounds:(i + 1) * rounds], key=lambda c: c.total())[rounds // 2]
        out[kind] = [c.total(), c.most_common()]
    return out


def breakdown(machine, counts):
    """For each kind function by function: stock, same_vcpu; and what to know about it"""
    stock, ours = profile(machine, "stock", None), profile(machine, "ours", "same_vcpu")
    out, notes = {}, []
    for kind in FASTPATH:
        for name, (traced, _) in ("stock", stock[kind]), ("same_vcpu", ours[kind]):
            # A mark for the debugger moves what comes after it a bit.
            if abs(percent(traced, counts[name][kind])) > 2:
                notes.append(f"the traced {kind} exit, {name}, took {traced} instructions, most take {counts[name][kind]}")
        a, b = dict(stock[kind][1]), dict(ours[kind][1])
        order = sorted({**a, **b}, key=lambda f: (-b.get(f, 0), -a.get(f, 0), f))
        out[kind] = {"traced": {"stock": stock[kind][0], "same_vcpu": ours[kind][0]},
                     "functions": [{"function": f, "stock": a.get(f, 0), "same_vcpu": b.get(f, 0)} for f in order]}
    return out, notes


def stock_cached(machine):
    """A boot of stock, and whether it was there already. Whatever could change it is in the key."""
    cfg = read_config()
    kvm = f"{cfg['KROOT']}/lib/modules/{cfg['KREL']}/kernel/arch/x86/kvm"
    files = [f"{kvm}/{f}" for f in sorted(os.listdir(kvm))]
    files += [f"{cfg['KROOT']}/boot/vmlinuz-{cfg['KREL']}",
              f"{os.path.dirname(cfg['EMULATOR'])}/qemu" if machine == "amd"
              else f"{cfg['BOCHS']}/usr/bin/bochs-bin",
              PROGRAM, IRQ, __file__,
              *(f"tests/machine/{f}" for f in ("run", "init", "intel.py", f"{machine}.py"))]
    key = hashlib.sha256(machine.encode())
    for name in files:
        with open(os.path.join(TOP, name), "rb") as f:
            key.update(hashlib.sha256(f.read()).digest())
    path = f"{CACHE}/exits-{key.hexdigest()[:16]}.json"
    cached, out = f"{CACHE}/exits-{key.hexdigest()[:16]}.json", Boot()
    try:
        with open(cached) as f:
            out.counts, out.irqs, out.sure = json.load(f)
            return out, cached
    except (OSError, ValueError):
        pass
    out = boot(machine, "stock")
    os.makedirs(CACHE, exist_ok=True)
    with open(f"{cached}.{os.getpid()}", "w") as f:
        json.dump([out.counts, out.irqs, out.sure], f)
    os.rename(f.name, cached)
    return out, None


def percent(count, base):
    return round(100 * (count - base) / base, 2)


def in_all(loads, setup, load):
    """By how much a load takes more instructions in all than on stock, %"""
    return percent(*(loads[s][load]["guest"] + loads[s][load]["host"] for s in (setup, "stock")))


def later(late, setup, way, what, which):
    """By how much more an interrupt or a thread is late than on stock, %"""
    return percent(*(late[s][way][what][which] for s in (setup, "stock")))


def verdict(value, most, doubt=0):
    """True or False: it is at most that, or not; None: which of the two is in doubt"""
    return True if value <= most else None if value - doubt <= most else False


def doubts(doubt, unit):
    return f" (+-{doubt:g}{unit})" if doubt else ""


def above(out, a, b, counts):
    """By how much set-up a takes more than b at the worst: kind, per cent, doubt"""
    over = {k: (percent(n, counts[b][k]), round(100 * out.doubt(a, b, k) / counts[b][k], 2))
            for k, n in counts[a].items() if k in counts[b]}
    # What is least likely to be within a limit first
    worst = max(over, key=lambda k: (over[k][0] - over[k][1], over[k][0]))
    return (worst, *over[worst])


def checks(machine, out):
    """What has to hold, of a Boot of all: [(verdict, what it is)]"""
    counts, rows = out.counts, []
    loads, late = out.work, out.late
    for load in loads["stock"] if loads and machine not in NO_NRIPS else []:
        more, most = in_all(loads, "adaptive", load), -GAIN[load] if load in GAIN else WORSE
        rows.append((more <= most, f"the {load} load under adaptive at most {most:+} % of all instructions: {more:+} %"))
    if late and machine not in NO_NRIPS:
        most = [max(w["interrupt"]["max"] for w in late[name].values()) for name in ("adaptive", "stock")]
        rows.append((percent(*most) <= LATER, f"under adaptive the latest interrupt at most {LATER} % later: {percent(*most):+} %"))
        # At worst a normal thread waits for a slice of the scheduler's
        more, way, which = max((later(late, "adaptive", way, "wakeup", which), way, which) for way in late["stock"]
                               for which in ("median", "p99") if which == "median" or "FIFO" in way)
        rows.append((more <= LATER, f"under adaptive threads at most {LATER} % later: {which} of {way} {more:+} %"))
    for name in "patched", "eager":
        what = "with nothing attached" if name == "patched" else "under eager"
        worst, over, doubt = above(out, name, "stock", counts)
        rows.append((verdict(over, LIMIT, doubt), f"{what} at most {LIMIT} % above stock: {worst} {over:+} %{doubts(doubt, ' %')}"))
    for name, most in ADDS.items():
        more, doubt = counts[name]["io_user"] - counts["nothing"]["io_user"], out.doubt(name, "nothing", "io_user")
        rows.append((verdict(more, most, doubt), f"io_user under {name} at most {most:+} instructions: {more:+}{doubts(doubt, '')}"))
    for kind, base in out.irqs["stock"].items():
        more, doubt = out.irqs["patched"][kind] - base, out.doubt("patched", "stock", kind)
        rows.append((verdict(more, INTERRUPT, doubt), f"{kind} with nothing attached at most {INTERRUPT:+} instructions: "
                     f"{more:+} of {base}{doubts(doubt, '')}"))
    if machine not in NO_NRIPS:
        for kind in FASTPATH:
            less, base = -percent(counts["same_vcpu"][kind], counts["stock"][kind]), counts["stock"][kind]
            doubt = round(100 * out.doubt("same_vcpu", "stock", kind) / base, 2)
            rows.append((verdict(-less, -LEAST, doubt), f"{kind} under same_vcpu at least {LEAST} % below stock "
                         f"(aim: {AIM} %): {less} %{doubts(doubt, ' %')}"))
    for left, what in (counts, "exits"), (out.irqs, "interrupts"):
        (worst, over, doubt), (_, under, doubt2) = above(out, "after", "patched", left), above(out, "patched", "after", left)
        rows.append((verdict(max(over, under), APART[machine], max(doubt, doubt2)),
                     f"{what}: the same (within {APART[machine]} %) after all policies were unloaded: {worst} {over:+} %{doubts(doubt, ' %')}"))
    return rows


def tap(machine):
    out, where = stock_cached(machine)
    print(f"# stock: counted before, {where}" if where else "# stock: counted now", flush=True)
    ours = boot(machine, "ours", short=True)
    for name in "counts", "irqs", "sure":
        getattr(out, name).update(getattr(ours, name))
    for counts in out.counts, out.irqs:
        for kind, base in counts["stock"].items():
            print(f"# {kind}: {base} instructions on stock"
                  + "".join(f", {counts[name][kind]} {name}" for name in counts if name != "stock" and kind in counts[name]))
    if machine in NO_NRIPS:
        print(f"# {NO_NRIPS[machine]}")
    results = [(all(kinds.keys() == out.counts["stock"].keys() for name, kinds in out.counts.items() if name not in ("nothing", *ADDS)),
                "the same kinds of exits were counted")]
    unsure = out.unsure()
    results += [(not unsure, f"every count is that of {100 * SURE:.0f} % of its iterations at least" + "".join(f"; {u}" for u in unsure))]
    results += checks(machine, out)
    print(f"1..{len(results)}")
    for n, (ok, what) in enumerate(results, 1):
        print(f"{'ok' if ok else 'not ok'} {n} {what}")
    return 0 if all(ok for ok, _ in results) else 1


def bench(machine):
    out, off = Boot(), (0, "none")
    for modules in BOOTS:
        first = boot(machine, modules, loads=True)
        off = max(off, first.second(boot(machine, modules)))
        for name in "counts", "irqs", "sure", "saved", "work", "late":
            getattr(out, name).update(getattr(first, name))
        out.missing += first.missing
    # What is not there for one set-up cannot be compared
    full = [name for name, _, kinds in sum(BOOTS.values(), []) if not kinds]
    for rows in out.work, out.late:
        if any(name not in rows for name in full):
            rows.clear()
    counts, saved, loads, late = out.counts, out.saved, out.work, out.late
    rows = []
    for kind, base in counts["stock"].items():
        row = {"kind": kind, "stock": base}
        for name in counts:
            if name not in ("stock", "after") and kind in counts[name]:
                row[name] = counts[name][kind]
                row[f"{name}_pct"] = percent(counts[name][kind], base)
        rows.append(row)
    results = checks(machine, out)
    notes = [f"two boots of each are at most {off[0]} % apart ({off[1]})", *out.unsure(),
             *(f"not to be had: exits {what}" for what in out.missing)]
    table = None
    if machine != "amd":
        try:
            table, said = breakdown(machine, counts)
            notes += said
        except Failed as e:
            notes.append(f"no breakdown by function: {e}")

    cfg = read_config()
    result = {
        "machine": MACHINES[machine][1],
        "measured": measured(),
        "kernel": cfg["KVER"],
        "limit_pct": LIMIT,
        "two_boots_differ_pct": off[0],
        "exits": rows,
        "interrupts": out.irqs,
        "sure": out.sure,
        # With a guest that has an XCR0 and PKRU of its own
        "xcr0_xss_pkru_writes": saved,
        "estimate_cycles_saved_an_exit": SWAP_CYCLES.get(machine),
        # Instructions: of the guest's own work, all others
        "loads": loads,
        # Instructions from when a timer was due
        "late": late,
        "breakdown": table,
        # null: in doubt
        "checks": [{"ok": ok, "what": what} for ok, what in results],
        "notes": notes,
    }
    file = f"build/results/exits{'' if machine == 'amd' else f'-{machine}'}.json"
    os.makedirs(f"{TOP}/build/results", exist_ok=True)
    with open(f"{TOP}/{file}.new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(f.name, f"{TOP}/{file}")

    names = [n for n in full if n not in ("stock", "after")]
    print(f"  {'exit':14} {'stock':>6}" + "".join(f" {n:>17}" for n in names))
    for r in rows:
        print(f"  {r['kind']:14} {r['stock']:6}" + "".join(f" {r[n]:6} {r[f'{n}_pct']:+8.2f} %" for n in names))
    print()
    print(f"  {'guest that':14} {'stock':>6}" + "".join(f" {n:>17}" for n in names)
          + "   its work's instructions for one of the host's; all, against stock; exits handled in the fastpath;"
          + " host's instructions for 1,000 of its work")
    for load, stock in loads.get("stock", {}).items():
        print(f"  {load:14} {stock['guest'] / max(stock['host'], 1):6.2f}"
              + "".join(f" {loads[n][load]['guest'] / max(loads[n][load]['host'], 1):6.2f} {in_all(loads, n, load):+8.2f} %"
                        for n in names)
              + "   " + ", ".join(f"{n} {100 * loads[n][load]['resumed'] / loads[n][load]['exits']:.0f} %"
                                  for n in ("same_vcpu", "adaptive") if loads[n][load]["exits"])
              + "; " + ", ".join(f"{n} {1000 * loads[n][load]['host'] / loads[n][load]['guest']:.0f}"
                                 for n in ("stock", "same_vcpu", "adaptive")))
    print()
    print(f"  {'how late, instructions: median, 99th percentile, most':54} {'stock':>20}"
          + "".join(f" {n:>20}" for n in names))
    for way, stock in late.get("stock", {}).items():
        for what in stock:
            print(f"  {f'{what}, guest of {way}':54}" + "".join(
                f" {late[n][way][what]['median']:6} {late[n][way][what]['p99']:6} {late[n][way][what]['max']:6}"
                for n in ("stock", *names)))
    print()
    for name, w in saved.items():
        print(f"  {name}: of {w['exits']} exits of a guest with its own XCR0 and PKRU {w['resumed']} were answered on "
              f"the spot; XCR0, XSS and PKRU were written {w['swapped']} times, {w['kept']} times more without it"
              + (f"; an estimate, by the {SWAP_CYCLES[machine]} cycles that upstream gives for an exit: "
                 f"{w['resumed'] * SWAP_CYCLES[machine]:,} cycles less on hardware"
                 if w["kept"] and machine in SWAP_CYCLES else ""))
    for kind, t in (table or {}).items():
        print(f"\n  one {kind} exit, function by function (traced in Bochs's debugger): {'stock':>8} {'same_vcpu':>10}")
        for f in t["functions"]:
            print(f"    {f['function']:68} {f['stock'] or '':>8} {f['same_vcpu'] or '':>10}")
        print(f"    {'in all':68} {t['traced']['stock']:8} {t['traced']['same_vcpu']:10}")
    print()
    if machine in NO_NRIPS:
        print(f"  {NO_NRIPS[machine]}")
    for note in notes:
        print(f"  {note}")
    for ok, what in results:
        print(f"  { {True: 'pass', None: 'unsure', False: 'FAIL'}[ok]:6}  {what}")
    print(f"  written to {file}")
    return 1 if any(ok is False for ok, _ in results) else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--machine", choices=MACHINES, default="amd")
    p.add_argument("--tap", action="store_true", help="the quick form, for make test")
    opts = p.parse_args()
    try:
        return (tap if opts.tap else bench)(opts.machine)
    except Failed as e:
        print(f"{'# ' if opts.tap else '  FAIL  '}{e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
