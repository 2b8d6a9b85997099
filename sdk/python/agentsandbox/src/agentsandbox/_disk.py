"""Writing a download to disk: all of it under its name, or nothing."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Optional, Union


class Destination:
    """A file that appears under its name when ``keep`` is called; ``discard`` leaves no trace.

    What is there already and is no regular file (a pipe, a terminal) is written directly.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        """Open the file; raises OSError when nothing can be written there."""
        self.path = Path(path)
        self._final = os.path.realpath(self.path)
        self._part: Optional[str] = None
        mode = 0o666
        try:
            found = os.stat(self._final)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(f"{self.path} is a directory; name the file to write")
            if not stat.S_ISREG(found.st_mode):
                self._file: BinaryIO = open(self._final, "wb")
                return
            mode = stat.S_IMODE(found.st_mode)
        folder, name = os.path.split(self._final)
        self._part = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._file = os.fdopen(os.open(self._part, flags, mode), "wb")

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._file.write(chunk)

    def keep(self) -> None:
        """Finish, and put the file under its name."""
        self._file.close()
        if self._part:
            os.replace(self._part, self._final)

    def discard(self) -> None:
        """Remove what was written; does nothing after keep."""
        try:
            self._file.close()
        finally:
            if self._part and os.path.exists(self._part):
                os.remove(self._part)
