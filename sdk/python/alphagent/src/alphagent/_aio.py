"""What asynchronous code waits with; ``_sio`` is the same for synchronous code."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio

Lock = anyio.Lock


@contextlib.asynccontextmanager
async def shielded(seconds: float) -> AsyncIterator[None]:
    """Let what is inside finish although the task was cancelled, for so many seconds."""
    with anyio.move_on_after(seconds, shield=True):
        yield
