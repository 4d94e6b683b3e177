#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""A Linux guest in QEMU migrates under converge. One migration is cancelled midway, the next one
arrives.

Runs in the test machine, prints TAP.

One guest, migrated twice under converge: the first time it is cancelled midway, the second
time it has to arrive. Nothing here depends on how fast the machine is: limits are wide, and
who was blocked is read from the kernel's own counters.
"""

import os
import shutil
import sys
import tempfile
import time

import migrate

PLAN = 8
STATE = "/sys/kernel/debug/kvm/ext/state"
done = 0


def ok(good, text, why=""):
    global done
    done += 1
    print(f"{'ok' if good else 'not ok'} {done} {text}", flush=True)
    if not good and why:
        print(f"# {why}", flush=True)
    return good


def vcpus(pid):
    """The kernel's counters of each vCPU of that VM, by vCPU id."""
    out = {}
    with open(STATE) as f:
        for line in f:
            kind, _, rest = line.partition(" ")
            if kind == "vcpu":
                rec = dict(p.split("=", 1) for p in rest.split() if "=" in p)
                if int(rec["pid"]) == pid:
                    out[int(rec["id"])] = {k: int(v) for k, v in rec.items()}
    return out


class Canceller:
    """Cancels once the policy has blocked a vCPU, and sees whether that ends the blocks."""

    def __init__(self):
        self.at_cancel = self.soon = self.later = None

    def __call__(self, elapsed, vm, policy):
        now = vcpus(vm.proc.pid)
        if now[0]["blocks"] < 3:
            return False
        self.at_cancel = now
        vm.qmp.cmd("migrate_cancel")
        deadline = time.monotonic() + 10 * migrate.SLOW
        while (time.monotonic() < deadline and
               vm.qmp.cmd("query-migrate").get("status") not in ("cancelled", "completed")):
            time.sleep(0.05)
        # dirty logging is off when QEMU says cancelled, or on its next turn
        time.sleep(0.5)
        self.soon = vcpus(vm.proc.pid)
        time.sleep(2)
        self.later = vcpus(vm.proc.pid)
        return True


def main():
    print(f"1..{PLAN}")
    opt = migrate.options(["--modes", "converge", "--ws", "32", "--mem", "128",
                           "--limit", str(60 * migrate.SLOW), "--progress", "log"])
    opt.warm_up_given = opt.warm_up = 2.0
    progress = migrate.Progress("log")
    progress.show = lambda text: None
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    tmp = tempfile.mkdtemp(prefix="migrate.")
    src = dst = None
    try:
        migrate.prepare(opt, tmp)
        src = migrate.boot(opt, "converge", progress)
        cancel = Canceller()
        row, dst = migrate.migrate(opt, src, "converge", progress, hook=cancel)
        print(f"# {migrate.describe(row)}")
        ok(row["status"] == "cancelled" and cancel.later, "a migration under converge can be cancelled",
           f"it ended '{row['status']}' {row.get('error', '')}, after converge had blocked "
           f"{'something' if cancel.at_cancel else 'nothing'}")
        if cancel.later:
            ok(cancel.later[0]["blocks"] == cancel.soon[0]["blocks"],
               "no block after the cancel",
               f"blocks of vCPU 0: {cancel.soon[0]['blocks']} half a second after it, "
               f"{cancel.later[0]['blocks']} two seconds later")
        else:
            ok(False, "no block after the cancel", "there was no cancel")
        if dst:
            dst.kill()
        since = src.progress()[-1]
        src.wait_line(r"guest: t=\d+", 20, len(src.lines))
        now = src.progress()[-1]
        mem = src.verify()
        ok(now[2] > since[2] and mem["memory"] == "ok", "the source goes on, its memory ok",
           f"pages written {since[2]} then {now[2]}, {mem}")

        row, dst = migrate.migrate(opt, src, "converge", progress)
        print(f"# {migrate.describe(row)}")
        ok(row["status"] == "completed", f"the second migration arrives within {60 * migrate.SLOW} s",
           f"it ended '{row['status']}' {row.get('error', '')}")
        there = row.get("destination") or {}
        ok(there.get("verdict") == "ok", "the guest goes on there, its memory ok", str(there))
        ok((row.get("downtime_ms") or 10**9) < 3000 * migrate.SLOW,
           f"it was down for less than {10 * migrate.SLOW} times what was allowed",
           f"{row.get('downtime_ms')} ms")
        kept = {v.get("id"): v for v in migrate.find_vcpus(row.get("policy"))}
        ok(kept.get(0, {}).get("blocks", 0) > 0, "the writing vCPU was blocked", str(kept))
        # In rounds that take a minute its kernel dirties pages enough for a block or two.
        most = 0 if migrate.SLOW == 1 else kept.get(0, {}).get("blocked_ns", 0) // 20
        ok(1 in kept and kept[1]["blocked_ns"] <= most, "the computing vCPU was not", str(kept))
    except (migrate.Failed, OSError, KeyError) as err:
        while done < PLAN:
            ok(False, "not reached", f"{type(err).__name__}: {err}")
    finally:
        for vm in (src, dst):
            if vm:
                vm.kill()
        shutil.rmtree(tmp, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
