"""`agentsandbox mcp`, by the official Python client, over both transports."""

import base64
import contextlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from server import BIN, eventually

TOOLS = {
    "execute_python", "execute_bash", "create_session", "list_sessions", "delete_session",
    "write_file", "read_file", "list_files", "upload_file", "download_file",
}  # fmt: skip


@dataclass
class Door:
    """One way to the tools."""

    server: object
    url: str = ""  # of the HTTP door
    process: subprocess.Popen | None = None

    def client(self, key: str | None = None, **kw) -> Client:
        key = key or self.server.key
        if not self.url:
            env = {"AGENTSANDBOX_BASE_URL": self.server.url, "AGENTSANDBOX_API_KEY": key, "PATH": os.environ["PATH"]}
            return Client(StdioServerParameters(command=BIN, args=["mcp"], env=env), **kw)
        headers = {"Authorization": f"Bearer {key}"}
        return Client(streamable_http_client(self.url, http_client=httpx2.AsyncClient(headers=headers, timeout=60)), **kw)


@contextlib.contextmanager
def http_door(server):
    command = [BIN, "mcp", "--listen", "127.0.0.1:0", "--server", server.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            url = re.search(r"http://\S+/mcp", process.stderr.readline())[0]
            yield Door(server, url, process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.stderr.read()


@pytest.fixture(scope="module")
def doors(server):
    with http_door(server) as http:
        yield {"stdio": Door(server), "http": http}


@pytest.fixture(params=["stdio", "http"])
def door(request, doors):
    return doors[request.param]


@pytest.fixture
def sessions(server):
    """The sessions that are live now."""
    with server.http() as http:
        yield lambda: set(http.get("/v1/sessions").json()["sessions"])


async def call(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result


async def refusal(client, tool, **arguments) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error and len(result.content) == 1, result
    return result.content[0].text


def texts(result) -> list[str]:
    return [c.text for c in result.content if c.type == "text"]


PLOT = """
import matplotlib.pyplot as plt
plt.plot([1, 4, 9]); plt.savefig("plot.png")
open("fake.png", "w").write("no image")
print("drawn")
"""


async def test_every_tool(door, sessions):
    before = sessions()
    async with door.client() as client:
        assert {t.name for t in (await client.list_tools()).tools} == TOOLS
        assert not sessions() - before  # no tool needed a sandbox yet

        drawn = await call(client, "execute_python", code=PLOT)
        out = drawn.structured_content
        assert (out["status"], out["return_code"], out["stdout"]) == ("succeeded", 0, "drawn\n")
        assert texts(drawn)[0].startswith("succeeded, return code 0") and texts(drawn)[1] == "drawn\n"
        assert '"fake.png" is not shown: it is no image' in texts(drawn)[0]
        images = [c for c in drawn.content if c.type == "image"]
        assert len(images) == 1 and images[0].mime_type == "image/png"
        assert base64.b64decode(images[0].data).startswith(b"\x89PNG")
        files = {f["filename"]: f for f in out["files"]}
        assert set(files) == {"plot.png", "fake.png"}
        own = out["session_id"]
        assert sessions() - before == {own}

        failed = await call(client, "execute_bash", code="ls; echo oops >&2; kill -9 $$")
        assert failed.structured_content["status"] == "failed" and failed.structured_content["signal"] == "SIGKILL"
        assert texts(failed)[1:] == ["fake.png\nplot.png\n", "oops\nagentsandbox: ended by SIGKILL, sent by a process of the sandbox\n"] and failed.structured_content["session_id"] == own

        made = (await call(client, "create_session", memory_mb=256, metadata={"for": "test"})).structured_content
        listed = (await call(client, "list_sessions", limit=100)).structured_content["sessions"]
        assert {s["session_id"]: s["own"] for s in listed if s["session_id"] in (own, made["session_id"])} == {own: True, made["session_id"]: False}

        await call(client, "write_file", path="/workspace/a/ü.txt", text="grüße\n")
        await call(client, "write_file", path="/workspace/b.bin", base64="AP8=", session_id=made["session_id"])
        assert texts(await call(client, "read_file", path="/workspace/a/ü.txt")) == ["grüße\n"]
        blob = (await call(client, "read_file", path="/workspace/b.bin", session_id=made["session_id"])).content[0]
        assert blob.type == "resource" and base64.b64decode(blob.resource.blob) == b"\x00\xff"
        assert (await call(client, "read_file", path="/workspace/plot.png")).content[0].type == "image"
        entries = (await call(client, "list_files")).structured_content["entries"]
        assert [(e["path"], e["kind"]) for e in entries if "plot" not in e["path"]] == [
            ("/workspace/a", "directory"), ("/workspace/fake.png", "file")]  # fmt: skip

        uploaded = (await call(client, "upload_file", filename="in.csv", text="a,b\n1,2\n")).structured_content
        read = await call(client, "execute_bash", code="cat in.csv", file_ids=[uploaded["file_id"]], env_vars={"A": "1"}, timeout_ms=5000)
        assert read.structured_content["stdout"] == "a,b\n1,2\n"
        assert texts(await call(client, "download_file", file_id=uploaded["file_id"])) == ["a,b\n1,2\n"]
        assert (await call(client, "download_file", file_id=files["plot.png"]["file_id"])).content[0].type == "image"

        await call(client, "delete_session", session_id=made["session_id"])
        assert sessions() - before == {own}
    assert eventually(lambda: not sessions() - before)  # the sandbox ends with its conversation


async def test_refusals_say_what_to_do(door, sessions):
    async with door.client() as client:
        assert "session_not_found" in await refusal(client, "execute_python", code="1", session_id="ses_none")
        text = await refusal(client, "execute_python", code="print(1)", timeout_ms=10**12)
        assert text.startswith("timeout_ms: must be at most") and "invalid_request, request " in text
        assert "one of text and base64" in await refusal(client, "write_file", path="/workspace/x")
        assert "base64" in await refusal(client, "upload_file", filename="x", base64="!")
        assert "/workspace/none" in await refusal(client, "read_file", path="/workspace/none")
        await call(client, "execute_bash", code="head -c 200000 /dev/zero > big; mkfifo pipe")
        assert "more than max_bytes (100000)" in await refusal(client, "read_file", path="/workspace/big")
        await call(client, "read_file", path="/workspace/big", max_bytes=200_000)
        assert "conflict" in await refusal(client, "read_file", path="/workspace/pipe")
        assert 'has no argument "cod"' in await refusal(client, "execute_python", code="1", cod="1")

        cut = await call(client, "execute_python", code="print('ä' * 100)", max_output_bytes=11)
        assert cut.structured_content["stdout"] == "ä" * 5 and cut.structured_content["truncated"]
        assert "wrote 201 bytes to stdout" in texts(cut)[0]

        # The sandbox of the conversation goes away: it is said, once.
        own = cut.structured_content["session_id"]
        await call(client, "delete_session", session_id=own)
        fresh = (await call(client, "execute_bash", code="ls")).structured_content
        assert fresh["session_id"] != own and fresh["stdout"] == ""
    assert eventually(lambda: fresh["session_id"] not in sessions())


async def test_an_expired_sandbox_is_said_once(door, server):
    async with door.client() as client:
        own = (await call(client, "execute_bash", code="touch x")).structured_content["session_id"]
        with server.http() as http:
            assert http.delete(f"/v1/sessions/{own}").status_code == 204
        assert "The next call gets a new, empty one." in await refusal(client, "execute_bash", code="ls")
        assert (await call(client, "execute_bash", code="ls")).structured_content["stdout"] == ""


async def test_conversations_do_not_share(door):
    async with door.client() as one, door.client() as two:
        async with anyio.create_task_group() as group:  # calls that come together share one sandbox
            for name in "ab":
                group.start_soon(lambda name=name: call(one, "execute_bash", code=f"touch {name}"))
        assert (await call(one, "execute_bash", code="ls")).structured_content["stdout"] == "a\nb\n"
        assert (await call(two, "execute_bash", code="ls")).structured_content["stdout"] == ""


async def test_leaving_ends_what_runs(door, server, sessions):
    before = sessions()

    def executions(status):
        with server.http() as http:
            page = http.get("/v1/executions", params={"status": status, "limit": 100}).json()
        return {e["id"] for e in page["executions"]}

    known = executions("cancelled")
    with contextlib.suppress(Exception):  # the client complains of the call that it leaves
        async with door.client() as client, anyio.create_task_group() as group:
            group.start_soon(lambda: client.call_tool("execute_bash", {"code": "sleep 90"}))
            while not (running := executions("running")):
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()
    assert eventually(lambda: running <= executions("cancelled") - known)
    assert eventually(lambda: not sessions() - before)  # those of earlier conversations may end meanwhile


async def test_a_stopped_door_ends_its_conversations(server, sessions):
    before = sessions()
    left = None
    with contextlib.suppress(Exception):  # of a client whose server is gone
        with http_door(server) as door:
            async with door.client() as client:
                await call(client, "execute_bash", code="true")
                assert len(sessions() - before) == 1
                door.process.send_signal(signal.SIGTERM)
                assert door.process.wait(30) == 0
                left = sessions() - before  # now, not some time later
    assert left == set()


def test_http_needs_the_key_of_the_conversation(doors, server):
    url = doors["http"].url
    hello = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    accept = {"Accept": "application/json, text/event-stream"}
    right = {**accept, "Authorization": f"Bearer {server.key}"}
    for headers in (accept, {**accept, "Authorization": "Bearer wrong"}, {**accept, "Authorization": "Basic eDp5"}):
        assert httpx.post(url, json=hello, headers=headers).status_code == 401
    began = httpx.post(url, json=hello, headers=right)
    assert began.status_code == 200, began.text
    session = {"Mcp-Session-Id": began.headers["Mcp-Session-Id"]}
    tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    other = {**accept, "Authorization": f"Bearer {server.new_key('another')}", **session}
    assert httpx.post(url, json=tools, headers=other).status_code == 403
    assert httpx.delete(url, headers=other).status_code == 403
    assert httpx.post(url, json=tools, headers={**right, **session}).status_code == 200
    # Pages in a browser: another origin, or a name that was bound to this address.
    assert httpx.post(url, json=hello, headers={**right, "Origin": "https://page.example"}).status_code == 403
    assert httpx.post(url, json=hello, headers={**right, "Host": "page.example"}).status_code == 403
    assert httpx.delete(url, headers={**right, **session}).status_code in (200, 202, 204)
    assert httpx.post(url, json=tools, headers={**right, **session}).status_code == 404


def test_stdio_without_a_server_says_so():
    run = subprocess.run([BIN, "mcp", "--listen", "nonsense"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and "--listen nonsense" in run.stderr
