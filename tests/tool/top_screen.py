#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Use kvmext top as a person would: on a terminal (a pty), by keys.

    top_screen.py KVMEXT PID

PID is a VM's, two vCPUs, busy.  Prints "ok WHAT" or "bad WHAT: why" lines.
"""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

kvmext, pid = sys.argv[1], sys.argv[2]
WAIT = 60 * int(os.environ.get("KVMEXT_SLOW", "1"))        # s; the machine may be slow


def check(what, good, why=""):
    print(("ok " + what) if good else f"bad {what}: {why}", flush=True)


class Screen:
    """What is on the terminal: as much of an xterm as ncurses uses"""
    TOKEN = re.compile(r"\x1b\[([?>]?)([0-9;]*)([A-Za-z])|\x1b[()].|\x1b[=>78]|(.)", re.S)

    def __init__(self, rows, columns):
        self.rest = ""
        self.size(rows, columns)

    def size(self, rows, columns):
        self.rows, self.columns, self.y, self.x, self.last = rows, columns, 0, 0, " "
        self.beyond = False
        self.cell = [[" "] * columns for _ in range(rows)]

    def put(self, c):
        if self.y < self.rows and self.x < self.columns:
            self.cell[self.y][self.x] = c
        else:
            self.beyond = True
        self.x += 1
        self.last = c

    def feed(self, text):
        text = self.rest + text
        # A sequence that is not all there yet waits
        m = re.search(r"\x1b(\[[?>]?[0-9;]*|[()]?)$", text)
        self.rest = m[0] if m else ""
        for m in self.TOKEN.finditer(text[:len(text) - len(self.rest)]):
            private, args, cmd, c = m[1], m[2], m[3], m[4]
            n = [int(a or 0) for a in (args or "0").split(";")]
            one = n[0] or 1
            if c == "\r":
                self.x = 0
            elif c == "\n":
                self.y += 1
            elif c == "\b":
                self.x -= 1
            elif c and c >= " ":
                self.put(c)
            elif private or not cmd:
                continue
            elif cmd == "H":
                self.y, self.x = one - 1, (n[1] or 1) - 1 if len(n) > 1 else 0
            elif cmd == "d":
                self.y = one - 1
            elif cmd == "G":
                self.x = one - 1
            elif cmd in "ABCD":
                self.y += {"A": -one, "B": one}.get(cmd, 0)
                self.x += {"D": -one, "C": one}.get(cmd, 0)
            elif cmd == "b":
                for _ in range(one):
                    self.put(self.last)
            elif cmd == "X":
                self.cell[self.y][self.x:self.x + one] = [" "] * one
            elif cmd == "K" and self.y < self.rows:
                a, b = ((self.x, self.columns), (0, self.x + 1), (0, self.columns))[n[0]]
                self.cell[self.y][a:b] = [" "] * (min(b, self.columns) - a)
            elif cmd == "J":
                # Up to here, it was for the terminal as it was before its size changed
                self.beyond = False if n[0] == 2 else self.beyond
                for y in range(0 if n[0] == 2 else self.y, self.rows):
                    self.cell[y] = [" "] * self.columns

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cell)


class Terminal:
    def __init__(self, *args):
        self.master, self.slave = pty.openpty()
        self.screen = Screen(30, 170)
        self.out = ""
        self.size(30, 170)
        self.before = termios.tcgetattr(self.slave)
        self.child = os.fork()
        if not self.child:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            for fd in 0, 1, 2:
                os.dup2(self.slave, fd)
            os.environ.update(TERM="xterm", LC_ALL="C")
            os.execv(kvmext, [kvmext, "top", *args])

    def size(self, rows, columns):
        self.screen.size(rows, columns)
        # The kernel sends SIGWINCH to who has the terminal
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, s):
        """Take what comes until nothing does for so long"""
        while select.select([self.master], [], [], s)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            text = data.decode(errors="replace")
            self.out += text
            self.screen.feed(text)

    def until(self, text, keys="", gone=False):
        """Press keys, then wait until a text is on the screen (or gone from it)"""
        end = time.monotonic() + WAIT
        os.write(self.master, keys.encode())
        while time.monotonic() < end:
            self.read(0.1)
            if bool(re.search(text, self.screen.text(), re.M)) != gone:
                return True
        print(f"# waited for {text!r} after {keys!r}, on the screen is:", flush=True)
        for line in self.screen.text().split("\n"):
            print(f"# {line}", flush=True)
        return False

    def status(self):
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            self.read(0.1)
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                self.read(0.1)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        return "hung"

    def restored(self):
        # The other screen is left, and the line discipline is as it was
        return "\x1b[?1049l" in self.out and termios.tcgetattr(self.slave) == self.before


row = rf"^ *{pid} "
t = Terminal("0.5")
check("it draws the VM", t.until(row))
check("vCPUs unfold", t.until(rf"{row} *vcpu 1", "u"))
check("and fold", t.until("vcpu 1", "u", gone=True))
check("the selected VM unfolds", t.until(rf"{row} *vcpu 0", "\n"))
check("another sorting", t.until("by outside", "s"))
check("help", t.until("sort by the next key", "h"))
check("back from help", t.until("EXITS/S", "h"))
check("a filter that none passes", t.until("no VM passes the filter", "/nothing\n"))
check("a filter that is cleared", t.until(row, "/\x1b"))
check("pause", t.until("PAUSED", "p"))
still = t.screen.text()
t.read(2)
check("figures stand still meanwhile", t.screen.text() == still)
check("and go on", t.until("PAUSED", "p", gone=True))
t.size(12, 60)
check("a smaller terminal is filled anew", t.until("h help"))
check("and nothing is drawn beyond it", not t.screen.beyond)
os.write(t.master, b"q")
status = t.status()
check("q ends it", status == 0, status)
check("the terminal is restored", t.restored(), repr(t.out[-200:]))
for name in "TERM", "INT", "HUP":
    t = Terminal("0.5")
    t.until("kvmext top")
    os.kill(t.child, getattr(signal, "SIG" + name))
    status = t.status()
    check(f"SIG{name} ends it well", status == 0, status)
    check(f"and the terminal is restored after SIG{name}", t.restored(), repr(t.out[-200:]))
