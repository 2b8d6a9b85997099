"""``client.execute``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional, Union

from .._models import ExecuteResponse, Language, NetworkInput
from .._wire import decode, encode, language_value, network_value, refuse_timeout, route
from ._transport import AsyncBody, AsyncTransport


class AsyncExecuteResource:
    """Runs code. Reached as ``client.execute``."""

    def __init__(self, transport: AsyncTransport) -> None:
        """Make the resource of a client."""
        self._transport = transport

    async def create(
        self,
        code: str,
        language: Union[Language, str] = Language.PYTHON,
        session_id: Optional[str] = None,
        env_vars: Optional[Mapping[str, str]] = None,
        file_ids: Optional[Sequence[str]] = None,
        *,
        timeout_ms: Optional[int] = None,
        cpu_time_ms: Optional[int] = None,
        memory_mb: Optional[int] = None,
        cpus: Optional[float] = None,
        processes: Optional[int] = None,
        open_files: Optional[int] = None,
        disk_mb: Optional[int] = None,
        inodes: Optional[int] = None,
        output_bytes: Optional[int] = None,
        collect_ignored: Optional[bool] = None,
        network: Optional[NetworkInput] = None,
        metadata: Optional[Mapping[str, str]] = None,
        request_timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
        timeout: None = None,
    ) -> ExecuteResponse:
        """Run code as a script in a fresh process, and return what came of it.

        A program that fails, runs too long or takes too much is a result: see
        ``status`` and ``return_code``. A request that breaks on the way is sent
        again under the same idempotency key, so that the code runs once.

        Args:
            code: The program.
            language: What it is written in: a ``Language``, ``"python"`` or ``"bash"``.
            session_id: The session to run in. Without it the sandbox is made
                for this run and destroyed after it.
            env_vars: Environment variables of this run alone.
            file_ids: Files to copy to /workspace/{filename} before the run.
            timeout_ms: Time limit of the run, in milliseconds.
            cpu_time_ms: Limit of its CPU time.
            memory_mb: Memory limit in MiB, without a session.
            cpus: CPU limit in cores, without a session.
            processes: How many processes and threads may exist at once.
            open_files: How many files a process may have open.
            disk_mb: Disk space in MiB, without a session.
            inodes: How many files and directories may be made, without a session.
            output_bytes: How much of each output stream is kept.
            collect_ignored: Keep the files of tools, too, such as .git and virtual
                environments; left out: as the session says.
            network: What the run may reach, without a session: a
                ``NetworkPolicy``, a mapping like it, or a mode such as ``"public"``.
            metadata: Names and values to keep with the record.
            request_timeout: Seconds to wait for the answer. Left out: the client's
                ``timeout``, or 20 s more than the run's own limit if that is longer.
            idempotency_key: Names this run: the same key again gives the same
                answer, and runs nothing. Left out: a new one.
            timeout: Refused, because it could mean either of ``timeout_ms`` and
                ``request_timeout``.

        Raises:
            TypeError: ``timeout`` was given.
            AgentSandboxError: The service could not do it.
            ValueError: The language is not known.
        """
        refuse_timeout(timeout)
        body = encode(
            {
                "code": code,
                "language": language_value(language),
                "session_id": session_id,
                "env_vars": None if env_vars is None else dict(env_vars),
                "file_ids": None if file_ids is None else list(file_ids),
                "timeout_ms": timeout_ms,
                "cpu_time_ms": cpu_time_ms,
                "memory_mb": memory_mb,
                "cpus": cpus,
                "processes": processes,
                "open_files": open_files,
                "disk_mb": disk_mb,
                "inodes": inodes,
                "output_bytes": output_bytes,
                "collect_ignored": collect_ignored,
                "network": network_value(network),
                "metadata": None if metadata is None else dict(metadata),
            }
        )
        transport = self._transport
        response = await transport.request(
            "POST",
            route("execute"),
            body=AsyncBody("application/json", body),
            timeout=transport.settings.run_timeout(request_timeout, timeout_ms or transport.session_limits.of(session_id)),
            idempotency_key=idempotency_key,
        )
        return decode(ExecuteResponse, response)
