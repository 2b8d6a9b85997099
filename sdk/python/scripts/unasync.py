#!/usr/bin/env python3
"""Writes the synchronous code and its tests from the asynchronous ones.

usage: unasync.py [--check]

--check writes nothing, and fails when a file is not what it would write.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

DIRECTORIES = [
    (HERE / "agentsandbox/src/agentsandbox/_async", HERE / "agentsandbox/src/agentsandbox/_sync"),
    (HERE / "alphagent/src/alphagent/_async", HERE / "alphagent/src/alphagent/_sync"),
    (HERE / "tests/_async", HERE / "tests/_sync"),
]

# In this order; each is applied to the text, comments and documentation included.
RULES = [
    (r"for asyncio and trio, written by hand; ``_sync`` is generated from it", "for ordinary code, generated from ``_async``"),
    (r"\bTasks may share one\b", "Threads may share one"),
    (r"\b(a|an) asynchronous or an ordinary iterable\b", "an iterable"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b(An )?AsyncTwin: .*\n", "\n"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\(", r"\1("),
    (r"\b_aio\b", "_sio"),
    (r"\b_async\b", "_sync"),
    (r"\basync_client\b", "client"),
]

NOTE = "# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.\n"


def translate(text: str) -> str:
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return NOTE + text


def main() -> int:
    check = sys.argv[1:] == ["--check"]
    stale = []
    for source, target in DIRECTORIES:
        wanted = {path.name: translate(path.read_text()) for path in sorted(source.glob("*.py"))}
        found = {path.name: path.read_text() for path in sorted(target.glob("*.py"))}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) == found.get(name):
                continue
            stale.append(str((target / name).relative_to(HERE)))
            if check:
                continue
            if name in wanted:
                target.mkdir(parents=True, exist_ok=True)
                (target / name).write_text(wanted[name])
            else:
                (target / name).unlink()
    if check and stale:
        print("stale; run sdk/python/scripts/unasync.py:", *stale, sep="\n  ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
