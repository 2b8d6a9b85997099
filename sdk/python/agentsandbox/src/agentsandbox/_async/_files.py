"""``client.files``."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Optional, Union

from .. import _aio
from .._disk import Destination
from .._models import FileInfo, FileListResponse, FileUploadResponse
from .._sources import AsyncUploadInput, directory_files
from .._wire import decode, next_page, query, route
from ._transport import AsyncTransport, Progress
from ._upload import AsyncSource


class AsyncFilesResource:
    """Bytes that the service keeps under ids. Reached as ``client.files``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def upload(
        self,
        file: AsyncUploadInput,
        filename: Optional[str] = None,
        content_type: Optional[str] = None,
        *,
        path: Optional[str] = None,
        session_id: Optional[str] = None,
        progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
    ) -> FileUploadResponse:
        """Upload a file, a chunk at a time.

        Args:
            file: Bytes, the path of a file, a file open for reading bytes, or
                an iterable of bytes. What an iterable gave out cannot be sent
                again: an upload from one is not repeated when it breaks.
            filename: The name to keep; left out: that of the path or file, or ``"file"``.
            content_type: The media type; left out: by the name.
            path: Where below /workspace the file belongs in a sandbox, such as
                ``"pkg/__init__.py"``; left out: at its name.
            session_id: A live session to copy the file into at once.
            progress: Called with the bytes sent so far and their total (None
                when it is not known), after each chunk.
            timeout: Seconds to wait whenever the server is silent.
            idempotency_key: The same key again returns the same file. Left out: a new one.

        Raises:
            OSError: The path cannot be read.
        """
        source = await _aio.in_thread(AsyncSource, file)
        response = await self._transport.request(
            "POST",
            route("files") + query(session_id=session_id),
            body=source.form_body(filename, content_type, progress, path),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return decode(FileUploadResponse, response)

    async def upload_directory(
        self,
        directory: Union[str, os.PathLike[str]],
        path: Optional[str] = None,
        *,
        session_id: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> builtins.list[FileUploadResponse]:
        """Upload the files of a directory, each with its path, so that the tree stands below /workspace.

        Links are not followed. Directories of tools, such as ``.git``,
        ``__pycache__``, ``node_modules`` and virtual environments, are left out.

        Args:
            directory: The local directory.
            path: Where below /workspace its contents belong, ``"."`` for /workspace
                itself; left out: in a directory of the same name.
            session_id: A live session to copy the files into at once.
            timeout: Seconds to wait whenever the server is silent.

        Raises:
            OSError: The directory cannot be read.
        """
        uploaded = []
        for local, place in await _aio.in_thread(directory_files, directory, path):
            uploaded.append(await self.upload(local, path=place, session_id=session_id, timeout=timeout))
        return uploaded

    async def list(
        self, limit: int = 50, offset: int = 0, *, cursor: Optional[str] = None, timeout: Optional[float] = None
    ) -> FileListResponse:
        """Return a page of files, uploaded and produced ones alike, newest first.

        Args:
            limit: How many, 1 to 100.
            offset: How many to pass over.
            cursor: The ``next_cursor`` of the page before: files that come or
                go meanwhile do not shift the next page, as they do an offset.
            timeout: Seconds to wait for the answer.
        """
        path = route("files") + query(limit=limit, offset=offset, cursor=cursor)
        return decode(FileListResponse, await self._transport.request("GET", path, timeout=timeout))

    async def list_all(self, limit: int = 50) -> AsyncIterator[FileInfo]:
        """Yield all files, newest first, each once; ``limit`` is how many come with one request.

        The loop may delete what it is given. What is uploaded after it began may be missing.
        """
        seen: set[str] = set()
        where: Optional[dict[str, Any]] = {"offset": 0, "cursor": None}
        while where is not None:
            page = await self.list(limit, **where)
            for file in page.files:
                # Pages by offset show a file twice when an upload comes between.
                if file.file_id not in seen:
                    seen.add(file.file_id)
                    yield file
            where = next_page(page, where["offset"], where["cursor"], len(page.files))

    async def download(self, file_id: str, *, timeout: Optional[float] = None) -> bytes:
        """Return the contents of a file. For large ones see ``download_to`` and ``stream``."""
        chunks: list[bytes] = []
        async for chunk in self.stream(file_id, timeout=timeout):
            chunks.append(chunk)
        return b"".join(chunks)

    async def stream(
        self, file_id: str, *, progress: Optional[Progress] = None, timeout: Optional[float] = None
    ) -> AsyncIterator[bytes]:
        """Yield the contents of a file in chunks; a broken connection is resumed where it broke.

        Args:
            file_id: The file.
            progress: Called with the bytes received so far and their total.
            timeout: Seconds to wait whenever the server is silent.
        """
        async for chunk in self._transport.stream(route("files", file_id), timeout, progress, resume=True):
            yield chunk

    async def download_to(
        self,
        file_id: str,
        path: Union[str, os.PathLike[str]],
        *,
        progress: Optional[Progress] = None,
        timeout: Optional[float] = None,
    ) -> Path:
        """Download a file to disk, and return its path.

        The file appears under its name when it is complete, and not before.

        Args:
            file_id: The file.
            path: Where to write; what stands there is replaced.
            progress: Called with the bytes received so far and their total.
            timeout: Seconds to wait whenever the server is silent.
        """
        destination = await _aio.in_thread(Destination, path)
        try:
            async for chunk in self.stream(file_id, progress=progress, timeout=timeout):
                await _aio.in_thread(destination.write, chunk)
            await _aio.in_thread(destination.keep)
        finally:
            destination.discard()
        return destination.path

    async def delete(self, file_id: str, *, timeout: Optional[float] = None) -> None:
        """Delete a file; copies in sandboxes stay. Raises NotFoundError when it is gone already."""
        await self._transport.request("DELETE", route("files", file_id), timeout=timeout, gone=404)
