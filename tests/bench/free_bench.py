#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make bench-free: a guest whose free pages are not sent, beside plain QEMU and virtio's hinting.

What is sent, how long it takes and how long the guest stands still, idle and under a load like a build's;
and what the agent costs the guest. Writes build/results/free.json. Exit status 1 if a guest's memory was
not what it should be, if ours sends more than hinting in the first pass or no less over all rounds, or if
the agent costs too much.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import free_cost
from origin import measured

TOP = free_cost.TOP
RESULT = f"{TOP}/build/results/free.json"
KEYS = ("first_pass_mib", "sent_mib", "total_ms", "downtime_ms", "rounds")


def migrations(args):
    with tempfile.TemporaryDirectory(prefix="free.") as out:
        p = subprocess.run([f"{TOP}/tests/machine/run", "--mem", "2500M", "--timeout", "3600", "--out", out, "--",
                            "tests/guest/free_test.py", "--bench", "--out", "/out/rows", *args], stdin=subprocess.DEVNULL, cwd=TOP)
        try:
            with open(f"{out}/rows") as f:
                return p.returncode, [json.loads(line) for line in f]
        except OSError as err:
            print(f"  FAIL  the machine left no result: {err}")
            return p.returncode or 1, []


def medians(rows):
    """{(load, mode): of all that arrived}"""
    by = {}
    for r in rows:
        if r["status"] == "completed":
            by.setdefault((r["load"], r["mode"]), []).append(r)
    return {k: {key: statistics.median(r[key] for r in v) for key in ("free_mib", *KEYS)} for k, v in by.items()}


def checks(rows, by):
    """[(text, met)]"""
    out = [(f"{r['load']}, {r['mode']}: arrived, {r['memory']['pages']} pages looked at, all right"
            if r["status"] == "completed" else f"{r['load']}, {r['mode']}: {r['status']}, {r.get('error', r.get('memory'))}",
            r["status"] == "completed") for r in rows]
    for load in dict.fromkeys(r["load"] for r in rows):
        # With QEMU as it is only what is zeroed before saves anything in the first pass.
        ours, other = by.get((load, "zero")), by.get((load, "hinting"))
        if not ours or not other:
            continue
        for key, what in (("first_pass_mib", "in the first pass"), ("sent_mib", "over all rounds")):
            met = ours[key] <= other[key] if key == "first_pass_mib" else ours[key] < other[key]
            out.append((f"{load}: {ours[key]} MiB {what}, with hinting {other[key]}", met))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--no-cost", action="store_true", help="migrations alone")
    opts, rest = p.parse_known_args()
    status, rows = migrations(rest)
    print(f"  {'load':6} {'mode':8} {'free MiB':>9} {'first pass':>11} {'sent MiB':>9} {'total ms':>9} {'down ms':>8} {'rounds':>7}")
    by = medians(rows)
    for (load, mode), r in by.items():
        print(f"  {load:6} {mode:8} {r['free_mib']:>9.0f} " + " ".join(
            f"{r[k]:>{w}}" for k, w in zip(KEYS, (11, 9, 9, 8, 7))))
    print("  medians of as many runs as there are figures here, from the least to the most; of one run it is not known\n"
          "  how far another would be from it:")
    for load, mode in by:
        for key in KEYS[:2]:
            seen = sorted(r[key] for r in rows if (r["load"], r["mode"], r["status"]) == (load, mode, "completed"))
            print(f"  {load:6} {mode:8} {key:>14} " + " ".join(f"{s:8}" for s in seen))
    good = not status and bool(rows)
    for text, met in checks(rows, by):
        print(f"  {'pass' if met else 'FAIL'}  {text}")
        good &= met
    result = {"machine": "emulated AMD KVM host, guest of 512 MiB and 2 vCPUs, link of 40 MiB/s", "measured": measured(),
              "migrations": rows}
    if not opts.no_cost:
        try:
            result["cost"] = free_cost.measure(3)
            good &= free_cost.show(result["cost"])
        except RuntimeError as err:
            # The migrations are worth having without it
            print(f"  FAIL  what the agent costs was not measured: {err}")
            good = False
    os.makedirs(os.path.dirname(RESULT), exist_ok=True)
    with open(RESULT + ".new", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.rename(RESULT + ".new", RESULT)
    print(f"  {RESULT}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
