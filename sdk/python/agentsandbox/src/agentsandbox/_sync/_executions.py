# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
"""``client.executions``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from .._models import ExecutionListResponse, ExecutionLog
from .._wire import decode, query, route
from ._transport import Transport


class ExecutionsResource:
    """Records of runs. Reached as ``client.executions``."""

    def __init__(self, transport: Transport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    def get(self, execution_id: str, *, timeout: Optional[float] = None) -> ExecutionLog:
        """Return the record of a run, by the ``execution_id`` of its result.

        Raises NotFoundError when there is none.
        """
        response = self._transport.request("GET", route("executions", execution_id), timeout=timeout)
        return decode(ExecutionLog, response)

    def list(
        self,
        limit: int = 50,
        offset: int = 0,
        *,
        session_id: Optional[str] = None,
        status: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> ExecutionListResponse:
        """Return a page of records, newest first, without code and output.

        Args:
            limit: How many, 1 to 100.
            offset: How many to pass over.
            session_id: Only runs of this session.
            status: Only runs in this state, such as ``"timed_out"``.
            timeout: Seconds to wait for the answer.
        """
        path = route("executions") + query(limit=limit, offset=offset, session_id=session_id, status=status)
        return decode(ExecutionListResponse, self._transport.request("GET", path, timeout=timeout))

    def list_all(
        self, limit: int = 50, *, session_id: Optional[str] = None, status: Optional[str] = None
    ) -> Iterator[ExecutionLog]:
        """Yield all records, newest first; ``limit`` is how many come with one request."""
        offset = 0
        while True:
            page = self.list(limit, offset, session_id=session_id, status=status)
            for execution in page.executions:
                yield execution
            offset += len(page.executions)
            if not page.executions or offset >= page.total:
                return

    def stdout(self, execution_id: str, *, timeout: Optional[float] = None) -> bytes:
        """Return the exact bytes that a run wrote to standard output, as far as they were kept."""
        return self._output(execution_id, "stdout", timeout)

    def stderr(self, execution_id: str, *, timeout: Optional[float] = None) -> bytes:
        """Return the exact bytes that a run wrote to standard error, as far as they were kept."""
        return self._output(execution_id, "stderr", timeout)

    def _output(self, execution_id: str, stream: str, timeout: Optional[float]) -> bytes:
        response = self._transport.request("GET", route("executions", execution_id, stream), timeout=timeout)
        return response.content
