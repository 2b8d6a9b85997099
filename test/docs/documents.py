"""The code blocks of a Markdown document, and what is wrong with how they are marked.

A block names its language. sh and python are run, the others that are known are
looked at or left alone. A comment on the line above says what else to know:

    <!-- test: no, REASON -->        it is not run
    <!-- test: serves -->            it is a server, for the rest of the document

What a block prints is promised by comments, "# => text" behind the lines that
print, or by a block of the language "output" after it. "…" is anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUN = {"sh", "python"}
KNOWN = RUN | {"json", "ini", "http", "output"}


@dataclass(frozen=True)
class Block:
    """A fenced block, by the number of its first line."""

    line: int
    language: str
    marker: str  # "", "serves", or "no, REASON"
    text: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.marker.startswith("no,")

    @property
    def promises(self) -> list[str]:
        return [m[1].strip() for m in re.finditer(r"# => (.*)$", self.text, re.M)]


class Unmarked(Exception):
    """A block that nobody would run, and that does not say so."""


def blocks(text: str) -> list[Block]:
    """Return the blocks of a document, in order. Raises Unmarked."""
    found: list[Block] = []
    fence, marker, start, lines, blank = None, "", 0, [], True
    in_list = False
    for number, line in enumerate(text.splitlines(), 1):
        if fence is not None:
            if line.strip() == "```":
                found.append(_checked(Block(start, fence, marker, "\n".join(lines) + "\n")))
                fence, marker = None, ""
            else:
                lines.append(line)
        elif m := re.match(r"^```(.*)$", line):
            fence, start, lines = m[1].strip(), number, []
        elif re.match(r"^\s+```", line):
            raise Unmarked(f"line {number}: a block must not be indented")
        elif m := re.match(r"^<!-- test: (.*) -->$", line):
            marker = m[1]
        else:
            if marker:
                raise Unmarked(f"line {number}: the marker above belongs to no block")
            if re.match(r"^( {4}|\t)", line) and blank and not in_list:
                raise Unmarked(f"line {number}: an indented block says nothing of its language; use a fence")
            if line and not line.startswith(" "):
                in_list = bool(re.match(r"^([-*]|\d+\.) ", line))
        blank = not line.strip()
    if fence is not None:
        raise Unmarked(f"line {start}: the block is not closed")
    return found


def _checked(block: Block) -> Block:
    at = f"line {block.line}: "
    if block.language not in KNOWN:
        raise Unmarked(f"{at}the language {block.language!r} is none of {sorted(KNOWN)}")
    if block.marker not in ("", "serves") and not re.fullmatch(r"no, \S.*", block.marker):
        raise Unmarked(f"{at}the marker {block.marker!r} is not known")
    if block.marker and block.language not in RUN | {"json"}:
        raise Unmarked(f"{at}a block of {block.language} is not run in any case, and needs no marker")
    if block.marker == "serves" and block.language != "sh":
        raise Unmarked(f"{at}only sh can serve")
    return block


def matches(promised: str, got: str) -> bool:
    """Compare lines, without empty ones, with … for anything."""
    pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", tidy(promised)))
    return re.fullmatch(pattern, tidy(got), re.S) is not None


def tidy(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def documents(root: Path) -> list[Path]:
    """Every document whose blocks are run. docs/reference is generated from the
    program, and compared with it by other tests."""
    found = [root / "README.md", root / "SECURITY.md", *root.glob("docs/**/*.md"), *root.glob("sdk/python/*/README.md")]
    return sorted(p for p in found if "reference" not in p.relative_to(root).parts)
