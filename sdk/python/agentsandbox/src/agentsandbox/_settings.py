"""What a client was told: key, address, patience. Made from arguments and the environment."""

from __future__ import annotations

import functools
import math
import os
import platform
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

import httpx

from ._errors import MissingAPIKeyError
from ._version import __version__

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
# A proxy of the environment is for other machines. What is meant for this one must
# not travel to the proxy, with the key and the code.
DIRECT: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
DEFAULT_TIMEOUT = 120.0
DEFAULT_MAX_RETRIES = 3
DEFAULT_MAX_CONNECTIONS = 100

# The server's own default limit of a run is 100 s, so that its verdict arrives
# within the default timeout of 120 s; a longer run gets the same 20 s on top.
VERDICT_MARGIN = 20.0

# A server that accepts no connection for this long is not there.
_CONNECT_TIMEOUT = 15.0

USER_AGENT = f"agentsandbox-python/{__version__} (Python {platform.python_version()}; httpx {httpx.__version__})"


@functools.lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """Return what all clients of the process trust: reading it takes longer than all else that makes a client."""
    return httpx.create_ssl_context()


@dataclass(frozen=True)
class Settings:
    """What every request of a client has in common. Its repr does not show the key."""

    api_key: str = field(repr=False)
    base_url: str
    timeout: float
    max_retries: int
    max_connections: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse values that could not work, naming them."""
        if not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {self.timeout!r}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, not {self.max_retries!r}")
        if self.max_connections < 1:
            raise ValueError(f"max_connections must be 1 or more, not {self.max_connections!r}")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, not {self.base_url!r}")
        try:
            self.api_key.encode("ascii")
        except UnicodeEncodeError:
            # Without the key in the message.
            raise ValueError("api_key has characters that no key has; check how it was copied") from None

    def http_timeout(self, seconds: Optional[float]) -> httpx.Timeout:
        """Return the limits of one request; None for the client's own."""
        seconds = self.timeout if seconds is None else seconds
        if math.isinf(seconds):
            return httpx.Timeout(None, connect=_CONNECT_TIMEOUT)
        # Waiting for a free connection is not the server's slowness.
        return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT), pool=None)

    def run_timeout(self, timeout: Optional[float], limit_ms: Optional[int]) -> float:
        """Return the timeout, in seconds, of a request that runs code under this limit.

        What the caller asks for goes; otherwise the answer has time to come
        after the limit of the run has ended it.
        """
        if timeout is not None:
            return timeout
        if limit_ms is not None and not isinstance(limit_ms, (int, float)):
            raise TypeError(f"timeout_ms must be a number of milliseconds, not {limit_ms!r}")
        return max(self.timeout, limit_ms / 1000 + VERDICT_MARGIN) if limit_ms else self.timeout

    def request_headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
            **self.headers,
            "Authorization": f"Bearer {self.api_key}",
        }


def resolve_settings(
    api_key: Optional[str],
    base_url: Optional[str],
    timeout: Optional[float],
    max_retries: Optional[int],
    max_connections: Optional[int],
    headers: Optional[Mapping[str, str]],
) -> Settings:
    """Return the settings of a new client: arguments first, then the environment, then the defaults."""
    api_key = (api_key or os.environ.get("AGENTSANDBOX_API_KEY") or "").strip()
    if not api_key:
        raise MissingAPIKeyError("No API key: give api_key, or set the environment variable AGENTSANDBOX_API_KEY.")
    base_url = base_url or os.environ.get("AGENTSANDBOX_BASE_URL") or DEFAULT_BASE_URL
    return Settings(
        api_key=api_key,
        base_url=base_url.strip().rstrip("/"),
        timeout=DEFAULT_TIMEOUT if timeout is None else float(timeout),
        max_retries=DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
        max_connections=DEFAULT_MAX_CONNECTIONS if max_connections is None else max_connections,
        headers=dict(headers or {}),
    )
