# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
"""Bodies of uploads, from memory, disk or an iterator, a chunk at a time."""

from __future__ import annotations

import io
import mimetypes
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO, Callable, Optional
from urllib.parse import quote

from .. import _sio
from .._sources import UploadInput
from ._transport import Body, Progress

_CHUNK = 262144


class Source:
    """What is uploaded: its name and size, as far as they are known, and its chunks."""

    def __init__(self, given: UploadInput) -> None:
        """Look at what was given. Raises OSError for a path that cannot be read, TypeError for text."""
        self.name: Optional[str] = None
        self.size: Optional[int] = None
        self.replayable = True
        self._open: Callable[[], Iterator[bytes]]
        if isinstance(given, (bytes, bytearray, memoryview)):
            data = bytes(given)
            self.size = len(data)
            self._open = lambda: _slices(data)
        elif isinstance(given, (str, os.PathLike)):
            path = os.fspath(given)
            with open(path, "rb") as file:
                self.size = _size_left(file)
            self.replayable = self.size is not None
            self.name = os.path.basename(path)
            self._open = lambda: _from_path(path)
        elif callable(getattr(given, "read", None)):
            self._use_file(given)  # type: ignore[arg-type]
        else:
            self.replayable = False
            self._open = lambda: _sio.iterate(given)

    def _use_file(self, file: BinaryIO) -> None:
        if isinstance(file, io.TextIOBase):
            raise TypeError("the file is open as text; open it with mode 'rb'")
        name = getattr(file, "name", None)
        self.name = os.path.basename(name) if isinstance(name, str) else None
        self.size = _size_left(file)
        self.replayable = self.size is not None
        start = file.tell() if self.replayable else None
        self._open = lambda: _from_file(file, start)

    def chunks(self, progress: Optional[Progress]) -> Iterator[bytes]:
        """Yield the bytes from the start, telling progress of each chunk that went out."""
        sent = 0
        for chunk in self._open():
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise TypeError(f"an upload is made of bytes, not {type(chunk).__name__}")
            yield bytes(chunk)
            sent += len(chunk)
            if progress is not None:
                progress(sent, self.size)

    def raw_body(self, progress: Optional[Progress]) -> Body:
        """Return a body that is these bytes alone."""
        return Body(
            "application/octet-stream", opener=lambda: self.chunks(progress), size=self.size, replayable=self.replayable
        )

    def form_body(
        self, filename: Optional[str], content_type: Optional[str], progress: Optional[Progress], path: Optional[str] = None
    ) -> Body:
        """Return a multipart body with the part ``file``, and before it where the file belongs."""
        filename = os.path.basename(filename or path or self.name or "") or "file"
        content_type = content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
        # The same for every attempt: a repeated request must be the same request.
        boundary = secrets.token_hex(16)
        head = _part_head(boundary, filename, content_type)
        if path is not None:
            field = f'--{boundary}\r\nContent-Disposition: form-data; name="path"\r\n\r\n'
            head = field.encode("ascii") + path.encode("utf-8", "surrogateescape") + b"\r\n" + head
        tail = f"\r\n--{boundary}--\r\n".encode("ascii")

        def content() -> Iterator[bytes]:
            yield head
            for chunk in self.chunks(progress):
                yield chunk
            yield tail

        return Body(
            f"multipart/form-data; boundary={boundary}",
            opener=content,
            size=None if self.size is None else len(head) + self.size + len(tail),
            replayable=self.replayable,
        )


def _part_head(boundary: str, filename: str, content_type: str) -> bytes:
    if any(c in content_type for c in "\r\n"):
        raise ValueError("content_type holds a line break")
    if filename.isprintable() and '"' not in filename and "\\" not in filename:
        name = f'filename="{filename}"'
    else:
        name = "filename*=UTF-8''" + quote(filename, safe="", errors="surrogateescape")
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; {name}\r\nContent-Type: {content_type}\r\n\r\n'
    ).encode("utf-8")


def _size_left(file: BinaryIO) -> Optional[int]:
    try:
        if not file.seekable():
            return None
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
        return max(0, end - here)
    except (AttributeError, OSError):
        return None


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def _slices(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _from_path(path: str) -> Iterator[bytes]:
    file = _sio.in_thread(_open, path)
    try:
        for chunk in _from_file(file, None):
            yield chunk
    finally:
        file.close()


def _from_file(file: BinaryIO, start: Optional[int]) -> Iterator[bytes]:
    if start is not None:
        _sio.in_thread(file.seek, start)
    while True:
        chunk = _sio.in_thread(file.read, _CHUNK)
        if not chunk:
            return
        yield chunk
