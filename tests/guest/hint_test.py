#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""kvmext hint is right beside a VM whose agent answers, does not answer, or answers nonsense.

Runs in the test machine, prints TAP.

The agent is a stand-in: its area is not in the guest's memory, so that the policy finds it "foreign" while the
agent is trusted, and counts "no_lease" while it is not. One of the two grows with each harvest, the other stands.
"""

import glob
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, "tests/lib"))

from tap import ok, plan  # noqa: E402

KVMEXT = f"{TOP}/build/kvmext"
SLOW = int(os.environ.get("KVMEXT_SLOW", "1"))
SWITCH = "/sys/module/kvm/parameters/ext_enable"
LEASE = 1.0             # s, FREE_LEASE_MS


def tool(*args):
    p = subprocess.run([KVMEXT, *map(str, args)], capture_output=True, text=True, timeout=60 * SLOW)
    return p.returncode, p.stdout, p.stderr


class Agent:
    """The guest's end of the port, as QEMU's chardev has it"""

    def __init__(self, path):
        self.answers, self.delay, self.cookie, self.told_cookie = True, 0.0, "beef", None
        self.heard, self.conn, self.half = [], None, ""
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(1)
        threading.Thread(target=self.serve, daemon=True).start()

    def say(self, text):
        try:
            self.conn.sendall(text.encode())
        except (OSError, AttributeError):
            pass

    def serve(self):
        while True:
            self.conn, _ = self.server.accept()
            buf = b""
            while data := self.read():
                buf += data
                *lines, buf = buf.split(b"\n")
                for line in lines:
                    self.hear(line.decode())

    def read(self):
        try:
            return self.conn.recv(4096)
        except OSError:
            return b""

    def hear(self, line):
        self.heard.append(line)
        if not self.answers:
            return
        if line == "register":
            self.say(f"area 1 {self.cookie} 131072 5\ngfn 128 5\n{self.half}end\n")
        elif line.startswith("beat "):
            reply = f"alive {self.told_cookie or self.cookie} {line[5:]}\n"
            if self.delay:
                threading.Timer(self.delay, self.say, [reply]).start()
            else:
                self.say(reply)

    def hears(self, what, seconds=10):
        until = time.monotonic() + seconds * SLOW
        while what not in self.heard and time.monotonic() < until:
            time.sleep(0.05)
        return what in self.heard


class Hint:
    def __init__(self, vm, path, *args):
        self.lines = []
        self.proc = subprocess.Popen([KVMEXT, "--json", "hint", "--vm", str(vm), "--port", path, *args],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.proc.stdout:
            self.lines.append(json.loads(line))

    def saw(self, seconds=10, **want):
        """Whether a line has come that says so"""
        until = time.monotonic() + seconds * SLOW
        while time.monotonic() < until:
            if any(all(line.get(k) == v for k, v in want.items()) for line in self.lines):
                return True
            time.sleep(0.05)
        return False

    def wait(self, seconds):
        """Its exit status, or None"""
        try:
            code = self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            code = None
        self.reader.join(10)
        return code

    def end(self, sig=signal.SIGTERM):
        self.proc.send_signal(sig)
        return self.wait(30 * SLOW)


def counts(name):
    return [int(tool("get", name, c)[1]) for c in ("foreign", "no_lease")]


def trusted(name):
    """True, False, or None if that changed meanwhile"""
    before = counts(name)
    time.sleep(0.5 * SLOW)
    after = counts(name)
    foreign, no_lease = after[0] > before[0], after[1] > before[1]
    return None if foreign == no_lease else foreign


def settles(name, want, seconds=10):
    until = time.monotonic() + seconds * SLOW
    while time.monotonic() < until:
        if trusted(name) is want:
            return True
    return False


FLOODS = {
    "the same complaint": lambda i: b"refused no\n" * 1000,
    "another complaint each time": lambda i: b"".join(b"refused %d \x1b[31m\x1b]0;x\x07\xc2\x9b\xff\n" % k
                                                      for k in range(1000 * i, 1000 * i + 1000)),
    "success that nobody asked for": lambda i: b"zeroed 5\nscanned 7\n" * 1000,
    "its end and its life": lambda i: b"bye beef\nalive beef 1\nalive beef 2\n" * 500,
    "areas with no end": lambda i: b"area 1 beef 131072 16385\ngfn 1 16385\n" * 500,
    "a line with no end": lambda i: b"x" * 65536,
    "empty lines": lambda i: b"\n" * 65536,
    "noise": lambda i: os.urandom(65536),
    "a byte at a time": None,
}


def flood(conn, stop, make):
    """The guest says as much as it can, until it is told to stop."""
    i = 0
    try:
        while not stop.is_set():
            if make:
                conn.sendall(make(i))
            else:
                conn.send(b"a")
            i += 1
    except OSError:
        pass


def used(pid):
    """What a process takes: its memory in KiB, its time in s"""
    with open(f"/proc/{pid}/status") as f:
        rss = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
    with open(f"/proc/{pid}/stat") as f:
        t = f.read().rpartition(")")[2].split()
    return rss, (int(t[11]) + int(t[12])) / os.sysconf("SC_CLK_TCK")


def floods(tmp, vm, path, agent):
    """A guest that says a lot has neither memory, output nor time of root's for it."""
    for what, make in FLOODS.items():
        agent.answers = False
        with open(f"{tmp}/out", "wb") as out:
            p = subprocess.Popen([KVMEXT, "hint", "--vm", str(vm), "--port", path], stdout=out, stderr=out)
        before = len(agent.heard)
        until = time.monotonic() + 10 * SLOW
        while len(agent.heard) == before and time.monotonic() < until:
            time.sleep(0.05)
        rss, _ = used(p.pid)
        stop = threading.Event()
        thread = threading.Thread(target=flood, args=(agent.conn, stop, make), daemon=True)
        thread.start()
        time.sleep(2)
        _, at = used(p.pid)
        time.sleep(3)
        now, to = used(p.pid)
        t = time.monotonic()
        p.terminate()
        try:
            code = p.wait(20 * SLOW)
        except subprocess.TimeoutExpired:
            p.kill()
            code = "none: killed"
        took = time.monotonic() - t
        stop.set()
        thread.join(10)
        with open(f"{tmp}/out", "rb") as f:
            said = f.read()
        raw = [c for c in said if not (32 <= c < 127 or c == 10)]
        ok(now - rss < 1024 and to - at < 1.5 and len(said) < 8192 and took < SLOW and code == 0 and not raw,
           f"a guest that floods us with {what}: bounded memory, time and output, and SIGTERM ends it",
           f"{now - rss} KiB more, {to - at:.2f} s of 3 s, {len(said)} bytes ({len(raw)} raw), "
           f"ended by SIGTERM after {took:.2f} s: {code}; {said[-300:]}")
    agent.answers = True


def reader_gone(vm, path, agent):
    """As in `kvmext hint | head`: it ends, and the guest has its memory back."""
    agent.heard.clear()
    p = subprocess.Popen([KVMEXT, "--json", "hint", "--vm", str(vm), "--port", path, "--zero", "77"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdout.readline()
    agent.hears("zero 77")
    p.stdout.close()
    try:
        code = p.wait(20 * SLOW)
    except subprocess.TimeoutExpired:
        code = None
        p.kill()
    ok(code == 1 and agent.hears("release"), "its reader has gone: it ends as always, with exit 1",
       f"{code} {agent.heard[-5:]}")


def test(tmp, vm):
    path, name = f"{tmp}/port", f"skip_free@{vm}"
    code, _, err = tool("hint", "--vm", vm, "--port", path)
    ok(code == 9 and "kvmext load skip_free" in err, "without the policy: exit 9, and what to do", f"{code} {err}")
    code, _, err = tool("load", f"{TOP}/build/bpf/skip_free.bpf.o", "--vm", vm)
    ok(code == 0, "the policy", err)
    code, _, err = tool("hint", "--vm", vm, "--port", path)
    ok(code == 4 and "virtserialport" in err, "without a port: exit 4, and what to do", f"{code} {err}")
    ok(trusted(name) is False, "nobody is trusted")

    agent = Agent(path)
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted") and settles(name, True), "an agent that answers is trusted", f"{hint.lines}")
    ok(agent.hears("moving"), "as the log is taken, it hears that the guest moves", f"{agent.heard[-5:]}")
    code, _, err = tool("hint", "--vm", vm, "--port", path)
    ok(code == 8, "another kvmext hint: exit 8", f"{code} {err}")
    ok(settles(name, True), "and the first goes on")

    agent.answers = False
    ok(hint.saw(state="silent") and settles(name, False), "one that stops to answer is not", f"{hint.lines}")
    agent.answers = True
    ok(settles(name, True), "until it answers again", f"{agent.heard[-5:]}")

    agent.delay = LEASE * 1.5
    ok(settles(name, False), "answers that come too late are worth nothing", f"{agent.heard[-5:]}")
    agent.delay = 0
    ok(settles(name, True), "and then they are not late")

    agent.told_cookie = "dead"
    ok(settles(name, False), "nor are those of another area", f"{agent.heard[-5:]}")
    asked = agent.heard.count("register")
    time.sleep(3)
    ok(0 < agent.heard.count("register") - asked <= 4, "which is asked for once a second, however it answers",
       f"{agent.heard[-50:]}")
    asked = agent.heard.count("register")
    agent.cookie, agent.told_cookie = "dead", None
    ok(settles(name, True) and agent.heard.count("register") > asked, "told of, it is trusted",
       f"{agent.heard[-5:]}")

    agent.say("what is this\narea 1 0 5\ngfn 7 7\nend\nalive x y\n" + 100000 * "x")
    ok(settles(name, True), "what makes no sense is passed over")
    agent.say("\n")

    # A guest that names frames that it does not have, or too many, harms nobody
    agent.answers = False
    agent.say("\narea 1 f00d 65536 3\ngfn 99999999999999 3\nend\narea 1 f00d 65536 3\ngfn 5 1000000\nend\n")
    ok(settles(name, False), "an area that cannot be is none")
    agent.answers = True
    ok(settles(name, True), "the next is")

    # In the middle of an area that is good, a line of two numbers
    agent.half, agent.told_cookie = "area 1 bad 99999999999\n", "bad"
    settles(name, False)
    asked = agent.heard.count("register")
    until = time.monotonic() + 10 * SLOW
    while agent.heard.count("register") < asked + 2 and time.monotonic() < until:
        time.sleep(0.1)
    ok(trusted(name) is False and max(line["frames"] for line in hint.lines) == 131072,
       "half a line about an area changes nothing of what was checked", f"{hint.lines[-3:]}")
    agent.half, agent.told_cookie = "", None
    ok(settles(name, True), "without it the area is good")

    agent.answers = False
    agent.say(f"bye {agent.cookie}\n")
    ok(hint.saw(2, state="gone") and trusted(name) is False, "bye ends it at once", f"{hint.lines}")
    agent.say("refused this kernel has KASAN\n")
    ok(hint.saw(state="refused", reason="the guest refuses: this kernel has KASAN"), "and why is told", f"{hint.lines}")
    agent.answers = True
    ok(settles(name, True), "a new agent is trusted again", f"{agent.heard[-5:]}")

    # With nobody to end the lease it ends by itself
    hint.end(signal.SIGKILL)
    time.sleep(LEASE)
    ok(trusted(name) is False, "kvmext hint killed: nobody is trusted after a second")
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted") and settles(name, True), "and the next one begins")
    code = hint.end()
    ok(code == 0 and trusted(name) is False, "ended, it leaves no trust behind", f"{code}")
    for sig in signal.SIGHUP, signal.SIGQUIT:
        hint = Hint(vm, path)
        hint.saw(state="trusted")
        code = hint.end(sig)
        ok(code == 0 and hint.lines[-1]["event"] == "end", f"so with {sig.name}", f"{code} {hint.lines[-2:]}")
    reader_gone(vm, path, agent)

    floods(tmp, vm, path, agent)
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted") and settles(name, True), "after all that an agent that answers is trusted")
    hint.end()

    agent.heard.clear()
    hint = Hint(vm, path, "--zero", "77")
    ok(agent.hears("zero 77") and "moving" in agent.heard[:agent.heard.index("zero 77")] and
       "release" not in agent.heard, "--zero: before it the guest hears that it is to move", f"{agent.heard}")
    agent.say("zeroed 4711\n")
    ok(hint.saw(event="zeroed", pages=4711), "the guest has zeroed its memory", f"{hint.lines[-2:]}")
    hint.end()
    ok(agent.hears("release"), "at the end it may have it back", f"{agent.heard[-5:]}")

    hint = Hint(vm, path)
    ok(hint.saw(state="trusted"), "once more")
    code, _, err = tool("unload", name)
    ended = hint.proc.wait(30 * SLOW)
    err = hint.proc.stderr.read()
    ok(ended == 0, "the policy is unloaded: it ends", f"{ended} {err} {hint.lines[-2:]}")


def idle(tmp, vm):
    """The policy is still there, and does nothing for the VM any more: nobody is to go on saying "trusted"."""
    path = f"{tmp}/port.idle"
    agent = Agent(path)  # noqa: F841: it answers
    for name, args, how, why, msg in (
            (f"skip_free@{vm}", ("--vm", vm), 1, "ejected", "as the test wants"),
            ("skip_free", (), 2, "taken from the VM", "calls in a minute took over")):
        code, _, err = tool("load", f"{TOP}/build/tests/tool/bad/tool_give_up.bpf.o", *args)
        ok(code == 0, "a policy that fails as it is told", err)
        hint = Hint(vm, path)
        ok(hint.saw(state="trusted"), "its kvmext hint trusts the agent", f"{hint.lines}")
        tool("set", name, f"give_up={how}")
        ended = hint.wait(60 * SLOW)
        last = hint.lines[-2:]
        ok(ended == 0 and [l["state"] for l in last] == ["gone", "gone"] and why in last[0].get("reason", "") and
           msg in last[0]["reason"], f"the policy is {why}: it says so and ends", f"{ended} {last}")
        code, _, err = tool("hint", "--vm", vm, "--port", path)
        ok(code == 9 and why in err and err.count("\n") == 1, "and does not begin again: exit 9, why, one line",
           f"{code} {err}")
        tool("unload", name)
    code, _, err = tool("load", f"{TOP}/build/bpf/skip_free.bpf.o")
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted"), "with the real one it does", f"{hint.lines}")
    code, _, err = tool("load", f"{TOP}/build/bpf/noop_dirty.bpf.o", "--vm", vm)
    ok(code == 0 and hint.saw(20, state="gone") and hint.wait(20 * SLOW) == 0,
       "another policy decides for the VM from now on: it ends", f"{code} {err} {hint.lines[-2:]}")
    tool("unload", f"noop@{vm}")
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted"), "with that gone it begins", f"{hint.lines}")
    with open(SWITCH, "w") as f:
        f.write("N")
    ok(hint.saw(20, state="gone") and hint.wait(20 * SLOW) == 0, "the kill switch is thrown: it ends", f"{hint.lines}")
    with open(SWITCH, "w") as f:
        f.write("Y")
    tool("unload", "skip_free")


def killed(tmp, vm):
    """A policy has room for two VMs: killed hints of VMs that are gone take none of it."""
    tool("load", f"{TOP}/build/tests/tool/bad/tool_give_up.bpf.o")
    for i in range(2):
        hold, path = vmhold(), f"{tmp}/port.killed.{i}"
        agent = Agent(path)  # noqa: F841: it answers
        hint = Hint(hold.pid, path)
        ok(hint.saw(state="trusted"), f"VM {i + 1} has its area", f"{hint.lines}")
        hint.end(signal.SIGKILL)
        hold.kill()
        hold.wait()
    path = f"{tmp}/port.killed"
    agent = Agent(path)  # noqa: F841
    hint = Hint(vm, path)
    ok(hint.saw(state="trusted"), "both are killed, with their hints: the next VM has room", f"{hint.lines}")
    code = hint.end()
    files = glob.glob("/run/kvmext.hint*")
    ok(code == 0 and len(files) == 1, "and there is one file of locks for all", f"{code} {files}")
    tool("unload", "skip_free")


def two(tmp, vms):
    """One policy for every VM, and a kvmext hint for each of two"""
    code, _, err = tool("load", f"{TOP}/build/bpf/skip_free.bpf.o")
    ok(code == 0, "the policy for every VM", err)
    paths = [f"{tmp}/port.{vm}" for vm in vms]
    agents = [Agent(path) for path in paths]
    hints = [Hint(vm, path) for vm, path in zip(vms, paths)]
    ok(all(h.saw(state="trusted") for h in hints) and settles("skip_free", True), "two VMs are trusted at once",
       f"{[h.lines for h in hints]}")
    agents[0].answers = False
    ok(hints[0].saw(state="silent") and settles("skip_free", None), "the agent of one is silent: the other is trusted",
       f"{[h.lines for h in hints]}")
    agents[0].answers = True
    ok(settles("skip_free", True), "until it answers again", f"{agents[0].heard[-5:]}")
    code = hints[1].end()
    ok(code == 0 and settles("skip_free", None), "one kvmext hint ends: the other's VM is trusted", f"{code}")
    hints[0].end()
    code, _, err = tool("unload", "skip_free")
    ok(code == 0, "and the policy is gone", err)


def vmhold():
    hold = subprocess.Popen([f"{TOP}/build/tests/tool/vmhold"], stdout=subprocess.PIPE, text=True)
    hold.stdout.readline()
    return hold


def main():
    holds = [vmhold()]
    try:
        with tempfile.TemporaryDirectory(prefix="hint.") as tmp:
            test(tmp, holds[0].pid)
            idle(tmp, holds[0].pid)
            killed(tmp, holds[0].pid)
            holds.append(vmhold())
            two(tmp, [hold.pid for hold in holds])
    finally:
        for hold in holds:
            hold.kill()
    return plan()


if __name__ == "__main__":
    sys.exit(main())
