"""From the service's verdicts and errors to this package's exceptions. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Optional

import agentsandbox

from ._result import ExecutionResult
from .exceptions import (
    AuthenticationError,
    PathNotFoundError,
    ResourceLimitError,
    SandboxError,
    SandboxLostError,
    TimeoutError,
)

_LIMITS = {
    "memory_exceeded": "The code needed more memory than the sandbox's {memory} MiB.",
    "process_limit": "The code wanted more processes or threads than the sandbox allows.",
    "disk_full": "The code filled the sandbox's disk.",
    "output_limit": "The code wrote more output than the sandbox allows.",
}

# The last line of a Python program that ended by an uncaught MemoryError, or
# by a subclass such as numpy's _ArrayMemoryError.
_MEMORY_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*MemoryError(?::.*)?$")


def failure_of(result: ExecutionResult, python: bool, timeout: float, memory: int) -> Optional[SandboxError]:
    """Return the exception that a result calls for; None when it is simply a result."""
    if result.status == "timed_out":
        return TimeoutError(f"The code ran longer than {timeout:g} s and was ended.", result=result)
    if result.status in _LIMITS:
        return ResourceLimitError(_LIMITS[result.status].format(memory=memory), result=result)
    if result.status == "sandbox_lost":
        return SandboxLostError("The sandbox died while the code ran; the next call starts a new one.", result=result)
    if result.status == "cancelled":
        return SandboxError("The run was cancelled by the service.", result=result)
    if python and result.status == "failed" and result.exit_code == 1 and _ended_by_memory_error(result.error):
        return ResourceLimitError(_LIMITS["memory_exceeded"].format(memory=memory), result=result)
    return None


def _ended_by_memory_error(error: str) -> bool:
    lines = error.rstrip().rsplit("\n", 1)
    return "Traceback (most recent call last)" in error and _MEMORY_ERROR.match(lines[-1]) is not None


@contextlib.contextmanager
def translated(path: Optional[str] = None) -> Iterator[None]:
    """Raise this package's exceptions for those of agentsandbox; ``path`` is what the call is about."""
    try:
        yield
    except agentsandbox.AuthenticationError as error:
        raise AuthenticationError(error.message, status_code=error.status_code) from error
    except agentsandbox.NotFoundError as error:
        if error.code in ("session_not_found", "execution_not_found"):
            raise SandboxLostError(
                f"The sandbox is gone, with its files; the next call starts a new one. ({error.message})",
                status_code=error.status_code,
                workspace_lost=True,
            ) from error
        if path is not None:
            raise PathNotFoundError(error.message, status_code=error.status_code) from error
        raise SandboxError(error.message, status_code=error.status_code) from error
    except agentsandbox.APITimeoutError as error:
        raise TimeoutError(f"{error.reason} Is the service overloaded, or is something between cutting it off?") from error
    except agentsandbox.APIConnectionError as error:
        # The advice in its message is for users of agentsandbox.
        raise SandboxError(f"{error.reason} Is the service running there? Set base_url or ALPHAGENT_BASE_URL.") from error
    except agentsandbox.AgentSandboxError as error:
        raise SandboxError(error.message, status_code=error.status_code) from error
