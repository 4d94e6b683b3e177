# SPDX-License-Identifier: GPL-2.0
"""Of which commit and day a raw result is, for tests/bench/README.md and its plots."""
import os
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def measured():
    """The commit that is checked out, with "-dirty" behind it if a file differs from it; today"""
    p = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"], cwd=TOP,
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "commit": p.stdout.strip() or "unknown"}


def text_of(raw):
    """The same of a result, in the words of tests/bench/README.md; "recorded" was known later, by the page"""
    for key, word, where in (("measured", "Measured", "at"), ("recorded", "Recorded", "in")):
        if key in raw:
            return f"{word} on {raw[key]['date']} {where} {raw[key]['commit']}"
    raise KeyError("measured")


def join(whole, parts):
    """Some parts of a result put into the whole: of two commits, it names none any more"""
    of = whole.get("measured", {}).get("commit")
    if of != measured()["commit"]:
        whole = {k: v for k, v in whole.items() if k not in ("measured", "recorded")}
    return whole | parts
