#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What kvmext guest costs a guest: instructions of loads that allocate, with the agent and without.

The guest is the test machine itself, in an emulator that counts instructions. One CPU, so that the
agent's own work counts too. In pairs, now with it first and now without.

  cost.py           the table, in the machine
  cost.py --inside  there
"""
import argparse
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tty

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
KVMEXT, LOAD = f"{TOP}/build/kvmext", f"{TOP}/build/tests/free/guest"
LOADS = {"build": 2, "spawn": 4, "file": 2, "fault": 2}
HERE = "/dev/shm/load"    # not from the build machine, whose disk is waited for
WHAT = {"build": "processes that take 4 MiB, small files: as a build does", "spawn": "fork, exec and exit alone",
        "file": "192 MiB written to tmpfs and removed", "fault": "192 MiB taken page by page and given back, nothing else"}
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


def inside(pairs):
    master, slave = pty.openpty()
    tty.setraw(slave)
    shutil.copy(LOAD, HERE)
    times = {load: {False: [], True: []} for load in LOADS}
    for i in range(pairs):
        for on in (i % 2 == 0, i % 2 != 0):
            agent = None
            if on:
                agent = subprocess.Popen([KVMEXT, "guest", "--port", os.ttyname(slave)], stdout=subprocess.PIPE,
                                         text=True)
                if "found" not in agent.stdout.readline():
                    sys.exit("cost.py: the agent did not start")
            for load in LOADS:
                begun = cpu(agent)
                took = once(load)
                times[load][on].append(took + cpu(agent) - begun)
            if i == pairs - 1 and agent:
                check = subprocess.run([KVMEXT, "guest", "--check", "--json"], stdout=subprocess.PIPE, text=True)
                if check.returncode or json.loads(check.stdout)["wrong"]:
                    sys.exit(f"cost.py: the bits are wrong: {check.stdout}")
            if agent:
                agent.terminate()
                agent.wait()
    os.close(master)
    print(json.dumps({load: {"without": t[False], "with": t[True]} for load, t in times.items()}))


def measure(pairs):
    p = subprocess.run([f"{TOP}/tests/machine/run", "--icount", "--mem", "1G", "--modules", "none", "--timeout", "1500", "--",
                        "tests/free/cost.py", "--inside", "--pairs", str(pairs)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=TOP)
    if p.returncode:
        raise RuntimeError(f"counting ended with status {p.returncode}: {p.stdout[-500:]}")
    rows = json.loads(p.stdout.splitlines()[-1])
    for r in rows.values():
        r["percent"] = round(100 * (statistics.median(r["with"]) / statistics.median(r["without"]) - 1), 2)
    return rows


def show(rows):
    """Whether what it costs is within the limit"""
    print("Instructions that kvmext guest adds to what a guest does")
    for load, r in rows.items():
        print(f"  {load:6} {r['percent']:+6.2f} %   {WHAT[load]}")
    good = rows["build"]["percent"] < LIMIT
    print(f"  {'pass' if good else 'FAIL'}  less than {LIMIT:g} % of a load that is like a build's", flush=True)
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--inside", action="store_true")
    p.add_argument("--pairs", type=int, default=3)
    opts = p.parse_args()
    if opts.inside:
        return inside(opts.pairs)
    return 0 if show(measure(opts.pairs)) else 1


if __name__ == "__main__":
    sys.exit(main())
