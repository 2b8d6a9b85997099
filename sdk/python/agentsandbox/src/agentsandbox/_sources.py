"""What can be uploaded."""

from __future__ import annotations

import os
import posixpath
from collections.abc import AsyncIterable, Iterable
from typing import IO, Optional, Union

UploadInput = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]", IO[bytes], Iterable[bytes]]
"""Bytes, the path of a file, a file open for reading bytes, or an iterable of bytes."""

AsyncUploadInput = Union[UploadInput, AsyncIterable[bytes]]
"""The same, or an asynchronous iterable of bytes."""

_TOOLS = frozenset(
    {
        "__pycache__", ".git", ".hg", ".svn", "node_modules", ".ipynb_checkpoints", ".cache", ".mypy_cache",
        ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".npm", ".yarn", ".pnpm-store",
        ".config/matplotlib",
    }
)  # fmt: skip
"""Names of directories that programs keep for themselves, as the service has them."""


def _of_tools(directory: str) -> bool:
    parts = directory.replace(os.sep, "/").rsplit("/", 2)
    return parts[-1] in _TOOLS or "/".join(parts[-2:]) in _TOOLS


def directory_files(directory: Union[str, os.PathLike[str]], path: Optional[str]) -> list[tuple[str, str]]:
    """Return the regular files of a directory, sorted, with where below /workspace each belongs."""
    root = os.fspath(directory)
    if not os.path.isdir(root):
        raise NotADirectoryError(f"{root} is not a directory")
    base = os.path.basename(os.path.realpath(root)) if path is None else path
    found: list[tuple[str, str]] = []

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(root, onerror=fail):
        below = os.path.relpath(here, root).replace(os.sep, "/")
        if here != root and "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not _of_tools(os.path.join(here, name)))
        for name in files:
            local = os.path.join(here, name)
            if os.path.isfile(local) and not os.path.islink(local):
                found.append((local, posixpath.normpath(posixpath.join(base, below, name))))
    return sorted(found)
