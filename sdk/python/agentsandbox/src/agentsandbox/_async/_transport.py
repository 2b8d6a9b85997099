"""Sends requests: one place for headers, timeouts, retries, errors and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Callable, Optional, Union

import httpx

from .. import _aio
from .._errors import APIConnectionError, InvalidResponseError, error_from_response, error_from_transport
from .._limits import SessionLimits
from .._retry import delay_after_answer, delay_after_error
from .._settings import DIRECT, Settings, ssl_context

logger = logging.getLogger("agentsandbox")

Progress = Callable[[int, Optional[int]], object]
"""Called with the bytes moved so far and their total, None when that is not known."""

_READS = frozenset({"GET", "HEAD", "DELETE"})
_REPEATABLE = _READS | {"PUT"}


class AsyncBody:
    """The body of a request: bytes, or chunks that ``opener`` begins anew for every attempt."""

    def __init__(
        self,
        content_type: str,
        content: bytes = b"",
        opener: Optional[Callable[[], AsyncIterator[bytes]]] = None,
        size: Optional[int] = None,
        replayable: bool = True,
    ) -> None:
        """Make a body; one that is not replayable goes out once."""
        self._content = content
        self._opener = opener
        self.replayable = replayable
        self.headers = {"Content-Type": content_type}
        if opener is not None and size is not None:
            self.headers["Content-Length"] = str(size)

    def open(self) -> Union[bytes, AsyncIterator[bytes]]:
        """Return the content of one attempt."""
        return self._content if self._opener is None else self._opener()


class AsyncTransport:
    """A connection pool and the settings of a client; copies share the pool."""

    def __init__(self, settings: Settings, client: Optional[httpx.AsyncClient]) -> None:
        """Make a transport; a given client stays the caller's to close."""
        self.settings = settings
        self.session_limits = SessionLimits()
        self._owned = client is None
        self._client = client or httpx.AsyncClient(
            timeout=None,
            verify=ssl_context(),
            mounts=DIRECT,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=60.0),
        )
        # httpx can limit connections itself, but hands one that became free to
        # every request that waits, and all but one of them begin anew: a
        # thousand waiting requests would keep it busy for minutes.
        self._slots = _aio.Semaphore(settings.max_connections)

    def copy(self, settings: Settings) -> AsyncTransport:
        """Return a transport with other settings on the same pool, which it does not close."""
        other = AsyncTransport.__new__(AsyncTransport)
        other.settings = settings
        other.session_limits = self.session_limits
        other._owned = False
        other._client = self._client
        other._slots = self._slots
        return other

    async def close(self) -> None:
        """Close the connections that this transport opened. Can be called twice."""
        if self._owned:
            await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Optional[AsyncBody] = None,
        timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
        gone: Optional[int] = None,
    ) -> httpx.Response:
        """Send a request and return the whole answer.

        ``gone`` is the status that means, to a request sent again, that the
        first one was done after all: 404 to a DELETE. Raises
        AgentSandboxError for every other failure.
        """
        headers: dict[str, str] = {}
        if method == "POST":
            headers["Idempotency-Key"] = idempotency_key or _aio.new_key()
        return await self._send(method, path, headers, body, timeout, stream=False, gone=gone)

    async def stream(self, path: str, timeout: Optional[float], progress: Optional[Progress], resume: bool) -> AsyncIterator[bytes]:
        """Yield the body of a GET as it comes; a broken connection is resumed where it broke, if that can be."""
        received = 0
        attempt = 0
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        while True:
            if received:
                headers["Range"] = f"bytes={received}-"
            response = await self._send("GET", path, headers, None, timeout, stream=True)
            try:
                if received and response.status_code != 206:
                    raise APIConnectionError(f"The download broke after {received} bytes and the server cannot resume it.")
                total = _total(response, received)
                async for chunk in response.aiter_bytes():
                    received += len(chunk)
                    if progress is not None:
                        progress(received, total)
                    yield chunk
                return
            except httpx.TransportError as error:
                delay = delay_after_error(error, attempt, safe=True, reads=True)
                if not resume or delay is None or attempt >= self.settings.max_retries:
                    raise error_from_transport(error, self.settings.base_url, timeout or self.settings.timeout) from error
                logger.debug("GET %s broke after %d bytes; resuming in %.2f s", _shown(path), received, delay)
            finally:
                await response.aclose()
            attempt += 1
            await _aio.sleep(delay)

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Optional[AsyncBody],
        timeout: Optional[float],
        *,
        stream: bool,
        gone: Optional[int] = None,
    ) -> httpx.Response:
        settings = self.settings
        all_headers = {**settings.request_headers(), **headers}
        if body is not None:
            all_headers.update(body.headers)
        replayable = body is None or body.replayable
        safe = replayable and (method in _REPEATABLE or "Idempotency-Key" in headers)
        attempt = 0
        while True:
            started = time.perf_counter()
            request = self._client.build_request(
                method,
                settings.base_url + path,
                headers=all_headers,
                content=None if body is None else body.open(),
                timeout=settings.http_timeout(timeout),
            )
            try:
                async with self._slots:
                    response = await self._client.send(request, stream=stream, follow_redirects=False)
                    if stream and not response.is_success:
                        await response.aread()
            except httpx.TransportError as error:
                _log(method, path, type(error).__name__, started, attempt)
                delay = delay_after_error(error, attempt, safe=safe, reads=method in _READS)
                if delay is None or attempt >= settings.max_retries:
                    raise error_from_transport(
                        error, settings.base_url, settings.timeout if timeout is None else timeout
                    ) from error
            else:
                _log(method, path, response.status_code, started, attempt)
                if response.is_success:
                    return response
                if attempt > 0 and response.status_code == gone:
                    return response
                if response.is_redirect:
                    raise InvalidResponseError(
                        f"{settings.base_url} redirects to {response.headers.get('Location')}; set base_url to where the service is.",
                        status_code=response.status_code,
                    )
                delay = delay_after_answer(response, attempt, safe=safe)
                if delay is None or attempt >= settings.max_retries:
                    raise error_from_response(response)
            logger.debug("%s %s again in %.2f s", method, _shown(path), delay)
            attempt += 1
            await _aio.sleep(delay)


def _shown(path: str) -> str:
    # The query can hold names of a user's files.
    return path.partition("?")[0]


def _log(method: str, path: str, outcome: Any, started: float, attempt: int) -> None:
    # Never headers or bodies: they hold keys, code and data.
    if logger.isEnabledFor(logging.DEBUG):
        took = (time.perf_counter() - started) * 1000
        logger.debug("%s %s: %s in %.1f ms (attempt %d)", method, _shown(path), outcome, took, attempt + 1)


def _total(response: httpx.Response, received: int) -> Optional[int]:
    try:
        return received + int(response.headers["Content-Length"])
    except (KeyError, ValueError):
        return None
