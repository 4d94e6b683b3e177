#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Print the index of all tests, as tests/README.md has it.

    tests/host/index.py            print it
    tests/host/index.py --write    put it into tests/README.md
    tests/host/index.py --long     print sentences of claims with more than 25 words

Of each test: its name, the machines that it runs on, and its claim, which is the first
paragraph of its source.
"""
import ast
import os
import re
import sys
import textwrap

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
README = f"{TOP}/tests/README.md"
BEGIN, END = "<!-- index: tests/host/index.py --write -->\n", "<!-- end of the index -->\n"
WORDS = 25      # of a sentence, at most
FOLDERS = {
    "kvm": "KVM through its own API, in an emulated host",
    "tool": "`kvmext`, in an emulated host",
    "guest": "whole Linux guests in QEMU, in an emulated host",
    "host": "on the build machine",
    "host/long": "on the build machine, in `make test-long` only",
    "debug": "on the build machine, in `make test-debug` only",
}


class NoClaim(Exception):
    pass


def paragraph(path):
    """The first paragraph of a source's opening comment"""
    with open(path) as f:
        text = f.read()
    if path.endswith(".py"):
        opening = ast.get_docstring(ast.parse(text)) or ""
    elif path.endswith(".c"):
        m = re.match(r"// SPDX[^\n]*\n/\*(.*?)\*/", text, re.S)
        opening = re.sub(r"^ ?\* ?", "", m[1], flags=re.M).strip() if m else ""
    else:
        m = re.match(r"(?:#![^\n]*\n)?# SPDX[^\n]*\n((?:#[^\n]*\n)+)", text)
        opening = re.sub(r"^# ?", "", m[1], flags=re.M).strip() if m else ""
    first = re.split(r"\n\s*\n|\n *(?=Machines:|Files:)", opening)[0]
    if not first:
        raise NoClaim(f"{os.path.relpath(path, TOP)}: its source does not open with a claim")
    return " ".join(first.split())


def machines(path):
    with open(path) as f:
        m = re.search(r"^[ #*/]*Machines: (.*)$", f.read(), re.M)
    return re.split(r"\s*;\s*", m[1].strip()) if m else ["amd"]


def tests(folder):
    """Sources of the tests in it, as tests/run finds them"""
    guest = folder in ("kvm", "tool", "guest")
    for name in sorted(os.listdir(f"{TOP}/tests/{folder}")):
        path = f"{TOP}/tests/{folder}/{name}"
        stem, suffix = os.path.splitext(name)
        if guest and not stem.endswith("_test"):
            continue
        if suffix == ".sh" or guest and suffix == ".py":
            if os.access(path, os.X_OK) and os.path.isfile(path):
                yield stem, path
        elif guest and suffix == ".c":
            yield stem, path


def index():
    out = ""
    for folder, title in FOLDERS.items():
        out += f"### `{folder}/`: {title}\n\n"
        for name, path in tests(folder):
            where = f" ({', '.join(machines(path))})" if folder in ("kvm", "tool", "guest") else ""
            out += textwrap.fill(f"- `{name}`{where}: {paragraph(path)}", 100, subsequent_indent="  ",
                                 break_long_words=False, break_on_hyphens=False) + "\n"
        out += "\n"
    return out


def too_long():
    for folder in FOLDERS:
        for name, path in tests(folder):
            for sentence in re.split(r"(?<=[.!?])\s+", paragraph(path)):
                if len(sentence.split()) > WORDS:
                    yield f"{folder}/{name}: {sentence}"


def main():
    if sys.argv[1:] == ["--long"]:
        print("\n".join(too_long()))
        return
    try:
        text = index()
    except NoClaim as e:
        sys.exit(str(e))
    if sys.argv[1:] == ["--write"]:
        with open(README) as f:
            head, _, rest = f.read().partition(BEGIN)
        with open(README, "w") as f:
            f.write(f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
