"""What can be uploaded."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from typing import IO, Union

UploadInput = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]", IO[bytes], Iterable[bytes]]
"""Bytes, the path of a file, a file open for reading bytes, or an iterable of bytes."""

AsyncUploadInput = Union[UploadInput, AsyncIterable[bytes]]
"""The same, or an asynchronous iterable of bytes."""
