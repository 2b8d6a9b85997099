"""No session outlives its Sandbox: it is deleted when that is collected, or when the program ends.

Not after a crash of the interpreter or SIGKILL: then the service ends the
session when it has been idle for long enough.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref

import agentsandbox

logger = logging.getLogger("alphagent")

# A program's end waits this long, in all, for sessions to be deleted.
_PATIENCE = 10.0

_open: set[Lease] = set()
_deleting: set[threading.Thread] = set()


class Lease:
    """A session that belongs to an object. The lease must not hold the object itself."""

    def __init__(self, owner: object, session_id: str, api_key: str, base_url: str) -> None:
        """Begin: from now on the session ends with its owner."""
        self.session_id = session_id
        self._api_key = api_key
        self._base_url = base_url
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(owner, _collected, self)
        self._finalizer.atexit = False  # _end does it
        _open.add(self)

    def release(self) -> None:
        """End: the owner deleted the session, or it is gone."""
        self._finalizer.detach()
        _open.discard(self)

    def delete(self, seconds: float = _PATIENCE) -> None:
        """Delete the session over a connection of its own. Failures are logged.

        A collection can happen while the owner's connection pool is locked, and
        in a process that was forked; so neither its connections nor another
        process's session are touched.
        """
        _open.discard(self)
        if os.getpid() != self._pid:
            return
        try:
            with agentsandbox.AgentSandbox(
                self._api_key, base_url=self._base_url, timeout=max(0.1, seconds), max_retries=1
            ) as client:
                client.sessions.delete(self.session_id)
        except agentsandbox.NotFoundError:
            pass
        except Exception as error:
            logger.warning("session %s was not deleted: %s", self.session_id, error)


def _collected(lease: Lease) -> None:
    def work() -> None:
        try:
            lease.delete()
        finally:
            _deleting.discard(thread)

    thread = threading.Thread(target=work, name="alphagent-delete", daemon=True)
    _deleting.add(thread)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending; _end, or this, does it here
        _deleting.discard(thread)
        lease.delete()


@atexit.register
def _end() -> None:
    end = time.monotonic() + _PATIENCE
    for lease in list(_open):
        lease.delete(end - time.monotonic())
    for thread in list(_deleting):
        thread.join(max(0.0, end - time.monotonic()))
