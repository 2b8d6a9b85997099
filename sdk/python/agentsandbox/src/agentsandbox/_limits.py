"""The time limits of sessions that a client has seen, so that it waits long enough for their runs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Optional

from ._models import SessionInfo

_MOST = 10_000


class SessionLimits:
    """Remembers the last sessions' ``timeout_ms``. Each operation is one step, so threads may share it."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._limits: OrderedDict[str, int] = OrderedDict()

    def remember(self, session: SessionInfo) -> SessionInfo:
        """Note the session's limit, and return the session."""
        if session.timeout_ms:
            self._limits[session.session_id] = session.timeout_ms
            if len(self._limits) > _MOST:
                try:
                    self._limits.popitem(last=False)
                except KeyError:
                    pass  # another thread did it
        return session

    def forget(self, session_id: str) -> None:
        """Drop a session that is gone."""
        self._limits.pop(session_id, None)

    def of(self, session_id: Optional[str]) -> Optional[int]:
        """Return the limit of a session in ms; None when it is not known."""
        return self._limits.get(session_id) if session_id else None
