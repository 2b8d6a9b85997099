"""The exceptions of the package: one tree, a class per status of the service.

A program that failed inside a sandbox is a result, not an exception; see
``ExecuteResponse.status``.
"""

from __future__ import annotations

import json
from typing import Any, Optional

import httpx

from ._models import ErrorDetail
from ._retry import parse_retry_after


class AgentSandboxError(Exception):
    """Base of every exception that this package raises on its own account."""

    message: str
    """What went wrong, as a sentence."""
    status_code: Optional[int]
    """The HTTP status of the answer; None when there was no answer."""
    response_body: Any
    """The answer's body: decoded JSON, or text; None when there was no answer."""
    code: Optional[str]
    """The service's stable, machine-readable code, such as ``session_not_found``."""
    details: list[ErrorDetail]
    """The offending fields of the request; empty when none is to blame."""
    request_id: Optional[str]
    """Names the request in the server's log."""
    retry_after: Optional[float]
    """Seconds to wait before another try, when the service said so."""

    def __init__(
        self,
        message: str,
        *,
        status_code: Optional[int] = None,
        response_body: Any = None,
        code: Optional[str] = None,
        details: Optional[list[ErrorDetail]] = None,
        request_id: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        """Make an exception; the parameters are the attributes of the same names."""
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.response_body = response_body
        self.code = code
        self.details = details or []
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Return the message, with the status in front when there is one."""
        return f"[{self.status_code}] {self.message}" if self.status_code else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the exception cross process boundaries with its attributes."""
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(cls: type[AgentSandboxError], message: str, state: dict[str, Any]) -> AgentSandboxError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class AuthenticationError(AgentSandboxError):
    """The API key is missing, unknown, revoked or expired (401)."""


class MissingAPIKeyError(AuthenticationError, ValueError):
    """A client was made without an API key; nothing was sent."""


class ForbiddenError(AgentSandboxError):
    """The API key may not do this (403)."""


class NotFoundError(AgentSandboxError):
    """There is no such thing, or it belongs to someone else (404)."""


class ConflictError(AgentSandboxError):
    """The request does not fit the state of what it names (409)."""


class TooLargeError(AgentSandboxError):
    """The request is larger than the server takes (413)."""


class ValidationError(AgentSandboxError):
    """The request is invalid (422); ``details`` names the fields."""


class RateLimitError(AgentSandboxError):
    """The key sent too many requests (429); ``retry_after`` says when to go on."""


class ServerError(AgentSandboxError):
    """The server failed (500)."""


class ServiceUnavailableError(AgentSandboxError):
    """The server cannot do it now (503); ``retry_after`` says when to try again."""


class StorageFullError(AgentSandboxError):
    """The server has no room left (507)."""


class InvalidResponseError(AgentSandboxError):
    """The answer is not what the service sends: another program listens there."""


class APIConnectionError(AgentSandboxError, httpx.TransportError):
    """The server could not be reached, or the connection broke.

    It is an ``httpx.TransportError`` too, as what earlier clients raised.
    """

    reason: str
    """What happened, without the advice that ``message`` ends with."""

    def __init__(self, message: str, *, advice: str = "", request: Optional[httpx.Request] = None) -> None:
        """Make an exception about a request that got no answer; the advice ends its message."""
        AgentSandboxError.__init__(self, f"{message} {advice}" if advice else message)
        self.reason = message
        self._request = request

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the exception cross process boundaries, without its request."""
        return (_rebuild, (type(self), self.message, {**self.__dict__, "_request": None}))


class APITimeoutError(APIConnectionError, httpx.TimeoutException):
    """No answer came within the request's timeout.

    This is the HTTP request's time. Code that ran longer than its own limit is
    a result, with the status ``timed_out``.
    """


_BY_STATUS: dict[int, type[AgentSandboxError]] = {
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: ValidationError,
    429: RateLimitError,
    500: ServerError,
    503: ServiceUnavailableError,
    507: StorageFullError,
}


def error_from_response(response: httpx.Response) -> AgentSandboxError:
    """Return the exception for an answer with a status of 400 or more, whose body was read."""
    body: Any = response.text
    try:
        body = json.loads(response.content)
    except ValueError:
        pass
    failure = body.get("error") if isinstance(body, dict) else None
    if not isinstance(failure, dict):
        failure = {}
    message = failure.get("message")
    if not isinstance(message, str) or not message:
        message = f"The server answered {response.status_code} {response.reason_phrase}.".replace(" .", ".")
    details: list[ErrorDetail] = []
    for item in failure.get("details") or []:
        if isinstance(item, dict):
            details.append(ErrorDetail(field=str(item.get("field", "")), message=str(item.get("message", ""))))
    code = failure.get("code")
    return _BY_STATUS.get(response.status_code, AgentSandboxError)(
        message,
        status_code=response.status_code,
        response_body=body,
        code=code if isinstance(code, str) else None,
        details=details,
        request_id=failure.get("request_id") or response.headers.get("X-Request-Id"),
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
    )


def error_from_transport(error: httpx.TransportError, base_url: str, timeout: Optional[float]) -> APIConnectionError:
    """Return the exception for a request that got no whole answer."""
    request = getattr(error, "_request", None)
    if isinstance(error, httpx.ConnectTimeout) or isinstance(error, httpx.ConnectError):
        reason = str(error) or type(error).__name__
        return (APITimeoutError if isinstance(error, httpx.ConnectTimeout) else APIConnectionError)(
            f"No connection to {base_url} ({reason}).",
            advice="Is the server running there? Set base_url or AGENTSANDBOX_BASE_URL.",
            request=request,
        )
    if isinstance(error, httpx.TimeoutException):
        if timeout is None:
            return APITimeoutError(f"{base_url} did not answer in time.", request=request)
        return APITimeoutError(
            f"{base_url} did not answer within {timeout:g} s.",
            advice="Wait longer (request_timeout of a run, timeout of the client), or give the run a shorter timeout_ms.",
            request=request,
        )
    return APIConnectionError(
        f"The connection to {base_url} broke before the answer was complete ({error or type(error).__name__}).",
        request=request,
    )
