"""Code blocks of a Markdown document, by the heading above them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block: its heading, its number below that, its language and its text."""

    heading: str
    number: int
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    found: list[Block] = []
    heading, number, fence, lines = "", 0, None, []
    for line in path.read_text().splitlines():
        mark = re.match(r"^\s*```(\w*)\s*$", line)
        if fence is None and mark:
            fence, lines = mark[1], []
        elif fence is not None and mark:
            found.append(Block(heading, number, fence, textwrap.dedent("\n".join(lines)) + "\n"))
            number, fence = number + 1, None
        elif fence is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading, number = line.lstrip("#").strip(), 0
    assert fence is None, f"{path}: a block is not closed"
    return found
