#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Random actions on running guests, and then: is everything as it should be?

    chaos.py [--seconds N] [--seed N] [--qemu]    in the test machine, as root; prints TAP
    chaos.py --repeat SEED LANE:N...              only say which actions these are, as a hash

What is done is drawn from the seed alone, lane by lane: a lane is a thread that does one
action after the other. How the lanes interleave, and what an action meets, is the machine's
doing. So a seed repeats the actions, not the moments.

Three guests (tests/chaos/vm.c) write and check their memory: two live as long as the run,
the third comes and goes. No process here forks that has a VM. With --qemu a real one, Linux in
QEMU, boots, is migrated to another QEMU, checks its memory there and ends, again and again.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, f"{TOP}/tests/guest")
import migrate    # noqa: E402

KVMEXT = f"{TOP}/build/kvmext"
PINS = "/sys/fs/bpf/kvmext"
STATE = "/sys/kernel/debug/kvm/ext/state"
SWITCH = "/sys/module/kvm/parameters/ext_enable"
STUCK = 60    # s, the longest that an action may take, on a busy machine
KEPT = ("bitmap", "manual,irqchip")    # the guests that stay: how each has its dirty log
SPLAT = re.compile(r"BUG:|WARNING:|Oops|general protection|INFO: task|soft lockup|suspicious RCU|"
                   r"scheduling while atomic|sleeping function|Call Trace|rcu: INFO|UBSAN|"
                   r"Kernel panic")

# Exit codes of the tool that the others' actions account for: 4 the kill switch is off, 7 the
# VM went, 8 another policy is loaded there, 9 there is no such policy (or no more), and done.
EXITS = {0: "done", 4: "off", 7: "vm", 8: "taken", 9: "none"}
# The same for libbpf: EPERM (off), ESRCH (VM or policy gone), EBADF (nothing attached here),
# EEXIST, EINVAL (an update to another place: the VM of that place is a new one now).
ERRNOS = {1: "off", 3: "vm", 9: "none", 17: "taken", 22: "moved"}

# What has to have been done at least once, for the run to count; the switch, which comes late,
# only in a run that is not short.
WANTED = ["kvmext load", "kvmext switch", "kvmext unload", "kvmext set", "kvmext mark",
          "libbpf put", "libbpf set", "libbpf swap", "libbpf detach", "libbpf mark", "guest migrate",
          "guest slot", "guest log", "guest flood", "guest irqs", "guest stop", "guest create"]

PARAMS = {
    "converge": (("downtime", 1, 1000), ("ceiling", 0, 94), ("shrink", 1, 100), ("link", 0, 100)),
    "stun": (("block", 0, 100000000),),
    "uniform": (("initial", 1, 94), ("step", 1, 94), ("most", 1, 94)),
    "misbehave": (("mode", 0, 9),),
    "noop": (),
}
POLICIES = sorted(PARAMS)


# --- what is done: a function of the seed ------------------------------------------------

def path(policy):
    return f"build/{'tests/tool/bad' if policy == 'misbehave' else 'bpf'}/{policy}.bpf.o"


def some_param(rnd, policy):
    if not PARAMS[policy]:
        return []
    name, least, most = rnd.choice(PARAMS[policy])
    return [f"{name}={rnd.randint(least, most)}"]


def tool_lane(place):
    """kvmext, now and then killed midway, mostly at one place. {0} is the pid of guest 0 and so
    on. What may be loaded there is kept in mind, so that most actions have something to do."""
    def lane(rnd):
        loaded = {}
        # One of each first, so that a run on a slow machine has them too.
        if not place:
            yield from (("tool", 0, *args.split()) for args in (
                "load build/bpf/stun.bpf.o", "set stun block=1000000", "mark --vm {0} --vcpu 0",
                "switch stun build/bpf/uniform.bpf.o", "unload uniform"))
        while True:
            vm = place if rnd.random() < 0.8 else rnd.choice(("", "{0}", "{1}", "{2}"))
            policy = loaded.get(vm)
            what = rnd.choices(("switch", "set", "unload", "mark", "unmark", "status"), (6, 4, 4, 3, 1, 1))[0]
            if not policy and what not in ("mark", "unmark", "status") or rnd.random() < 0.1:
                what = "load"
            if not policy or rnd.random() < 0.1:
                policy = rnd.choice(POLICIES)
            # A policy without parameters takes none.
            if what == "set" and not PARAMS[policy]:
                what = "get"
            name, new = f"{policy}@{vm}" if vm else policy, rnd.choice(POLICIES)
            guest = ["--vm", f"{{{rnd.randint(0, 1)}}}", "--vcpu", str(rnd.randint(0, 1))]
            args = {"load": [path(policy), *(["--vm", vm] if vm else []), *some_param(rnd, policy)],
                    "switch": [name, path(new), *some_param(rnd, new)],
                    "set": [name, *some_param(rnd, policy)], "get": [name], "unload": [name],
                    "mark": guest, "unmark": guest, "status": ["--interval", "0"]}[what]
            # Of those that change something one in five is killed, early or late.
            kill = what in ("load", "switch", "unload") and rnd.random() < 0.2
            yield ("tool", int(10 ** rnd.uniform(1, 3.3)) if kill else 0, what, *args)
            if not kill:
                loaded[vm] = {"load": policy, "switch": new, "unload": None}.get(what, loaded.get(vm))
            yield ("pause", rnd.randint(0, 50))
    return lane


def libbpf_lane(rnd):
    """A program that attaches and is gone with all it attached when it is killed."""
    places = ("0", "{0}", "{1}", "{2}")
    # Where nobody else is, see tool_lane().
    yield from (("ctl", line) for line in ("put 0 {3} 1000000 0", "set 0 0 100000 0", "swap 0 {3} 5",
                                           "mark {0} 1 1", "detach 0"))
    while True:
        slot = rnd.choice((1, 1, 1, 2, 2, 3, 0))
        answer, how = rnd.choice((0, 100000, 5000000, 100000000)), rnd.randint(0, 2)
        what = rnd.choices(("put", "set", "swap", "detach", "mark", "kill"), (8, 5, 4, 2, 6, 1))[0]
        yield {"put": ("ctl", f"put {slot} {places[slot]} {answer} {how}"),
               "set": ("ctl", f"set {slot} {how} {answer} {rnd.choice((0, 0, 0, 1, 2, 4))}"),
               "swap": ("ctl", f"swap {slot} {places[slot]} {rnd.randint(1, 20)}"),
               "detach": ("ctl", f"detach {slot}"),
               "mark": ("ctl", f"mark {{{rnd.randint(0, 1)}}} {rnd.randint(0, 1)} {rnd.randint(0, 1)}"),
               "kill": ("ctl-kill",)}[what]
        yield ("pause", rnd.randint(0, 100))


def some_guest_action(rnd, n):
    # A guest that migrates is a new VM, and what was for the old one is gone: guest 0 stays longer.
    # Guest 0 has no interrupt controller.
    what = rnd.choices(("log", "slot", "migrate", "anew", "flood", "irqs", "stop", "live"),
                       (3, 3, 4 if n else 0.5, 1 if n else 0.2, 3, 3 if n else 0, 2, 5))[0]
    return {"log": ("vm", n, f"log {rnd.randint(0, 200)}"),
            "slot": ("vm", n, f"slot {rnd.randint(0, 30)}"),
            "migrate": ("vm", n, f"migrate {rnd.randint(5, 100)}"),
            "anew": ("vm", n, "anew"),
            "flood": ("vm", n, f"flood {rnd.randint(100, 3000)}"),
            "irqs": ("vm", n, f"irqs {rnd.randint(100, 3000)}"),
            "stop": ("stop", n, rnd.randint(0, 500)),
            "live": ("pause", rnd.randint(100, 500))}[what]


def guest_lane(n):
    def lane(rnd):
        while True:
            yield some_guest_action(rnd, n)
            yield ("pause", rnd.randint(0, 500))
    return lane


def guests_lane(rnd):
    """A guest that comes and goes, well or badly."""
    while True:
        yield ("create", 2, rnd.choice(("bitmap", "manual", "ring", "irqchip", "ring,irqchip")))
        for _ in range(rnd.randint(0, 4)):
            yield some_guest_action(rnd, 2)
        yield ("destroy", 2, rnd.choice(("verify", "kill")))
        yield ("pause", rnd.randint(0, 500))


def switch_lane(rnd):
    """Thrice in a run: a flip patches the text of the running kernel, and QEMU's emulator
    with several threads now and then runs what was there before."""
    for _ in range(3):
        yield ("pause", rnd.randint(5000, 15000))
        yield ("off", rnd.randint(0, 500))


def qemu_lane(rnd):
    """MiB/s that the guest dirties, MiB that it dirties; over a link of 20 MiB/s."""
    # The first is to arrive, whoever throttles it.
    yield ("qemu", 1, 8)
    while True:
        yield ("qemu", rnd.choice((1, 5, 20, 40)), rnd.choice((8, 16, 32)))


LANES = {"tool-all": tool_lane(""), "tool-one": tool_lane("{0}"), "libbpf": libbpf_lane, "guest-0": guest_lane(0),
         "guest-1": guest_lane(1), "guests": guests_lane, "switch": switch_lane}
# Only with --qemu; {4} is the QEMU that migrates, or was the last to.
QEMU_LANES = {"qemu": qemu_lane, "tool-qemu": tool_lane("{4}")}


def sequence(seed, lane):
    return {**LANES, **QEMU_LANES}[lane](random.Random(f"{seed} {lane}"))


class Log:
    """How many actions a lane did, and a hash of them."""

    def __init__(self):
        self.n, self.hash = 0, hashlib.sha256()

    def add(self, action):
        self.n += 1
        self.hash.update(json.dumps(action).encode() + b"\n")


def hash_of(logs):
    return hashlib.sha256("".join(f"{k} {v.n} {v.hash.hexdigest()}\n"
                                  for k, v in sorted(logs.items())).encode()).hexdigest()[:16]


def repeat(seed, lanes):
    logs = {}
    for lane, _, n in (l.partition(":") for l in lanes):
        logs[lane] = Log()
        for _, action in zip(range(int(n)), sequence(seed, lane)):
            logs[lane].add(action)
    return hash_of(logs)


# --- doing it ----------------------------------------------------------------------------

class Wrong(Exception):
    pass


class Program:
    """A program that answers each line with a line."""

    def __init__(self, *args):
        self.lock = threading.Lock()
        self.proc = subprocess.Popen([f"{TOP}/build/tests/chaos/{args[0]}", *args[1:]], text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.proc.pid
        self.start = self.answer()

    def answer(self):
        if not select.select([self.proc.stdout], [], [], STUCK)[0]:
            raise Wrong(f"no answer for {STUCK} s")
        line = self.proc.stdout.readline().strip()
        if not line:
            raise Wrong(f"it died ({self.proc.wait()})")
        return line

    def ask(self, line):
        with self.lock:
            try:
                self.proc.stdin.write(line + "\n")
                self.proc.stdin.flush()
            except BrokenPipeError:
                raise Wrong(f"it died ({self.proc.wait()})") from None
            return self.answer()

    def end(self, sig=None):
        with self.lock:
            if sig:
                self.proc.send_signal(sig)
            try:
                self.proc.stdin.close()
            except BrokenPipeError:
                pass
            try:
                self.proc.wait(STUCK)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                raise Wrong(f"it did not end for {STUCK} s") from None
            self.proc.stdout.close()


class Guest(Program):
    def __init__(self, kind):
        super().__init__("vm", "2", kind)
        self.samples = []
        if not self.start.startswith("ok"):
            raise Wrong(self.start)

    def ask(self, line):
        answer = super().ask(line)
        if not answer.startswith("ok"):
            raise Wrong(answer)
        return answer

    def progress(self):
        return [int(n) for n in self.ask("progress").split()[2:]]


class Run:
    def __init__(self, seed):
        self.seed = seed
        self.end = threading.Event()
        self.wrong, self.counts, self.logs = [], {}, {}
        self.guests, self.ctl, self.spare = {}, None, 0
        self.qemu_pid, self.qemu_opt, self.migrated = os.getpid(), None, []
        self.count_lock = threading.Lock()

    def count(self, what, how="done"):
        with self.count_lock:
            self.counts[what, how] = self.counts.get((what, how), 0) + 1

    def pid(self, n):
        if n == 4:
            return self.qemu_pid
        # The third guest may be away: its last pid then, which is nobody's.
        guest = self.guests.get(n)
        if guest:
            self.spare = guest.pid if n == 2 else self.spare
            return guest.pid
        return self.spare or os.getpid()

    def fill(self, text):
        return re.sub(r"\{(\d)\}", lambda m: str(self.pid(int(m[1]))), text)

    def tool(self, kill, what, *args):
        cmd = [KVMEXT, "-q", what, *map(self.fill, args)]
        p = subprocess.Popen(cmd, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
        if kill:
            try:
                p.wait(kill / 1000)
            except subprocess.TimeoutExpired:
                p.kill()
        try:
            err = p.communicate(timeout=STUCK)[1].strip()
        except subprocess.TimeoutExpired:
            p.kill()
            raise Wrong(f"no end after {STUCK} s") from None
        if p.returncode == -signal.SIGKILL and kill:
            return self.count(f"kvmext {what}", "killed")
        if p.returncode not in EXITS or (p.returncode and not err):
            raise Wrong(f"exit status {p.returncode}, '{err}'")
        return self.count(f"kvmext {what}", EXITS[p.returncode])

    def do_ctl(self, line):
        answer = self.ctl.ask(self.fill(line))
        what = f"libbpf {line.split()[0]}"
        if answer == "ok":
            return self.count(what)
        code = -int(answer.split()[1])
        if code == 2 and line.startswith("mark"):
            # A VM that is made anew has no vCPUs at first.
            return self.count(what, "vm")
        if code not in ERRNOS:
            raise Wrong(f"{answer} ({os.strerror(code)})")
        return self.count(what, ERRNOS[code])

    def do_vm(self, n, line):
        self.guests[n].ask(line)
        self.count(f"guest {line.split()[0]}")

    def do_stop(self, n, ms):
        os.kill(self.guests[n].pid, signal.SIGSTOP)
        try:
            time.sleep(ms / 1000)
        finally:
            os.kill(self.guests[n].pid, signal.SIGCONT)
        self.count("guest stop")

    def do_destroy(self, n, how):
        guest = self.guests[n]
        try:
            if how == "verify":
                guest.ask("verify")
        finally:
            self.pid(n)
            del self.guests[n]
            guest.end(signal.SIGKILL if how == "kill" else None)
        self.count(f"guest {how}")

    def do_off(self, ms):
        with open(SWITCH, "w") as f:
            f.write("N")
        time.sleep(ms / 1000)
        with open(SWITCH, "w") as f:
            f.write("Y")
        self.count("kill switch")

    def do_qemu(self, rate, ws):
        opt = argparse.Namespace(**{**vars(self.qemu_opt), "rate": rate, "ws": ws})
        quiet = migrate.Progress("log")
        quiet.show = lambda text: None
        src = dst = None

        def cancel(*_):
            """At the end of the run what is under way is not waited for."""
            if self.end.is_set():
                src.qmp.cmd("migrate_cancel")
            return self.end.is_set()
        try:
            src = migrate.boot(opt, "none", quiet)
            self.qemu_pid = src.proc.pid
            row, dst = migrate.migrate(opt, src, "none", quiet, hook=cancel)
            # Throttled at random it may not converge; where it stays it has to be whole.
            if row["status"] in ("not-converged", "cancelled"):
                row["destination"] = src.verify()
            elif row["status"] != "completed":
                raise Wrong(f"{row['status']}: {row.get('error') or row.get('destination')}")
            if row["destination"]["memory"] != "ok":
                raise Wrong(f"the guest's memory after it: {row['destination']}")
            self.migrated.append(migrate.describe(row))
            self.count("qemu migrate", "done" if row["status"] == "completed" else row["status"])
        except migrate.Failed as err:
            raise Wrong(str(err)) from None
        finally:
            for vm in (src, dst):
                if vm:
                    vm.kill()

    def act(self, action):
        what, *args = action
        if what == "pause":
            self.end.wait(args[0] / 1000)
        elif what == "tool":
            self.tool(*args)
        elif what == "ctl":
            self.do_ctl(*args)
        elif what == "ctl-kill":
            self.ctl.end(signal.SIGKILL)
            self.ctl = Program("ctl")
            self.count("libbpf kill")
        elif what == "create":
            self.guests[args[0]] = Guest(args[1])
            self.count("guest create")
        else:
            {"vm": self.do_vm, "stop": self.do_stop, "destroy": self.do_destroy,
             "off": self.do_off, "qemu": self.do_qemu}[what](*args)

    def lane(self, name):
        log = self.logs[name] = Log()
        for action in sequence(self.seed, name):
            if self.end.is_set():
                break
            log.add(action)
            try:
                self.act(action)
            except Exception as err:    # whatever it is, the run is to end and to say so
                self.wrong.append(f"{name}, action {log.n}: {' '.join(map(str, action))}: "
                                  f"{type(err).__name__ if not isinstance(err, Wrong) else ''} {err}")
                self.end.set()

    def sample(self):
        for n in range(len(KEPT)):
            self.guests[n].samples.append(self.guests[n].progress())


# --- the machine's state -----------------------------------------------------------------

class Objects:
    """How many BPF programs, maps, links and BTFs there are, policies and pins"""

    NEXT = {"programs": 11, "maps": 12, "BTFs": 23, "links": 31}    # bpf(2) commands
    syscall = ctypes.CDLL(None, use_errno=True).syscall

    def __init__(self):
        self.n = {what: self.ids(cmd) for what, cmd in self.NEXT.items()}
        self.n["pins"] = sum(len(f) + len(d) for _, d, f in os.walk(PINS))
        with open(STATE) as f:
            self.n["policies"] = sum(line.startswith("policy ") for line in f)

    @classmethod
    def ids(cls, cmd):
        attr = (ctypes.c_uint32 * 3)()
        n = 0
        while not cls.syscall(321, cmd, attr, ctypes.sizeof(attr)):
            attr[0], n = attr[1], n + 1
        return n


def unload_all():
    """What is left over goes as an administrator would have it go. Returns what does not."""
    for _ in range(3):
        out = subprocess.run([KVMEXT, "--json", "list"], capture_output=True, text=True, timeout=STUCK)
        names = re.findall(r'"instance": "([^"]*)"', out.stdout)
        if out.returncode or not names:
            break
        for name in names:
            subprocess.run([KVMEXT, "-q", "unload", name], capture_output=True, timeout=STUCK)
    return out.stderr.strip() or " ".join(names)


def splats(fd):
    found = []
    while True:
        try:
            text = os.read(fd, 8192).decode(errors="replace")
        except BlockingIOError:
            return found
        except BrokenPipeError:    # the ring buffer went on without us
            found.append("the kernel log was overrun")
            continue
        if SPLAT.search(text):
            found.append(text.split(";", 1)[-1].splitlines()[0])


class Tap:
    def __init__(self, plan):
        self.n = self.bad = 0
        print(f"1..{plan}", flush=True)

    def ok(self, good, text, why=""):
        self.n += 1
        print(f"{'ok' if good else 'not ok'} {self.n} - {text}", flush=True)
        if not good:
            self.bad += 1
            for line in str(why).splitlines():
                print(f"# {line}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--repeat", nargs="+", metavar="SEED LANE:N")
    parser.add_argument("--qemu", action="store_true", help="a real guest too, which migrates")
    opt = parser.parse_args()
    if opt.repeat:
        print(repeat(int(opt.repeat[0]), opt.repeat[1:]))
        return 0

    began = time.monotonic()
    tap = Tap(7 + 2 * len(KEPT))
    how = f"make test-chaos SEED={opt.seed} SECONDS={opt.seconds:g}{' QEMU_GUEST=1' if opt.qemu else ''}"
    print(f"# seed {opt.seed}, {opt.seconds:g} s; to repeat: {how}", flush=True)
    kmsg = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(kmsg, 0, os.SEEK_END)
    before = Objects()
    run = Run(opt.seed)
    # VMs that nothing happens to, one with a policy of its own: so that the hooks do not
    # go off and on with each that comes and goes, see switch_lane(); nor KVM's own static
    # branches, for VMs without an interrupt controller and APICs that are off.
    anchors, anchor_ctl = [Guest("bitmap"), Guest("apic-off")], Program("ctl")
    for anchor in anchors:
        anchor.proc.send_signal(signal.SIGSTOP)
    said = anchor_ctl.ask(f"put 3 {anchors[0].pid} 0 0")
    if said != "ok":
        run.wrong.append(f"the first attach: {said}")
        run.end.set()
    run.ctl = Program("ctl")
    for n, kind in enumerate(KEPT):
        run.guests[n] = Guest(kind)
    run.guests[3] = Guest("bitmap")
    run.guests[3].proc.send_signal(signal.SIGSTOP)
    wanted = WANTED + (["kill switch"] if opt.seconds >= 30 else [])
    tmp = tempfile.TemporaryDirectory(prefix="chaos.")
    if opt.qemu:
        run.qemu_opt = migrate.options(["--modes", "none", "--mem", "128", "--progress", "log"])
        run.qemu_opt.warm_up_given = run.qemu_opt.warm_up = 1.0
        migrate.SLOW = 4    # it is not alone, and not to have the CPUs before the others
        migrate.prepare(run.qemu_opt, tmp.name)
        LANES.update(QEMU_LANES)
        wanted.append("qemu migrate")

    def missing():
        return [w for w in wanted if not run.counts.get((w, "done"))]

    lanes = [threading.Thread(target=run.lane, args=(name,)) for name in LANES]
    start = time.monotonic()
    run.sample()
    for lane in lanes:
        lane.start()
    found = []
    for third in range(1, 4):
        # A splat ends the run: what comes after it says little.
        while not found and (left := start + opt.seconds * third / 3 - time.monotonic()) > 0:
            if run.end.wait(min(left, 5)):
                break
            found = splats(kmsg)
        try:
            run.sample()
        except Wrong as err:
            run.wrong.append(f"asked for its progress: {err}")
            run.end.set()
    # A busy machine may need longer to have done one of each.
    longer = 600 if opt.qemu else 30
    while missing() and not found and time.monotonic() < start + opt.seconds + longer and not run.end.wait(1):
        pass
    run.end.set()
    for lane in lanes:
        lane.join()
    took = time.monotonic() - start
    print(f"# from {start * 1000:.0f} to {(start + took) * 1000:.0f} ms", flush=True)
    logs = dict(run.logs)

    done = {}
    for (what, result), n in sorted(run.counts.items()):
        done.setdefault(what, []).append(f"{n} {result}")
    for what, results in done.items():
        print(f"#   {what}: {', '.join(results)}")
    for text in run.migrated:
        print(f"#   qemu: {text}")
    tap.ok(not run.wrong, f"{sum(l.n for l in logs.values())} actions in {took:.0f} s, each ended as it may",
           "\n".join(run.wrong))
    tap.ok(not missing(), "every kind of action was done", "never: " + ", ".join(missing()))

    left = unload_all()
    for n in range(len(KEPT)):
        guest = run.guests[n]
        try:
            guest.samples.append(guest.progress())
            time.sleep(2)
            guest.samples.append(guest.progress())
            grew = all(a < b for old, new in zip(guest.samples, guest.samples[1:])
                       for a, b in zip(old, new))
            tap.ok(grew and len(guest.samples) == 6, f"guest {n} made progress in each third, and after: "
                   f"{guest.samples[-1]} pages", guest.samples)
        except Wrong as err:
            tap.ok(False, f"guest {n} made progress", err)
        try:
            tap.ok(True, f"guest {n}'s memory and its checksums agree: {guest.ask('verify')}")
        except Wrong as err:
            tap.ok(False, f"guest {n}'s memory and its checksums agree", err)
    for guest in *anchors, run.guests[3]:
        guest.proc.send_signal(signal.SIGCONT)
    for program in (*run.guests.values(), run.ctl, anchor_ctl, *anchors):
        try:
            program.end()
        except Wrong as err:
            left = left or f"{program.proc.args}: {err}"
    left = left or unload_all()
    tap.ok(not left, "what was loaded can be unloaded", left)
    # Links, programs and maps are freed after grace periods.
    for _ in range(200):
        after = Objects()
        if after.n == before.n:
            break
        time.sleep(0.1)
    tap.ok(after.n == before.n, "no policy, link, pin or BPF object is left", f"{before.n}, now {after.n}")
    tmp.cleanup()
    with open(SWITCH) as f:
        tap.ok(f.read().strip() == "Y", "the kill switch is as it was")
    found += splats(kmsg)
    tap.ok(not found, "the kernel log has no splat", "\n".join(found[:10]))
    mine = hash_of(logs)
    again = subprocess.run([sys.executable, __file__, "--repeat", str(opt.seed),
                            *(f"{name}:{log.n}" for name, log in logs.items())],
                           capture_output=True, text=True)
    tap.ok(again.stdout.strip() == mine, f"the seed gives these actions again, hash {mine}",
           f"{again.stdout}{again.stderr}")
    print(f"# {time.monotonic() - began:.0f} s with start and end", flush=True)
    if tap.bad:
        print(f"# to repeat: {how}", flush=True)
    return int(tap.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
