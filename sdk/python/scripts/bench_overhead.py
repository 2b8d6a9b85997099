#!/usr/bin/env python3
"""Measures what the client adds to raw httpx for one run: CPU time, with a transport that answers at once."""

from __future__ import annotations

import json
import time
from typing import Callable

import httpx

from agentsandbox import AgentSandbox

BODY = json.dumps(
    {
        "execution_id": "exe_1", "session_id": "ses_1", "stdout": "2\n", "stderr": "", "return_code": 0,
        "status": "succeeded", "signal": None, "duration_ms": 5, "cpu_ms": 4, "truncated": False,
        "stdout_bytes": 2, "stderr_bytes": 0, "files": [], "files_omitted": 0,
    }
).encode()  # fmt: skip


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=BODY, headers={"Content-Type": "application/json"})


def cpu_ms(call: Callable[[], object], rounds: int = 2000) -> float:
    for _ in range(200):
        call()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(rounds // 5):
            call()
        best = min(best, (time.process_time() - start) / (rounds / 5) * 1000)
    return best


def main() -> None:
    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = AgentSandbox("k", base_url="http://x", http_client=http)
    headers = {"Authorization": "Bearer k"}

    def raw() -> object:
        return http.post("http://x/v1/execute", json={"code": "print(1 + 1)", "language": "python"}, headers=headers).json()

    def ours() -> object:
        return client.run("print(1 + 1)")

    one, two = cpu_ms(raw), cpu_ms(ours)
    print(f"raw httpx {one:.3f} ms, agentsandbox {two:.3f} ms, difference {two - one:.3f} ms of CPU per call")


if __name__ == "__main__":
    main()
