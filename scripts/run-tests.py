#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run the tests and count.

    scripts/run-tests.py [NAME...]

tests/host/*.sh run on this machine; build/tests/* and tests/*.sh in the emulated
host, all in one boot.  A test that kills the machine or hangs fails, and the rest
goes on in a new boot.  Every test prints TAP; one that prints no plan, or not
what it planned, or ends with a failing status, fails.  A warning or worse in the
emulated host's kernel log is a failure of its own, unless a test said with a line
"# expect-splat: TEXT" that it provokes it.

Last line: N passed, N failed, N skipped.  Exit status 1 when anything failed.
"""
import fcntl
import os
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
TEST_TIMEOUT = 240     # s, for one test program in the machine
MARK = "#@kvm_ext "
SPLAT = re.compile(r"WARNING:|BUG:|Oops|Call Trace|general protection|soft lockup|"
                   r"rcu.*(stall|detected)|Kernel panic|UBSAN|suspicious RCU|hung_task|blocked for more")


class Count:
    passed = failed = skipped = 0
    bad = []

    @classmethod
    def fail(cls, name, why):
        cls.failed += 1
        cls.bad.append(f"{name}: {why}")
        print(f"not ok - {name}: {why}", flush=True)


class Tap:
    """One test's output, counted as it comes."""

    def __init__(self, name):
        self.name, self.planned, self.seen, self.bad = name, None, 0, 0
        self.expected_splats = []
        self.start = time.monotonic()
        print(f"# {name}", flush=True)

    def line(self, line):
        print(line, flush=True)
        m = re.match(r"1\.\.(\d+)(.*SKIP(.*))?", line)
        if m and self.planned is None:
            self.planned = int(m[1])
            if self.planned == 0:
                Count.skipped += 1
            return
        m = re.match(r"(not )?ok\b(.*)", line)
        if m:
            self.seen += 1
            if re.search(r"# *SKIP", m[2], re.I):
                Count.skipped += 1
            elif m[1] and not re.search(r"# *TODO", m[2], re.I):
                Count.failed += 1
                self.bad += 1
                Count.bad.append(f"{self.name}: {m[2].strip()}")
            else:
                Count.passed += 1
        if line.startswith("# expect-splat:"):
            self.expected_splats.append(line.split(":", 1)[1].strip())

    def end(self, status):
        took = time.monotonic() - self.start
        if status == 124:
            Count.fail(self.name, f"stopped after {TEST_TIMEOUT} s")
        elif status is None:
            Count.fail(self.name, "the machine died under it")
        elif self.planned is None and status == 4 and not self.seen:
            Count.skipped += 1
        elif self.planned is None:
            Count.fail(self.name, f"printed no plan (exit status {status})")
        elif self.seen != self.planned:
            Count.fail(self.name, f"planned {self.planned} tests, ran {self.seen} (exit status {status})")
        elif status not in (0, 4) and not self.bad:
            Count.fail(self.name, f"exit status {status}")
        print(f"# {self.name}: {took:.1f} s", flush=True)


def host_tests(tests):
    for name, path in tests:
        tap = Tap(name)
        p = subprocess.Popen([path], stdout=subprocess.PIPE, text=True, errors="replace", cwd=TOP)
        for line in p.stdout:
            tap.line(line.rstrip("\n"))
        tap.end(p.wait())


def script(tests):
    """What the machine runs: each test between marks, in output and kernel log."""
    out = ["for t do",
           f"echo '{MARK}begin' $t",
           "echo \"kvm_ext-test: $t\" >/dev/kmsg",
           f"timeout -k 5 {TEST_TIMEOUT} ./$t",
           f"echo '{MARK}end' $?", "done"]
    return ["sh", "-c", "\n".join(out), "sh"] + [os.path.relpath(p, TOP) for _, p in tests]


def splats(dmesg, expected):
    """The kernel log's alarming lines, by the test that ran; a few of each"""
    name, found = "boot", {}
    try:
        with open(dmesg, errors="replace") as f:
            lines = f.readlines()
    except OSError:
        return Count.fail("kernel log", f"{dmesg} was not written")
    for line in lines:
        m = re.search(r"kvm_ext-test: (\S+)", line)
        if m:
            name = os.path.basename(m[1])
        elif SPLAT.search(line) and not any(e in line for e in expected.get(name, [])):
            found.setdefault(name, []).append(line.strip())
    for name, lines in found.items():
        for line in lines[:5]:
            print(f"# {line}")
        Count.fail(name, f"the kernel log has: {lines[0]} (all of it: {os.path.relpath(dmesg, TOP)})")


def machine_tests(tests):
    boot = 0
    while tests:
        boot += 1
        dmesg = f"{TOP}/build/tests/dmesg.{boot}"
        if os.path.exists(dmesg):
            os.unlink(dmesg)
        args = [f"{TOP}/tests/machine/run", "--dmesg", dmesg, "--append", "printk.devkmsg=on log_buf_len=4M",
                "--timeout", str(60 + TEST_TIMEOUT * len(tests)), "--"] + script(tests)
        p = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, errors="replace", cwd=TOP)
        tap, done, expected = None, 0, {}
        for line in p.stdout:
            line = line.rstrip("\r\n")
            # A test may leave its last line unfinished.
            head, mark, rest = line.partition(MARK)
            if not mark:
                if tap:
                    tap.line(line)
                else:
                    print(line, flush=True)
                continue
            if head and tap:
                tap.line(head)
            word, _, rest = rest.partition(" ")
            if word == "begin":
                tap = Tap(tests[done][0])
            elif tap:
                expected[tap.name] = tap.expected_splats
                tap.end(int(rest))
                tap, done = None, done + 1
        status = p.wait()
        if tap:
            tap.end(None)
            done += 1
        elif status and not done:
            Count.fail("machine", f"did not run any test (exit status {status})")
            return
        splats(dmesg, expected)
        tests = tests[done:]


def executables(folder, suffix):
    folder = os.path.join(TOP, folder)
    for f in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, f)
        if f.endswith(suffix) and os.path.isfile(path) and os.access(path, os.X_OK):
            yield f.removesuffix(".sh"), path


def main():
    wanted = sys.argv[1:]
    host = list(executables("tests/host", ".sh"))
    # Only what a source still stands behind: build/ may hold older tests.
    guest = [(n, p) for n, p in executables("build/tests", "") if os.path.exists(f"{TOP}/tests/{n}.c")]
    guest += executables("tests", ".sh")
    known = {n for n, _ in host + guest}
    for name in wanted:
        if name not in known:
            sys.exit(f"no test '{name}'; there are: {' '.join(sorted(known))}")
    if wanted:
        host = [t for t in host if t[0] in wanted]
        guest = [t for t in guest if t[0] in wanted]
    # One run at a time in a checkout: logs and the series' tree are shared.
    lock = open(f"{TOP}/build/.test-lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    start = time.monotonic()
    try:
        host_tests(host)
        machine_tests(guest)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
    print(f"# {time.monotonic() - start:.0f} s in all")
    for line in Count.bad:
        print(f"# failed: {line}")
    print(f"{Count.passed} passed, {Count.failed} failed, {Count.skipped} skipped", flush=True)
    sys.exit(1 if Count.failed or not Count.passed + Count.skipped else 0)


if __name__ == "__main__":
    main()
