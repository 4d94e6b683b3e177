#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What a page of this repository says, for the tests that check it.

    readme.py sizes PAGE              lines, words, characters of the longest line
    readme.py sentences MAX PAGE      sentences of more than MAX words
    readme.py columns MAX PAGE        lines of more than MAX characters, tables left out
    readme.py tables PAGE             rows that have not as many cells as their table's header
    readme.py links PAGE              links to files or headings that are not there
    readme.py names PAGE              files, make targets and tests in it that are not there
    readme.py blocks PAGE             fenced blocks: number, language, heading, first line
    readme.py commands PAGE [HEADING [N]]   one a line, as "HEADING<TAB>COMMAND"; under that
                                      heading alone, of its Nth block of commands
    readme.py block PAGE LANGUAGE [HEADING]   the text of the first such block

Commands are what stands in blocks of the language sh, without comments.  A block without a
language, or of an unknown one, is an error (exit status 2), as nobody could tell whether a
test has to run it.
"""
import os
import re
import sys

LANGUAGES = ("sh", "text", "c", "console")


class Page:
    def __init__(self, path):
        self.path = path
        with open(path, encoding="utf-8") as f:
            self.lines = f.read().split("\n")[:-1]
        self.blocks, self.prose, self.headings = [], [], []
        self.parse()

    def parse(self):
        """Split into fenced blocks and the rest"""
        heading, block = "", None
        for number, line in enumerate(self.lines, 1):
            if block is not None:
                if line == "```":
                    block = None
                else:
                    block["lines"].append(line)
            elif line.startswith("```"):
                block = {"number": number, "language": line[3:], "heading": heading, "lines": []}
                if block["language"] not in LANGUAGES:
                    sys.stderr.write(f"{self.path}:{number}: block of the language '{line[3:]}'; known: {' '.join(LANGUAGES)}\n")
                    sys.exit(2)
                self.blocks.append(block)
                self.prose.append((number, ""))
            elif line.startswith("    ") and (not self.prose or not self.prose[-1][1]):
                sys.stderr.write(f"{self.path}:{number}: indented block; fence it, with its language\n")
                sys.exit(2)
            else:
                if line.startswith("#"):
                    heading = line.lstrip("#").strip()
                    self.headings.append(heading)
                self.prose.append((number, line))
        if block is not None:
            sys.stderr.write(f"{self.path}:{block['number']}: block without an end\n")
            sys.exit(2)

    def text(self):
        """Lines of prose, paragraph by paragraph: no blocks, tables or headings"""
        paragraph = []
        for number, line in self.prose + [(0, "")]:
            line = re.sub(r"^> ?", "", line)
            item = re.match(r" *([-*]|\d+\.) ", line)
            if not line.strip() or item or line.startswith(("#", "|")):
                if paragraph:
                    yield paragraph[0][0], " ".join(t.strip() for _, t in paragraph)
                paragraph = []
            if line.strip() and not line.startswith(("#", "|")):
                paragraph.append((number, line[item.end():] if item else line))

    def tables(self):
        header = None
        for number, line in self.prose:
            if not line.startswith("|"):
                header = None
                continue
            cells = len(re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "x", line.strip()).strip("|")))
            if header is None:
                header = cells, number
            yield number, cells, header[0], number - header[1], line

    def commands(self, heading=None, nth=None):
        blocks = [b for b in self.blocks if b["language"] == "sh" and heading in (None, b["heading"])]
        for b in blocks if nth is None else blocks[nth - 1:nth]:
            for line in b["lines"]:
                line = re.sub(r"(^|\s+)# .*$", "", line).strip()
                if line:
                    yield b["heading"], line


def anchor(heading):
    """As GitHub makes it"""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")


def sentences(page, most):
    for number, text in page.text():
        text = re.sub(r"`[^`]*`", lambda m: m[0].replace(".", "·").replace("?", "·").replace("!", "·"), text)
        for s in re.split(r"(?<=[.!?])[\"')*]*\s+", text):
            if len(s.split()) > most:
                yield f"{page.path}:{number}: {len(s.split())} words: {s}"


def tables(page):
    for number, cells, want, row, line in page.tables():
        if cells != want:
            yield f"{page.path}:{number}: {cells} cells, not {want}: {line}"
        if row == 1 and not re.fullmatch(r"\|(:?-+:?\|)+", line):
            yield f"{page.path}:{number}: no line of dashes below the header: {line}"


def links(page):
    for number, line in page.prose:
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, part = target.partition("#")
            path = os.path.join(os.path.dirname(page.path), path) if path else page.path
            if not os.path.exists(path):
                yield f"{page.path}:{number}: {target}: no such file"
            elif part and part not in {anchor(h) for h in Page(path).headings}:
                yield f"{page.path}:{number}: {target}: no such heading"


def there(test):
    return any(os.path.exists(os.path.join(d, f"{test}{e}")) for d, _, _ in os.walk("tests") for e in (".c", ".sh", ".py"))


def names(page):
    """Run in the top folder"""
    with open("Makefile", encoding="utf-8") as f, open("tests/fuzz/build.mk", encoding="utf-8") as g:
        targets = set(re.findall(r"^([\w.-]+)(?: .*)?:(?!=)", f.read() + g.read(), re.M))
    saved = set(re.findall(r"[Ss]ave it as `([^`]*)`", "\n".join(page.lines)))
    for number, line in enumerate(page.lines, 1):
        for path in re.findall(r"(?<![\w/.-])(?:tests|bpf|user|kernel-patches)/[\w./-]*\w", line):
            if not os.path.exists(path) and path not in saved and not line[line.index(path) + len(path):].startswith(("*", "{")):
                yield f"{page.path}:{number}: {path}: no such file"
        for make in re.findall(r"(?:^|`)(make (?:[A-Z_]+=\S+ )*[a-z][\w.-]*)", line):
            if make.split()[-1] not in targets:
                yield f"{page.path}:{number}: {make}: no such target"
        for tests in re.findall(r"TESTS=('[^']*'|\w[\w-]*)", line):
            for test in tests.strip("'").split():
                if not there(test):
                    yield f"{page.path}:{number}: TESTS={tests}: no such test"


def main():
    what, args = sys.argv[1], sys.argv[2:]
    most = int(args.pop(0)) if what in ("sentences", "columns") else None
    page = Page(args[0])
    if what == "sizes":
        out = [f"{len(page.lines)} {sum(len(line.split()) for line in page.lines)} {max(map(len, page.lines))}"]
    elif what == "sentences":
        out = sentences(page, most)
    elif what == "columns":
        out = [f"{page.path}:{n}: {len(line)} characters" for n, line in enumerate(page.lines, 1)
               if len(line) > most and not line.startswith("|")]
    elif what == "tables":
        out = tables(page)
    elif what == "links":
        out = links(page)
    elif what == "names":
        out = names(page)
    elif what == "blocks":
        out = [f"{b['number']}\t{b['language']}\t{b['heading']}\t{b['lines'][0]}" for b in page.blocks]
    elif what == "commands":
        out = ["\t".join(c) for c in page.commands(args[1] if len(args) > 1 else None,
                                                   int(args[2]) if len(args) > 2 else None)]
    elif what == "block":
        out = next((b["lines"] for b in page.blocks if b["language"] == args[1] and
                    (len(args) < 3 or b["heading"] == args[2])), None)
        if out is None:
            sys.exit(f"{page.path}: no such block")
    else:
        sys.exit(__doc__)
    for line in out:
        print(line)


if __name__ == "__main__":
    main()
