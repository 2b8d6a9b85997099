"""What synchronous code waits with; ``_aio`` is the same for asynchronous code."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Callable, TypeVar

T = TypeVar("T")

Semaphore = threading.Semaphore
sleep = time.sleep


def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do work that may block, such as reading from a disk: here and now."""
    return work(*args)


@contextlib.contextmanager
def shielded(seconds: float) -> Iterator[None]:
    """Do what is inside; synchronous code is not cancelled."""
    yield


def iterate(chunks: object) -> Iterator[bytes]:
    """Yield from an iterable of bytes."""
    if not isinstance(chunks, Iterable):
        raise TypeError(f"cannot iterate over {type(chunks).__name__}")
    yield from chunks


def new_key() -> str:
    """Return a new idempotency key."""
    return uuid.uuid4().hex
