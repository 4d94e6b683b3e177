#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""make plots: draw the raw results in tests/bench/results/ for tests/bench/README.md.

    tests/bench/plot.py            draw all of them
    tests/bench/plot.py --check    say which are not of the results that are there

gnuplot draws; this reads the JSON and writes gnuplot's input.  Each PNG carries the SHA-256
of its JSON and of gnuplot's input.  The check therefore needs no gnuplot, and finds a plot
that is older than its JSON or than this program.
"""
import hashlib
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import textwrap
import zlib
from typing import NamedTuple

from origin import TOP, text_of

RESULTS = f"{TOP}/tests/bench/results"
PAGE = f"{TOP}/tests/bench/README.md"
MOST = 60000    # bytes of a PNG

# Pixels
WIDTH, ROW, CHARACTER, LINE = 960, 24, 7, 17
ABOVE, BELOW, GAP = 30, 52, 40      # of a panel: its title; tics and unit; beside it
GREY, BLUE, RED = 0x9a9a9a, 0x0072b2, "#d00000"


class Bar(NamedTuple):
    label: str
    value: float
    text: str
    ours: bool
    low: float = None       # the least and the most of several runs
    high: float = None
    limit: float = None


class Panel(NamedTuple):
    title: str
    unit: str
    bars: list


class Plot(NamedTuple):
    name: str
    title: str
    rows: list      # of lists of panels
    note: str       # what the colours are
    machine: str


# --- what is drawn: {JSON: function that makes the plots of it} -------------------

POLICIES = {"noop": "KVM's own choice (noop)", "spread": "spread", "sticky": "sticky", "run_first": "run_first"}
ROUTED = "Grey: KVM's own choice, with the policy noop attached. Blue: a policy that routes."


def micros(us):
    return f"{us:.1f}" if us < 50 else f"{us:.0f}"


def irq(raw):
    machines = raw["machines"]

    def latency(kind, key, title):
        of = raw[kind]["latency"]
        return Panel(f"{kind.upper() if kind == 'amd' else kind.title()} host: {title}", "microseconds",
                     [Bar(name, of[p][key], micros(of[p][key]), p != "noop") for p, name in POLICIES.items()])

    sent = raw["amd"]["latency"]["noop"]["sent"]
    yield Plot("irq-latency", f"Emulated: from sending an interrupt to the guest's handler, {sent:,} interrupts",
               [[latency(kind, key, title) for key, title in
                 (("median_us", "median"), ("p99_us", "99th percentile"), ("worst_us", "worst"))]
                for kind in ("amd", "intel")],
               ROUTED + " Each axis has its own scale. Times compare rows of one machine only.",
               f"{machines['amd']}; {machines['intel']}")

    cost = {k: v["msi"] for k, v in raw["cost"]["instructions"].items()}
    names = {"stock": "stock KVM", "patched": "nothing attached", **POLICIES}
    yield Plot("irq-cost", "Emulated: what it costs to route an interrupt",
               [[Panel("One KVM_SIGNAL_MSI while no vCPU runs", "host instructions",
                       [Bar(name, cost[k], f"{cost[k]:,}" + (f" (+{cost[k] - cost['stock']:,})" if k != "stock" else ""),
                            k != "stock") for k, name in names.items()])]],
               "Grey: stock KVM. Blue: KVM with the series, and its policies. Instructions are not time.",
               machines[raw["cost"]["machine"]])

    balance = raw["balance"]["runs"]
    yield Plot("irq-balance", "Emulated: four sources of interrupts, four vCPUs that all run",
               [[Panel("Interrupts that each vCPU takes", "per cent of all",
                       [Bar(f"{POLICIES[p]}, vCPU {i}", 100 * n / r["sent"], f"{100 * n / r['sent']:.1f}", p != "noop")
                        for p, r in balance.items() for i, n in enumerate(r["by_vcpu"])]),
                 Panel("Latency: 99th percentile", "microseconds",
                       [Bar(POLICIES[p], r["p99_us"], micros(r["p99_us"]), p != "noop") for p, r in balance.items()])]],
               ROUTED, machines[raw["balance"]["machine"]])

    runs = [(f"{r['policy']}, {'posted' if r['apicv'] else 'enable_apicv=0'}", r) for r in raw["posted"]["runs"]]
    yield Plot("irq-posted", f"Emulated: a device's interrupts to a vCPU that spins, {runs[0][1]['interrupts']} of each",
               [[Panel(what.title(), f"{what} for an interrupt",
                       [Bar(label, r[f"{what}_each"], f"{r[f'{what}_each']:g}", r["apicv"]) for label, r in runs])
                 for what in ("exits", "injections")]],
               " ".join(["Grey: KVM injects them. Blue: they are posted."] +
                        [f"{label}: {r['interrupts'] - r['to_spinning']} go to a halted vCPU."
                         for label, r in runs if r["to_spinning"] < r["interrupts"]]), machines[raw["posted"]["machine"]])


def free(raw):
    names = {"plain": "QEMU as it is", "hinting": "virtio's hinting", "skip": "skip_free alone", "zero": "skip_free, --zero 16"}
    loads = {"idle": "Idle guest", "build": "Two processes build"}

    def panel(load, title, unit, key, scale, digits, limit=None):
        bars = []
        for mode, name in names.items():
            runs = [r for r in raw["migrations"] if (r["load"], r["mode"]) == (load, mode)]
            n = [r[key] / scale for r in runs]
            middle = statistics.median(n)
            bars.append(Bar(name, middle, f"{middle:.{digits}f}", mode in ("skip", "zero"), min(n), max(n),
                            limit and runs[0][limit]))
        return Panel(f"{loads[load]}: {title}", unit, bars)

    runs = [r for r in raw["migrations"] if (r["load"], r["mode"]) == ("idle", "plain")]
    yield Plot("free", "Emulated: migrations of a guest that has free pages",
               [[panel(load, "sent in all", "MiB", "sent_mib", 1, 0),
                 panel(load, "total time", "seconds", "total_ms", 1000, 1),
                 panel(load, "downtime", "milliseconds", "downtime_ms", 1, 0, "longest_downtime_allowed_ms")]
                for load in loads],
               f"Grey: without kvm_ext. Blue: with it. Bars are medians of {len(runs)} runs, lines are the least and the most. "
               "Red: the downtime allowed. Each axis has its own scale.", raw["machine"])


def harvest(raw):
    def panel(mode, title):
        rows = {(r["gib"], r["who"]): r["usual"] for r in raw["rows"] if r["mode"] == mode}
        bars = []
        for (gib, who), n in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] != "stock")):
            stock = rows[gib, "stock"]
            ours = who != "stock"
            bars.append(Bar(f"{gib} GiB: {who}", n / 1e6, f"{n / 1e6:.3f}" + (f" ({n / stock:.2f} times)" if ours else ""),
                            ours, limit=raw["limit"] * stock / 1e6 if ours else None))
        return Panel(title, "million host instructions", bars)

    yield Plot("harvest", "Emulated: a harvest of the dirty log, nothing written, free pages left out",
               [[panel("legacy", "Legacy logging"), panel("manual", "Manual protection")]],
               f"Grey: stock KVM. Blue: skip_free. Red: the most that the test allows, {raw['limit']:g} times stock. "
               "Sizes are of the memslot. Instructions are not time.", raw["machine"])


DRAWN = {"irq": irq, "free": free, "harvest": harvest}


# --- gnuplot's input ----------------------------------------------------------------

def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def step(end, most):
    """1, 2 or 5 times a power of ten, so that no more than @most of them reach @end"""
    power = 10 ** math.floor(math.log10(end / most))
    return next(s * power for s in (1, 2, 5, 10, 20) if s * power * most >= end)


def draw_panel(panel, number, width, named):
    """Lines for a panel whose place is set; @named: with the names of its bars"""
    limited = any(b.limit for b in panel.bars)
    ends = [b.value if b.high is None else b.high for b in panel.bars]
    # Figures stand behind their bars. Where limits are marked they stand at the edge, as one
    # beside a mark would be taken for the limit's.
    free = [1 - (CHARACTER * len(b.text) + 12) / width for b in panel.bars]
    if limited:
        end = max(max(e, b.limit or 0) for e, b in zip(ends, panel.bars)) / min(free)
        figures, ends = "right offset 0,0", [end] * len(ends)
    else:
        end = max(e / f for e, f in zip(ends, free)) or 1
        figures = "left offset 0.5,0"
    yield f"$p{number} << EOD"
    for i, (b, place) in enumerate(zip(panel.bars, ends)):
        low, high, limit = ("NaN" if v is None else f"{v:.6g}" for v in (b.low, b.high, b.limit))
        yield f'{i} {b.value:.6g} {BLUE if b.ours else GREY} {low} {high} {limit} {place:.6g} "{b.text}"'
    yield "EOD"
    names = ", ".join(f"{quoted(b.label if named else '')} {i}" for i, b in enumerate(panel.bars))
    yield f"set title {quoted(panel.title)}"
    yield f"set xlabel {quoted(panel.unit)}"
    yield f"set ytics ({names})"
    yield f"set yrange [{len(panel.bars) - 0.4}:-0.6]"
    yield f"set xrange [0:{end:.6g}]"
    yield f"set xtics {step(end, width // 50):g} font ',8'"
    d = f"$p{number}"
    yield (f"plot {d} using ($2/2):1:(0):2:($1-0.36):($1+0.36):3 with boxxyerror lc rgb variable fs solid noborder, "
           f"{d} using 2:1:4:5 with xerrorbars pt -1 lw 1.5 lc rgb 'black', "
           f"{d} using 6:($1-0.45):(0):(0.9) with vectors nohead lw 2 lc rgb '{RED}', "
           f"{d} using 7:1:8 with labels {figures}")


def gnuplot_input(plot, raw, source):
    """The plot as gnuplot draws it; each row of panels has one height"""
    caption = [line for text in (plot.note, f"Machine: {plot.machine}.", f"{text_of(raw)}. Raw: {source}.")
               for line in textwrap.wrap(text, 168)]
    heights = [ABOVE + BELOW + ROW * max(len(p.bars) for p in row) for row in plot.rows]
    height = 40 + sum(heights) + LINE * len(caption) + 12
    labels = [[[b.label for b in p.bars] for p in row] for row in plot.rows]
    # A panel with the bars of the one to its left does not name them again.
    named = [[i == 0 or row[i] != row[i - 1] for i in range(len(row))] for row in labels]
    widths = [max(CHARACTER * max(map(len, row[i])) if names[i] else 0 for row, names in zip(labels, named))
              for i in range(len(plot.rows[0]))]
    panel_width = (WIDTH - sum(widths) - GAP * len(widths)) / len(widths)
    yield f"set terminal pngcairo noenhanced size {WIDTH},{height} font 'DejaVu Sans,9'"
    yield "set multiplot"
    yield "unset key"
    yield "set errorbars small"
    yield "set tics nomirror out scale 0.5"
    yield "set border 3 lc rgb '#606060'"
    yield "set grid xtics lc rgb '#e0e0e0' lt 1"
    yield f"set label 1 {quoted(plot.title)} at screen 0.012, screen {1 - 20 / height:.4f} font 'DejaVu Sans Bold,11'"
    for i, line in enumerate(caption):
        y = LINE * (len(caption) - i) - 4
        yield f"set label {2 + i} {quoted(line)} at screen 0.012, screen {y / height:.4f} font ',8' tc rgb '#404040'"
    top, number = 40, 0
    for row, names, high in zip(plot.rows, named, heights):
        left = 0
        for panel, width, name in zip(row, widths, names):
            left += width + 14
            yield f"set lmargin at screen {left / WIDTH:.4f}"
            yield f"set rmargin at screen {(left + panel_width) / WIDTH:.4f}"
            yield f"set tmargin at screen {1 - (top + ABOVE) / height:.4f}"
            yield f"set bmargin at screen {1 - (top + ABOVE + ROW * len(panel.bars)) / height:.4f}"
            number += 1
            yield from draw_panel(panel, number, panel_width, name)
            for i in range(1, len(caption) + 2):
                yield f"unset label {i}"
            left += panel_width + GAP - 14
        top += high
    yield "unset multiplot"


# --- PNG ----------------------------------------------------------------------------

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(png):
    at = len(SIGNATURE)
    while at < len(png):
        size, = struct.unpack(">I", png[at:at + 4])
        yield png[at + 4:at + 8], png[at + 8:at + 8 + size], at + 12 + size
        at += 12 + size


def with_texts(png, texts):
    """The picture with these tEXt chunks behind its header"""
    _, _, at = next(chunks(png))
    out = b""
    for key, text in texts.items():
        data = b"tEXt" + key.encode() + b"\0" + text.encode()
        out += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return png[:at] + out + png[at:]


def texts_of(png):
    return dict(data.decode("latin-1").split("\0", 1) for kind, data, _ in chunks(png) if kind == b"tEXt")


# --- all of them --------------------------------------------------------------------

class Failed(Exception):
    pass


def plots(results):
    """Of each plot: its file, gnuplot's input, and the texts that the PNG carries"""
    for name, function in DRAWN.items():
        source = f"tests/bench/results/{name}.json"
        path = f"{results}/{name}.json"
        if not os.path.exists(path):
            continue
        with open(path, "rb") as f:
            data = f.read()
        try:
            raw = json.loads(data)
            for plot in function(raw):
                text = "\n".join(gnuplot_input(plot, raw, source)) + "\n"
                yield f"{plot.name}.png", text, {"Source": source, "Source-SHA256": hashlib.sha256(data).hexdigest(),
                                                 "Gnuplot-SHA256": hashlib.sha256(text.encode()).hexdigest()}
        except (KeyError, ValueError) as e:
            raise Failed(f"{source} has not what its plots show ({e!r}); measure it again with this version") from e


def wrong(results, page):
    """What is not right about the plots in @results, which the text @page is to show"""
    there, seen = {f for f in os.listdir(results) if f.endswith(".png")}, set()
    for name in sorted(f[:-5] for f in os.listdir(results) if f.endswith(".json")):
        if f"(results/{name}.json)" in page and name not in DRAWN:
            yield f"no plot is drawn from {name}.json: write a function for it in tests/bench/plot.py"
    for name, _, texts in plots(results):
        seen.add(name)
        if f"](results/{name})" not in page:
            yield f"tests/bench/README.md does not show {name}"
        if name not in there:
            yield f"{name} is missing; run: make plots"
            continue
        with open(f"{results}/{name}", "rb") as f:
            png = f.read()
        has = texts_of(png)
        if has.get("Source-SHA256") != texts["Source-SHA256"]:
            yield f"{name} was drawn before {texts['Source']} changed; run: make plots"
        elif has != {**has, **texts}:
            yield f"{name} was drawn by another tests/bench/plot.py; run: make plots"
        if len(png) > MOST:
            yield f"{name} has {len(png)} bytes, more than {MOST}"
    for name in sorted(there - seen):
        yield f"{name} is drawn from no result that is there"


def draw():
    for name, text, texts in plots(RESULTS):
        try:
            # Without the user's own settings
            p = subprocess.run(["gnuplot", "-d"], input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "LC_ALL": "C"})
        except FileNotFoundError:
            raise Failed("gnuplot, which draws the plots, is not installed; run: apt install gnuplot-nox") from None
        if p.returncode or p.stderr or not p.stdout.startswith(SIGNATURE):
            raise Failed(f"gnuplot could not draw {name}: {p.stderr.decode(errors='replace').strip() or 'no picture'}")
        with open(f"{RESULTS}/{name}", "wb") as f:
            f.write(with_texts(p.stdout, texts))
        print(f"  PLOT    tests/bench/results/{name}")


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    try:
        if not sys.argv[1:]:
            draw()
            return 0
        with open(PAGE, encoding="utf-8") as f:
            found = list(wrong(RESULTS, f.read()))
    except Failed as e:
        sys.exit(f"plot.py: {e}")
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
