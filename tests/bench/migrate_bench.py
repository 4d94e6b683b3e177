#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-migrate: every way to throttle, on the same guest, link and host.

  RUNS=N     repeat all modes N times; the modes' figures are medians
  SWEEP=1    vary the load too (rate, working set, writers, pattern), converge against
             QEMU's auto-converge, one run each

Writes build/results/migrate.json and says whether converge meets its targets; the exit
status is 1 if it does not. Measures on a machine with something else to do mean nothing:
each row has the rate at which the guest really wrote, and a warning says when it was too low.
"""

import argparse
import json
import os
import shlex
import statistics
import sys

import migrate_rows
import migrate
from origin import measured

NUMBERS = ("total_ms", "downtime_ms", "rounds", "sent_mib", "v0_share", "v1_share", "v1_worst2s")
RESULT = os.path.join(migrate_rows.TOP, "build/results/migrate.json")

# One at a time from the load of the other runs: 40 MiB/s over 64 MiB by one vCPU of two, in order.
# Working sets above what 192 MiB of guest can hold get a bigger guest.
SWEEP = [
    {"rate": 10}, {"rate": 20}, {"rate": 80},
    {"ws": 16}, {"ws": 32}, {"ws": 128, "mem": 256},
    {"writers": 2, "cpus": 3},
    {"pattern": "rand"}, {"pattern": "rand", "rate": 80},
]


def median(rows, key):
    values = [r[key] for r in rows if r.get(key) is not None]
    if not values:
        return None
    return round(statistics.median(values), 2)


def summary(mode, rows):
    """One mode's figures: medians over the runs that ended as most did."""
    states = [r["status"] for r in rows]
    status = max(set(states), key=lambda s: (states.count(s), s != "completed"))
    same = [r for r in rows if r["status"] == status]
    out = {"mode": mode, "status": status}
    out.update({k: median(same, k) for k in NUMBERS})
    out["spread"] = {k: [min(v), max(v)] for k in NUMBERS if (v := [r[k] for r in same if r.get(k) is not None])}
    out["of"] = [len(same), len(rows)]
    out["ran_ms"] = median(same, "ran_ms")
    out["load_mib_s"] = median([r.get("before") or {} for r in same], "load_mib_s")
    blocked = [r["blocked_ms"] for r in same if r.get("blocked_ms")]
    if blocked:
        out["blocked_ms"] = [round(statistics.median(v), 1) for v in zip(*blocked)]
    out["runs"] = rows
    return out


def checks(modes):
    """The targets: [(text, met)]. Every run has to converge; figures are medians."""
    by = {m["mode"]: m for m in modes}
    none = by.get("none")
    out = []
    for name in ("converge", "converge-ring"):
        m = by.get(name)
        if not m:
            continue

        def at_most(key, limit, unit, m=m, name=name):
            value = m[key]
            out.append((f"{name}: {key} {value} <= {limit} {unit}",
                        value is not None and value <= limit))
        done = sum(r["status"] == "completed" for r in m["runs"])
        out.append((f"{name}: {done} of {len(m['runs'])} runs completed", done == len(m["runs"])))
        at_most("total_ms", 15000, "ms")
        at_most("downtime_ms", m["runs"][0].get("load", {}).get("downtime", 300), "ms")
        at_most("sent_mib", 290, "MiB")
        whole = [(r.get("destination") or {}).get("verdict") for r in m["runs"]]
        out.append((f"{name}: guest went on with its memory right in "
                    f"{whole.count('ok')} of {len(whole)} runs", whole.count("ok") == len(whole)))
        for key in ("v1_share", "v1_worst2s"):
            # Like with like: the emulated host has bad seconds with no throttle too.
            base = none and none.get(key)
            if base is None:
                out.append((f"{name}: {key}: mode none gave nothing to compare with", False))
                continue
            least = round(0.98 * base, 2)
            out.append((f"{name}: {key} {m[key]} >= {least} % (98 % of {key} in none)",
                        m[key] is not None and m[key] >= least))
    return out


def figures(row, keys):
    """Cells of a row; a migration that was stopped has the time of that in place of a total."""
    stopped = row.get("total_ms") is None and row.get("ran_ms")
    return [f"> {row['ran_ms'] / 1000:.0f} s" if k == "total_ms" and stopped else migrate_rows.cell(row, k)
            for k in keys]


def show(modes):
    lines = [["mode", "status", "total", "down", "rounds", "sent", "writer", "computing",
              "worst 2 s", "wrote MiB/s"]]
    for m in modes:
        lines.append([m["mode"], m["status"]] + figures(m, NUMBERS) + [migrate_rows.cell(m, "load_mib_s")])
    print(migrate_rows.table(lines))


def sureness(modes):
    """How sure the figures are, a line for each mode"""
    if all(m["of"][1] < 2 for m in modes):
        return ["one run of each mode: how far another would be from it is not known (RUNS=N)"]
    out = []
    for m in modes:
        span = ", ".join(f"{what} {m['spread'][k][0]:g} to {m['spread'][k][1]:g} {unit}" for k, what, unit in
                         (("total_ms", "total", "ms"), ("downtime_ms", "down", "ms"), ("sent_mib", "sent", "MiB"))
                         if k in m["spread"])
        out.append(f"{m['mode']}: medians of {m['of'][0]} of {m['of'][1]} runs ({m['status']}): {span}")
    return out


def name_load(load):
    d = {"rate": 40, "ws": 64, "writers": 1, "cpus": 2, "pattern": "seq", "mem": 192, **load}
    return (f"{d['rate']} MiB/s over {d['ws']} MiB, {d['pattern']}, "
            f"{d['writers']} of {d['cpus']} vCPUs write")


def show_sweep(rows):
    lines = [["load", "mode", "status", "total", "down", "rounds", "sent", "computing", "worst 2 s"]]
    for r in rows:
        lines.append([name_load(r.get("load", {})), r["mode"], r["status"]] +
                     figures(r, [k for k in NUMBERS if k != "v0_share"]))
    print(migrate_rows.table(lines))
    lost = {}
    for r in rows:
        lost.setdefault(name_load(r.get("load", {})), {})[r["mode"]] = r
    for load, by in lost.items():
        ours, theirs = by.get("converge"), by.get("auto-converge")
        if not ours or not theirs:
            continue
        if ours["status"] != "completed":
            print(f"  converge does not converge: {load}"
                  + (" (auto-converge does)" if theirs["status"] == "completed" else ""))
        elif theirs["status"] == "completed" and theirs["total_ms"] < ours["total_ms"]:
            print(f"  converge is slower than auto-converge: {load}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 1))
    p.add_argument("--sweep", action="store_true", default=os.environ.get("SWEEP", "") not in ("", "0"))
    p.add_argument("--modes", default=",".join(migrate.MODES))
    p.add_argument("--sweep-modes", default="converge,auto-converge")
    p.add_argument("--sweep-loads", default=json.dumps(SWEEP), help="JSON list of migrate.py's options")
    p.add_argument("--modules", choices=("ours", "stock"), default="ours",
                   help="stock: KVM as Debian ships it, for the modes that need no policy")
    opt = p.parse_args()

    load_before = migrate_rows.busy()
    args = ["--modes", opt.modes, "--runs", str(opt.runs)]
    # boot, warm-up and check, and each mode's limit
    per_mode = 30 + 120
    status, rows = migrate_rows.in_machine(args, modules=opt.modules,
                                  timeout=60 + opt.runs * per_mode * len(opt.modes.split(",")))
    result = {
        "machine": "emulated AMD KVM host (QEMU TCG), 2 CPUs, " + migrate_rows.MEMORY,
        "load_average_per_cpu_before": load_before,
        "measured": measured(),
        "commands": ["make bench-migrate " + " ".join(f"{k}={v}" for k, v in
                                                      (("RUNS", opt.runs), ("SWEEP", int(opt.sweep)))),
                     "tests/machine/run -- tests/guest/migrate.py " + shlex.join(args)],
        "host": rows[0].get("host") if rows else None,
        "qemu": rows[0].get("qemu") if rows else None,
        "modes": [],
    }
    for mode in opt.modes.split(","):
        mine = [r for r in rows if r["mode"] == mode]
        if mine:
            result["modes"].append(summary(mode, mine))
    missing = [m for m in opt.modes.split(",") if m not in [r["mode"] for r in rows]]

    if opt.sweep:
        loads = [dict(load) for load in json.loads(opt.sweep_loads)]
        args = ["--modes", opt.sweep_modes, "--limit", "60", "--loads", json.dumps(loads)]
        status2, swept = migrate_rows.in_machine(
            args, modules=opt.modules,
            timeout=60 + 90 * len(loads) * len(opt.sweep_modes.split(",")))
        result["commands"].append("tests/machine/run -- tests/guest/migrate.py " + shlex.join(args))
        result["sweep"] = swept
        status = status or status2

    os.makedirs(os.path.dirname(RESULT), exist_ok=True)
    result["checks"] = [{"check": text, "met": met} for text, met in checks(result["modes"])]
    with open(RESULT + ".new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(RESULT + ".new", RESULT)

    print()
    show(result["modes"])
    for line in sureness(result["modes"]):
        print(f"  {line}")
    for row in rows + result.get("sweep", []):
        if row.get("error"):
            print(f"  {row['mode']}: {row['error']}")
    if result.get("sweep"):
        print()
        show_sweep(result["sweep"])
    print()
    for check in result["checks"]:
        print(f"  {'pass' if check['met'] else 'FAIL'}  {check['check']}")
    slow = [m["mode"] for m in result["modes"]
            if m.get("load_mib_s") is not None and m["load_mib_s"] < 36]
    if slow:
        print(f"  warning: before the migration the guest wrote less than 36 of the 40 MiB/s asked for "
              f"({', '.join(slow)}): this machine was too busy, repeat when it is quiet")
    noisy = [f"{r['mode']} {r['stalls']}" for r in rows if r.get("stalls")]
    if noisy:
        print(f"  warning: the emulated host stood still during migrations ({', '.join(noisy)} times): "
              "shares and worst 2 s of these runs say more of this machine than of the modes")
    if missing:
        print(f"  no result for {', '.join(missing)}: see the messages above")
    print(f"  written to {os.path.relpath(RESULT, migrate_rows.TOP)}")
    failed = missing or any(not c["met"] for c in result["checks"]) or \
        any(r["status"] == "failed" for r in rows)
    return 1 if failed or status else 0


if __name__ == "__main__":
    sys.exit(main())
