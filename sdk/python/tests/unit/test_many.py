"""A thousand runs at once from one process."""

import asyncio
import json
import os

from agentsandbox import AsyncAgentSandbox


async def answer(reader, writer):
    """Answers each run with its own code, after others had a turn."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            code = json.loads(await reader.readexactly(size))["code"]
            await asyncio.sleep(0)
            body = json.dumps({"stdout": code, "return_code": 0}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def test_a_thousand_at_once():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
    files = len(os.listdir("/proc/self/fd"))
    async with AsyncAgentSandbox("k", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        results = await asyncio.gather(*(client.run(f"print({n})") for n in range(1000)))
    assert [r.stdout for r in results] == [f"print({n})" for n in range(1000)]
    server.close()
    await server.wait_closed()
    for _ in range(1000):
        if len(os.listdir("/proc/self/fd")) <= files:
            break
        await asyncio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= files
