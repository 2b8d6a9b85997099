"""When a request is sent again, and after how long. Pure: no clock of its own but for dates."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import Optional

import httpx

# The server, or a proxy before it, says that it did nothing for now.
_STATUSES = frozenset({408, 429, 502, 503, 504})

# Nothing was sent yet.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

# Sent, perhaps in part; whether it was done is not known.
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)

FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
# A server that asks for more patience than this gets the question from the caller.
LONGEST_RETRY_AFTER = 60.0


def parse_retry_after(value: Optional[str]) -> Optional[float]:
    """Return the seconds that a Retry-After header asks for; None when it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def back_off(attempt: int) -> float:
    """Return the seconds to wait after the attempt of this number, from 0: doubling, with jitter."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1.0)


def delay_after_answer(response: httpx.Response, attempt: int, *, safe: bool) -> Optional[float]:
    """Return the seconds until the request is sent again, or None to give up.

    ``safe`` says that the request may be repeated: by its method, or by its
    idempotency key.
    """
    after = parse_retry_after(response.headers.get("Retry-After"))
    # A repeated request can meet the one before it still at work.
    still_running = response.status_code == 409 and attempt > 0 and after is not None
    if not safe or (response.status_code not in _STATUSES and not still_running):
        return None
    if after is None:
        return back_off(attempt)
    if after > LONGEST_RETRY_AFTER:
        return None
    # Not all at the same moment.
    return after + random.uniform(0.0, 0.1 * after + 0.05)


def delay_after_error(error: httpx.TransportError, attempt: int, *, safe: bool, reads: bool) -> Optional[float]:
    """Return the seconds until the request is sent again, or None to give up.

    ``reads`` says that the request only reads or deletes: then a timeout is
    worth another try too. Running code again is not.
    """
    if isinstance(error, _UNSENT) or (safe and isinstance(error, _BROKEN)):
        return back_off(attempt)
    if reads and isinstance(error, httpx.TimeoutException):
        return back_off(attempt)
    return None
