#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The five steps of bpf/README.md: their policies, as they stand there, do what it says.

    tests/tool/tutorial_test.py --extract FOLDER   FOLDER/1/mine.bpf.c and so on
    tests/tool/tutorial_test.py                    run their commands; in the test machine, prints TAP

A step is a section "### N. TITLE" of the page with a block of C and a block of commands, whose
lines begin with "# ".  What else stands there is their output, to the letter.  The commands run
one after the other in a folder that has the step's object as build/bpf/mine.bpf.o.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(TOP, "tests/lib"))

from tap import ok, plan  # noqa: E402

SLOW = int(os.environ.get("KVMEXT_SLOW", "1"))
POLICY = "mine"
VMM = "qemu-system-x86_64"
# Make did it on the build machine, from the same page: build/tests/tutorial/made.
BUILT = "make policies"


def steps():
    """[(title, code, [(command, output)])]"""
    with open(f"{TOP}/bpf/README.md") as f:
        page = f.read()
    out = []
    for title, text in re.findall(r"^### (\d+\. .*?)\n(.*?)(?=^##)", page, re.M | re.S):
        blocks = dict(re.findall(r"^```(c|console)\n(.*?)^```$", text, re.M | re.S))
        commands = re.findall(r"^# (.*)\n((?:(?!# ).*\n)*)", blocks["console"], re.M)
        out.append((title, blocks["c"], commands))
    return out


def extract(folder):
    for n, (_, code, _) in enumerate(steps(), 1):
        os.makedirs(f"{folder}/{n}")
        with open(f"{folder}/{n}/{POLICY}.bpf.c", "w") as f:
            f.write(code)


def kvmext(*args):
    p = subprocess.run([f"{TOP}/build/kvmext", *map(str, args)], capture_output=True, text=True)
    return p.stdout.strip() if p.returncode == 0 else None


def until(what, seconds=20):
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.2)
    return False


def vcpus(vm):
    said = kvmext("status", "--json", "--vm", vm, "--interval", 0)
    return json.loads(said)["vms"][0]["vcpus"] if said else []


def blocks(vm, n):
    v = vcpus(vm)
    return v[n]["blocks"] if len(v) > n else 0


def blocked_more(vm):
    """vCPU 0, which writes, and not vCPU 1"""
    was = blocks(vm, 0)
    return until(lambda: blocks(vm, 0) > was) and blocks(vm, 1) == 0


def counts(name, var):
    return until(lambda: int(kvmext("get", name, var) or 0) > 0)


def run(step, folder, vm):
    """A step's commands, and what its text says of the policy, before its last command but one"""
    title, _, commands = step
    ok(commands and commands[0][0] == BUILT if commands else False, f"{title}: begins with {BUILT}", str(commands))
    ends = next((i for i, (c, _) in enumerate(commands) if " unload " in c), len(commands))
    shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, cwd=folder)
    for i, (command, output) in enumerate(commands):
        if command == BUILT:
            continue
        if i == ends:
            claims(title, vm)
        shell.stdin.write(f"{command} </dev/null\necho \"#status $?\"\n")
        shell.stdin.flush()
        said, line = "", shell.stdout.readline()
        while line and not line.startswith("#status "):
            said, line = said + line, shell.stdout.readline()
        ok(line == "#status 0\n", f"{title}: {command}", f"{line}{said}".replace("\n", "\n# "))
        if output:
            ok(said == output, f"{title}: it prints what the page says", f"{said!r}, not {output!r}")
    if ends == len(commands):
        claims(title, vm)
    shell.stdin.close()
    shell.wait()


def claims(title, vm):
    """While its policy is loaded"""
    step = int(title.partition(".")[0])
    name = POLICY if step == 5 else f"{POLICY}@{vm}"
    if step != 4:
        # Marked by hand, and in step 5 by the policy
        ok(blocked_more(vm), f"{title}: vCPU 0 is blocked, and vCPU 1 is not", str(vcpus(vm)))
    if step >= 3:
        ok(counts(name, "asked"), f"{title}: 'asked' counts")
    if step >= 4:
        ok(counts(name, "marked") and blocked_more(vm), f"{title}: the policy marks vCPU 0 itself", str(vcpus(vm)))
    if step == 5:
        ok("active" in (kvmext("list") or ""), f"{title}: it is in force")


def main():
    if sys.argv[1:2] == ["--extract"]:
        return extract(sys.argv[2])
    all_steps = steps()
    ok([t[0] for t, _, _ in all_steps] == list("12345"), "there are five steps", str([t for t, _, _ in all_steps]))
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy(f"{TOP}/build/tests/tool/vmhold", f"{tmp}/{VMM}")
        vm = subprocess.Popen([f"{tmp}/{VMM}"], stdout=subprocess.PIPE)
        ok(vm.stdout.readline() == b"ready\n", "a VM is up")
        os.makedirs(f"{tmp}/build/bpf")
        os.symlink(f"{TOP}/build/kvmext", f"{tmp}/build/kvmext")
        for n, step in enumerate(all_steps, 1):
            shutil.copy(f"{TOP}/build/tests/tutorial/{n}/{POLICY}.bpf.o", f"{tmp}/build/bpf/{POLICY}.bpf.o")
            run(step, tmp, vm.pid)
        vm.kill()
        vm.wait()
    ok("no policy is loaded" in (kvmext("list") or ""), "nothing is left", str(kvmext("list")))
    return plan()


if __name__ == "__main__":
    sys.exit(main())
