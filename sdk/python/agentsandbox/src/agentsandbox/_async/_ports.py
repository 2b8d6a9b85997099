"""``client.ports``."""

from __future__ import annotations

from typing import Optional

from .._models import OpenPort, PortListResponse
from .._wire import decode, encode, route
from ._transport import AsyncBody, AsyncTransport


class AsyncPortsResource:
    """URLs for servers that run in a session. Reached as ``client.ports``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def open(
        self,
        session_id: str,
        port: int,
        *,
        expires_in_ms: Optional[int] = None,
        timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
    ) -> OpenPort:
        """Give a port of a session a URL, in place of an earlier one, and return it.

        Whoever has the URL can use the port, over HTTP and WebSockets, without a key.

        Args:
            session_id: The session.
            port: The port that a server in it listens on, now or later.
            expires_in_ms: How long the URL is valid; left out: the server's default.
            timeout: Seconds to wait for the answer.
            idempotency_key: The same key again returns the same URL. Left out: a new one.
        """
        body = AsyncBody("application/json", encode({"port": port, "expires_in_ms": expires_in_ms}))
        response = await self._transport.request(
            "POST", route("sessions", session_id, "ports"), body=body, timeout=timeout, idempotency_key=idempotency_key
        )
        return decode(OpenPort, response)

    async def list(self, session_id: str, *, timeout: Optional[float] = None) -> PortListResponse:
        """Return the ports of a session that have a URL, by number, in ``ports``."""
        response = await self._transport.request("GET", route("sessions", session_id, "ports"), timeout=timeout)
        return decode(PortListResponse, response)

    async def close(self, session_id: str, port: int, *, timeout: Optional[float] = None) -> None:
        """Make the URL of a port invalid, for good. Raises NotFoundError when it has none."""
        await self._transport.request("DELETE", route("sessions", session_id, "ports", str(port)), timeout=timeout, gone=404)
