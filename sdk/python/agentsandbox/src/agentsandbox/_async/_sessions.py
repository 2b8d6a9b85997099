"""``client.sessions``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Optional

from .. import _aio
from .._errors import AgentSandboxError, NotFoundError
from .._models import NetworkInput, NetworkReport, SessionInfo, SessionListResponse
from .._wire import decode, encode, network_value, next_page, query, refuse_timeout, route
from ._transport import AsyncBody, AsyncTransport

logger = logging.getLogger("agentsandbox")


class AsyncSessionsResource:
    """Sandboxes that are kept between runs. Reached as ``client.sessions``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def create(
        self,
        env_vars: Optional[Mapping[str, str]] = None,
        file_ids: Optional[Sequence[str]] = None,
        *,
        timeout_ms: Optional[int] = None,
        memory_mb: Optional[int] = None,
        cpus: Optional[float] = None,
        processes: Optional[int] = None,
        open_files: Optional[int] = None,
        disk_mb: Optional[int] = None,
        inodes: Optional[int] = None,
        output_bytes: Optional[int] = None,
        collect_ignored: Optional[bool] = None,
        idle_timeout_ms: Optional[int] = None,
        max_lifetime_ms: Optional[int] = None,
        network: Optional[NetworkInput] = None,
        secrets: Optional[Sequence[Mapping[str, Any]]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        template: Optional[str] = None,
        request_timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
        timeout: None = None,
    ) -> SessionInfo:
        """Make a session: a sandbox whose /workspace lasts until it is deleted.

        What is left out is the server's default.

        Args:
            env_vars: Environment variables of every run in the session.
            file_ids: Files to copy to /workspace/{filename}.
            timeout_ms: Time limit of each run, in milliseconds.
            memory_mb: Memory limit in MiB.
            cpus: CPU limit in cores.
            processes: How many processes and threads may exist at once.
            open_files: How many files a process may have open.
            disk_mb: Disk space in MiB.
            inodes: How many files and directories may be made.
            output_bytes: How much of each output stream of a run is kept.
            collect_ignored: Keep the files of tools, too, such as .git and virtual
                environments.
            idle_timeout_ms: How long the session lives without being used.
            max_lifetime_ms: How long it lives at most.
            network: What code in it may reach: a ``NetworkPolicy``, a mapping
                like it, or a mode such as ``"public"``.
            secrets: Secrets that are put into requests on their way out, as the
                server's API describes them.
            metadata: Names and values to keep with the session.
            template: The template to start from.
            request_timeout: Seconds to wait for the answer.
            idempotency_key: The same key again returns the same session. Left out: a new one.
            timeout: Refused, because it could mean any of ``timeout_ms``,
                ``idle_timeout_ms`` and ``request_timeout``.

        Raises:
            TypeError: ``timeout`` was given.
        """
        refuse_timeout(timeout)
        fields = {
            "env_vars": None if env_vars is None else dict(env_vars),
            "file_ids": None if file_ids is None else list(file_ids),
            "timeout_ms": timeout_ms,
            "memory_mb": memory_mb,
            "cpus": cpus,
            "processes": processes,
            "open_files": open_files,
            "disk_mb": disk_mb,
            "inodes": inodes,
            "output_bytes": output_bytes,
            "collect_ignored": collect_ignored,
            "idle_timeout_ms": idle_timeout_ms,
            "max_lifetime_ms": max_lifetime_ms,
            "network": network_value(network),
            "secrets": None if secrets is None else [dict(secret) for secret in secrets],
            "metadata": None if metadata is None else dict(metadata),
            "template": template,
        }
        response = await self._transport.request(
            "POST",
            route("sessions"),
            body=AsyncBody("application/json", encode(fields)),
            timeout=request_timeout,
            idempotency_key=idempotency_key,
        )
        return self._transport.session_limits.remember(decode(SessionInfo, response))

    async def list(
        self,
        limit: Optional[int] = None,
        offset: Optional[int] = None,
        *,
        cursor: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> SessionListResponse:
        """Return live sessions, newest first: their ids in ``sessions``, their details in ``items``.

        Args:
            limit: How many; without limit, offset and cursor: all.
            offset: How many to pass over.
            cursor: The ``next_cursor`` of the page before: sessions that come
                or go meanwhile do not shift the next page, as they do an offset.
            timeout: Seconds to wait for the answer.
        """
        path = route("sessions") + query(limit=limit, offset=offset, cursor=cursor)
        return decode(SessionListResponse, await self._transport.request("GET", path, timeout=timeout))

    async def list_all(self, limit: int = 50) -> AsyncIterator[SessionInfo]:
        """Yield all live sessions, newest first, each once; ``limit`` is how many come with one request.

        The loop may delete what it is given. A session made after it began may be missing.
        """
        seen: set[str] = set()
        where: Optional[dict[str, Any]] = {"offset": 0, "cursor": None}
        while where is not None:
            page = await self.list(limit, where["offset"] or None, cursor=where["cursor"])
            for session in page.items:
                # Pages by offset show a session twice when a new one comes between.
                if session.session_id not in seen:
                    seen.add(session.session_id)
                    yield session
            where = next_page(page, where["offset"], where["cursor"], len(page.items))

    async def get(self, session_id: str, *, timeout: Optional[float] = None) -> SessionInfo:
        """Return a live session. Raises NotFoundError when it is gone."""
        response = await self._transport.request("GET", route("sessions", session_id), timeout=timeout)
        return self._transport.session_limits.remember(decode(SessionInfo, response))

    async def delete(self, session_id: str, *, timeout: Optional[float] = None) -> None:
        """Delete a session, and end what runs in it. Raises NotFoundError when it is gone already."""
        await self._transport.request("DELETE", route("sessions", session_id), timeout=timeout, gone=404)
        self._transport.session_limits.forget(session_id)

    async def inject_files(self, session_id: str, file_ids: Sequence[str], *, timeout: Optional[float] = None) -> None:
        """Copy files to /workspace/{filename} of a live session."""
        body = AsyncBody("application/json", encode({"file_ids": list(file_ids)}))
        await self._transport.request("POST", route("sessions", session_id, "files"), body=body, timeout=timeout)

    async def keepalive(
        self, session_id: str, *, idle_timeout_ms: Optional[int] = None, timeout: Optional[float] = None
    ) -> SessionInfo:
        """Let the session's idle time begin anew, and return the session.

        Args:
            session_id: The session.
            idle_timeout_ms: How long it lives without being used from now on.
            timeout: Seconds to wait for the answer.
        """
        body = AsyncBody("application/json", encode({"idle_timeout_ms": idle_timeout_ms}))
        response = await self._transport.request("POST", route("sessions", session_id, "keepalive"), body=body, timeout=timeout)
        return self._transport.session_limits.remember(decode(SessionInfo, response))

    async def set_network(
        self, session_id: str, network: NetworkInput, *, timeout: Optional[float] = None
    ) -> SessionInfo:
        """Replace what code in a live session may reach, and return the session."""
        body = AsyncBody("application/json", encode(network_value(network) or {}))
        response = await self._transport.request("PUT", route("sessions", session_id, "network"), body=body, timeout=timeout)
        return self._transport.session_limits.remember(decode(SessionInfo, response))

    async def get_network(self, session_id: str, *, timeout: Optional[float] = None) -> NetworkReport:
        """Return what a live session may reach, and what it did with the network: totals and the last decisions."""
        response = await self._transport.request("GET", route("sessions", session_id, "network"), timeout=timeout)
        return decode(NetworkReport, response)

    @contextlib.asynccontextmanager
    async def context(
        self,
        env_vars: Optional[Mapping[str, str]] = None,
        file_ids: Optional[Sequence[str]] = None,
        *,
        timeout_ms: Optional[int] = None,
        memory_mb: Optional[int] = None,
        cpus: Optional[float] = None,
        processes: Optional[int] = None,
        open_files: Optional[int] = None,
        disk_mb: Optional[int] = None,
        inodes: Optional[int] = None,
        output_bytes: Optional[int] = None,
        collect_ignored: Optional[bool] = None,
        idle_timeout_ms: Optional[int] = None,
        max_lifetime_ms: Optional[int] = None,
        network: Optional[NetworkInput] = None,
        secrets: Optional[Sequence[Mapping[str, Any]]] = None,
        metadata: Optional[Mapping[str, str]] = None,
        template: Optional[str] = None,
        request_timeout: Optional[float] = None,
        timeout: None = None,
    ) -> AsyncIterator[SessionInfo]:
        """Make a session for a ``with`` block, and delete it at the end.

        The arguments are those of ``create``. The session is deleted when the
        block fails or is cancelled, too; that it is gone already is no error.
        """
        session = await self.create(
            env_vars,
            file_ids,
            timeout_ms=timeout_ms,
            memory_mb=memory_mb,
            cpus=cpus,
            processes=processes,
            open_files=open_files,
            disk_mb=disk_mb,
            inodes=inodes,
            output_bytes=output_bytes,
            collect_ignored=collect_ignored,
            idle_timeout_ms=idle_timeout_ms,
            max_lifetime_ms=max_lifetime_ms,
            network=network,
            secrets=secrets,
            metadata=metadata,
            template=template,
            request_timeout=request_timeout,
            timeout=timeout,
        )
        try:
            yield session
        except BaseException:
            try:
                await self._delete_if_there(session.session_id)
            except AgentSandboxError as error:
                # What ended the block is what the caller must see.
                logger.warning("session %s was not deleted: %s", session.session_id, error)
            raise
        await self._delete_if_there(session.session_id)

    async def _delete_if_there(self, session_id: str) -> None:
        async with _aio.shielded(30):
            with contextlib.suppress(NotFoundError):
                await self.delete(session_id)
