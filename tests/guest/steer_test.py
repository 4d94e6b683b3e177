#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""kvmext steer decides which vCPU of a Linux guest gets a packet. The guest has virtio and a tap of
several queues.

Runs in the test machine, prints TAP.

A busy process shares the CPU of vCPU 1, vCPU 0 has one for itself. Who got a packet is what the
guest says. Only shares and orders are judged, no times: they hold however slow the machine is.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import steer_guest
from steer_guest import Failed, KVMEXT, SLOW
from tap import ok, plan

STATE = "/sys/kernel/debug/kvm/ext/state"


def fails(code, text, what, *args):
    """That exit code, one line, the same as JSON"""
    p = subprocess.run([KVMEXT, "steer", *map(str, args)], capture_output=True, text=True, timeout=60 * SLOW)
    j = subprocess.run([KVMEXT, "--json", "steer", *map(str, args)], capture_output=True, text=True,
                       timeout=60 * SLOW)
    try:
        same = json.loads(j.stdout)["error"]["code"] == code
    except (ValueError, KeyError):
        same = False
    ok(p.returncode == j.returncode == code and text in p.stderr and p.stderr.count("\n") == 1 and
       p.stderr.startswith("kvmext: ") and not p.stdout and same, f"{what}: exit {code}, one line, JSON too",
       f"exit {p.returncode}: {p.stderr!r} {p.stdout!r}; {j.stdout!r} {j.stderr!r}")


def shares(ping):
    return [round(n / max(1, ping["got"]), 2) for n in ping["per_cpu"][:2]]


def in_order(ping, what):
    ok(ping["pairs"] >= 10 and not ping["split"] and not ping["disorder"] and not ping["twice"] and
       ping["got"] > ping["sent"] * 0.98,
       f"{what}: packets within {steer_guest.NEAR_US} us of each other come in one queue and in order, none twice",
       str(ping))


def by_vcpu(line):
    return {q["vcpu"]: q for q in line["queues"]}


class Irqs:
    """kvmext hist irq in the background: how interrupts find their vCPUs"""

    def __init__(self, guest):
        self.proc = subprocess.Popen([KVMEXT, "--json", "hist", "irq", "--vm", str(guest.pid)],
                                     stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60 * SLOW
        while not any("bpf" in os.readlink(f"/proc/{self.proc.pid}/fd/{fd}") and "link" in
                      os.readlink(f"/proc/{self.proc.pid}/fd/{fd}") for fd in self.fds()):
            if self.proc.poll() is not None or time.monotonic() > deadline:
                raise Failed("hist irq does not come up")
            time.sleep(0.1)
        time.sleep(0.5)

    def fds(self):
        for fd in os.listdir(f"/proc/{self.proc.pid}/fd"):
            if os.path.islink(f"/proc/{self.proc.pid}/fd/{fd}"):
                yield fd

    def stop(self):
        self.proc.terminate()
        self.all = json.loads(self.proc.communicate(timeout=60 * SLOW)[0])
        self.of = {(h["vcpu"], h["state"]): h for h in self.all["histograms"]}
        return self

    def came(self, vcpu, *states):
        return sum(h["came"] for (v, s), h in self.of.items() if v == vcpu and s in states)


WAITING = ("preempted", "ready")


def found(guest):
    """hist irq: interrupts that come to a vCPU that lost its CPU, fewer of them when steered"""
    irqs = Irqs(guest)
    plain, sent = irqs, guest.ping(2)["sent"]
    irqs.stop()
    steer = steer_guest.Steer(guest)
    with_it = Irqs(guest)
    sent2 = guest.ping(2)["sent"]
    with_it.stop()
    steer.stop()
    why = f"{plain.of} {with_it.of}"
    ok(all(h["vm"] == guest.pid and h["came"] >= h["count"] == sum(b["count"] for b in h["buckets"])
           for h in plain.all["histograms"]) and {v for v, _ in plain.of} == {0, 1} and not plain.all["stray"],
       "hist irq: per vCPU and state, counts fit", why)
    before, after = plain.came(1, *WAITING) / sent, with_it.came(1, *WAITING) / sent2
    print(f"# interrupts that found vCPU 1 waiting for its CPU, for each packet sent: {before:.3f} without steering, "
          f"{after:.3f} with", flush=True)
    ok(plain.came(1, *WAITING) > 20 and after < before / 2,
       "steered, fewer interrupts find their vCPU waiting for its CPU", why)


def steered(guest, loads):
    plain = guest.ping(2)
    ok(min(shares(plain)) > 0.15, "without steering both queues are used", str(plain))

    for busy in loads:
        guest.ask(busy, "guest: busy=")
        what = "the guest computes" if busy == b"b" else "the guest is idle"
        with steer_guest.Spinner():
            plain = guest.ping(2)
            steer = steer_guest.Steer(guest)
            ping = guest.ping(3)
            if busy == b"b":
                fails(8, "another kvmext", "a second steer of the same tap", "--vm", guest.pid, guest.tap)
            code, end = steer.stop()
            if busy == b"b":
                found(guest)
        print(f"# {what}, share of packets by vCPU: {shares(plain)} without, {shares(ping)} with; "
              f"99th percentile {plain['p99_us']} us, {ping['p99_us']} us", flush=True)
        ok(shares(plain)[1] > 0.15, f"{what}: without steering the vCPU with the busy CPU has its share",
           str(plain))
        if busy == b"b":
            ok(shares(ping)[0] > 0.75 and shares(ping)[0] > shares(plain)[0] + 0.1,
               f"{what}: with it the packets go to the other", f"{ping} {end}")
        else:
            # A vCPU that halts is at once on a CPU that others use, as often as not: by how
            # long it took to be so, which is the scheduler's choice, packets stay or go.
            ok(shares(ping)[0] > shares(plain)[0] - 0.2,
               f"{what}: with it the packets do not go to the one with the busy CPU", f"{ping} {end}")
        in_order(ping, what)
        q = by_vcpu(end)
        ok(code == 0 and set(q) == {0, 1} and
           sum(v["packets"] for v in q.values()) >= ping["sent"] * 0.9 and
           all(v["packets"] >= v["bursts"] == sum(v["bursts_by_state"].values()) >= v["moved"]
               for v in q.values()),
           f"{what}: it learnt the vCPU of each queue and counted all", str(end))
        if busy == b"b":
            n = sum(v["bursts"] for v in q.values())
            runs = sum(v["bursts_by_state"]["running"] for v in q.values())
            ok(runs > 0.75 * n, f"{what}: bursts begin in queues whose vCPU runs", str(end))
    guest.ask(b"i", "guest: busy=")

    # Nobody competes any more, not even who sends: load is spread again.
    guest.pin(guest.cpus[-1])
    steer = steer_guest.Steer(guest)
    ping = guest.ping(2)
    in_order(ping, "nothing is busy")
    ok(min(shares(ping)) > 0.15, "nothing is busy: both queues have packets", f"{ping} {steer.last()}")
    guest.pin()
    return steer


def moved(guest, steer):
    """The guest moves its interrupts, and the tool sees where to."""
    before = {q["queue"]: q["vcpu"] for q in steer.last()["queues"]}
    guest.ask(b"s", "guest: moved 4")
    for _ in range(10):
        guest.ping(1)
        time.sleep(0.6)
        after = {q["queue"]: q["vcpu"] for q in steer.last()["queues"]}
        if after == {q: 1 - v for q, v in before.items()}:
            break
    ok(sorted(before.values()) == [0, 1] and after == {q: 1 - v for q, v in before.items()},
       "the guest moves its interrupts, and the tool follows", f"{before} then {after}")
    guest.ask(b"s", "guest: moved 4")


def policies(guest):
    """Policies that route interrupts, while packets come by both queues"""
    if not os.path.exists(STATE):
        return
    ran = []
    for name in "spread", "sticky", "run_first":
        path = os.path.join(steer_guest.TOP, f"build/bpf/{name}.bpf.o")
        p = subprocess.run([KVMEXT, "load", path, "--vm", str(guest.pid)], capture_output=True, text=True)
        ping = guest.ping(1)
        still = subprocess.run([KVMEXT, "unload", f"{name}@{guest.pid}"], capture_output=True, text=True)
        if p.returncode == still.returncode == 0 and ping["got"] > ping["sent"] * 0.98 and min(shares(ping)) > 0.05:
            ran.append(name)
        else:
            print(f"# {name}: {p} {ping} {still}", flush=True)
    ok(ran == ["spread", "sticky", "run_first"], "a Linux guest gets its packets under every policy for interrupts",
       str(ran))


def killed(guest, steer):
    steer.proc.kill()
    steer.proc.wait()
    # What it last knew is not believed any more after 2 s.
    time.sleep(2.5)
    with steer_guest.Spinner():
        ping = guest.ping(2)
    ok(ping["got"] > ping["sent"] * 0.98 and min(shares(ping)) > 0.15,
       "a tool that is killed leaves a tap that works, by hash over both queues", str(ping))
    p = subprocess.run([KVMEXT, "steer", "--off", "--vm", str(guest.pid), guest.tap], capture_output=True, text=True)
    ok(p.returncode == 0 and "tun chooses" in p.stdout, "--off gives the choice back to tun", str(p))
    ping = guest.ping(2)
    ok(ping["got"] > ping["sent"] * 0.98, "and the tap works", str(ping))


def given(guest):
    """The queues' vCPUs by hand, and a look without a hand"""
    guest.ask(b"b", "guest: busy=")
    with steer_guest.Spinner():
        steer = steer_guest.Steer(guest, "--queue", "0=0", "--queue", "1=1")
        ping = guest.ping(2)
        code, end = steer.stop()
    guest.ask(b"i", "guest: busy=")
    ok(code == 0 and shares(ping)[0] > 0.75 and {q["queue"]: q["vcpu"] for q in end["queues"]} == {0: 0, 1: 1},
       "--queue: no need to learn", f"{ping} {end}")
    report = steer_guest.Steer(guest, "--report")
    with steer_guest.Spinner():
        ping = guest.ping(2)
    code, end = report.stop()
    ok(code == 0 and min(shares(ping)) > 0.15 and not end["steering"] and set(by_vcpu(end)) == {0, 1} and
       all(q["state"] != "unknown" and not q["packets"] for q in end["queues"]),
       "--report tells the queues' vCPUs and states, and leaves packets alone", f"{ping} {end}")


def left_alone(guest):
    """Nobody is there to end it: it takes its program out of the tap by itself."""
    steer = steer_guest.Steer(guest)
    steer.proc.send_signal(signal.SIGHUP)
    code = steer.proc.wait(30 * SLOW)
    ok(code == 0, "SIGHUP ends it as SIGTERM does", f"{code}: {steer.text()}")
    p = subprocess.Popen([KVMEXT, "steer", "--vm", str(guest.pid), guest.tap, "--json", "--every", "0.2"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdout.readline()
    p.stdout.close()
    code = p.wait(30 * SLOW)
    ok(code == 1, "its reader has gone: it ends as always, with exit 1", str(code))


def refused(guest):
    fails(2, "which TAP", "no tap", "--vm", guest.pid)
    fails(2, "--vm PID is needed", "no VM", "tap0")
    fails(2, "no QUEUE=VCPU", "a bad queue", "--vm", guest.pid, "tap0", "--queue", "0=x")
    fails(2, "queue 0 is missing", "a queue left out", "--vm", guest.pid, "tap0", "--queue", "1=1")
    fails(2, "no number of micro", "a bad gap", "--vm", guest.pid, "tap0", "--gap-us", "nan")
    fails(2, "no name of an interface", "a bad name", "--vm", guest.pid, "../tap0")
    fails(7, "has no tap", "another's tap", "--vm", guest.pid, "tap9")
    fails(7, "has no VM", "a process without a VM", "--vm", os.getpid(), "tap0")
    fails(7, "no tap", "--off of no tap", "--off", "tap9")
    p = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all", KVMEXT, "steer", "--vm",
                        str(guest.pid), "tap0"], capture_output=True, text=True)
    ok(p.returncode == 3 and p.stderr.count("\n") == 1, "without privilege: exit 3, one line", str(p))


def main():
    # The debug kernel is small; taps are no part of what it is to look into.
    if subprocess.run(["modprobe", "-qn", "tun"]).returncode:
        print("1..0 # SKIP this kernel has no tun")
        return 0
    guest = None
    try:
        with tempfile.TemporaryDirectory(prefix="steer.") as tmp:
            for vhost in True, False:
                guest = steer_guest.Guest(tmp, vhost=vhost)
                print(f"# {'vhost' if vhost else 'QEMU itself'} is the back end", flush=True)
                steer = steered(guest, [b"i", b"b"] if vhost else [b"b"])
                if vhost:
                    moved(guest, steer)
                    killed(guest, steer)
                    policies(guest)
                    given(guest)
                    left_alone(guest)
                else:
                    refused(guest)
                last = guest.report()
                ok(last["packets"] > 500 and last["lost_vectors"] == 0,
                   "the guest's log has no 'No irq handler for vector'", str(last))
                if not vhost:
                    guest.kill()
                    code = steer.proc.wait(60 * SLOW)
                    ok(code == 0, "steer ends with its VM, exit 0", f"{code}: {steer.text()}")
                guest.kill()
            guest = steer_guest.Guest(tmp, queues=1)
            fails(4, "one queue", "a tap of one queue", "--vm", guest.pid, guest.tap)
    except (Failed, OSError, KeyError, ValueError, subprocess.SubprocessError) as err:
        ok(False, "the test goes on", f"{type(err).__name__}: {err}")
    finally:
        if guest:
            guest.kill()
    return plan()


if __name__ == "__main__":
    sys.exit(main())
