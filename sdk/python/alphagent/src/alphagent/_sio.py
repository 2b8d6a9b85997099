"""What synchronous code waits with; ``_aio`` is the same for asynchronous code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

Lock = threading.Lock


@contextlib.contextmanager
def shielded(seconds: float) -> Iterator[None]:
    """Do what is inside; synchronous code is not cancelled."""
    yield
