"""The sandbox itself."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO, Optional, Union

import agentsandbox
from agentsandbox import AsyncAgentSandbox

from .. import _aio
from .._lease import Lease
from .._result import ExecutionResult, result_of
from .._verdict import failure_of, translated
from ..exceptions import AuthenticationError, PathIsDirectoryError, SandboxError, SandboxLostError

logger = logging.getLogger("alphagent")

# How much longer than the code's limit an answer may take.
_MARGIN = 20.0


class AsyncSandbox:
    """An isolated machine for code, with files that last from run to run.

    The machine is started by the first call, or by entering a ``with`` block,
    and ended by ``terminate``, by leaving the block, when the object is
    collected, or at the end of the program.

    Example:
        async with AsyncSandbox() as sandbox:
            result = await sandbox.run("print('Hello!')")
            print(result.output)
    """

    timeout: int
    """Longest time that code may run, in seconds."""
    memory: int
    """Memory of the sandbox, in MiB."""

    def __init__(
        self,
        api_key: Optional[str] = None,
        timeout: int = 300,
        memory: int = 4096,
        *,
        base_url: Optional[str] = None,
        cpus: Optional[float] = None,
        env_vars: Optional[Mapping[str, str]] = None,
        network: Optional[agentsandbox.NetworkPolicy] = None,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None:
        """Make a sandbox. Nothing is sent yet.

        Args:
            api_key: The API key; left out: the environment variable ALPHAGENT_API_KEY.
            timeout: Longest time that code may run, in seconds.
            memory: Memory of the sandbox, in MiB.
            base_url: Where the service is; left out: ALPHAGENT_BASE_URL, or http://127.0.0.1:8000.
            cpus: CPUs of the sandbox, in cores; left out: the service's default.
            env_vars: Environment variables of all code in the sandbox.
            network: What code may reach; left out: the service's default.
            metadata: Names and values that the service keeps with the session.

        Raises:
            AuthenticationError: There is no API key.
        """
        if not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        if not memory > 0:
            raise ValueError(f"memory must be more than 0 MiB, not {memory!r}")
        self.timeout = timeout
        self.memory = memory
        self._cpus = cpus
        self._env_vars = env_vars
        self._network = network
        self._metadata = metadata
        self._lease: Optional[Lease] = None
        self._terminated = False
        self._lock = _aio.Lock()
        self._api_key = (api_key or os.environ.get("ALPHAGENT_API_KEY") or "").strip()
        if not self._api_key:
            raise AuthenticationError("No API key: give api_key, or set the environment variable ALPHAGENT_API_KEY.")
        self._base_url = base_url or os.environ.get("ALPHAGENT_BASE_URL") or "http://127.0.0.1:8000"
        self._client = AsyncAgentSandbox(self._api_key, base_url=self._base_url)

    @property
    def session_id(self) -> Optional[str]:
        """The service's id of the running sandbox; None before the first call and after the end."""
        return self._lease.session_id if self._lease else None

    async def run(
        self, code: str, *, timeout: Optional[float] = None, env_vars: Optional[Mapping[str, str]] = None
    ) -> ExecutionResult:
        """Run Python code in a fresh process, and return what came of it.

        Code that fails is a result; see ``exit_code`` and ``error``.

        Args:
            code: The program.
            timeout: Longest time for this run, in seconds; left out: the sandbox's.
            env_vars: Further environment variables for this run.

        Raises:
            TimeoutError: It ran too long.
            ResourceLimitError: It went beyond the memory or another limit. As
                with TimeoutError, the sandbox can be used on, and ``result``
                of the exception has what there is.
            AuthenticationError: The API key is not valid.
            SandboxError: Anything else.
        """
        return await self._execute(code, agentsandbox.Language.PYTHON, timeout, env_vars)

    async def exec(
        self, command: str, *, timeout: Optional[float] = None, env_vars: Optional[Mapping[str, str]] = None
    ) -> ExecutionResult:
        """Run a shell command (Bash), and return what came of it.

        Arguments and exceptions are those of ``run``.
        """
        return await self._execute(command, agentsandbox.Language.BASH, timeout, env_vars)

    async def upload(self, path: str, data: Union[bytes, bytearray, memoryview, IO[bytes], Iterable[bytes]]) -> None:
        """Write a file in the sandbox, and make the directories above it.

        Args:
            path: Where, as an absolute path; a relative one counts from /workspace.
            data: The contents.
        """
        if isinstance(data, str):
            raise TypeError("data must be bytes, not str; encode text, or give a file that is open with mode 'rb'")
        lease = await self._started()
        try:
            with translated(path):
                try:
                    await self._client.workspace.write(lease.session_id, path, data)
                except agentsandbox.ConflictError as error:
                    if await self._is_directory(lease, path):
                        message = f"{path!r} is a directory; give the path of a file in it."
                        raise PathIsDirectoryError(message, status_code=error.status_code) from error
                    raise
        except SandboxLostError:
            self._forget(lease)
            raise

    async def download(self, path: str) -> bytes:
        """Return the contents of a file in the sandbox.

        Args:
            path: The file, as an absolute path; a relative one counts from /workspace.

        Raises:
            PathNotFoundError: There is no such file.
            PathIsDirectoryError: It is a directory; ``exec`` can pack one, with ``tar``.
        """
        lease = await self._started()
        try:
            with translated(path):
                try:
                    return await self._client.workspace.read(lease.session_id, path)
                except agentsandbox.ConflictError as error:
                    if await self._is_directory(lease, path):
                        message = (
                            f"{path!r} is a directory, and download returns one file. Pack it with "
                            f"exec({'tar czf /tmp/packed.tgz -C ' + shlex.quote(path) + ' .'!r}), and download that."
                        )
                        raise PathIsDirectoryError(message, status_code=error.status_code) from error
                    raise
        except SandboxLostError:
            self._forget(lease)
            raise

    async def _is_directory(self, lease: Lease, path: str) -> bool:
        return (await self._client.workspace.stat(lease.session_id, path)).kind == "directory"

    async def terminate(self) -> None:
        """End the sandbox. Can be called twice; anything else afterwards is a SandboxError."""
        self._terminated = True
        async with self._lock:
            lease, self._lease = self._lease, None
            async with _aio.shielded(30):
                try:
                    if lease is not None:
                        with translated():
                            await self._client.sessions.delete(lease.session_id)
                        lease.release()
                except SandboxLostError:
                    if lease is not None:
                        lease.release()
                except BaseException:
                    self._lease = lease  # so that it is tried again
                    raise
                await self._client.close()

    async def _started(self) -> Lease:
        async with self._lock:
            if self._terminated:
                raise SandboxError("The sandbox is terminated; make a new one.")
            if self._lease is None:
                with translated():
                    session = await self._client.sessions.create(
                        self._env_vars,
                        timeout_ms=round(self.timeout * 1000),
                        memory_mb=self.memory,
                        cpus=self._cpus,
                        network=self._network,
                        metadata=self._metadata,
                    )
                self._lease = Lease(self, session.session_id, self._api_key, self._base_url)
            return self._lease

    async def _execute(
        self,
        code: str,
        language: agentsandbox.Language,
        timeout: Optional[float],
        env_vars: Optional[Mapping[str, str]],
    ) -> ExecutionResult:
        lease = await self._started()
        limit = self.timeout if timeout is None else timeout
        try:
            with translated():
                response = await self._client.run(
                    code,
                    language,
                    lease.session_id,
                    env_vars,
                    timeout_ms=None if timeout is None else round(timeout * 1000),
                    request_timeout=limit + _MARGIN,
                )
        except SandboxLostError:
            self._forget(lease)
            raise
        result = result_of(response)
        failure = failure_of(result, language is agentsandbox.Language.PYTHON, limit, self.memory)
        if failure is None:
            return result
        if await self._died(lease, response):
            self._forget(lease)
            failure.workspace_lost = True
        raise failure

    async def _died(self, lease: Lease, response: agentsandbox.ExecuteResponse) -> bool:
        """Return whether the sandbox ended with a run that went wrong."""
        if response.session_status is not None:
            return response.session_status != "live"  # lost, or deleted or expired meanwhile
        try:
            session = await self._client.sessions.get(lease.session_id)
        except agentsandbox.NotFoundError:
            return True
        except agentsandbox.AgentSandboxError:
            return False  # the next call will see
        return session.status not in (None, "live")

    def _forget(self, lease: Lease) -> None:
        if self._lease is lease:
            self._lease = None
        lease.release()

    async def __aenter__(self) -> AsyncSandbox:
        """Start the sandbox, and return it."""
        await self._started()
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """End the sandbox."""
        try:
            await self.terminate()
        except SandboxError as error:
            if exc_type is None:
                raise
            # What ended the block is what the caller must see.
            logger.warning("the sandbox was not ended: %s", error)

    def __repr__(self) -> str:
        """Return a description without the key."""
        return f"{type(self).__name__}(session_id={self.session_id!r}, timeout={self.timeout}, memory={self.memory})"
