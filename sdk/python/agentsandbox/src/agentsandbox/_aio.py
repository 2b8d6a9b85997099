"""What asynchronous code waits with; ``_sio`` is the same for synchronous code."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Callable, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

Semaphore = anyio.Semaphore
sleep = anyio.sleep


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Do work that may block, such as reading from a disk, beside the event loop."""
    return await anyio.to_thread.run_sync(work, *args)


@contextlib.asynccontextmanager
async def shielded(seconds: float) -> AsyncIterator[None]:
    """Let what is inside finish although the task was cancelled, for so many seconds."""
    with anyio.move_on_after(seconds, shield=True):
        yield


async def iterate(chunks: object) -> AsyncIterator[bytes]:
    """Yield from an asynchronous or an ordinary iterable of bytes."""
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    elif isinstance(chunks, Iterable):
        for chunk in chunks:
            yield chunk
    else:
        raise TypeError(f"cannot iterate over {type(chunks).__name__}")


def new_key() -> str:
    """Return a new idempotency key."""
    return uuid.uuid4().hex
