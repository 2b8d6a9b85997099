"""Many runs at once, and the result of each as it comes."""

from __future__ import annotations

import asyncio
import os

from agentsandbox import AgentSandboxError, AsyncAgentSandbox

BASE_URL = os.environ.get("AGENTSANDBOX_BASE_URL", "http://127.0.0.1:8000")


async def main() -> None:
    """Square some numbers, each in a sandbox of its own."""
    async with AsyncAgentSandbox(base_url=BASE_URL) as client:
        runs = [asyncio.ensure_future(client.run(f"print({n} ** 2)", timeout_ms=10_000)) for n in range(10)]
        for run in asyncio.as_completed(runs):
            try:
                result = await run
            except AgentSandboxError as error:
                print("the service could not:", error)
            else:
                print(result.status, result.stdout.strip())


if __name__ == "__main__":
    asyncio.run(main())
