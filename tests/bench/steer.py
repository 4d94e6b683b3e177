#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Packet latency with and without kvmext steer, one vCPU's CPU being busy.

    tests/bench/steer.py [--runs N]   in the emulated AMD host; the part "tap" of
                                      build/results/irq.json

A Linux guest, vhost, a tap of two queues. vCPU 0 has a CPU for itself, vCPU 1 shares one with a
process that is always busy and, when it has its turn, with who sends. Packets of 32 flows are sent
in bursts of four and echoed; times are from before send() to the echo. Runs with and without
alternate. What a busy build machine adds is in both, and far from even: the median of the runs is
told, and every run is in the file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from origin import join

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
RESULT = os.path.join(TOP, "build/results/irq.json")
SECONDS = 6
WAYS = ["tun", "steer"]

sys.path.insert(0, os.path.join(TOP, "tests/guest"))
import steer_guest  # noqa: E402


def inside(runs, out):
    """On the KVM host: an object a line"""
    with tempfile.TemporaryDirectory(prefix="tap.") as tmp:
        guest = steer_guest.Guest(tmp, vhost=True)
        try:
            for busy in b"i", b"b":
                guest.ask(busy, "guest: busy=")
                with steer_guest.Spinner():
                    for _ in range(runs):
                        for way in WAYS:
                            steer = steer_guest.Steer(guest) if way == "steer" else None
                            row = guest.ping(SECONDS)
                            if steer:
                                steer.stop()
                            row |= {"way": way, "guest": "computes" if busy == b"b" else "idle"}
                            print(f"  guest {row['guest']}, {way}: median {row['median_us']} us, "
                                  f"99th percentile {row['p99_us']} us, worst {row['max_us']} us", file=sys.stderr,
                                  flush=True)
                            out.write(json.dumps(row) + "\n")
                            out.flush()
            lost = guest.report()["lost_vectors"]
            if lost:
                raise steer_guest.Failed(f"the guest's log has 'No irq handler for vector' {lost} times")
        finally:
            guest.kill()


def measure(runs):
    """The part "tap" of irq.json"""
    with tempfile.TemporaryDirectory(prefix="tap.") as out:
        status = subprocess.run(
            [os.path.join(TOP, "tests/machine/run"), "--cpus", "2", "--timeout", str(300 + 100 * runs),
             "--out", out, "--", os.path.abspath(__file__), "--inside", "--runs", str(runs)],
            stdin=subprocess.DEVNULL).returncode
        if status:
            raise steer_guest.Failed(f"the run in the test machine ended with {status}")
        with open(f"{out}/rows") as f:
            rows = [json.loads(line) for line in f]
    part = {"machine": "amd", "runs": rows}
    for guest in "idle", "computes":
        mine = {way: [r for r in rows if (r["guest"], r["way"]) == (guest, way)] for way in WAYS}
        part[guest] = {way: {key: statistics.median(r[key] for r in mine[way])
                             for key in ("median_us", "p99_us", "max_us")} for way in WAYS}
        for way in WAYS:
            part[guest][way]["lost"] = sum(r["sent"] - r["got"] for r in mine[way])
            part[guest][way]["disorder"] = sum(r["disorder"] + r["split"] for r in mine[way])
    return part


def save(part, path=RESULT):
    """Put it beside what else is in the file."""
    try:
        with open(path) as f:
            whole = json.load(f)
    except (OSError, ValueError):
        whole = {}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as f:
        json.dump(join(whole, {"tap": part}), f, indent=1)
    os.rename(path + ".new", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=3, help="of each way (3)")
    p.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    opt = p.parse_args()
    try:
        if opt.inside:
            with open("/out/rows", "w") as out:
                inside(opt.runs, out)
            return 0
        part = measure(opt.runs)
    except steer_guest.Failed as err:
        print(f"tap.py: {err}", file=sys.stderr)
        return 1
    save(part)
    for guest in "idle", "computes":
        tun, steer = part[guest]["tun"], part[guest]["steer"]
        print(f"tap, guest {guest}: 99th percentile {tun['p99_us'] / 1000:.1f} ms by tun, "
              f"{steer['p99_us'] / 1000:.1f} ms by steer; median {tun['median_us'] / 1000:.1f} and "
              f"{steer['median_us'] / 1000:.1f} ms; lost {tun['lost']} and {steer['lost']}; "
              f"out of order {steer['disorder']}")
    print(f"written to {os.path.relpath(RESULT, TOP)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
