#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Figures are those that were measured. Each row of tests/bench/README.md that has a raw result
# in tests/bench/results/ is made from it again. Each figure in README.md's table is in the
# section of its command there. Each plot was drawn from its raw result as it is now.
cd "$(dirname "$0")/../.." || exit 1
exec python3 - <<'END'
import json
import os
import re
import shutil
import statistics
import sys
import tempfile

sys.path[:0] = "tests/lib", "tests/bench"
import plot
from origin import text_of
from readme import Page

PAGE = "tests/bench/README.md"
with open(PAGE, encoding="utf-8") as f:
    text = f.read()
flat = " ".join(text.split())
count = bad = 0


def ok(what, wrong):
    global count, bad
    count += 1
    print(f"{'not ok' if wrong else 'ok'} {count} {what}")
    for w in wrong:
        print(f"# {w}")
    bad += bool(wrong)


def raw(name):
    with open(f"tests/bench/results/{name}.json", encoding="utf-8") as f:
        return json.load(f)


def rows(want):
    return [f"{PAGE} has no row: {w}" for w in want if f"\n{w}\n" not in text]


def said(want):
    return [f"{PAGE} does not say: {w}" for w in want if w not in flat]


# --- interrupts ---------------------------------------------------------------

irq = raw("irq")
cost = {k: v["msi"] for k, v in irq["cost"]["instructions"].items()}
names = {"noop": "`noop`: KVM's own choice", "spread": "`spread`", "sticky": "`sticky`", "run_first": "`run_first`"}


def micros(l):
    """Median, 99th percentile and worst, a digit behind the point up to 50"""
    median = f"{l['median_us']:.1f}"
    rest = (f"{v:.1f}" if v < 50 else f"{v:.0f}" for v in (l["p99_us"], l["worst_us"]))
    return " | ".join([median, *rest])


want = [f"| stock KVM | | | | | | | | {cost['stock']} | |",
        f"| nothing attached | | | | | | | | {cost['patched']} | {cost['patched'] - cost['stock']} |"]
for key, name in names.items():
    amd, intel = (irq[m]["latency"][key] for m in ("amd", "intel"))
    to = f"{amd['vcpu0']}" + (f" of {amd['sent']}" if key == "noop" else "")
    want.append(f"| {name} | {micros(amd)} | {micros(intel)} | {to} | {cost[key]} | {cost[key] - cost['stock']} |")
ok("interrupts: cost and latency are those of results/irq.json", rows(want))

want = []
for r in irq["posted"]["runs"]:
    name = ("posted" if r["apicv"] else "`enable_apicv=0`") + f", `{r['policy']}`"
    if not r["apicv"] and r["to_spinning"] < r["interrupts"]:
        name += " (half of them to the halted one)"
    want.append(f"| {name} | {r['exits_each']:g} | {r['injections_each']:g} |")
ok("interrupts: what a posted one costs", rows(want))

want = []
for key, start in (("noop", "under KVM's own choice"), ("run_first", "")):
    run = irq["balance"]["runs"][key]
    parts = sorted({f"{100 * n / run['sent']:.1f}" for n in run["by_vcpu"]}, key=float)
    share = f"{parts[0]} %" if len(parts) == 1 else f"{parts[0]} to {parts[-1]} %"
    want.append(" ".join(filter(None, [share, start, f"(99 %: {run['p99_us']:.0f} us)"])))
ok("interrupts: balance", said(want))

lost = sum(l["lost"] for m in ("amd", "intel") for l in irq[m]["latency"].values())
sent = sum(l["sent"] for m in ("amd", "intel") for l in irq[m]["latency"].values())
twice = [irq["amd"]["many"][k]["taken"] - irq["amd"]["many"][k]["accepted"] for k in ("noop", "spread", "run_first")]
many = [m for k in ("amd", "intel") for m in irq[k]["many"].values()]
ok("interrupts: none lost, and how many were taken twice",
   [f"{lost} were lost"] * bool(lost) + ["some were not accepted once"] * any(m["sent"] != m["accepted"] for m in many) +
   said([f"none of the {sent:,} interrupts", f"took {twice[0]}, {twice[1]} and {twice[2]} of them twice"]))

# --- free pages ---------------------------------------------------------------

runs = {}
for r in raw("free")["migrations"]:
    runs.setdefault((r["load"], r["mode"]), []).append(r)
names = {("idle", "plain"): "idle: QEMU as it is", ("build", "plain"): "two processes build: QEMU as it is",
         "hinting": "virtio's hinting", "skip": "`skip_free` alone", "zero": "`skip_free`, `--zero 16`"}
want, sent = [], {}
for (load, mode), rs in runs.items():
    m = {k: statistics.median(r[k] for r in rs) for k in ("free_mib", "first_pass_mib", "sent_mib", "total_ms", "downtime_ms", "rounds")}
    sent[load, mode] = m["sent_mib"]
    span = f"({min(r['sent_mib'] for r in rs)} to {max(r['sent_mib'] for r in rs)})"
    first, mib, s, ms = (mode == "plain" and load == "idle"), "", "", f"{m['downtime_ms']:.0f}"
    if first:   # the row that has the units
        mib, s = " MiB", " s"
        ms += f" ms ({min(r['downtime_ms'] for r in rs)} to {max(r['downtime_ms'] for r in rs)})"
    name = names.get((load, mode)) or names[mode]
    total = f"{int(m['total_ms'] / 100 + 0.5) / 10}"
    want.append(f"| {name} | {m['free_mib']:.0f} | {m['first_pass_mib']}{mib} | {m['sent_mib']}{mib} {span} | "
                f"{total}{s} | {ms} | {m['rounds']:.0f} |")
ok("free pages: migrations are those of results/free.json", rows(want))


def less(load, mode):
    return f"{100 * (1 - sent[load, mode] / sent[load, 'plain']):.0f} %"


ok("free pages: how much less is sent",
   said([f"sends {less('idle', 'zero')} less idle and {less('build', 'zero')} less under load",
         f"Hinting sends {less('idle', 'hinting')} and {less('build', 'hinting')} less",
         f"`skip_free` alone sends {less('build', 'skip')} less under load and "
         f"{100 * (sent['idle', 'skip'] / sent['idle', 'plain'] - 1):.0f} % more idle"]))

# --- harvests -----------------------------------------------------------------

harvests = {}
for r in raw("harvest")["rows"]:
    harvests.setdefault((r["mode"], r["who"]), {})[r["gib"]] = r
want, times = [], {}
for mode in ("legacy", "manual"):
    ours, stock = harvests[mode, "skip_free"], harvests[mode, "stock"]
    ratios = [ours[g]["usual"] / stock[g]["usual"] for g in ours]
    times[mode] = f"{min(ratios):.2f} to {max(ratios):.2f} times"
    most = max(ours)
    want.append(f"{(ours[most]['usual'] - ours[1]['usual']) / (most - 1):,.0f} instructions" if mode == "legacy" else
                f"{(ours[most]['usual'] - ours[1]['usual']) / (most - 1):,.0f} with manual")
ok("free pages: what a harvest costs is that of results/harvest.json",
   said([f"takes {times['legacy']} stock's", f"protection {times['manual']}", *want]))

# --- commits and plots --------------------------------------------------------

names = sorted(f[:-5] for f in os.listdir(plot.RESULTS) if f.endswith(".json"))
ok(f"the page has the commits of the {len(names)} raw results",
   said([f"{text_of(raw(n))}. Raw: [results/{n}.json](results/{n}.json)" for n in names]) if names else ["no raw results"])


def stale(results=plot.RESULTS, page=text):
    try:
        return list(plot.wrong(results, page))
    except plot.Failed as e:
        return [str(e)]


now = stale()
ok("each raw result has its plots, which the page shows, and none is older than it", now)

with tempfile.TemporaryDirectory() as tmp:
    there = shutil.copytree(plot.RESULTS, f"{tmp}/results")
    with open(f"{there}/harvest.json", "a", encoding="utf-8") as f:
        f.write("\n")
    with open(f"{there}/new.json", "w", encoding="utf-8") as f:
        f.write("{}\n")
    os.unlink(f"{there}/free.png")
    shutil.copy(f"{there}/irq-cost.png", f"{there}/old.png")
    shown = text.replace("](results/irq-cost.png)", "") + "(results/new.json)"
    found = stale(there, shown)
    want = ["no plot is drawn from new.json", "does not show irq-cost.png", "free.png is missing",
            "harvest.png was drawn before", "old.png is drawn from no result"]
    ok("a plot that is old, missing, not shown or of nothing is found, and a result without one",
       [f"not found: {w}" for w in want if not any(w in line for line in found)] +
       [f"found: {line}" for line in found if line not in now and not any(w in line for w in want)])

# --- README.md ----------------------------------------------------------------

page, sections, heading = Page(PAGE), {}, ""
for _, line in page.prose:
    heading = line.lstrip("# ") if re.match("##+ ", line) else heading
    sections[heading] = sections.get(heading, "") + line + "\n"
commands = {}
for h, c in page.commands():
    commands.setdefault(" ".join(c.split()[:2]), set()).add(h)
wrong, seen = [], 0
for _, line in Page("README.md").prose:
    m = re.fullmatch(r"\| `kvm_\w+_ops` \| `\w+` \| (.*) \| `(make bench-\w+)` \|", line)
    if not m:
        continue
    seen += 1
    there = "".join(sections[h] for h in commands.get(m[2], ()))
    for figure in re.findall(r"(?<![\w.])\d[\d.,]*\d", m[1].replace("99th", "")):
        if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d]|\.\d)", there):
            wrong.append(f"README.md has {figure}, and no section of {m[2]} in {PAGE} has it")
ok(f"README.md's figures are in {PAGE}, in the section of their command ({seen} tables)", wrong if seen == 4 else ["no 4 rows"])

print(f"1..{count}")
sys.exit(bad != 0)
END
