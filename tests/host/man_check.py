#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The manual pages beside the tool; see tests/host/man.sh.  Prints TAP."""

import glob
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../lib"))

import manpages         # noqa: E402
from manpages import TOP  # noqa: E402
from tap import ok, plan  # noqa: E402

KVMEXT = f"{TOP}/build/kvmext"
COLUMNS = 100


def same(page, tool, what):
    ok(page == tool and page, what, f"only on the page: {sorted(page - tool)}; only in the tool: {sorted(tool - page)}")


def output(*cmd):
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TOP)
    return p.stdout


def help_options(text):
    """{"--vm=PID", "-b"} of a text by argp"""
    out = set()
    for m in re.finditer(r"^ {2,6}(?:(-\w), )? *(--[a-z-]+)(=\S+)?(?= |$)", text, re.M):
        out.add(m[2] + (m[3] or ""))
        out.update([m[1]] if m[1] else [])
    return out


def sources():
    return [p for e in "ch" for p in glob.glob(f"{TOP}/user/**/*.{e}", recursive=True)]


def read(paths):
    out = ""
    for p in paths:
        with open(p) as f:
            out += f.read()
    return out


def lint(pages):
    for name, page in pages.items():
        said = output("mandoc", "-T", "lint", "-W", "warning", page.path)
        ok(not said, f"{name}: mandoc finds nothing wrong", said)
        said = output("groff", "-man", "-Tutf8", "-ww", "-z", page.path)
        ok(not said, f"{name}: nor does groff", said)
        with open(page.path) as f:
            long = [l for l in f.read().splitlines() if len(l) > COLUMNS]
        ok(not long, f"{name}: no line is over {COLUMNS} columns", str(long))


def structure(pages):
    for name, page in pages.items():
        titles, early = page.titles(), ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"]
        early = [t for t in early if t != "SYNOPSIS" or name.endswith(".8")]
        ok(titles[:len(early)] == early, f"{name}: examples come early", str(titles))
        ok(page.examples(), f"{name}: has examples")
        ends = ["EXIT STATUS", "SEE ALSO"] if name.endswith(".8") else ["FILES", "SEE ALSO"]
        ok(titles[-len(ends):] == ends, f"{name}: ends with {' and '.join(ends)}", str(titles))
        # As in ".BR kvm_ext (7),"
        also = {f"{n}.{s}" for n, s in re.findall(r"^\.BR ([\w\\-]+) \(([78])\)", "\n".join(page.lines("SEE ALSO")), re.M)}
        ours = {a.replace("\\-", "-") for a in also if a.startswith("kvm")}
        ok(ours <= set(pages), f"{name}: the pages that it names are there", str(ours - set(pages)))


def examples(pages):
    """An example that no test runs is none"""
    for group in sorted({p.group() for p in pages.values()}):
        try:
            with open(glob.glob(f"{TOP}/tests/*/man_{group}_test.sh")[0]) as f:
                runs = re.search(rf'man_run\.py" {group}$', f.read(), re.M)
            runs = runs and os.access(f.name, os.X_OK)
        except (IndexError, OSError):
            runs = False
        names = " ".join(p.name for p in pages.values() if p.group() == group)
        ok(runs, f"man_{group}_test runs the examples of {names}")


def commands(pages):
    """Each on one page, which has its options; and the page is named by its help"""
    top = output(KVMEXT, "help")
    listed = re.search(r"^Commands:\n(.*?)\n\n", top, re.M | re.S)[1]
    names = [n for line in re.findall(r"^  (\w+(?:, \w+)*)", listed, re.M) for n in line.split(", ")]
    where = {}
    for name, page in pages.items():
        for c in page.commands():
            where.setdefault(c, []).append(name)
    same(set(where), set(names), "each command has a page, and each page's commands are there")
    ok(all(len(w) == 1 for w in where.values()), "and no command has two", str(where))

    shared = pages["kvmext.8"].options("OPTIONS")
    same(shared, help_options(top), "kvmext.8: the options of every command")
    for c in names:
        if len(where.get(c, [])) != 1:
            continue
        page = pages[where[c][0]]
        text = output(KVMEXT, c, "--help")
        own, _, rest = text.partition("Options of every command:")
        same(help_options(rest), shared - {"-V", "--version"}, f"{c}: takes the options of every command")
        want = help_options(own)
        got = page.options("COMMANDS", f"kvmext {c}")
        ok(got == want, f"{page.name}: {c}'s options", f"only on the page: {got - want}; only in --help: {want - got}")
        got, want = page.synopsis().get(c), {o.partition("=")[0] for o in want if o.startswith("--")}
        ok(got == want, f"{page.name}: {c}'s options in the synopsis", f"{got}, and --help has {want}")
        ok(f"\n{page.name[:-2]}({page.name[-1]}) says more" in text, f"{c} --help names {page.name}", text[-200:])


def exit_codes(pages):
    text = read(sources())
    order = re.search(r"\bOK\b(?: = 0)?,\s*((?:E_\w+(?: = \d+)?,\s*)+)", text)
    enum = ["OK", *re.findall(r"E_\w+", order[1])]
    names = dict(re.findall(r'\[(OK|E_\w+)\] = "(\w+)"', text))
    code = {f"{i} {names[e]}" for i, e in enumerate(enum)}
    page = {t for t in pages["kvmext.8"].tags("EXIT STATUS")}
    same(page, code, "kvmext.8: exit codes and their names")
    listed = re.search(r"^Exit codes:\n(.*?)\n\n", output(KVMEXT, "help"), re.M | re.S)[1]
    said = {" ".join(m) for m in re.findall(r"^ +(\d+)  (\w+):", listed, re.M)}
    same(said, code - {"0 ok"}, "kvmext help: the same")


def environment(pages):
    text = read(sources())
    # What setlocale(LC_CTYPE, "") looks at, setlocale(3)
    used = set(re.findall(r'\bgetenv\("(\w+)"\)', text))
    used |= {"LC_ALL", "LC_CTYPE", "LANG"} if re.search(r'setlocale\(LC_CTYPE, ""\)', text) else set()
    tags = pages["kvmext.8"].tags("ENVIRONMENT")
    same({v for t in tags for v in t.split(", ")}, used, "kvmext.8: the environment")


def main():
    pages = manpages.pages()
    lint(pages)
    structure(pages)
    examples(pages)
    commands(pages)
    exit_codes(pages)
    environment(pages)
    return plan()


if __name__ == "__main__":
    sys.exit(main())
