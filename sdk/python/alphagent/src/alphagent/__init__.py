"""A sandbox for an agent's code: ``Sandbox``, and ``AsyncSandbox`` for asyncio and trio."""

from ._async._sandbox import AsyncSandbox
from ._result import ExecutionResult
from ._sync._sandbox import Sandbox
from ._version import __version__
from .exceptions import (
    AuthenticationError,
    PathIsDirectoryError,
    PathNotFoundError,
    ResourceLimitError,
    SandboxError,
    SandboxLostError,
    TimeoutError,
)

__all__ = [
    "AsyncSandbox",
    "AuthenticationError",
    "ExecutionResult",
    "PathIsDirectoryError",
    "PathNotFoundError",
    "ResourceLimitError",
    "Sandbox",
    "SandboxError",
    "SandboxLostError",
    "TimeoutError",
    "__version__",
]
