# SPDX-License-Identifier: GPL-2.0
"""What `demo` and `bench` share: migrate.py in the test machine, and tables of its rows."""

import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
MACHINE = os.path.join(TOP, "tests/machine/run")
MEMORY = "2500M"

sys.path.insert(0, os.path.join(TOP, "tests/guest"))
import migrate  # noqa: E402


def in_machine(args, timeout, modules="ours"):
    """Run migrate.py with `args` in an emulated AMD KVM host. Returns its exit status and its
    rows; what it prints is seen as it comes."""
    # Unpacked here once, at full speed, and not in the emulator each time.
    with tempfile.TemporaryDirectory() as tmp:
        migrate.vmlinux(migrate.pick_kernel(), tmp)
    with tempfile.TemporaryDirectory(prefix="migrate.") as out:
        argv = [MACHINE, "--machine", "amd", "--modules", modules, "--cpus", "2",
                "--mem", MEMORY, "--timeout", str(timeout), "--out", out, "--",
                os.path.join(TOP, "tests/guest/migrate.py"), "--out", "/out/rows",
                "--progress", "live" if sys.stdout.isatty() else "log", *args]
        status = subprocess.run(argv, stdin=subprocess.DEVNULL).returncode
        rows = []
        try:
            with open(os.path.join(out, "rows")) as f:
                for line in f:
                    rows.append(json.loads(line))
        except (OSError, ValueError) as err:
            print(f"migrate: the test machine left no whole result ({err})", file=sys.stderr)
    return status, rows


def busy():
    """What else keeps this machine from being quiet: its load average per CPU."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def cell(row, key):
    value = row.get(key)
    if value is None:
        return "-"
    if key in ("total_ms", "ran_ms"):
        return f"{value / 1000:.1f} s"
    if key == "downtime_ms":
        return f"{value:.0f} ms"
    if key.startswith("v"):
        return f"{value:.1f} %"
    if key == "sent_mib":
        return f"{value:.0f} MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip()
                     for line in lines)


def clock():
    return time.monotonic()
