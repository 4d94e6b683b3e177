#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-exits: what an exit costs the host, in instructions from exit to entry.

In an emulated host whose TSC counts instructions (QEMU's with --icount, Bochs's with one
CPU) a guest reads the TSC round one exiting instruction, thousands of times a kind
(exits.c, with the kinds); the most frequent count is taken. Each set-up is counted in two
boots, which must agree: within APART per cent, as now and then a boot is an instruction off
(in Bochs a few: its runs are not alike to the digit).

Guests that compute and exit now and then (exits -w) take instructions in all: their
own work's, which are the same, and the host's.

A thread that sleeps on the CPU of a guest that does nothing but exit (exits -l) is woken by
a timer interrupt: how late that comes is how long interrupts are off at the worst, how late
the thread runs is who waits for a vCPU.

In Bochs its debugger then says which functions an exit's instructions are in, for what is
answered on the spot: one exit, of stock and under same_vcpu.

Writes build/results/exits.json, for another machine exits-MACHINE.json. Exit status 1 if
patched modules with nothing attached, or under eager, cost more than LIMIT per cent over
stock for any kind; if same_vcpu does not take LEAST per cent off those in ON_THE_SPOT, where
KVM can answer on the spot at all; if adaptive does not make guests in GAIN cheaper by GAIN
per cent in all, or makes any other dearer by WORSE; if under adaptive interrupts or threads
are later by more than LATER per cent; or if two boots do not agree.

With --tap, for `make test`: one boot, and stock's counts from the cache if modules,
program, emulator and machine are what they were.
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
PROGRAM = "build/tests/bench/exits"
CACHE = os.path.expanduser("~/.cache/kvm_ext")
LIMIT = 0.5    # %
LEAST, AIM = 50, 65    # % below stock, for
ON_THE_SPOT = ["cpuid", "ioeventfd", "msr_write"]
GAIN = {"cpuid": 3, "io": 3}   # % of all instructions
LATER = 10   # %
# % of all instructions, for the other loads. select() is asked each 10 ms, and takes some 1,400
# instructions: of 200,000 in Bochs, of tens of millions on hardware.
WORSE = 0.5
AGREE = 0.1
# In Bochs some kinds take six instructions less in one boot or process than in another.
APART = {"amd": AGREE, "intel": 0.5, "bochs-amd": 0.5}
TYPICAL = {"amd": 0.9, "intel": 0.5, "bochs-amd": 0.4}   # the least part of the iterations that has the count
# What XCR0, XSS and PKRU of guest and host take, cycles an exit: of the series that moved them
# out of KVM's inner loop, posted on 2025-10-30. On hardware; no count of ours has them in it.
SWAP_CYCLES = {"intel": 300, "bochs-amd": 500}
MARK = "#@setup "
# Kernel text is above, all of a guest of ours below.
KERNEL = 1 << 63

BOCHS = ["--cpus=1", f"--file={PROGRAM}", "--file=build/kvmext"]
# What tests/machine/run is told for it, and what it is. Stock's kvm-intel has its posted
# interrupts where Bochs does not take them, so all go without APICv.
MACHINES = {
    "amd": (["--icount"], "emulated AMD KVM host, 1 CPU (QEMU TCG -icount; the TSC counts instructions)"),
    "intel": (["--vendor-args=enable_apicv=0", *BOCHS],
              "emulated Intel KVM host, 1 CPU (Bochs; the TSC counts instructions), PML, no APICv"),
    "bochs-amd": (BOCHS, "emulated AMD KVM host, 1 CPU (Bochs; the TSC counts instructions), nrip-save, no AVIC"),
}
# Without nrip-save KVM has to decode an instruction to know its length, not with IRQs off.
NO_NRIPS = {"amd": "QEMU's SVM has no nrip-save, so nothing is answered on the spot here, whatever a policy says"}

# A boot: modules, and in this order what is counted in it: name, policies that are loaded
# meanwhile. The last one shows that nothing is left of a policy that is gone.
BOOTS = {
    "stock": [("stock", [])],
    "ours": [("patched", []), ("noop", ["noop", "noop_irq", "noop_save"]), ("eager", ["eager"]),
             ("same_vcpu", ["same_vcpu"]), ("adaptive", ["adaptive"]), ("after", [])],
}
# By the name that a policy has when it is loaded
LOADED = {"noop_irq": "irq:noop", "noop_save": "save:noop"}
# What is a matter of time, for the loads. By itself adaptive takes for frequent what comes each
# millisecond: on hardware each 3 million instructions, in Bochs, whose clock is slow, each 19,000.
# Once in 100 ms is as near to the former as it can be set.
SCALED = {"adaptive": "hot=1"}


class Failed(Exception):
    pass


def config():
    with open(f"{TOP}/build/config.mk") as f:
        return dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line and line[0] != "#")


def machine_run(machine, modules, script, *args):
    """What a shell script prints there"""
    p = subprocess.run([f"{TOP}/tests/machine/run", "--timeout=3600", "--machine", machine, *MACHINES[machine][0], "--modules",
                        modules, *args, "--", "sh", "-c", "set -e\n" + "\n".join(script)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", cwd=TOP)
    if p.returncode:
        print("\n".join(f"# {line}" for line in p.stdout.splitlines()[-20:]))
        raise Failed(f"counting with {modules} modules ended with status {p.returncode}")
    return p.stdout


def boot(machine, modules, loads=False, short=False):
    """Count in one boot: {set-up: {kind: count}}, {set-up: writes of XCR0, XSS and PKRU},
    {set-up: {load: row}}, {set-up: {way: row}}

    loads: and latency; short: without the policies that answer exits, where none is answered"""
    script = []
    for name, policies in BOOTS[modules]:
        if short and machine in NO_NRIPS and name in ("same_vcpu", "adaptive"):
            continue
        script += [f"echo '{MARK}{name}'", *(f"build/kvmext -q load build/bpf/{p}.bpf.o" for p in policies)]
        script += [PROGRAM, f"{PROGRAM} -x cpuid"]
        if loads:
            script += [*(f"build/kvmext -q set {p} {SCALED[p]}" for p in policies if p in SCALED),
                       f"{PROGRAM} -w", f"{PROGRAM} -l"]
        script += [f"build/kvmext -q unload {LOADED.get(p, p)}" for p in policies]
    out, saved, work, late, setup = {}, {}, {}, {}, None
    for line in machine_run(machine, modules, script).splitlines():
        if line.startswith(MARK):
            setup = line[len(MARK):].strip()
            continue
        row = json.loads(line)
        if "load" in row:
            work.setdefault(setup, {})[row.pop("load")] = row
            continue
        if "latency" in row:
            late.setdefault(setup, {})[row.pop("latency")] = row
            continue
        if "kept" in row:
            saved[setup] = row
            continue
        # adaptive may change its mind meanwhile
        if setup != "adaptive" and row["had_it"] < TYPICAL[machine] * row["iterations"]:
            raise Failed(f"{row['kind']} with {modules} modules: no count is typical: only "
                         f"{row['had_it']} of {row['iterations']} are {row['count']}")
        out.setdefault(setup, {})[row["kind"]] = row["count"]
    return out, saved, work, late


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
    script += [f"{PROGRAM} -r {rounds} -m {kind} >/dev/null" for kind in ON_THE_SPOT]
    stops = rounds * len(ON_THE_SPOT) * ["c", "trace on", f"s {steps}", "trace off"]
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
    if len(exits) != rounds * len(ON_THE_SPOT):
        raise Failed(f"the debugger saw {len(exits)} marks, not {rounds * len(ON_THE_SPOT)}")
    out = {}
    for i, kind in enumerate(ON_THE_SPOT):
        # A timer's interrupt may be in one of them
        c = sorted(exits[i * rounds:(i + 1) * rounds], key=lambda c: c.total())[rounds // 2]
        out[kind] = [c.total(), c.most_common()]
    return out


def breakdown(machine, counts):
    """For each kind function by function: stock, same_vcpu"""
    stock, ours = profile(machine, "stock", None), profile(machine, "ours", "same_vcpu")
    out = {}
    for kind in ON_THE_SPOT:
        for name, (traced, _) in ("stock", stock[kind]), ("same_vcpu", ours[kind]):
            # A mark for the debugger moves what comes after it a bit.
            if abs(percent(traced, counts[name][kind])) > 2:
                raise Failed(f"one {kind} exit, {name}, took {traced} instructions, most take {counts[name][kind]}")
        a, b = dict(stock[kind][1]), dict(ours[kind][1])
        order = sorted({**a, **b}, key=lambda f: (-b.get(f, 0), -a.get(f, 0), f))
        out[kind] = {"traced": {"stock": stock[kind][0], "same_vcpu": ours[kind][0]},
                     "functions": [{"function": f, "stock": a.get(f, 0), "same_vcpu": b.get(f, 0)} for f in order]}
    return out


def stock_cached(machine):
    """Stock's counts, and whether they were there already. Whatever could change them is in the key."""
    cfg = config()
    kvm = f"{cfg['KROOT']}/lib/modules/{cfg['KREL']}/kernel/arch/x86/kvm"
    files = [f"{kvm}/{f}" for f in sorted(os.listdir(kvm))]
    files += [f"{cfg['KROOT']}/boot/vmlinuz-{cfg['KREL']}", cfg["QEMU"] if machine == "amd" else f"{cfg['BOCHS']}/usr/bin/bochs-bin",
              PROGRAM, __file__,
              *(f"tests/machine/{f}" for f in ("run", "init", "intel.py", f"{machine}.py"))]
    key = hashlib.sha256(machine.encode())
    for name in files:
        with open(os.path.join(TOP, name), "rb") as f:
            key.update(hashlib.sha256(f.read()).digest())
    path = f"{CACHE}/exits-{key.hexdigest()[:16]}.json"
    try:
        with open(path) as f:
            return json.load(f), path
    except (OSError, ValueError):
        pass
    counts = boot(machine, "stock")[0]["stock"]
    os.makedirs(CACHE, exist_ok=True)
    with open(f"{path}.{os.getpid()}", "w") as f:
        json.dump(counts, f)
    os.rename(f.name, path)
    return counts, None


def percent(count, base):
    return round(100 * (count - base) / base, 2)


def apart(a, b):
    """By how much two {kind: count} differ at most, per cent, and what does; 100 if they have not the same kinds."""
    if a.keys() != b.keys():
        return 100, "kinds"
    return max((abs(percent(b[kind], a[kind])), kind) for kind in a)


def agree(machine, a, b):
    return apart(a, b)[0] <= APART[machine]


def in_all(loads, setup, load):
    """By how much a load takes more instructions in all than on stock, %"""
    return percent(*(loads[s][load]["guest"] + loads[s][load]["host"] for s in (setup, "stock")))


def later(late, setup, way, what, which):
    """By how much more an interrupt or a thread is late than on stock, %"""
    return percent(*(late[s][way][what][which] for s in (setup, "stock")))


def checks(machine, counts, loads=None, late=None):
    """What has to hold: [(whether it does, what it is)]"""
    out = []
    for load in loads["stock"] if loads and machine not in NO_NRIPS else []:
        more, most = in_all(loads, "adaptive", load), -GAIN[load] if load in GAIN else WORSE
        out.append((more <= most, f"the {load} load under adaptive at most {most:+} % of all instructions: {more:+} %"))
    if late and machine not in NO_NRIPS:
        most = [max(w["interrupt"]["max"] for w in late[name].values()) for name in ("adaptive", "stock")]
        out.append((percent(*most) <= LATER, f"under adaptive the latest interrupt at most {LATER} % later: {percent(*most):+} %"))
        # At worst a normal thread waits for a slice of the scheduler's
        more, way, which = max((later(late, "adaptive", way, "wakeup", which), way, which) for way in late["stock"]
                               for which in ("median", "p99") if which == "median" or "FIFO" in way)
        out.append((more <= LATER, f"under adaptive threads at most {LATER} % later: {which} of {way} {more:+} %"))
    for name in "patched", "eager":
        over = {k: percent(n, counts["stock"][k]) for k, n in counts[name].items()}
        what = "with nothing attached" if name == "patched" else "under eager"
        worst = max(over, key=over.get)
        out.append((over[worst] <= LIMIT, f"{what} at most {LIMIT} % above stock: {worst} {over[worst]:+} %"))
    if machine not in NO_NRIPS:
        for kind in ON_THE_SPOT:
            less = -percent(counts["same_vcpu"][kind], counts["stock"][kind])
            out.append((less >= LEAST, f"{kind} under same_vcpu at least {LEAST} % below stock (aim: {AIM} %): {less} %"))
    out.append((agree(machine, counts["patched"], counts["after"]),
                f"the same (within {APART[machine]} %) after all policies were unloaded"))
    return out


def tap(machine):
    stock, where = stock_cached(machine)
    print(f"# stock: counted before, {where}" if where else "# stock: counted now", flush=True)
    counts = {"stock": stock, **boot(machine, "ours", short=True)[0]}
    for kind, base in stock.items():
        print(f"# {kind}: {base} instructions on stock"
              + "".join(f", {counts[name].get(kind)} {name}" for name in counts if name != "stock"))
    if machine in NO_NRIPS:
        print(f"# {NO_NRIPS[machine]}")
    results = [(counts["patched"].keys() == stock.keys(), "the same kinds of exits were counted")]
    results += checks(machine, counts)
    print(f"1..{len(results)}")
    for n, (ok, what) in enumerate(results, 1):
        print(f"{'ok' if ok else 'not ok'} {n} {what}")
    return 0 if all(ok for ok, _ in results) else 1


def bench(machine):
    counts, saved, loads, late, off = {}, {}, {}, {}, (0, "none")
    for modules in BOOTS:
        (first, writes, work, waits), (second, *_) = boot(machine, modules, loads=True), boot(machine, modules)
        loads.update(work)
        late.update(waits)
        for name in first:
            between, kind = apart(first[name], second[name])
            off = max(off, (between, f"{kind}, {name}"))
        counts.update(first)
        saved.update(writes)
    rows = []
    for kind, base in counts["stock"].items():
        row = {"kind": kind, "stock": base}
        for name in counts:
            if name not in ("stock", "after"):
                row[name] = counts[name][kind]
                row[f"{name}_pct"] = percent(counts[name][kind], base)
        rows.append(row)
    results = [(off[0] <= APART[machine], f"two boots of each agree: at most {off[0]} % apart ({off[1]})"), *checks(machine, counts, loads, late)]
    table = None if machine == "amd" else breakdown(machine, counts)

    cfg = config()
    result = {
        "machine": MACHINES[machine][1],
        "kernel": cfg["KVER"],
        "limit_pct": LIMIT,
        "two_boots_differ_pct": off[0],
        "exits": rows,
        # With a guest that has an XCR0 and PKRU of its own
        "xcr0_xss_pkru_writes": saved,
        "estimate_cycles_saved_an_exit": SWAP_CYCLES.get(machine),
        # Instructions: of the guest's own work, all others
        "loads": loads,
        # Instructions from when a timer was due
        "late": late,
        "breakdown": table,
        "checks": [{"ok": ok, "what": what} for ok, what in results],
    }
    path = f"build/results/exits{'' if machine == 'amd' else f'-{machine}'}.json"
    os.makedirs(f"{TOP}/build/results", exist_ok=True)
    with open(f"{TOP}/{path}.new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(f.name, f"{TOP}/{path}")

    names = [n for n in counts if n not in ("stock", "after")]
    print(f"  {'exit':14} {'stock':>6}" + "".join(f" {n:>17}" for n in names))
    for r in rows:
        print(f"  {r['kind']:14} {r['stock']:6}" + "".join(f" {r[n]:6} {r[f'{n}_pct']:+8.2f} %" for n in names))
    print()
    print(f"  {'guest that':14} {'stock':>6}" + "".join(f" {n:>17}" for n in names)
          + "   its work's instructions for one of the host's; all, against stock; exits answered on the spot;"
          + " host's instructions for 1,000 of its work")
    for load, stock in loads["stock"].items():
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
    for way, stock in late["stock"].items():
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
    for ok, what in results:
        print(f"  {'pass' if ok else 'FAIL'}  {what}")
    print(f"  written to {path}")
    return 0 if all(ok for ok, _ in results) else 1


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
