"""A tool for an agent that writes code: one session per conversation, output cut to what a model can read."""

from __future__ import annotations

import os

from agentsandbox import AgentSandbox, ExecuteResponse

BASE_URL = os.environ.get("AGENTSANDBOX_BASE_URL", "http://127.0.0.1:8000")
LONGEST = 4000


def describe(result: ExecuteResponse) -> str:
    """Return what the model should see of a run."""
    parts = [f"status: {result.status}, exit code: {result.exit_code}"]
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if text:
            parts.append(f"{name}:\n{text[:LONGEST]}")
    if result.files:
        parts.append("files: " + ", ".join(file.filename for file in result.files))
    return "\n".join(parts)


def main() -> None:
    """Run the steps of a conversation."""
    with AgentSandbox(base_url=BASE_URL) as client, client.sessions.context(memory_mb=1024, timeout_ms=30_000) as session:
        for code in ("open('n.txt', 'w').write('41')", "print(int(open('n.txt').read()) + 1)", "1 / 0"):
            print(describe(client.run(code, session_id=session.session_id)))


if __name__ == "__main__":
    main()
