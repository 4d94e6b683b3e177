#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""kvmext top whose output nobody reads for a while, and that is stopped for a while.

    top_stall.py KVMEXT

Prints "ok WHAT" or "bad WHAT: why" lines for the shell to count.
"""
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

SLOW = int(os.environ.get("KVMEXT_SLOW", "1"))
EVERY = 0.1
F_SETPIPE_SZ = 1031


def check(what, good, why=""):
    print(("ok " + what) if good else f"bad {what}: {why}", flush=True)


def top(stall, seconds):
    """Lines of a top that was stalled for so long after it had begun"""
    out, into = os.pipe()
    fcntl.fcntl(into, F_SETPIPE_SZ, 4096)
    p = subprocess.Popen([sys.argv[1], "--json", "top", str(EVERY)], stdout=into)
    os.close(into)
    with os.fdopen(out) as f:
        lines = [json.loads(f.readline())]
        stall(p, seconds)
        until = time.monotonic() + 2 * SLOW
        while time.monotonic() < until:
            lines.append(json.loads(f.readline()))
        p.send_signal(signal.SIGINT)
        lines += [json.loads(line) for line in f]
    code = p.wait(30 * SLOW)
    check("it ends well by SIGINT", code == 0, code)
    return lines


def not_read(_, seconds):
    time.sleep(seconds)


def stopped(p, seconds):
    p.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    p.send_signal(signal.SIGCONT)


for what, stall in ("nobody reads", not_read), ("stopped by SIGSTOP", stopped):
    # With the pipe full before that
    lines = top(stall, 8 * SLOW)
    short = [line["interval_ns"] for line in lines[1:] if line["interval_ns"] < EVERY * 1e9 / 5]
    longest = max(line["interval_ns"] for line in lines)
    check(f"{what}: the time is in one interval, as long as it was", longest > 2e9, longest)
    check(f"{what}: and no burst of intervals of no length comes after it", len(short) <= 2, short)
    missed = [line.get("missed") for line in lines]
    check(f"{what}: it says how many were missed", missed[0] is not None and missed[-1] - missed[0] >= 20, missed[-1])
    check(f"{what}: the clock does not go back",
          all(a["at_ns"] < b["at_ns"] for a, b in zip(lines, lines[1:])), [line["at_ns"] for line in lines])
