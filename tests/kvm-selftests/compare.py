#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run KVM's own selftests in the emulated host, and compare.

They are built from the kernel's source package, unchanged.  Three ways:

  stock     Debian's modules
  patched   ours, nothing attached
  noop      ours, build/bpf/noop*.bpf.o attached for every VM: a policy for each table

What passes on stock has to pass the other ways, and what is skipped there may not
fail there.  Each way is one boot; a test that kills the machine fails, and the
rest goes on in a new boot.  A warning or worse in the kernel log that stock did
not give for the same test fails, and so does a policy that is not in force after
a test, or was never called.

tests.toml has arguments, the fast subset, and the tests which are known to fail
in this emulator, with the reason.  Those run too; they have to fail as they are
known to, and one that passes is told.

Results: build/results/test-kvm.json, or -fast.json; output of each test in
build/selftests/WAY/.  Exit status 1 when anything is not as it has to be.
"""
import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
import tomllib

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, f"{TOP}/tests/lib")
from config import read_config      # noqa: E402
from splat import SPLAT             # noqa: E402

WAYS = ("stock", "patched", "noop")
LIMIT = 120        # s, of a test for which tests.toml has none
BOOT = 300         # s, for the machine to boot, or to say that it stopped a test
SKIP = 4           # KSFT_SKIP
KEYS = {"args", "fast", "limit", "hugepages", "known", "match", "why", "sometimes"}
MARK = b"#@kvm_ext "


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Test:
    def __init__(self, name, path, conf, opts):
        unknown = conf.keys() - KEYS
        if unknown or conf.get("known") not in (None, "fail", "timeout") or "known" in conf and "why" not in conf:
            sys.exit(f"tests.toml: [{name}]: wrong or missing: {' '.join(unknown) or 'known, why'}")
        self.name = name
        self.args = conf.get("fast" if opts.fast else "args", "")
        self.cmd = f"{path} {self.args}".strip()
        self.limit = int(conf.get("limit", LIMIT) * opts.slow)
        self.hugepages = conf.get("hugepages", 0)
        self.known, self.match, self.why = conf.get("known"), conf.get("match"), conf.get("why")
        self.sometimes = conf.get("sometimes", False)
        self.tries = 3 if self.sometimes else 1


class Result:
    """How a test ended, and why; verdict: pass, skip, fail, timeout or died"""

    def __init__(self, verdict, why="", seconds=0, cpu=0, splats=(), known=False):
        self.verdict, self.why, self.splats = verdict, why, list(splats)
        self.known = known                  # and that is how it is known to end
        self.seconds = round(seconds, 1)    # on the clock
        self.cpu = round(cpu, 1)            # the emulator's: says more on a machine that has other work too

    @property
    def bad(self):
        return self.verdict not in ("pass", "skip")

    def __str__(self):
        return f"{self.verdict} {self.seconds:.0f} s"


def find_tests(folder, opts):
    """The tests to run, by tests.toml and what is there"""
    with open(f"{opts.folder or HERE}/tests.toml", "rb") as f:
        conf = tomllib.load(f)
    progs = {}
    for sub in "", "x86_64":
        for f in sorted(os.listdir(f"{folder}/{sub}")) if os.path.isdir(f"{folder}/{sub}") else []:
            path = os.path.join(folder, sub, f)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                progs[f.removesuffix(".sh")] = path      # a wrapper goes before what it wraps
    names = list(dict.fromkeys(list(conf) + sorted(progs)))
    lost = [n for n in names if n.split("/")[0] not in progs]
    if lost:
        sys.exit(f"tests.toml names tests that are not in {folder}: {' '.join(lost)}")
    wrong = set(opts.tests) - set(names)
    if wrong:
        sys.exit(f"no test {' '.join(sorted(wrong))}; there are: {' '.join(names)}")
    if opts.tests:
        names = [n for n in names if n in opts.tests]
    elif opts.fast:
        names = [n for n in names if "fast" in conf.get(n, {})]
    tests = [Test(n, progs[n.split("/")[0]], conf.get(n, {}), opts) for n in names]
    return sorted(tests, key=lambda t: (t.limit, t.name))     # quick ones first


def reason(verdict, status, text):
    """What the test itself says of its end, in one line"""
    if verdict == "skip":
        m = re.search(r"# SKIP[ -]*(.*)", text) or re.search(r"(.*), skipping test", text)
        if m:
            return m[1].strip()
    _, failed, told = text.partition("==== Test Assertion Failure ====\n")
    if failed:
        # Where, then pid and errno, a stack further to the right, and a message.
        told = [l.strip() for l in told.splitlines() if re.match(r"  [^ ]", l) and not l.startswith("  pid=")]
        return "; ".join(told[:2])
    lines = [l for l in text.splitlines() if l.strip()]
    last = lines[-1].strip()[:160] if lines else "said nothing"
    return last if verdict == "skip" else f"exit status {status}: {last}"


class Machine:
    """One boot, read line by line; a test that overstays in it ends it."""

    def __init__(self, opts, way, listing, policies, dmesg):
        args = [f"{TOP}/tests/machine/run", "--modules", "stock" if way == "stock" else "ours",
                "--mem", opts.mem, "--dmesg", dmesg, "--append", "printk.devkmsg=on log_buf_len=4M loglevel=5",
                "--timeout", str(10**6)]
        if opts.kernel:
            args += ["--kernel", opts.kernel]
        args += ["--", "sh", "tests/kvm-selftests/in_machine.sh", listing] + policies
        self.proc = subprocess.Popen(args, stdout=subprocess.PIPE, cwd=TOP, preexec_fn=die_with_parent)
        self.buf, self.deadline = b"", None
        self.sel = selectors.DefaultSelector()
        self.sel.register(self.proc.stdout, selectors.EVENT_READ)

    def allow(self, seconds):
        self.deadline = time.monotonic() + seconds

    def lines(self):
        """Lines, as bytes; None when the deadline went by, and then no more"""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0 or not self.sel.select(left):
                yield None
                return
            data = os.read(self.proc.stdout.fileno(), 65536)
            if not data:
                if self.buf:
                    yield self.buf
                return
            *whole, self.buf = (self.buf + data).split(b"\n")
            yield from whole

    def cpu(self):
        """Seconds of CPU that the emulator used; 0 when it is gone"""
        try:
            pid = self.proc.pid
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                emulator = f.read().split()[0]
            with open(f"/proc/{emulator}/stat") as f:
                return sum(map(int, f.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            return 0

    def end(self):
        """Its exit status; stopped if it still runs"""
        try:
            return self.proc.wait(0 if self.deadline <= time.monotonic() else 60)
        except subprocess.TimeoutExpired:
            self.proc.terminate()
            return self.proc.wait()


class Way:
    """All the tests one way"""

    def __init__(self, name, tests, opts, report):
        self.name, self.tests, self.opts, self.report = name, tests, opts, report
        self.policies = []
        if name == "noop":
            folder = f"{TOP}/build/bpf"
            self.policies = sorted(f"build/bpf/{f}" for f in os.listdir(folder) if re.fullmatch(r"noop.*\.bpf\.o", f))
            if not self.policies:
                sys.exit(f"no noop*.bpf.o in {folder}; run make policies")
        self.results, self.listed, self.boots, self.trouble = {}, [], 0, []
        self.out = f"{opts.out}/{name}"
        os.makedirs(self.out, exist_ok=True)

    def run(self):
        left, idle = list(self.tests), 0
        while left:
            done = self.boot(left)
            idle = 0 if done else idle + 1
            if idle == 2:
                self.trouble.append("the machine did not get to run a test")
                for t in left:
                    self.end(t, Result("died", "not run: the machine did not get that far"))
                return
            left = left[done:]

    def boot(self, left):
        """Run tests until the machine ends; the number that came to an end"""
        self.boots += 1
        listing, dmesg = f"{self.out}/list.{self.boots}", f"{self.out}/dmesg.{self.boots}"
        with open(listing, "w") as f:
            f.writelines(f"{t.name}\t{t.limit}\t{t.tries}\t{t.hugepages}\t{t.cmd}\n" for t in left)
        if os.path.exists(dmesg):
            os.unlink(dmesg)
        machine = Machine(self.opts, self.name, os.path.relpath(listing, TOP), self.policies, dmesg)
        machine.allow(BOOT)
        done, test, text, start, cpu = 0, None, [], 0, 0
        stuck = False
        for line in machine.lines():
            if line is None:
                stuck = True
                break
            head, mark, rest = line.rstrip(b"\r").partition(MARK)
            if head or not mark:
                text.append(head)
            word, _, rest = rest.decode(errors="replace").partition(" ")
            if word == "begin":
                test, text, start, cpu = left[done], [], time.monotonic(), machine.cpu()
                machine.allow(test.limit * test.tries + BOOT)
            elif word == "end" and test:
                status, *active = map(int, rest.split())
                took = time.monotonic() - start
                verdict, why = self.judge(test, status, active, took, self.log(test, text))
                self.end(test, Result(verdict, why, took, machine.cpu() - cpu))
                test, text, done = None, [], done + 1
                machine.allow(BOOT)
            elif word == "list":
                self.listed.append(json.loads(rest)["policies"])
        status = machine.end()
        if test:
            took = time.monotonic() - start
            self.log(test, text)
            why = f"did not end after {test.limit} s, nor could it be killed" if stuck else "the machine died under it"
            self.end(test, Result("died", why, took))
            done += 1
        elif status and not done and text:
            print(b"\n".join(text[-5:]).decode(errors="replace"), file=sys.stderr)
        self.read_dmesg(dmesg)
        return done

    def log(self, test, text):
        text = b"\n".join(text).decode(errors="replace").replace("\r", "")
        with open(f"{self.out}/{test.name.replace('/', '.')}.log", "w") as f:
            f.write(text + "\n")
        return text

    def judge(self, test, status, active, took, text):
        """(verdict, why) by exit status, policies that are active after it, and output"""
        lost = len(self.policies) - active[0] if active else 0
        if lost:
            return "fail", f"{lost} of {len(self.policies)} policies are not active after it"
        if status in (124, 137) and took >= test.limit - 1:
            return "timeout", f"stopped after {test.limit} s"
        verdict = {0: "pass", SKIP: "skip"}.get(status, "fail")
        return verdict, "" if verdict == "pass" else reason(verdict, status, text)

    def end(self, test, result):
        self.results[test.name] = result
        self.report(self.name, test, result)

    def read_dmesg(self, path):
        name = None
        try:
            with open(path, errors="replace") as f:
                lines = f.readlines()
        except OSError:
            self.trouble.append(f"{os.path.relpath(path, TOP)} was not written")
            return
        for line in lines:
            m = re.search(r"kvm_ext-test: (\S+)", line)
            if m:
                name = m[1]
            elif SPLAT.search(line):
                if name in self.results:
                    self.results[name].splats.append(line.strip()[:160])
                else:
                    self.trouble.append(f"kernel log: {line.strip()[:160]}")

    def check_policies(self):
        """What is wrong with the policies at the end, or None"""
        want = len(self.policies)
        for listed in self.listed:
            for p in listed:
                if p["state"] != "active":
                    return f"{p['name']} is {p['state']}: {p.get('msg', '')}"
            if len(listed) != want:
                return f"{len(listed)} policies are attached, not {want}"
        for name in {p["instance"] for l in self.listed for p in l}:
            if not sum(p["calls"] for l in self.listed for p in l if p["instance"] == name):
                return f"{name} was never called"
        return None if self.listed else "no boot came to its end, so nothing was listed"


class Gate:
    """What is right and what is not, told as it comes"""

    def __init__(self, opts, total):
        self.opts, self.total = opts, total
        self.n, self.bad, self.notes = 0, [], []
        self.stock = {}
        if opts.tap:
            print(f"1..{total}", flush=True)

    def tell(self, good, name, text="", directive=""):
        self.n += 1
        if self.opts.tap:
            print(f"{'ok' if good or directive.startswith('SKIP') else 'not ok'} {self.n} - {name}"
                  f"{' # ' + directive if directive else ''}")
            if text:
                print(f"# {text}")
        else:
            what = "" if good else directive.removeprefix("TODO ") or "NOT OK"
            print(f"[{self.n}/{self.total}] {name}: {text} {what}".rstrip())
        if not good and not directive:
            self.bad.append(f"{name}: {text}")
        sys.stdout.flush()

    def result(self, way, test, r):
        name = f"{test.name} {way}"
        text = f"{r}{', ' + r.why if r.why else ''}"
        stock = self.stock.get(test.name)     # None while stock itself is told
        r.known = test.known == r.verdict and (not test.match or test.match in r.why)
        if test.sometimes and stock and stock.verdict == "pass":
            r.known = False
        if r.known:
            self.tell(False, name, text, f"TODO known: {test.why}")
        elif r.bad:
            self.tell(False, name, text)
        elif r.verdict == "skip" and way != "stock" and stock and stock.verdict != "skip":
            self.tell(False, name, f"{text}; stock: {stock}")
        elif r.verdict == "skip":
            self.tell(True, name, "" if self.opts.tap else text, f"SKIP {r.why}")
        else:
            self.tell(True, name, "" if self.opts.tap else text)
            if test.known and not test.sometimes:
                self.notes.append(f"{name}: passed, and tests.toml has it as a known {test.known}: {test.why}")

    def way(self, way):
        """What can be said when all tests of a way are done"""
        new, old = [], []
        for name, r in way.results.items():
            for s in r.splats[:3]:
                (old if name in self.stock and self.stock[name].splats else new).append(f"{name}: {s}")
        for s in old:
            self.notes.append(f"{way.name}: kernel log, as on stock: {s}")
        if way.name == "stock":
            self.notes += [f"stock: kernel log: {s}" for s in new]
            new = []
        new += way.trouble
        self.tell(not new, f"kernel log {way.name}", "; ".join(new[:5]) if new or self.opts.tap else "clean")
        if way.policies:
            wrong = way.check_policies()
            calls = {}
            for p in (p for l in way.listed for p in l):
                calls[p["name"]] = calls.get(p["name"], 0) + p["calls"]
            self.tell(not wrong, f"policies {way.name}",
                      wrong or "active to the end, calls: " + ", ".join(f"{n} {c}" for n, c in calls.items()))


def table(tests, ways):
    width = max(len(t.name) for t in tests) + 2
    out = [f"{'':{width}}" + "".join(f"{w.name:14}" for w in ways)]
    for t in tests:
        rs = [w.results[t.name] for w in ways]
        note = next((f"known: {t.why}" if r.known else r.why for r in rs if r.verdict != "pass"), "")
        out.append(f"{t.name:{width}}" + "".join(f"{str(r):14}" for r in rs) + note)
    return "\n".join(l.rstrip() for l in out)


def counts(way):
    out = dict.fromkeys(("pass", "skip", "fail", "timeout", "died"), 0)
    for r in way.results.values():
        out[r.verdict] += 1
    return out


def stock_key(cfg, tests, opts):
    """All that stock's results depend on"""
    parts = [cfg["KVER"], cfg["EMULATOR"], cfg["SELFTESTS"], opts.mem, opts.kernel]
    for f in (f"{TOP}/tests/machine/{n}" for n in ("run", "init", "amd.py")):
        with open(f) as s:
            parts.append(s.read())
    parts += [repr(vars(t)) for t in tests]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def load_stock(path, key, tests):
    try:
        with open(path) as f:
            saved = json.load(f)
        if saved["key"] == key:
            return {t.name: Result(**saved["results"][t.name]) for t in tests}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fast", action="store_true", help="only the fast subset")
    p.add_argument("--way", action="append", choices=WAYS, help="only this way; can be given again")
    p.add_argument("--keep-stock", action="store_true",
                   help="take stock's results from the last run that was as it has to be, if nothing changed")
    p.add_argument("--kernel", help="as for tests/machine/run")
    p.add_argument("--mem", help="memory of the machine (default 4G, with --fast 2G, 3G of the debug kernel)")
    p.add_argument("--slow", type=float, default=3, metavar="N", help="time limits times N (default 3)")
    p.add_argument("--tap", action="store_true", help="print TAP")
    p.add_argument("--folder", metavar="DIR", help="run what is in DIR, with its tests.toml, instead")
    p.add_argument("--json", metavar="FILE", help="write the results here")
    p.add_argument("tests", nargs="*", metavar="TEST", help="only these")
    opts = p.parse_args()
    opts.mem = opts.mem or ("4G" if not opts.fast else "3G" if opts.kernel == "debug" else "2G")
    ways = [w for w in WAYS if not opts.way or w in opts.way]
    cfg = read_config()
    folder = os.path.realpath(opts.folder or cfg["SELFTESTS"])
    if not os.path.isdir(folder):
        sys.exit(f"{folder} is missing; run make selftests")
    opts.out = f"{folder}/out" if opts.folder else f"{TOP}/build/selftests"
    os.makedirs(opts.out, exist_ok=True)
    lock = open(f"{opts.out}/.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    tests = find_tests(folder, opts)
    gate = Gate(opts, len(ways) * (len(tests) + 1) + ("noop" in ways))
    key = stock_key(cfg, tests, opts)
    saved = f"{cfg['SELFTESTS']}/stock-{key[:16]}.json"
    start, done = time.monotonic(), []
    for name in ways:
        way = Way(name, tests, opts, gate.result)
        kept = load_stock(saved, key, tests) if name == "stock" and opts.keep_stock else None
        bad = len(gate.bad)
        if kept:
            print("# stock: nothing changed since the last run; these are its results", flush=True)
            for t in tests:
                way.end(t, kept[t.name])
        else:
            way.run()
        gate.way(way)
        if name == "stock":
            gate.stock = way.results
            if not kept and opts.keep_stock and len(gate.bad) == bad:
                with open(f"{saved}.{os.getpid()}", "w") as f:
                    json.dump({"key": key, "results": {n: vars(r) for n, r in way.results.items()}}, f)
                os.replace(f.name, saved)
        done.append(way)

    if not opts.tap:
        print(table(tests, done))
    for way in done:
        print(f"# {way.name}: " + ", ".join(f"{n} {v}" for v, n in counts(way).items() if n))
    for n in gate.notes:
        print(f"# note: {n}")
    for b in gate.bad:
        print(f"# failed: {b}")
    print(f"# {time.monotonic() - start:.0f} s in all", flush=True)
    path = opts.json or f"{TOP}/build/results/test-kvm{'-fast' if opts.fast else ''}.json"
    os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
    with open(path, "w") as f:
        json.dump({"kernel": opts.kernel or cfg["KREL"], "qemu": cfg["EMULATOR"], "fast": opts.fast,
                   "seconds": round(time.monotonic() - start),
                   "counts": {w.name: counts(w) for w in done},
                   "tests": {t.name: {"args": t.args, "known": t.known, "why": t.why,
                                      **{w.name: vars(w.results[t.name]) for w in done}} for t in tests},
                   "policies": [l for w in done for l in w.listed],
                   "notes": gate.notes, "failed": gate.bad}, f, indent=1)
        f.write("\n")
    return 1 if gate.bad else 0



if __name__ == "__main__":
    sys.exit(main())
