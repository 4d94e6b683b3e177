#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Make the reference of ops and kfuncs in bpf/README.md, from the kernel-doc of the series.

    kernel-patches/build/reference.py TREE             print it
    kernel-patches/build/reference.py TREE --update    put it into bpf/README.md
    kernel-patches/build/reference.py TREE --check     exit status 1 and the difference if it is not there

TREE is a kernel tree that has the series, as build/linux-RELEASE.

The tables are the structs kvm_*_ops of include/linux/kvm_*.h.  Of each op the page has what the
member's text says: "Context:" and "Return:" begin parts of it.  A sentence that says what is
clamped, invalid or ignored goes under "Clamp", one that says what ejects under "Ejects".
"""
import argparse
import difflib
import glob
import os
import re
import sys
import textwrap

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PAGE = f"{TOP}/bpf/README.md"
BEGIN = "<!-- Made by kernel-patches/build/reference.py: edit the series' kernel-doc, then make reference -->"
END = "<!-- The end of what is made -->"
WIDTH = 100
# From here on a header is KVM's own matter
PRIVATE = "\n#ifdef CONFIG_KVM_EXT\n"
# What every op is given, of KVM's own
GIVEN = {"struct kvm *": "the VM", "struct kvm_vcpu *": "the vCPU"}

CLAMP = re.compile(r"clamp|invalid|ignored|at most|are left out|nothing within|change nothing|KVM chooses", re.I)
EJECT = re.compile(r"\beject", re.I)


def die(text):
    sys.exit(f"reference.py: {text}")


def comment(text):
    """A comment's lines, without its frame"""
    return [re.sub(r"^\s*\* ?", "", l).rstrip() for l in text.strip().splitlines()]


class Doc:
    """A kernel-doc comment: @name, summary, members, and the rest by section"""

    def __init__(self, text):
        lines = comment(text)
        while lines and not lines[0]:
            lines.pop(0)
        head = re.match(r"(?:(struct|enum) )?(\w+)(?:\(\))? - (.*)", lines[0])
        if not head:
            die(f"a kernel-doc comment without a name: {lines[0]}")
        self.kind, self.name, self.summary = head.groups()
        self.members, self.parts = {}, {"": []}
        into = self.parts[""]
        for line in lines[1:]:
            m = re.match(r"@(\w+):\s*(.*)", line)
            part = re.match(r"(Context|Returns?):\s*(.*)", line)
            if m:
                into = self.members.setdefault(m[1], [])
                line = m[2]
            elif part and self.kind != "struct":
                into = self.parts.setdefault(part[1].rstrip("s"), [])
                line = part[2]
            elif not line and into is not self.parts[""]:
                # A paragraph of its own ends a member, and begins the description
                into = self.parts[""]
            into.append(line.strip())


class Text:
    """What a member says, by part"""

    def __init__(self, lines):
        parts, name = {"": []}, ""
        for line in lines:
            m = re.match(r"(Context|Returns?):\s*(.*)", line)
            if m:
                name, line = m[1].rstrip("s"), m[2]
            parts.setdefault(name, []).append(line)
        self.parts = {k: flow(v) for k, v in parts.items()}


def flow(lines):
    return re.sub(r"\s+", " ", " ".join(lines)).strip()


def sentences(text):
    return [s for s in re.split(r"(?<=[.?:!])\s+(?=[A-Z])", text) if s]


class Op:
    def __init__(self, table, name, proto, doc, nosleep, before):
        self.table, self.name, self.proto = table, name, proto
        parts = Text(doc).parts
        when, context, answer = parts[""], parts.get("Context", ""), parts.get("Return", "")
        rest = sentences(when)
        # Headers that have no "Context:" and "Return:" yet
        if not context:
            context = " ".join(s for s in rest if s.startswith("Called in "))
            rest = [s for s in rest if not s.startswith("Called in ")]
        if not answer:
            at = next((i for i, s in enumerate(rest) if s.startswith("Returns ")), len(rest))
            answer, rest = " ".join(rest[at:]).removeprefix("Returns "), rest[:at]
        # "As @harvest."
        other = re.match(r"[Aa]s @(\w+)\.$", context)
        if other:
            context = next(o.said for o in before if o.name == other[1])
        self.said = context
        sleep = re.search(r"\bmay (not )?sleep\b", context, re.I)
        self.sleep = ("no" if sleep[1] else "yes") if sleep else "no" if nosleep else None
        # That has a line of its own
        self.context = re.sub(r"\b[Mm]ay not sleep(?:\.|, (m)|$)", lambda m: "M" if m[1] else "", context).strip()
        self.clamp, self.eject, self.answer, self.when = [], [], [], []
        for s in rest:
            (self.eject if EJECT.search(s) else
             self.clamp if CLAMP.search(s) and not s.startswith("Called") else self.when).append(s)
        for s in sentences(answer):
            (self.eject if EJECT.search(s) else self.clamp if CLAMP.search(s) else self.answer).append(s)


class Kfunc:
    def __init__(self, proto, doc, table):
        self.doc, self.table = doc, table
        self.name = re.search(r"(\w+)\(", proto)[1]
        self.proto = proto
        self.context = flow(doc.parts.get("Context", []))

    def ops(self, ops):
        """Which of @ops may call it"""
        if re.match(r"any op\b", self.context):
            return ops
        named = set(re.findall(r"(\w+)\(\)", self.context))
        return [o for o in ops if o.name in named]


class Series:
    def __init__(self, tree):
        self.headers = [p for p in sorted(glob.glob(f"{tree}/include/linux/kvm_*.h"))]
        self.sources = sorted(glob.glob(f"{tree}/arch/x86/kvm/*.c") + glob.glob(f"{tree}/virt/kvm/*.c"))
        self.text = {}
        for p in self.headers + self.sources:
            with open(p, errors="replace") as f:
                self.text[p] = f.read()
        self.docs = {}
        for p in self.headers + self.sources:
            if "kvm_ext" not in self.text[p] and "BPF struct_ops table" not in self.text[p]:
                continue
            for m in re.finditer(r"/\*\*\n(.*?)\*/\n", self.text[p], re.S):
                if re.match(r"\s*\* (?:struct |enum )?\w+(?:\(\))? - ", m[1]):
                    d = Doc(m[1])
                    self.docs[(d.kind, d.name)] = d
        if not any("kvm_ext" in p for p in self.headers):
            die(f"{tree} has no include/linux/kvm_ext.h: is the series applied?")
        self.tables()
        self.kfuncs()

    def core(self):
        return next(p for p in self.headers if p.endswith("/kvm_ext.h"))

    def tables(self):
        order = [m.lower() for m in re.findall(r"@KVM_EXT_(\w+):\s*kvm_\w+_ops", self.text[self.core()])]
        self.table = {}
        for p in self.headers:
            for m in re.finditer(r"^struct kvm_(\w+)_ops \{\n(.*?)^\};", self.text[p], re.M | re.S):
                if "char name[" not in m[2] or "(*" not in m[2]:
                    continue
                doc = self.docs.get(("struct", f"kvm_{m[1]}_ops"))
                if not doc:
                    die(f"struct kvm_{m[1]}_ops has no kernel-doc")
                nosleep = "No op may sleep" in flow(doc.parts[""])
                members = dict(doc.members)
                # A member may have its comment beside it
                for c in re.finditer(r"/\*\*\n?(.*?)\*/", m[2], re.S):
                    lines = [l for l in comment(c[1]) if l]
                    head = re.match(r"@(\w+):\s*(.*)", lines[0])
                    members[head[1]] = [head[2], *map(str.strip, lines[1:])]
                body = re.sub(r"/\*.*?\*/", "", m[2], flags=re.S)
                ops = []
                for o in re.finditer(r"^\s*((?:\w+ )+\*?\(\*(\w+)\)\([^;]*\);)", body, re.M):
                    text = members.get(o[2]) or die(f"{m[1]}.{o[2]} has no text")
                    ops.append(Op(m[1], o[2], flow([o[1]]), text, nosleep, ops))
                self.table[m[1]] = (members, ops, p)
        self.order = [t for t in order if t in self.table] or die("kvm_ext.h names no table")
        if set(self.order) != set(self.table):
            die(f"tables of kvm_ext.h: {order}, of the headers: {list(self.table)}")

    def kfuncs(self):
        sets = {}
        for p in self.sources:
            for m in re.finditer(r"BTF_KFUNCS_START\((\w+)\)(.*?)BTF_KFUNCS_END", self.text[p], re.S):
                t = re.match(r"kvm_(\w+)_kfuncs$", m[1])
                for name in re.findall(r"BTF_ID_FLAGS\(func, (kvm_\w+)", m[2]):
                    sets[name] = t[1] if t and t[1] in self.table else None
        self.kfunc = {}
        for p in self.sources:
            for m in re.finditer(r"^__bpf_kfunc\s+(\w[^{;]*?\))\n?\s*\{", self.text[p], re.M):
                proto = flow([m[1]])
                name = re.search(r"(\w+)\(", proto)[1]
                if name not in sets:
                    continue
                doc = self.docs.get((None, name)) or die(f"{name}() has no kernel-doc")
                self.kfunc[name] = Kfunc(proto, doc, sets[name])
        if set(self.kfunc) != set(sets):
            die(f"kfuncs that are registered, and not found: {set(sets) - set(self.kfunc)}")

    def public(self, path):
        """What of a header a policy sees"""
        return self.text[path].partition(PRIVATE)[0]

    def types(self, path):
        """Its structs and enums, but the table itself"""
        names = re.findall(r"^(struct|enum) (kvm_\w+) \{", self.public(path), re.M)
        return [self.docs[n] for n in names if n in self.docs and not n[1].endswith("_ops")]

    def defines(self, path):
        """(name, comment): those that have one right above them"""
        found = re.findall(r"^/\*(?!\*)((?:(?!\*/).)*)\*/\n#define (\w+(?:\([\w, ]*\))?)", self.public(path), re.M | re.S)
        return [(name, flow(comment(text))) for text, name in found]

    def constant(self, name):
        for p in self.headers + self.sources:
            m = re.search(rf"^#define {name}\s+(.*?)\s*$", self.text[p], re.M)
            if m:
                return m[1]
        die(f"there is no constant {name}")


def wrap(text, first="", indent=""):
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


def code(text):
    """Names of C as code"""
    return re.sub(r"(?<![\w`])((?:struct |enum )?kvm_\w+(?:\(\))?|KVM_[A-Z]\w*(?:\([\w .]*\)|\*)?|@\w+|\w+\(\))(?![\w`])",
                  lambda m: f"`{m[1].lstrip('@')}`", text)


def item(name, text):
    return wrap(f"**{name}:** {code(text)}", "- ", "  ")


class Writer:
    def __init__(self, series):
        self.s, self.out = series, []

    def line(self, *text):
        self.out += text

    def para(self, text):
        self.line(wrap(code(text)), "")

    def all(self):
        self.line("## Reference", "")
        self.para("This part is made from the kernel-doc of the headers, in the headers' own words.")
        self.every_op()
        for t in self.s.order:
            self.table(t)
        self.tools()
        while self.out[-1] == "":
            self.out.pop()
        return "\n".join(self.out)

    def every_op(self):
        self.line("### What ends a policy, whatever the op", "")
        for name in "kvm_ext_invalid", "kvm_ext_call_end", "kvm_ext_take", "kvm_ext_eject":
            doc = self.s.docs.get((None, name)) or die(f"{name}() has no kernel-doc")
            text = flow(doc.parts[""])
            self.line(wrap(f"**{doc.summary}.** {code(text)}", "- ", "  "))
        self.line("", "| constant | value |", "|---|---|")
        for name in "INVALID_MAX", "SLOW_NS", "SLOW_MAX", "STRIKES_NS", "TAKEN_MAX":
            self.line(f"| `KVM_EXT_{name}` | `{self.s.constant('KVM_EXT_' + name)}` |")
        self.line("")

    def table(self, t):
        members, ops, path = self.s.table[t]
        self.line(f"### struct kvm_{t}_ops", "")
        for m in "vm", "flags", "name":
            self.line(wrap(f"`.{m}`: {code(flow(members[m]))}", "- ", "  "))
        self.line("")
        kfuncs = [k for k in self.s.kfunc.values() if k.table == t]
        for o in ops:
            self.op(t, o, [k for k in kfuncs if o in k.ops(ops)])
        for k in kfuncs:
            self.kfunc(k)
        for doc in self.s.types(path):
            self.type(doc)
        defines = self.s.defines(path)
        if defines:
            self.line(f"#### {t}: constants", "")
            for name, text in defines:
                self.line(wrap(f"`{name}`: {code(text)}", "- ", "  "))
            self.line("")

    def arguments(self, o):
        out = []
        for arg in re.search(r"\)\((.*)\);$", o.proto)[1].split(", "):
            kind, name = re.match(r"(.*?)(\w+)$", arg).groups()
            kind = kind.removeprefix("const ")
            m = re.match(r"struct (\w+) \*$", kind)
            what = GIVEN.get(kind) or (f"[{m[0][:-2]}](#struct-{m[1]})" if m else f"a number, {kind.strip()}")
            out.append(f"`{name}`, {what}")
        return "; ".join(out) + "."

    def op(self, t, o, kfuncs):
        self.line(f"#### {t}: {o.name}", "", "```c", *textwrap.wrap(o.proto, WIDTH, subsequent_indent="    "), "```", "")
        void = o.proto.startswith("void")
        silent = "the header does not say."
        for name, text in (
                ("When", " ".join(o.when)), ("Context", o.context), ("May sleep", o.sleep and o.sleep + "."),
                ("Answer", " ".join(o.answer) or (void and "none: it returns nothing.")),
                ("Clamp", " ".join(o.clamp) or (void and "there is nothing to clamp.") or
                          (o.answer and o.answer[0].startswith("any number") and "every number is allowed.")),
                ("Ejects", " ".join(o.eject) or "what ends any policy, above."),
                ("Kfuncs", ", ".join(f"`{k.name}()`" for k in kfuncs) + "." if kfuncs else "none.")):
            self.line(item(name, text or silent))
            if name == "May sleep":
                self.line(wrap(f"**Arguments:** {self.arguments(o)}", "- ", "  "))
        self.line("")

    def kfunc(self, k):
        self.line(f"#### kfunc: {k.name}", "", "```c", *textwrap.wrap(k.proto + ";", WIDTH, subsequent_indent="    "),
                  "```", "")
        about = flow(k.doc.parts[""])
        self.para(f"{k.doc.summary[:1].upper()}{k.doc.summary[1:]}. {about}".strip())
        for name, lines in k.doc.members.items():
            self.line(wrap(f"`{name}`: {code(flow(lines))}", "- ", "  "))
        self.line(item("Called from", k.context))
        if "Return" in k.doc.parts:
            self.line(item("Returns", flow(k.doc.parts["Return"])))
        self.line("")

    def tools(self):
        kfuncs = [k for k in self.s.kfunc.values() if k.table is None]
        if not kfuncs:
            return
        self.line("### For tools", "")
        for k in kfuncs:
            self.kfunc(k)

    def type(self, doc):
        self.line(f"#### {doc.kind} {doc.name}", "", wrap(f"{code(doc.summary[:1].upper() + doc.summary[1:])}."), "")
        for name, lines in doc.members.items():
            self.line(wrap(f"`{name}`: {code(flow(lines))}", "- ", "  "))
        about = flow(doc.parts[""])
        self.line("", *([wrap(code(about)), ""] if about else []))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tree", metavar="TREE")
    p.add_argument("--update", action="store_true")
    p.add_argument("--check", action="store_true")
    opts = p.parse_args()
    text = Writer(Series(opts.tree)).all()
    if not opts.update and not opts.check:
        print(text)
        return 0
    with open(PAGE) as f:
        page = f.read()
    head, begin, rest = page.partition(BEGIN + "\n")
    old, end, tail = rest.partition(END)
    if not begin or not end:
        die(f"{PAGE} has no place for it, between two comments")
    if opts.check:
        diff = list(difflib.unified_diff(old.strip("\n").splitlines(), text.splitlines(), "bpf/README.md", "the headers", lineterm=""))
        print("\n".join(diff[:40]), end="\n" if diff else "")
        return 1 if diff else 0
    with open(PAGE, "w") as f:
        f.write(f"{head}{begin}\n{text}\n\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
