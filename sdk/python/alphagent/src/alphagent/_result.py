"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import agentsandbox


@dataclass(frozen=True)
class ExecutionResult:
    """All that is known of a run that ended."""

    output: str
    """Standard output."""
    error: str
    """Standard error."""
    exit_code: int
    """The exit code; 0 for success, 128 + n after signal n."""
    duration_ms: int
    """Wall-clock time in milliseconds."""
    artifacts: list[str] = field(default_factory=list)
    """Absolute paths, in the sandbox, of files that the run created or changed."""
    status: str = ""
    """How the run ended: ``succeeded``, ``failed``, ``timed_out``, ``memory_exceeded`` and so on."""
    truncated: bool = False
    """The code wrote more output than was kept."""
    execution_id: Optional[str] = None
    """Names the service's record of the run."""

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


def result_of(response: agentsandbox.ExecuteResponse) -> ExecutionResult:
    """Return the result for the service's answer."""
    return ExecutionResult(
        output=response.stdout,
        error=response.stderr,
        exit_code=response.return_code,
        duration_ms=round(response.duration_ms or 0),
        artifacts=[file.path or f"/workspace/{file.filename}" for file in response.files],
        status=response.status or ("succeeded" if response.return_code == 0 else "failed"),
        truncated=response.truncated,
        execution_id=response.execution_id,
    )
