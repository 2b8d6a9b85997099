"""``client.executions``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Optional

from .._models import ExecutionListResponse, ExecutionLog
from .._wire import decode, next_page, query, route
from ._transport import AsyncTransport


class AsyncExecutionsResource:
    """Records of runs. Reached as ``client.executions``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def get(self, execution_id: str, *, timeout: Optional[float] = None) -> ExecutionLog:
        """Return the record of a run, by the ``execution_id`` of its result.

        Raises NotFoundError when there is none.
        """
        response = await self._transport.request("GET", route("executions", execution_id), timeout=timeout)
        return decode(ExecutionLog, response)

    async def list(
        self,
        limit: int = 50,
        offset: int = 0,
        *,
        session_id: Optional[str] = None,
        status: Optional[str] = None,
        cursor: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> ExecutionListResponse:
        """Return a page of records, newest first, without code and output.

        Args:
            limit: How many, 1 to 100.
            offset: How many to pass over.
            session_id: Only runs of this session.
            status: Only runs in this state, such as ``"timed_out"``.
            cursor: The ``next_cursor`` of the page before, with the same filter:
                runs that come or go meanwhile do not shift the next page.
            timeout: Seconds to wait for the answer.
        """
        path = route("executions") + query(
            limit=limit, offset=offset, cursor=cursor, session_id=session_id, status=status
        )
        return decode(ExecutionListResponse, await self._transport.request("GET", path, timeout=timeout))

    async def list_all(
        self, limit: int = 50, *, session_id: Optional[str] = None, status: Optional[str] = None
    ) -> AsyncIterator[ExecutionLog]:
        """Yield all records, newest first, each once; ``limit`` is how many come with one request."""
        seen: set[str] = set()
        where: Optional[dict[str, Any]] = {"offset": 0, "cursor": None}
        while where is not None:
            page = await self.list(limit, session_id=session_id, status=status, **where)
            for execution in page.executions:
                # Pages by offset show a record twice when a run comes between.
                if execution.id not in seen:
                    seen.add(execution.id)
                    yield execution
            where = next_page(page, where["offset"], where["cursor"], len(page.executions))

    async def stdout(self, execution_id: str, *, timeout: Optional[float] = None) -> bytes:
        """Return the exact bytes that a run wrote to standard output, as far as they were kept."""
        return await self._output(execution_id, "stdout", timeout)

    async def stderr(self, execution_id: str, *, timeout: Optional[float] = None) -> bytes:
        """Return the exact bytes that a run wrote to standard error, as far as they were kept."""
        return await self._output(execution_id, "stderr", timeout)

    async def _output(self, execution_id: str, stream: str, timeout: Optional[float]) -> bytes:
        response = await self._transport.request("GET", route("executions", execution_id, stream), timeout=timeout)
        return response.content
