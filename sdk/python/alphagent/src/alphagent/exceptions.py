"""The exceptions of the package. Code that merely fails is a result with an exit code, not an exception."""

from __future__ import annotations

import builtins
from typing import Optional

from ._result import ExecutionResult


class SandboxError(Exception):
    """Base of every exception of this package."""

    result: Optional[ExecutionResult]
    """What the code had done until then, output and files included; None when no code ran."""
    status_code: Optional[int]
    """The HTTP status of the service's answer; None when there was none."""
    workspace_lost: bool
    """Whether the sandbox died with its files; the next call starts a new one."""

    def __init__(
        self,
        message: str,
        *,
        result: Optional[ExecutionResult] = None,
        status_code: Optional[int] = None,
        workspace_lost: bool = False,
    ) -> None:
        """Make an exception; the parameters are the attributes of the same names."""
        super().__init__(message)
        self.message = message
        self.result = result
        self.status_code = status_code
        self.workspace_lost = workspace_lost

    def __str__(self) -> str:
        """Return the message."""
        return self.message


class AuthenticationError(SandboxError):
    """The API key is missing or invalid."""


class TimeoutError(SandboxError, builtins.TimeoutError):
    """The code ran longer than the sandbox's timeout, and was ended. The sandbox can be used on."""


class ResourceLimitError(SandboxError):
    """The code went beyond a limit: memory, CPU, processes, disk or output. The sandbox can be used on."""


class SandboxLostError(SandboxError):
    """The sandbox died, with its files. The next call starts a new one."""


class PathNotFoundError(SandboxError, builtins.FileNotFoundError):
    """There is no such file in the sandbox."""


class PathIsDirectoryError(SandboxError, builtins.IsADirectoryError):
    """What was to be downloaded, or written over, is a directory."""


__all__ = [
    "AuthenticationError",
    "PathIsDirectoryError",
    "PathNotFoundError",
    "ResourceLimitError",
    "SandboxError",
    "SandboxLostError",
    "TimeoutError",
]
