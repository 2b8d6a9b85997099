"""``client.workspace``."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Optional, Union

from .. import _aio
from .._disk import Destination
from .._models import PathInfo, PathListResponse
from .._sources import AsyncUploadInput
from .._wire import decode, query, route, sandbox_path
from ._transport import AsyncTransport, Progress
from ._upload import AsyncSource

SandboxPath = Union[str, bytes, "os.PathLike[str]"]
"""A path in a sandbox; a relative one counts from /workspace, and bytes are taken as they are."""


class AsyncWorkspaceResource:
    """Files inside a live session, by path. Reached as ``client.workspace``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def read(self, session_id: str, path: SandboxPath, *, timeout: Optional[float] = None) -> bytes:
        """Return the contents of a regular file.

        Raises NotFoundError when nothing is there, ConflictError when it is something else.
        """
        chunks: list[bytes] = []
        async for chunk in self.stream(session_id, path, timeout=timeout):
            chunks.append(chunk)
        return b"".join(chunks)

    async def stream(
        self,
        session_id: str,
        path: SandboxPath,
        *,
        progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[bytes]:
        """Yield the contents of a regular file in chunks.

        Args:
            session_id: The session.
            path: The file.
            progress: Called with the bytes received so far and their total (None when it is not known).
            timeout: Seconds to wait whenever the server is silent.
        """
        where = self._where(session_id, path)
        # The file may change in between: a broken connection is not resumed.
        async for chunk in self._transport.stream(where, timeout, progress, resume=False):
            yield chunk

    async def read_to(
        self,
        session_id: str,
        path: SandboxPath,
        to: Union[str, os.PathLike[str]],
        *,
        progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
    ) -> Path:
        """Copy a regular file of the session to the local path ``to``, and return that."""
        destination = await _aio.in_thread(Destination, to)
        try:
            async for chunk in self.stream(session_id, path, progress=progress, timeout=timeout):
                await _aio.in_thread(destination.write, chunk)
            await _aio.in_thread(destination.keep)
        finally:
            destination.discard()
        return destination.path

    async def write(
        self,
        session_id: str,
        path: SandboxPath,
        data: AsyncUploadInput,
        *,
        progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
    ) -> PathInfo:
        """Replace a file, or make it and the directories above it.

        Args:
            session_id: The session.
            path: The file in the sandbox.
            data: What to write: bytes, a local path, a file open for reading
                bytes, or an iterable of bytes.
            progress: Called with the bytes sent so far and their total (None when it is not known).
            timeout: Seconds to wait whenever the server is silent.
        """
        source = await _aio.in_thread(AsyncSource, data)
        response = await self._transport.request(
            "PUT", self._where(session_id, path), body=source.raw_body(progress), timeout=timeout
        )
        return decode(PathInfo, response)

    async def delete(self, session_id: str, path: SandboxPath, *, timeout: Optional[float] = None) -> None:
        """Remove what is at a path. Raises NotFoundError when nothing is there."""
        await self._transport.request("DELETE", self._where(session_id, path), timeout=timeout, gone=404)

    async def stat(self, session_id: str, path: SandboxPath, *, timeout: Optional[float] = None) -> PathInfo:
        """Say what is at a path; a symbolic link is described, not followed."""
        where = self._where(session_id, path, "stat")
        return decode(PathInfo, await self._transport.request("GET", where, timeout=timeout))

    async def list(
        self,
        session_id: str,
        path: SandboxPath = "/workspace",
        *,
        after: Union[str, bytes, None] = None,
        limit: int = 100,
        timeout: Optional[float] = None,
    ) -> PathListResponse:
        """Return a page of a directory, by name.

        Args:
            session_id: The session.
            path: The directory.
            after: The ``next`` of the page before.
            limit: How many, 1 to 1000.
            timeout: Seconds to wait for the answer.
        """
        where = route("sessions", session_id, "fs", "list") + query(path=sandbox_path(path), after=after, limit=limit)
        return decode(PathListResponse, await self._transport.request("GET", where, timeout=timeout))

    async def list_all(
        self, session_id: str, path: SandboxPath = "/workspace", *, limit: int = 1000
    ) -> AsyncIterator[PathInfo]:
        """Yield all that is in a directory, by name; ``limit`` is how many come with one request."""
        after: Union[str, bytes, None] = None
        while True:
            page = await self.list(session_id, path, after=after, limit=limit)
            for entry in page.entries:
                yield entry
            if not page.next:
                return
            after = base64.b64decode(page.next_base64) if page.next_base64 else page.next

    def _where(self, session_id: str, path: SandboxPath, *below: str) -> str:
        return route("sessions", session_id, "fs", *below) + query(path=sandbox_path(path))
