# SPDX-License-Identifier: GPL-2.0
"""TAP for tests in Python."""

done = bad = 0


def ok(good, text, why=""):
    global done, bad
    done += 1
    bad += not good
    print(f"{'ok' if good else 'not ok'} {done} - {text}", flush=True)
    if not good:
        print(f"# {why}", flush=True)
    return good


def plan():
    """The last line; the test's exit status"""
    print(f"1..{done}", flush=True)
    return 1 if bad else 0
