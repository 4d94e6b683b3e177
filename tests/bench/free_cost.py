#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What kvmext guest costs a guest: instructions of loads that allocate, with the agent and without, and
with it while the host says that the guest is migrating.

The guest is the test machine itself, in an emulator that counts instructions. One CPU, so that the
agent's own work counts too. In turns, each time in another order.

  free_cost.py           the table, in the machine
  free_cost.py --inside  there

And what a harvest of the dirty log costs the host in which nothing was written, with 128 MiB left out by
skip_free, beside stock KVM's; the same at the first and the hundredth.

  free_cost.py --harvest [GIB...]   the table for memslots of so many GiB (1 16 64), and build/results/harvest.json
  free_cost.py --harvest --tap      as a test, for 1 GiB
"""
import argparse
import contextlib
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import time
import tty

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests/guest"))
import free_guest  # noqa: E402
from origin import measured  # noqa: E402

KVMEXT, LOAD = f"{TOP}/build/kvmext", f"{TOP}/build/tests/guest/free_init"
LOADS = {"build": 2, "spawn": 4, "file": 2, "fault": 2}
HERE = "/dev/shm/load"    # not from the build machine, whose disk is waited for
WHAT = {"build": "processes that take 4 MiB, small files: as a build does", "spawn": "fork, exec and exit alone",
        "file": "192 MiB written to tmpfs and removed", "fault": "192 MiB taken page by page and given back, nothing else"}
STATES = ("without", "with", "moving")
LIMIT = 2.0     # % of the load that is like a build's


def once(load):
    p = subprocess.run([HERE, "cost", load, str(LOADS[load])], stdout=subprocess.PIPE, text=True, check=True)
    return int(p.stdout.split()[1])


def cpu(agent):
    """Microseconds that the agent itself has had"""
    if not agent:
        return 0
    with open(f"/proc/{agent.pid}/schedstat") as f:
        return int(f.read().split()[0]) // 1000


def host(fd, state):
    """The host's end of the port. What the agent answers is not waited for."""
    if state == "moving":
        return free_guest.moving(lambda line: os.write(fd, line.encode() + b"\n"))
    return contextlib.nullcontext()


def inside(pairs):
    master, slave = pty.openpty()
    tty.setraw(slave)
    shutil.copy(LOAD, HERE)
    times = {load: {state: [] for state in STATES} for load in LOADS}
    for i in range(pairs):
        for state in (*STATES[i % 3:], *STATES[:i % 3]):
            agent = None
            if state != "without":
                agent = subprocess.Popen([KVMEXT, "guest", "--port", os.ttyname(slave)], stdout=subprocess.PIPE,
                                         text=True)
                if "found" not in agent.stdout.readline():
                    sys.exit("free_cost.py: the agent did not start")
            with host(master, state):
                time.sleep(1)
                for load in LOADS:
                    begun = cpu(agent)
                    took = once(load)
                    times[load][state].append(took + cpu(agent) - begun)
            if i == pairs - 1 and agent:
                check = subprocess.run([KVMEXT, "guest", "--check", "--json"], stdout=subprocess.PIPE, text=True)
                if check.returncode or json.loads(check.stdout)["wrong"]:
                    sys.exit(f"free_cost.py: the bits are wrong: {check.stdout}")
            if agent:
                agent.terminate()
                agent.wait()
    os.close(master)
    print(json.dumps(times))


def measure(pairs):
    p = subprocess.run([f"{TOP}/tests/machine/run", "--icount", "--mem", "1G", "--modules", "none", "--timeout", "1500", "--",
                        "tests/bench/free_cost.py", "--inside", "--pairs", str(pairs)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=TOP)
    if p.returncode:
        raise RuntimeError(f"counting ended with status {p.returncode}: {p.stdout[-500:]}")
    rows = json.loads(p.stdout.splitlines()[-1])
    for r in rows.values():
        for state in STATES[1:]:
            r[f"{state}_percent"] = round(100 * (statistics.median(r[state]) / statistics.median(r["without"]) - 1), 2)
    return rows


def show(rows):
    """Whether what it costs is within the limit"""
    print("Instructions that kvmext guest adds to what a guest does, and that it adds during a migration")
    for load, r in rows.items():
        print(f"  {load:6} {r['with_percent']:+6.2f} % {r['moving_percent']:+6.2f} %   {WHAT[load]}")
    good = rows["build"]["with_percent"] < LIMIT
    print(f"  {'pass' if good else 'FAIL'}  less than {LIMIT:g} % of a load that is like a build's, out of migrations",
          flush=True)
    return good


HARVEST_LIMIT = 1.3     # times stock's instructions
HARVEST_RESULT = f"{TOP}/build/results/harvest.json"


def harvests(gibs):
    """Rows of tests/bench/harvest.c, by (GiB, mode): [stock's, ours]"""
    rows = {}
    for modules, who in (("stock", "stock"), ("ours", "free")):
        p = subprocess.run([f"{TOP}/tests/machine/run", "--icount", "--modules", modules, "--timeout", "1500", "--",
                            "build/tests/bench/harvest", who, *map(str, gibs)],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=TOP)
        if p.returncode:
            raise RuntimeError(f"counting ended with status {p.returncode}: {p.stdout[-500:]}")
        for line in p.stdout.splitlines():
            if line.startswith("{"):
                r = json.loads(line)
                rows.setdefault((r["gib"], r["mode"]), []).append(r)
    return rows


def harvest_main(gibs, tap):
    rows = harvests(gibs)
    bad, checks = 0, []
    for (gib, mode), (stock, ours) in rows.items():
        for when in ("first", "hundredth"):
            ratio = ours[when] / stock["usual"]
            met = ratio <= HARVEST_LIMIT
            bad += not met
            checks.append((met, f"{mode}, memslot of {gib} GiB, 128 MiB left out, nothing written: the {when} harvest takes "
                                f"{ours[when]} instructions, stock's {stock['usual']}: {ratio:.2f} times, at most {HARVEST_LIMIT}"))
    if tap:
        print(f"1..{len(checks)}")
    for i, (met, text) in enumerate(checks):
        print(f"{'ok' if met else 'not ok'} {i + 1} - {text}" if tap else f"  {'pass' if met else 'FAIL'}  {text}")
    if not tap:
        for mode in ("legacy", "manual"):
            sized = sorted((g, r[1]["usual"]) for (g, m), r in rows.items() if m == mode)
            (g0, n0), (g1, n1) = sized[0], sized[-1]
            slope = (n1 - n0) / (g1 - g0) if g1 > g0 else n0 / g0
            print(f"  {mode}: {slope:.0f} instructions for each GiB; 1 TiB, by that line: {n0 + slope * (1024 - g0):.0f}")
        os.makedirs(os.path.dirname(HARVEST_RESULT), exist_ok=True)
        with open(HARVEST_RESULT + ".new", "w") as f:
            json.dump({"machine": "emulated AMD KVM host, 1 CPU (QEMU TCG -icount; the TSC counts instructions)",
                       "measured": measured(), "limit": HARVEST_LIMIT, "rows": [r for pair in rows.values() for r in pair]}, f, indent=1)
            f.write("\n")
        os.rename(HARVEST_RESULT + ".new", HARVEST_RESULT)
        print(f"  {HARVEST_RESULT}")
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--inside", action="store_true")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--harvest", action="store_true")
    p.add_argument("--tap", action="store_true")
    p.add_argument("gib", nargs="*", type=int)
    opts = p.parse_args()
    if opts.harvest:
        return harvest_main(opts.gib or ([1] if opts.tap else [1, 16, 64]), opts.tap)
    if opts.inside:
        return inside(opts.pairs)
    return 0 if show(measure(opts.pairs)) else 1


if __name__ == "__main__":
    sys.exit(main())
