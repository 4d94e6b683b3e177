# SPDX-License-Identifier: GPL-2.0
"""Read the manual pages: commands, options and examples, as their source has them."""

import glob
import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PROMPTS = {"# ": "host", "guest# ": "guest"}
# Commands that look on for seconds
WATCHERS = {"top", "dirty", "trace", "hist", "steer"}


def pages():
    """{"kvmext.8": Page}"""
    return {os.path.basename(p): Page(p) for p in sorted(glob.glob(f"{TOP}/user/*.[78]"))}


def plain(text):
    """Without fonts and escapes"""
    text = re.sub(r"\\f[BIR]", "", text)
    for escape, char in ((r"\(aq", "'"), (r"\(bu", "*"), (r"\&", ""), (r"\-", "-"), (r"\ ", " ")):
        text = text.replace(escape, char)
    if "\\" in text:
        raise ValueError(f"an escape that tests/lib/manpages.py does not know: {text}")
    return text


def words(line):
    """A macro's arguments, quotes undone"""
    return [a.strip('"') for a in re.findall(r'"[^"]*"|(?:\\ |\S)+', line)]


def joined(line):
    """A line of text; of a font macro the text that it sets"""
    m = re.match(r"\.(BI|BR|IB|IR|RB|RI|B|I) (.*)", line)
    if not m:
        return plain(line)
    return plain((" " if m[1] in ("B", "I") else "").join(words(m[2])))


class Page:
    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        # section -> lines; (section, subsection) -> lines
        self.sections = {}
        section = part = None
        with open(path) as f:
            for line in f.read().splitlines():
                m = re.match(r'\.S([HS]) "?([^"]*)"?$', line)
                if line.startswith('.\\"'):
                    continue
                if m and m[1] == "H":
                    section, part = plain(m[2]), None
                elif m:
                    part = plain(m[2])
                if m:
                    self.sections[(section, part)] = []
                elif section:
                    self.sections[(section, part)].append(line)

    def titles(self):
        return [s for s, part in self.sections if not part]

    def lines(self, section, part=None):
        return self.sections.get((section, part), [])

    def commands(self):
        """What it has a subsection for"""
        return [p.removeprefix("kvmext ") for s, p in self.sections if s == "COMMANDS" and p]

    def tags(self, section, part=None):
        """The tag of each .TP"""
        lines = self.lines(section, part)
        return [joined(lines[i + 1]) for i, l in enumerate(lines[:-1]) if l == ".TP"]

    def options(self, section, part=None):
        """{"--vm=PID", "-b", ...}: those that have a tag"""
        return {o for tag in self.tags(section, part) if tag.startswith("-") for o in re.split(r",\s*", tag)}

    def synopsis(self):
        """{command: {"--vm", ...}} as the synopsis has it"""
        text = " ".join(joined(l) for l in self.lines("SYNOPSIS") if l != ".br")
        out = {}
        for m in re.finditer(r"\bkvmext (\w+)((?:(?!\bkvmext ).)*)", text):
            out.setdefault(m[1], set()).update(re.findall(r"--[a-z-]+\b", m[2]))
        return out

    def examples(self):
        """[[(where, command)]]: a list for each block"""
        out, block = [], None
        for line in self.lines("EXAMPLES"):
            if line == ".EX":
                block = []
            elif line == ".EE":
                out.append(block)
                block = None
            elif block is not None:
                text = plain(line)
                prompt = next((p for p in PROMPTS if text.startswith(p)), None)
                if not prompt:
                    raise ValueError(f"{self.name}: an example without a prompt: {text}")
                block.append((PROMPTS[prompt], text.removeprefix(prompt)))
        return out

    def group(self):
        """Which test runs its examples: one test for all would take too long"""
        if any(where == "guest" for block in self.examples() for where, _ in block):
            return "guest"
        return "watch" if WATCHERS & set(self.commands()) else "policy"
