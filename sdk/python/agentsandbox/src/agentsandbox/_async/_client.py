"""The client itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Optional, Union

import httpx

from .._models import ExecuteResponse, Language, NetworkInput
from .._settings import resolve_settings
from ._execute import AsyncExecuteResource
from ._executions import AsyncExecutionsResource
from ._files import AsyncFilesResource
from ._keys import AsyncKeysResource
from ._ports import AsyncPortsResource
from ._sessions import AsyncSessionsResource
from ._transport import AsyncTransport
from ._workspace import AsyncWorkspaceResource


class AsyncAgentSandbox:
    """Client of an Agent Sandbox service. Tasks may share one; close it at the end, or use it in a ``with`` block.

    Example:
        async with AsyncAgentSandbox() as client:
            result = await client.run("print(1 + 1)")
            print(result.stdout)
    """

    execute: AsyncExecuteResource
    """Runs code."""
    sessions: AsyncSessionsResource
    """Sandboxes that are kept between runs."""
    files: AsyncFilesResource
    """Bytes that the service keeps under ids."""
    executions: AsyncExecutionsResource
    """Records of runs."""
    workspace: AsyncWorkspaceResource
    """Files inside a live session, by path."""
    ports: AsyncPortsResource
    """URLs for servers that run in a session."""
    keys: AsyncKeysResource
    """API keys, for a key with the scope ``keys``."""

    def __init__(
        self,
        api_key: Optional[str] = None,
        *,
        base_url: Optional[str] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
        max_connections: Optional[int] = None,
        headers: Optional[Mapping[str, str]] = None,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        """Make a client. Nothing is sent yet.

        Args:
            api_key: The API key; left out: the environment variable AGENTSANDBOX_API_KEY.
            base_url: Where the service is; left out: AGENTSANDBOX_BASE_URL, or http://127.0.0.1:8000.
            timeout: Seconds to wait for an answer; left out: 120. A run with a
                longer limit of its own gets the time that it needs.
            max_retries: How often a request is sent again; left out: 3. What
                is repeated cannot happen twice: reads and deletions, requests
                that the server did not get or refused for now, and others
                under an idempotency key.
            max_connections: How many requests are under way at once, further
                ones wait; left out: 100.
            headers: Further headers of every request.
            http_client: An httpx client to send with, for proxies or
                certificates; it stays yours to close.

        Raises:
            MissingAPIKeyError: There is no API key.
            ValueError: An argument cannot work.
        """
        settings = resolve_settings(api_key, base_url, timeout, max_retries, max_connections, headers)
        self._use(AsyncTransport(settings, http_client))

    def _use(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.execute = AsyncExecuteResource(transport)
        self.sessions = AsyncSessionsResource(transport)
        self.files = AsyncFilesResource(transport)
        self.executions = AsyncExecutionsResource(transport)
        self.workspace = AsyncWorkspaceResource(transport)
        self.ports = AsyncPortsResource(transport)
        self.keys = AsyncKeysResource(transport)

    def with_options(
        self,
        *,
        api_key: Optional[str] = None,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> AsyncAgentSandbox:
        """Return a client with other options on the same connections.

        What is left out stays as it is; ``headers`` are added to those of this
        client. The connections close with this client, not with the new one.
        """
        old = self._transport.settings
        settings = dataclasses.replace(
            old,
            api_key=old.api_key if api_key is None else api_key,
            timeout=old.timeout if timeout is None else float(timeout),
            max_retries=old.max_retries if max_retries is None else max_retries,
            headers={**old.headers, **(headers or {})},
        )
        other = AsyncAgentSandbox.__new__(type(self))
        other._use(self._transport.copy(settings))
        return other

    async def run(
        self,
        code: str,
        language: Union[Language, str] = Language.PYTHON,
        session_id: Optional[str] = None,
        env_vars: Optional[Mapping[str, str]] = None,
        file_ids: Optional[Sequence[str]] = None,
        *,
        timeout_ms: Optional[int] = None,
        cpu_time_ms: Optional[int] = None,
        memory_mb: Optional[int] = None,
        cpus: Optional[float] = None,
        processes: Optional[int] = None,
        open_files: Optional[int] = None,
        disk_mb: Optional[int] = None,
        inodes: Optional[int] = None,
        output_bytes: Optional[int] = None,
        collect_ignored: Optional[bool] = None,
        network: Optional[NetworkInput] = None,
        metadata: Optional[Mapping[str, str]] = None,
        request_timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
        timeout: None = None,
    ) -> ExecuteResponse:
        """Run code, and return what came of it: ``client.execute.create`` under a shorter name.

        Each run is a fresh process: nothing in memory carries over to the next
        one. Within a session, files do. ``timeout_ms`` limits the run, in
        milliseconds; ``request_timeout`` is how long to wait for the answer, in
        seconds; ``timeout`` could mean either, and is refused.
        """
        return await self.execute.create(
            code,
            language,
            session_id,
            env_vars,
            file_ids,
            timeout_ms=timeout_ms,
            cpu_time_ms=cpu_time_ms,
            memory_mb=memory_mb,
            cpus=cpus,
            processes=processes,
            open_files=open_files,
            disk_mb=disk_mb,
            inodes=inodes,
            output_bytes=output_bytes,
            collect_ignored=collect_ignored,
            network=network,
            metadata=metadata,
            request_timeout=request_timeout,
            idempotency_key=idempotency_key,
            timeout=timeout,
        )

    async def close(self) -> None:
        """Close the connections. Can be called twice."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncAgentSandbox:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Close the connections."""
        await self.close()

    def __repr__(self) -> str:
        """Return a description without the key."""
        settings = self._transport.settings
        return f"{type(self).__name__}(base_url={settings.base_url!r}, timeout={settings.timeout:g})"
