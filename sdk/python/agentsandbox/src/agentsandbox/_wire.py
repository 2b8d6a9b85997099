"""Paths, queries and bodies of requests. Pure functions that both clients share."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional, TypeVar, Union
from urllib.parse import quote, quote_from_bytes

import httpx
import pydantic

from ._errors import InvalidResponseError
from ._models import (
    ExecutionListResponse,
    FileListResponse,
    KeyListResponse,
    Language,
    NetworkInput,
    NetworkPolicy,
    SessionListResponse,
)

ListPage = Union[FileListResponse, SessionListResponse, ExecutionListResponse, KeyListResponse]

M = TypeVar("M", bound=pydantic.BaseModel)


def route(*parts: str) -> str:
    """Return the path /v1/…, each part escaped, so that an id can never lead elsewhere."""
    for part in parts:
        if not part:
            raise ValueError("an id is empty")
    # A dot segment would be resolved by whoever reads the URL.
    return "/v1/" + "/".join(quote(part, safe="").replace(".", "%2E") if set(part) == {"."} else quote(part, safe="") for part in parts)


def query(**values: Union[str, bytes, int, None]) -> str:
    """Return a query string of the values that are not None; bytes are escaped as they are."""
    pairs: list[str] = []
    for name, value in values.items():
        if isinstance(value, bytes):
            pairs.append(f"{name}={quote_from_bytes(value, safe='')}")
        elif value is not None:
            # Paths of the local system can hold bytes as surrogates; they go out as those bytes.
            pairs.append(f"{name}={quote(str(value), safe='', errors='surrogateescape')}")
    return "?" + "&".join(pairs) if pairs else ""


def next_page(page: ListPage, offset: int, cursor: Optional[str], shown: int) -> Optional[dict[str, Any]]:
    """Return the ``offset`` and ``cursor`` of the page after this one, which has ``shown`` items; None at the end.

    A service that knows no cursors says that there is more and gives none: its
    pages are counted by offset.
    """
    if page.next_cursor:
        return {"offset": 0, "cursor": page.next_cursor}
    if cursor is None and shown and offset + shown < (page.total or 0):
        return {"offset": offset + shown, "cursor": None}
    return None


def timestamp(name: str, at: Optional[datetime]) -> Optional[str]:
    """Return a time as the service takes it. One without a time zone would be a guess."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{name} needs a time zone, such as datetime.now(timezone.utc) has")
    return at.isoformat()


def refuse_timeout(timeout: None) -> None:
    """Refuse ``timeout=`` where the limit of a run could be meant as well as the wait for an answer."""
    if timeout is not None:
        raise TypeError(
            "timeout= could mean two things here. For how long the code may run, give timeout_ms= (milliseconds: "
            "timeout=5 elsewhere is timeout_ms=5000). For how long to wait for the answer, give request_timeout= (seconds)."
        )


def sandbox_path(path: Union[str, bytes, os.PathLike[str]]) -> Union[str, bytes]:
    """Return an absolute path in a sandbox; a relative one counts from /workspace."""
    text = os.fspath(path)
    if isinstance(text, bytes):
        return text if text.startswith(b"/") else b"/workspace/" + text
    return text if text.startswith("/") else "/workspace/" + text


def language_value(language: str) -> str:
    """Return the language of a run as the service takes it."""
    try:
        return Language(language).value
    except ValueError:
        known = " or ".join(repr(known.value) for known in Language)
        raise ValueError(f"language must be {known}, not {language!r}") from None


def network_value(network: Optional[NetworkInput]) -> Optional[dict[str, Any]]:
    """Return a network policy as the service takes it."""
    if network is None:
        return None
    if isinstance(network, str):
        return {"mode": network}
    if isinstance(network, NetworkPolicy):
        value: dict[str, Any] = {"mode": network.mode}
        if network.allow:
            value["allow"] = network.allow
        if network.deny:
            value["deny"] = network.deny
        return value
    return dict(network)


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return the JSON of the fields that are not None."""
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def decode(model: type[M], response: httpx.Response) -> M:
    """Return the answer as a model."""
    try:
        return model.model_validate_json(response.content)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidResponseError(
            f"The answer to {response.request.method} {response.request.url.path} is not one of this service: {where}: {first['msg']}.",
            status_code=response.status_code,
            response_body=response.text,
            request_id=response.headers.get("X-Request-Id"),
        ) from None
