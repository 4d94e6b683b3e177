#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Run the examples of the manual pages; in the test machine.  Prints TAP.

    tests/tool/man_run.py GROUP...

Each page is of one group, see tests/lib/manpages.py; man_GROUP_test.sh runs it.

The command lines are taken from the pages.  The page with commands for a guest has a Linux guest
in QEMU; the others have a small VM whose VMM is called qemu-system-x86_64, too, and has the tap
"tap0" open.  A command that goes on until Ctrl-C gets one after a while.
"""

import fcntl
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(TOP, "tests/lib"), os.path.join(TOP, "tests/guest")]

import manpages         # noqa: E402
from tap import ok, plan  # noqa: E402

SLOW = int(os.environ.get("KVMEXT_SLOW", "1"))
VMM = "qemu-system-x86_64"
# s, then Ctrl-C: for a command that goes on until then, and for one that should have ended long ago
LOOK, LONG = 20 * SLOW, 120 * SLOW
STATE = "/sys/kernel/debug/kvm/ext/state"
SOCKET = "/run/vm/free.sock"
TUNSETIFF, IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI = 0x400454ca, 0x2, 0x100, 0x1000
# What is not run, with the reason: {"page: command": "why"}
SKIP = {}


def have_tap():
    subprocess.run(["modprobe", "tun"], stderr=subprocess.DEVNULL)
    return os.path.exists("/dev/net/tun")


class Vm:
    """tests/tool/vmhold under a VMM's name, with two queues of a tap"""

    def __init__(self, tmp, tap):
        path = f"{tmp}/{VMM}"
        shutil.copy(f"{TOP}/build/tests/tool/vmhold", path)
        fds = [self.queue() for _ in range(2 if tap else 0)]
        self.proc = subprocess.Popen([path], stdout=subprocess.PIPE, pass_fds=fds)
        for fd in fds:
            os.close(fd)
        self.up = self.proc.stdout.readline() == b"ready\n"

    @staticmethod
    def queue():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE))
        return fd

    def kill(self):
        self.proc.kill()
        self.proc.wait()


def policies():
    with open(STATE) as f:
        return [line for line in f if line.startswith("policy")]


class Shell:
    """Commands of a block, one shell for all, in the folder with policies"""

    def __init__(self, tmp):
        self.tmp = tmp
        os.makedirs(f"{tmp}/bin", exist_ok=True)
        with open(f"{tmp}/bin/kvmext", "w") as f:
            f.write("#!/bin/sh\n"
                    f"case \"$*\" in *--for*|*--off*) s={LONG} ;; steer*|hint*) s={LOOK} ;; *) s={LONG} ;; esac\n"
                    f"exec timeout --foreground --preserve-status -k 30 -s INT $s {TOP}/build/kvmext \"$@\"\n")
        os.chmod(f"{tmp}/bin/kvmext", 0o755)

    def run(self, commands):
        """[(exit status, what it said)]"""
        script = ["set -o pipefail"]
        for i, c in enumerate(commands):
            script += [f"{{ {c}\n}} >{self.tmp}/{i} 2>&1 </dev/null", "echo $?"]
        p = subprocess.run(["bash", "-c", "\n".join(script)], stdout=subprocess.PIPE, text=True, cwd=f"{TOP}/build/bpf",
                           env=dict(os.environ, PATH=f"{self.tmp}/bin:{os.environ['PATH']}"))
        out = []
        for i, status in enumerate(p.stdout.split()):
            with open(f"{self.tmp}/{i}", errors="replace") as f:
                out.append((int(status), f.read()[-800:]))
        return out + [(None, "it was not reached")] * (len(commands) - len(out))


def judge(page, command, status, said):
    ok(status == 0, f"{page.name}: {command}", f"exit {status}: {said}".replace("\n", "\n# "))


def on_host(page, block, shell):
    block = [c for where, c in block if where == "host" and f"{page.name}: {c}" not in SKIP]
    for command, (status, said) in zip(block, shell.run(block)):
        judge(page, command, status, said)


def in_guest(page, command, guest):
    """The agent goes on, beside what comes after"""
    args = shlex.split(command)
    if args == ["kvmext", "guest"]:
        guest.do("agent")
        status, said = 0, guest.wait("frames, .* free ones found", 60)
    else:
        status, said = guest.tool(*args[1:])
    judge(page, command, status, said)


def with_guest(page, shell, tmp):
    import free_guest
    os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
    try:
        guest = free_guest.Guest(tmp)
    except free_guest.Failed as e:
        return ok(False, f"{page.name}: a guest for it", str(e))
    try:
        os.symlink(guest.sock, SOCKET)
        for block in page.examples():
            on_host(page, block, shell)
            for where, command in block:
                if where == "guest":
                    in_guest(page, command, guest)
    except free_guest.Failed as e:
        ok(False, f"{page.name}: the guest", str(e))
    finally:
        guest.kill()
        os.unlink(SOCKET)


def with_vm(pages, shell, tmp, tap):
    vm = Vm(tmp, tap)
    ok(vm.up, "a VM is up")
    for page in pages:
        if "steer" in page.commands() and not tap:
            ok(True, f"{page.name}: # SKIP this kernel has no tun")
            continue
        for block in page.examples():
            before = policies()
            on_host(page, block, shell)
            ok([p.split(" seq=")[0] for p in policies()] == [p.split(" seq=")[0] for p in before],
               f"{page.name}: the example leaves no policy behind", "".join(policies()))
    vm.kill()


def main():
    groups = {g: [p for p in manpages.pages().values() if p.group() == g] for g in sys.argv[1:]}
    guests = groups.pop("guest", [])
    hosts = [p for pages in groups.values() for p in pages]
    # One folder for what QEMU needs, whose paths of sockets may not be long
    with tempfile.TemporaryDirectory() as tmp:
        shell = Shell(tmp)
        if hosts:
            with_vm(hosts, shell, tmp, have_tap())
        for page in guests:
            with_guest(page, shell, tmp)
    ok(not policies(), "no policy is left")
    for name in SKIP:
        ok(True, f"{name} # SKIP {SKIP[name]}")
    return plan()


if __name__ == "__main__":
    sys.exit(main())
