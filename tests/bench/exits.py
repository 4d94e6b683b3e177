#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-exits: what an exit costs the host, in instructions from exit to entry.

In an emulated host whose TSC counts instructions (the AMD one with --icount, the Intel one
with one CPU) a guest reads the TSC round one exiting instruction, thousands of times a kind
(exits.c, with the kinds); the most frequent count is taken. Each set-up is counted in two
boots, which must agree: within APART per cent, as now and then a boot is an instruction off
(on Intel a few: Bochs's runs are not alike to the digit).

Writes build/results/exits.json, for --machine intel exits-intel.json. Exit status 1 if patched modules with nothing attached
cost more than LIMIT per cent over stock for any kind, or two boots do not agree.

With --tap, for `make test`: one boot, and stock's counts from the cache if modules,
program, emulator and machine are what they were.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PROGRAM = "build/tests/bench/exits"
CACHE = os.path.expanduser("~/.cache/kvm_ext")
LIMIT = 0.5    # %
AGREE = 0.1
APART = {"amd": AGREE, "intel": 0.3}
TYPICAL = {"amd": 0.9, "intel": 0.5}   # the least part of the iterations that has the count
MARK = "#@setup "

# What tests/machine/run is told for it, and what it is. Stock's kvm-intel has its posted
# interrupts where Bochs does not take them, so all go without APICv.
MACHINES = {
    "amd": (["--icount"], "emulated AMD KVM host, 1 CPU (QEMU TCG -icount; the TSC counts instructions)"),
    "intel": (["--cpus=1", "--vendor-args=enable_apicv=0", f"--file={PROGRAM}", "--file=build/kvmext"],
              "emulated Intel KVM host, 1 CPU (Bochs; the TSC counts instructions), PML, no APICv"),
}

# A boot: modules, and in this order what is counted in it: name, policy that is loaded
# meanwhile. The last one shows that nothing is left of a policy that is gone.
BOOTS = {
    "stock": [("stock", None)],
    "ours": [("patched", None), ("noop", "noop"), ("after", None)],
}


class Failed(Exception):
    pass


def config():
    with open(f"{TOP}/build/config.mk") as f:
        return dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line and line[0] != "#")


def boot(machine, modules):
    """Count in one boot: {set-up: {kind: count}}"""
    script = ["set -e"]
    for name, policy in BOOTS[modules]:
        script.append(f"echo '{MARK}{name}'")
        if policy:
            script.append(f"build/kvmext -q load build/bpf/{policy}.bpf.o")
        script.append(PROGRAM)
        if policy:
            script.append(f"build/kvmext -q unload {policy}")
    p = subprocess.run([f"{TOP}/tests/machine/run", "--machine", machine, *MACHINES[machine][0], "--modules",
                        modules, "--", "sh", "-c", "\n".join(script)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=TOP)
    if p.returncode:
        print("\n".join(f"# {line}" for line in p.stdout.splitlines()))
        raise Failed(f"counting with {modules} modules ended with status {p.returncode}")
    out, setup = {}, None
    for line in p.stdout.splitlines():
        if line.startswith(MARK):
            setup = out.setdefault(line[len(MARK):].strip(), {})
            continue
        row = json.loads(line)
        if row["had_it"] < TYPICAL[machine] * row["iterations"]:
            raise Failed(f"{row['kind']} with {modules} modules: no count is typical: only "
                         f"{row['had_it']} of {row['iterations']} are {row['count']}")
        setup[row["kind"]] = row["count"]
    return out


def stock_cached(machine):
    """Stock's counts, and whether they were there already. Whatever could change them is in the key."""
    cfg = config()
    kvm = f"{cfg['KROOT']}/lib/modules/{cfg['KREL']}/kernel/arch/x86/kvm"
    files = [f"{kvm}/{f}" for f in sorted(os.listdir(kvm))]
    files += [f"{cfg['KROOT']}/boot/vmlinuz-{cfg['KREL']}", cfg["QEMU"] if machine == "amd" else f"{cfg['BOCHS']}/usr/bin/bochs-bin", PROGRAM, __file__,
              *(f"tests/machine/{f}" for f in ("run", "init", f"{machine}.py"))]
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
    counts = boot(machine, "stock")["stock"]
    os.makedirs(CACHE, exist_ok=True)
    with open(f"{path}.{os.getpid()}", "w") as f:
        json.dump(counts, f)
    os.rename(f.name, path)
    return counts, None


def percent(count, base):
    return round(100 * (count - base) / base, 2)


def apart(a, b):
    """By how much two {kind: count} differ at most, per cent; None if they have not the same kinds."""
    if a.keys() != b.keys():
        return None
    return max(abs(percent(b[kind], a[kind])) for kind in a)


def agree(machine, a, b):
    return apart(a, b) is not None and apart(a, b) <= APART[machine]


def tap(machine):
    stock, where = stock_cached(machine)
    print(f"# stock: counted before, {where}" if where else "# stock: counted now", flush=True)
    ours = boot(machine, "ours")
    print(f"1..{len(stock) + 1}")
    failed = 0
    for n, (kind, base) in enumerate(stock.items(), 1):
        count = ours["patched"].get(kind, 0)
        ok = count and percent(count, base) <= LIMIT
        failed += not ok
        print(f"{'ok' if ok else 'not ok'} {n} {kind}: {base} instructions on stock, {count} patched with "
              f"nothing attached ({percent(count, base):+} %), {ours['noop'].get(kind)} under noop")
    same = agree(machine, ours["patched"], ours["after"])
    if not same:
        print(f"# before: {ours['patched']}\n# after: {ours['after']}")
    print(f"{'ok' if same else 'not ok'} {len(stock) + 1} the same (within {APART[machine]} %) after noop was unloaded")
    return 1 if failed or not same else 0


def bench(machine):
    counts, off = {}, 0
    for modules in BOOTS:
        first, second = boot(machine, modules), boot(machine, modules)
        for name in first:
            between = apart(first[name], second[name])
            off = 100 if between is None else max(off, between)
        counts.update(first)
    rows = []
    for kind, base in counts["stock"].items():
        row = {"kind": kind, "stock": base}
        for name in counts:
            if name not in ("stock", "after"):
                row[name] = counts[name][kind]
                row[f"{name}_pct"] = percent(counts[name][kind], base)
        rows.append(row)
    over = [r for r in rows if r["patched_pct"] > LIMIT]
    left = not agree(machine, counts["patched"], counts["after"])

    cfg = config()
    result = {
        "machine": MACHINES[machine][1],
        "kernel": cfg["KVER"],
        "limit_pct": LIMIT,
        "two_boots_differ_pct": off,
        "exits": rows,
    }
    path = f"build/results/exits{'' if machine == 'amd' else f'-{machine}'}.json"
    os.makedirs(f"{TOP}/build/results", exist_ok=True)
    with open(f"{TOP}/{path}.new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(f.name, f"{TOP}/{path}")

    print(f"  {'exit':14} {'stock':>7} {'patched':>9} {'':>8} {'noop':>9}")
    for r in rows:
        print(f"  {r['kind']:14} {r['stock']:7} {r['patched']:9} {r['patched_pct']:+7.2f} %"
              f" {r['noop']:9} {r['noop_pct']:+7.2f} %")
    print()
    print(f"  {'FAIL' if off > APART[machine] else 'pass'}  two boots of each agree: at most {off} % apart")
    print(f"  {'FAIL' if left else 'pass'}  the same with nothing attached after noop was unloaded")
    print(f"  {'FAIL' if over else 'pass'}  patched with nothing attached is at most {LIMIT} % above stock"
          + "".join(f"; {r['kind']} {r['patched_pct']:+} %" for r in over))
    print(f"  written to {path}")
    return 1 if over or left or off > APART[machine] else 0


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
