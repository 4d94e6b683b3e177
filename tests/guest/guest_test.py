#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The agent of a Linux guest, kvmext guest, knows the free pages whatever the guest does with its
memory.

Runs in the test machine, prints TAP.

Whatever the guest does with its memory, no page that is in use is ever taken for free, and those that
are free are known. That is what the tool's own check says, which looks at the kernel's pages; and what
the host reads in the guest's memory agrees.
"""

import os
import re
import struct
import sys
import tempfile
import time

import free_guest
from free_guest import Failed, Guest, MIB, Port, moving
from tap import ok, plan

MAGIC = 0x656572662d74766b


class Memory:
    """The guest's memory as the host has it: by a file, which QEMU maps"""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)

    def page(self, gfn):
        return os.pread(self.fd, 4096, gfn * 4096)

    def head(self, gfns):
        return struct.unpack("<4Q", self.page(gfns[0])[:32])

    def known(self, gfns):
        """Frames with a bit"""
        return sum(bin(int.from_bytes(self.page(g), "little")).count("1") for g in gfns[1:])


def checked(guest, what, leak=0):
    status, said = guest.check()
    ok(status == 0 and said.get("wrong") == 0 and said.get("not_known", 1 << 40) <= leak,
       f"{what}: no page in use is taken for free, {said.get('known')} of {said.get('free')} free ones are known",
       f"exit {status}: {said}")
    return said


def near(a, b, off):
    return abs(a - b) <= off


def until(what):
    deadline = time.monotonic() + 30 * free_guest.SLOW
    while not what() and time.monotonic() < deadline:
        time.sleep(0.1)


def agree(guest, mem, gfns):
    """Free pages as /proc/zoneinfo and the host count them, at one moment if there is one"""
    for _ in range(20):
        free, known = guest.do("stat"), mem.known(gfns)
        if near(free, known, 128):
            break
    return free, known


def begin(guest, port):
    since = len(guest.lines)
    guest.do("agent")
    guest.wait("frames, .* free ones found", 60, since)
    cookie, _, gfns = port.register()
    return cookie, gfns


def short_lists(guest, port, cookie):
    """In a migration CPUs keep few free pages for themselves, and then as many as they did"""
    lists = "/proc/sys/vm/percpu_pagelist_high_fraction"
    guest.do(f"write {lists} 8")
    guest.do("anon 100")
    usual = guest.do("lists")
    with moving(port.say):
        # 1 MiB for each of two
        until(lambda: guest.do("lists") < 700)
        few = guest.do("lists")
        ok(few < 700 and few < usual / 2, f"in a migration CPUs keep {few} free pages for themselves, else {usual}")
        checked(guest, "then")
        guest.do("signal 9")
    since = len(guest.lines)
    guest.do("agent")
    guest.wait("goes on with", 60, since)
    port.beat(cookie, 90)
    ok(guest.do(f"read {lists}") == 8, "the next agent puts back what one has set that was killed",
       str(guest.do(f"read {lists}")))
    port.say("moving")
    until(lambda: guest.do(f"read {lists}") != 8)
    changed = guest.do(f"read {lists}")
    until(lambda: guest.do(f"read {lists}") == 8)
    ok(changed != 8 and guest.do(f"read {lists}") == 8, "and without a word from the host it is as it was", str(changed))
    port.say("moving")
    until(lambda: guest.do(f"read {lists}") != 8)
    guest.do(f"write {lists} 16")
    time.sleep(free_guest.MOVING + 2)
    ok(guest.do(f"read {lists}") == 16, "what the guest has set meanwhile stays")
    guest.do(f"write {lists} 0")


def hung_up(guest, port, mem):
    """The agent's terminal goes in a migration"""
    lists = "/proc/sys/vm/percpu_pagelist_high_fraction"
    _, gfns = begin(guest, port)
    with moving(port.say):
        until(lambda: guest.do(f"read {lists}"))
        short, status = guest.do(f"read {lists}"), guest.do("signal 1")
    left = guest.do(f"read {lists}")
    ok(short and not left and status == 0 and mem.head(gfns)[0] == 0,
       "SIGHUP in a migration: the agent withdraws the area, and the CPUs' lists are as they were",
       f"{short} {left} {status}")


def zeroing(guest, port, mem):
    """Free memory is zero, is held as long as nobody needs it, and no longer than the host says"""
    blank = bytes(4096)
    before = guest.do("stat")

    def take():
        port.say("zero 100")
        return int(port.line("^zeroed", 60)[-1].split()[1]), guest.do("stat")

    def free_again():
        until(lambda: guest.do("stat") > before - 20 * 256)
        return guest.do("stat") > before - 20 * 256

    with moving(port.say):
        zeroed, free = take()
        ok(zeroed > 100 * 256, f"{zeroed} free pages were zeroed")
        ok(before - free > 150 * 256, f"and are held: {free} of {before} are free")
        zero = sum(mem.page(g) == blank for g in range(4096, 512 * 256))
        ok(zero > zeroed * 0.9, f"the host finds {zero} pages of zeroes", f"of {zeroed}")
        checked(guest, "while they are held")
        guest.do("anon 200")
        killed = guest.do("vmstat oom_kill")
        ok(not killed and not guest.counts["bad"], "the guest takes 200 MiB all the same", f"{killed} {guest.counts}")
        zeroed, free = take()
        port.say("release")
        ok(zeroed > 100 * 256 and before - free > 150 * 256 and free_again(), "when the host says so they are free again",
           f"{zeroed} {free}")
        zeroed, free = take()
    ok(zeroed > 100 * 256 and before - free > 150 * 256 and free_again(), "and without a word from it", f"{zeroed} {free}")
    checked(guest, "after that")


def boot(tmp, name, size, more=""):
    """A guest, its memory, its port"""
    ram = f"/dev/shm/{os.path.basename(tmp)}.ram"
    guest = Guest(tmp, name=name, mem=size + more, extra=(
        "-object", f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on",
        "-machine", "memory-backend=ram"))
    mem = Memory(ram)
    os.unlink(ram)
    return guest, mem, Port(guest.sock)


def life(tmp):
    guest, mem, port = boot(tmp, "guest", "512M", ",slots=2,maxmem=1G")
    try:
        guest.do("agent")
        guest.wait("frames, .* free ones found", 60)
        cookie, pfns, gfns = port.register()
        magic, mem_cookie, mem_pfns, seq = mem.head(gfns)
        ok(magic == MAGIC and f"{mem_cookie:x}" == cookie and mem_pfns == pfns and not seq & 1,
           f"the host finds the area where the agent says, {len(gfns)} pages for {pfns} frames",
           f"{magic:x} {mem_cookie:x} {cookie} {mem_pfns} {pfns} {seq}")
        ok(pfns * 4096 >= 5 << 30, "there are bits for memory that may be plugged in", str(pfns))
        port.beat(cookie, 1)
        free, known = agree(guest, mem, gfns)
        ok(near(free, known, 512), f"the host counts {known} free pages, /proc/zoneinfo {free}")
        checked(guest, "at the start")

        for what in ("anon 40", "thp 100", "file 100", "spawn 10"):
            guest.do(what)
            checked(guest, what)
        guest.do("write /sys/kernel/mm/transparent_hugepage/enabled always")
        guest.do("write /sys/kernel/mm/transparent_hugepage/defrag always")
        # All but what it takes to stay alive; kcompactd may be quicker than the task that wants
        # a huge page, in a slow guest at most.
        for _ in range(4):
            guest.do(f"frag {guest.do('stat') // 256 - 22}")
            stalls = guest.do("vmstat compact_stall")
            if stalls > 0:
                break
        ok(stalls > 0, f"huge pages from memory in crumbs: a task had to compact {stalls} times")
        checked(guest, "after that")
        guest.do("storm 4")
        time.sleep(1)
        checked(guest, "while four threads take and free on two CPUs", leak=1 << 20)
        guest.do("build 2")
        for _ in range(2):
            guest.do("write /proc/sys/vm/compact_memory 1")
            guest.do("thp 40")
        checked(guest, "while two build and memory is compacted", leak=1 << 20)
        guest.do("calm")
        checked(guest, "when all is calm again")

        hot = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
        guest.do(f"write {hot} 60")
        used, known = agree(guest, mem, gfns)
        ok(used < free - 50 * 512 and near(used, known, 512),
           f"huge pages that are reserved count as in use: {used} are free, {known} known", str(free))
        checked(guest, "with a pool of huge pages")
        guest.do(f"write {hot} 0")
        before = mem.known(gfns)
        guest.qmp.cmd("balloon", value=256 * MIB)
        # For want of free pages some of the cache goes.
        until(lambda: mem.known(gfns) < before - 150 * 256)
        known = mem.known(gfns)
        ok(known < before - 150 * 256, f"pages in the balloon are not free: {known} are", str(before))
        checked(guest, "with a balloon of 256 MiB")
        guest.qmp.cmd("balloon", value=512 * MIB)
        until(lambda: guest.do("stat") > free - 60 * 256)
        checked(guest, "with the balloon gone")

        guest.qmp.cmd("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 128 * MIB})
        guest.qmp.cmd("device_add", driver="pc-dimm", id="dimm", memdev="more")
        until(lambda: guest.do("stat") > free + 80 * 256)
        more = mem.known(gfns)
        ok(more > free + 80 * 256, f"of 128 MiB plugged in the free pages are known: {more}", str(free))
        guest.do("thp 200")
        checked(guest, "with memory plugged in")
        guest.qmp.cmd("device_del", id="dimm")
        until(lambda: mem.known(gfns) < free + 60 * 256)
        known = mem.known(gfns)
        ok(known < free + 60 * 256, f"of memory taken out again no page is free: {known} are")
        checked(guest, "with that memory gone")

        guest.do("signal 9")
        guest.do("build 2")
        guest.do("anon 40")
        checked(guest, "with the agent killed by -9", leak=1 << 20)
        guest.do("calm")
        guest.do("agent")
        guest.wait("goes on with", 60)
        again, _, there = port.register()
        ok(again == cookie and there == gfns, "the next one goes on with the same area", f"{again} {cookie}")
        checked(guest, "and after that")
        port.close()
        time.sleep(0.5)
        port = Port(guest.sock)
        port.beat(cookie, 77)
        ok(True, "a host that comes anew is answered")

        # As in a suspend: processes are frozen for 2 s.
        guest.do("write /sys/module/suspend/parameters/pm_test_delay 2")
        guest.do("write /sys/power/pm_test freezer")
        since = len(guest.lines)
        guest.tell("write /sys/power/state freeze")
        time.sleep(1)
        begun = time.monotonic()
        port.beat(cookie, 78)
        took = time.monotonic() - begun
        guest.wait("done write 0", 30, since)
        ok(took > 0.5, f"an agent that is frozen does not answer, and does when it is let go ({took:.1f} s)")
        guest.do("write /sys/power/pm_test none")
        checked(guest, "after that")

        # All of a suspend to memory but the firmware's part, after which a guest does not wake
        # here, with an agent or without: its devices and all but one CPU are off.
        guest.do("write /sys/power/pm_test core")
        count = "read /sys/power/suspend_stats/success"
        slept, failed = guest.do(count), guest.do("write /sys/power/state mem")
        port.beat(cookie, 79)
        ok(not failed and guest.do(count) == slept + 1, "after a suspend of devices and CPUs it answers", f"{failed}")
        guest.do("write /sys/power/pm_test none")
        guest.do("anon 100")
        checked(guest, "after that")

        short_lists(guest, port, cookie)
        zeroing(guest, port, mem)

        guest.do("write /sys/power/state disk")
        said = port.line("^refused")
        ok(f"bye {cookie}" in said and mem.head(gfns)[0] == 0 and mem.head(gfns)[3] & 1,
           "a guest that hibernates has withdrawn the area before", f"{said}")
        guest.do("signal 0")
        status, said = guest.check()
        ok(status == 4, "and nothing is left of it", f"{status} {said}")

        cookie2, gfns = begin(guest, port)
        ok(cookie2 != cookie, "a new agent has a new area")
        guest.do("signal 15")
        said = port.line("^bye")
        ok(said[-1] == f"bye {cookie2}" and mem.head(gfns)[0] == 0, "an agent that ends says so, and withdraws it")
        _, gfns = begin(guest, port)
        status, said = guest.tool("guest", "--stop")
        ok(status == 0 and mem.head(gfns)[0] != MAGIC and guest.do("signal 0") == 0,
           "--stop ends agent and area", f"{status} {said}")
        hung_up(guest, port, mem)
        begin(guest, port)
        guest.do("write /proc/sys/kernel/ftrace_enabled 0")
        said = port.line("^refused")
        ok("tracing" in said[-1], "with function tracing off it is withdrawn, and the host told why", f"{said}")
        guest.do("signal 0")
        ok(not guest.counts["bad"] and not guest.counts["not_zero"], "the guest's memory was right all along",
           str(guest.counts))
    except Failed as err:
        ok(False, "the guest and its agent work", f"{err}; {guest.lines[-12:]}")
    finally:
        guest.kill()


def ends(tmp):
    """What comes after this kernel finds no bits: the agent is not asked, and hears of nothing"""
    for what, last in (("restart", ""), ("write /proc/sysrq-trigger b", ""), ("kexec", "guest: another kernel")):
        guest, mem, port = boot(tmp, what.split()[0], "160M")
        try:
            guest.do("agent")
            guest.wait("frames, .* free ones found", 60)
            _, _, gfns = port.register()
            before = mem.head(gfns)
            guest.tell(what)
            until(lambda: guest.proc.poll() is not None)
            after = mem.head(gfns)
            ok(before[0] == MAGIC and not before[3] & 1 and guest.proc.poll() is not None and
               last in "\n".join(guest.lines) and after[0] == 0 and after[3] & 1,
               f"{what}: the area was withdrawn before", f"{before} {after} {guest.proc.poll()} {guest.lines[-3:]}")
        except Failed as err:
            ok(False, f"{what}: a guest that ends", str(err))
        finally:
            guest.kill()


def refused(tmp):
    for append, reason in (("init_on_free=1", "init_on_free"), ("page_poison=1", "page_poison")):
        guest = Guest(tmp, name=append[:6], mem="160M", append=append)
        try:
            port = Port(guest.sock)
            # The port is open before the agent looks: so it is told.
            status, said = guest.tool("guest")
            told = port.line("^refused")
            ok(status == 4 and reason in said and reason in told[-1],
               f"a guest with {append} is refused, and the host told why", f"{status} {said} {told}")
            guest.do("write /proc/sys/kernel/kptr_restrict 2")
            status, said = guest.tool("guest")
            ok(status == 4 and "kptr_restrict" in said, "so is one that hides where things are", f"{status} {said}")
        except Failed as err:
            ok(False, f"a guest with {append} is refused", str(err))
        finally:
            guest.kill()


def main():
    with tempfile.TemporaryDirectory(prefix="free.") as tmp:
        try:
            life(tmp)
            ends(tmp)
            refused(tmp)
        except Failed as err:
            ok(False, "a guest runs", str(err))
    return plan()


if __name__ == "__main__":
    sys.exit(main())
