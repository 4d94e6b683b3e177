#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""In the emulated host: flip static branches of the scheduler while tasks switch.

    patched_text.py [FLIPS]     500; a machine that runs a stale int3 panics

Each flip of kernel.sched_schedstats patches some dozens of places that every task switch
runs.  Meanwhile a guest on the first CPU runs beside loops of FXRSTOR on the others.
"""
import os
import subprocess
import sys

KNOB = "/proc/sys/kernel/sched_schedstats"


def ping_pong():
    """Two tasks that wake each other for ever"""
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    first = os.fork()
    if not first:
        while os.write(w1, b"x") and os.read(r2, 1):
            pass
    second = os.fork()
    if not second:
        while os.read(r1, 1) and os.write(w2, b"x"):
            pass
    return [first, second]


def main():
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print("1..2", flush=True)
    guest = subprocess.Popen(["build/tests/kvm/vm_test", "-t", "outlives_fpu_use_elsewhere"],
                             stdout=subprocess.PIPE, text=True)
    tasks = ping_pong() + ping_pong()
    with open(KNOB, "rb+", buffering=0) as knob:
        before = knob.read(1)
        for i in range(flips):
            knob.seek(0)
            knob.write(b"%d" % (i & 1))
            if i % 1000 == 999:
                print(f"# {i + 1} flips", flush=True)
        knob.seek(0)
        knob.write(before)
    for task in tasks:
        os.kill(task, 9)
        os.waitpid(task, 0)
    print(f"ok 1 {flips} flips of static branches that task switches run", flush=True)
    out = guest.communicate()[0]
    print(*(f"# {line}" for line in out.splitlines()), sep="\n")
    good = not guest.returncode
    print(f"{'ok' if good else 'not ok'} 2 a guest lives beside loops of FXRSTOR on the other CPUs")
    return 0 if good else 1


sys.exit(main())
