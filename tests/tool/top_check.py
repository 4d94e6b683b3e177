#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Hold what kvmext top --json wrote against what VMs say that they did.

    top_check.py ours|stock TOP TRUTH PID BLOCKED_PID BLOCKED_NS BLOCKS RING_TRUTH RING_PID

TOP is top's output, TRUTH that of vmtrue with process id PID.  The next three are
of a VM that a policy blocked, by the kernel's state file; 0 on stock modules; then of a
second vmtrue, with a dirty ring.
Prints "ok WHAT" or "bad WHAT: why" lines for the shell to count.
"""
import json
import sys

kind, top, truth, pid = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
blocked_pid, blocked_ns, blocks = map(int, sys.argv[5:8])
ring_truth, ring_pid = sys.argv[8], int(sys.argv[9])


def check(what, good, why=""):
    print(("ok " + what) if good else f"bad {what}: {why}", flush=True)


with open(top) as f:
    samples = [json.loads(line) for line in f]
said = {}
with open(truth) as f:
    for line in f:
        word, *n = line.split()
        said.setdefault(word, []).append([int(x) for x in n])

seen = [v for s in samples for v in s["vms"] if v["vm"] == pid]
check("the VM is met", seen)
if not seen:
    sys.exit(0)


def last(pid, vcpu):
    """A vCPU's totals when it was seen last"""
    out = None
    for s in samples:
        for v in s["vms"]:
            for c in v["vcpus"]:
                if v["vm"] == pid and c["id"] == vcpu:
                    out = c["total"]
    return out


def exits(pid, vcpu, name):
    return sum(r["n"] for s in samples for v in s["vms"] if v["vm"] == pid for c in v["vcpus"]
               if c["id"] == vcpu for r in c["reasons"] if r["reason"] == name)


t0, t1 = last(pid, 0), last(pid, 1)
# Each command that runs a vCPU ends with one exit for I/O on it, "exits N" with N.
want = said["exits"][0][0] + len(said["dirty"])
check("exits for I/O equal what the guest made", exits(pid, 0, "io") == want,
      f"{exits(pid, 0, 'io')}, the guest made {want}")
check("and are not all exits", t0["exits"] >= want, f"{t0['exits']} in all")
want = len(said["dirty"]) + len(said["halt"]) + len(said["irq"])
check("so do those of the other vCPU", exits(pid, 1, "io") == want,
      f"{exits(pid, 1, 'io')}, the guest made {want}")
want = [sum(d[i] for d in said["dirty"]) for i in (0, 1)]
check("dirty pages of each vCPU equal the dirty log", [t0["dirty"], t1["dirty"]] == want,
      f"{t0['dirty']} and {t1['dirty']}, the log has {want}")
with open(ring_truth) as f:
    ring = [[int(x) for x in line.split()[1:]] for line in f]
got = [(last(ring_pid, i) or {}).get("dirty") for i in (0, 1)]
want = [sum(d[i] for d in ring) for i in (0, 1)]
check("and those of another VM the dirty ring", got == want, f"{got}, the ring had {want}")
# Asleep for at least the time that the VMM slept, and no longer than from before to
# after; the start of the guest and the thread's end are in the latter alone.
took = sum(h[0] for h in said["halt"])
asked = 1500000000 * len(said["halt"])
check("time halted is the time of a known sleep", asked * 0.9 <= t1["halted_ns"] <= took,
      f"{t1['halted_ns']} ns, slept {asked} ns of {took} ns")
check("the other vCPU did not halt", t0["halted_ns"] == 0, t0["halted_ns"])
check("and outside the guest", t1["halted_ns"] <= t1["outside_ns"], t1["outside_ns"])
check("each halt's wake-up was timed", t1["wake_latency_n"] == len(said["halt"]), t1["wake_latency_n"])
check("it took some time, less than the halt", 0 < t1["wake_latency_ns"] < took, t1["wake_latency_ns"])
check("the interrupt was injected", t1["injected"] == sum(i[0] for i in said["irq"]), t1["injected"])
check("its latency is known", t1["injection_latency_n"] == 1 and t1["injection_latency_ns"] > 0,
      t1["injection_latency_n"])
check("none was posted: there is no AVIC", t1["posted"] == 0, t1["posted"])
long = [c["halted_share"] for s in samples for v in s["vms"] if v["vm"] == pid
        for c in v["vcpus"] if c["id"] == 1]
check("a halt shows while it goes on", max(x or 0 for x in long) > 0.9, long)
check("shares are shares", all(0 <= (v[k] or 0) <= 1 for v in seen for k in
                               ("outside_share", "halted_share", "ready_share")), "")
check("the VM is let go", all(v["vm"] != pid for v in samples[-1]["vms"]),
      f"still there after {len(samples)} intervals")
check("no exit was lost", samples[-1]["lost"] == 0, samples[-1]["lost"])

lacks = ("blocked_share", "asks_per_s", "blocks_per_s", "policy")
if kind == "stock":
    check("what stock modules cannot tell is null", all(v[k] is None for v in seen for k in lacks),
          [seen[0][k] for k in lacks])
    check("in the totals too", t0["blocked_ns"] is None and t0["asks"] is None, t0)
    sys.exit(0)
b = last(blocked_pid, 0)
check("the blocked VM is met", b)
if b:
    check("time blocked is the kernel's own figure", b["blocked_ns"] == blocked_ns,
          f"{b['blocked_ns']}, the kernel says {blocked_ns}")
    check("so are the blocks", b["blocks"] == blocks > 0, f"{b['blocks']}, the kernel says {blocks}")
    check("time blocked is outside the guest", b["blocked_ns"] <= b["outside_ns"], b["outside_ns"])
    check("the policy in charge is named", any(v["vm"] == blocked_pid and v["policy"] == "stun"
                                               for s in samples for v in s["vms"]), "")
