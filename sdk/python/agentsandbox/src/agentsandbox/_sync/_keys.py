# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
"""``client.keys``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Optional

from .._models import KeyInfo, KeyListResponse, NewKey
from .._wire import decode, encode, next_page, query, route, timestamp
from ._transport import Body, Transport


class KeysResource:
    """API keys, for a client whose own key has the scope ``keys``. Reached as ``client.keys``."""

    def __init__(self, transport: Transport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        scopes: Optional[Sequence[str]] = None,
        expires_at: Optional[datetime] = None,
        tenant: Optional[str] = None,
        timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
    ) -> NewKey:
        """Make a key. Its value is in ``key_value``, shown this once.

        Args:
            name: What people know the key by.
            scopes: What it may do: ``sandbox``, ``read``, ``keys``, ``admin``;
                left out: ``sandbox``. Only scopes that this client's key has.
            expires_at: When it stops working, with a time zone; left out: never.
            tenant: Who owns what the key makes; left out: the caller's tenant.
                Another one needs the scope ``admin``.
            timeout: Seconds to wait for the answer.
            idempotency_key: The same key again is a conflict, because the value
                is not kept. Left out: a new one.
        """
        fields = {
            "name": name,
            "scopes": None if scopes is None else list(scopes),
            "expires_at": timestamp("expires_at", expires_at),
            "tenant": tenant,
        }
        response = self._transport.request(
            "POST",
            route("api-keys"),
            body=Body("application/json", encode(fields)),
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return decode(NewKey, response)

    def list(
        self, limit: int = 50, offset: int = 0, *, cursor: Optional[str] = None, timeout: Optional[float] = None
    ) -> KeyListResponse:
        """Return a page of keys, newest first, without their values; revoked ones are among them.

        Args:
            limit: How many, 1 to 100.
            offset: How many to pass over.
            cursor: The ``next_cursor`` of the page before.
            timeout: Seconds to wait for the answer.
        """
        path = route("api-keys") + query(limit=limit, offset=offset, cursor=cursor)
        return decode(KeyListResponse, self._transport.request("GET", path, timeout=timeout))

    def list_all(self, limit: int = 50) -> Iterator[KeyInfo]:
        """Yield all keys, newest first, each once; ``limit`` is how many come with one request."""
        seen: set[str] = set()
        where: Optional[dict[str, Any]] = {"offset": 0, "cursor": None}
        while where is not None:
            page = self.list(limit, **where)
            for key in page.keys:
                if key.id not in seen:
                    seen.add(key.id)
                    yield key
            where = next_page(page, where["offset"], where["cursor"], len(page.keys))

    def revoke(self, key_id: str, *, timeout: Optional[float] = None) -> None:
        """Stop a key from working, at once and for good. Raises NotFoundError for an unknown one."""
        self._transport.request("DELETE", route("api-keys", key_id), timeout=timeout)
