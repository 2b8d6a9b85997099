"""What only our packages do, against the real server."""

import ast
import asyncio
import gc

import agentsandbox
import alphagent
import anyio
import httpx
import pytest
from agentsandbox import AgentSandbox, AsyncAgentSandbox
from server import Server, eventually


@pytest.fixture
def client(server):
    with AgentSandbox(server.key, base_url=server.url) as c:
        yield c


def test_results_say_more(client):
    result = client.run("print('x' * 10)\nimport os; os.kill(os.getpid(), 9)", timeout_ms=60_000)
    assert (result.status, result.signal, result.return_code, result.truncated) == ("failed", "SIGKILL", 137, False)
    assert result.duration_ms > 0 and client.executions.get(result.execution_id).status == "failed"
    assert client.run("while True: pass", timeout_ms=300).timed_out
    assert result.execution_id in [e.id for e in client.executions.list_all(status="failed")]
    result = client.run("import sys; sys.stdout.buffer.write(b'\\xff'); sys.stderr.buffer.write(b'\\xfe')")
    assert client.executions.stdout(result.execution_id) == b"\xff" and result.stdout == "\ufffd"
    assert client.executions.stderr(result.execution_id) == b"\xfe"


@pytest.mark.parametrize(
    ("schema", "model"),
    [
        ("ExecuteRequest", "ExecuteRequest"), ("ExecuteAnswer", "ExecuteResponse"), ("ExecutionFile", "ExecutionFile"),
        ("ExecutionRecord", "ExecutionLog"), ("ExecutionList", "ExecutionListResponse"), ("FileInfo", "FileInfo"), ("FileList", "FileListResponse"),
        ("KeyInfo", "KeyInfo"), ("KeyList", "KeyListResponse"), ("NewKey", "NewKey"), ("NetworkEntry", "NetworkEntry"), ("NetworkRefusal", "NetworkRefusal"),
        ("NetworkReport", "NetworkReport"), ("PathInfo", "PathInfo"), ("PathList", "PathListResponse"), ("PolicyInfo", "NetworkPolicy"),
        ("PortInfo", "OpenPort"), ("PortList", "PortListResponse"), ("SecretInfo", "SecretInfo"), ("SessionInfo", "SessionInfo"),
        ("SessionList", "SessionListResponse"), ("SessionRequest", "SessionCreateRequest"),
    ],
)  # fmt: skip
def test_no_field_of_the_server_is_missing(server, schema, model):
    """What the server describes, the models have; what they do not know they pass over without a word."""
    document = httpx.get(server.url + "/openapi.json").json()
    described = document["components"]["schemas"][schema]["properties"]
    assert not set(described) - set(getattr(agentsandbox, model).model_fields)


def test_output_that_was_dropped_is_said(tmp_path):
    own = Server(tmp_path / "data", "--tenant-max-output-bytes", "1000000", "--preload", "none").start()
    try:
        with AgentSandbox(own.key, base_url=own.url) as client:
            kept = [client.run("print('x' * 700_000)") for _ in range(2)]
            first, second = (client.executions.get(answer.execution_id) for answer in kept)
            assert (first.output_dropped, second.output_dropped) == (True, False) and len(second.stdout) == 700_001
    finally:
        assert own.stop() == 0, own.log_text()


def test_limits_of_a_session(client):
    with client.sessions.context(memory_mb=256, cpus=1, timeout_ms=300, metadata={"k": "v"}) as session:
        assert (session.memory_mb, session.timeout_ms, session.metadata, session.status) == (256, 300, {"k": "v"}, "live")
        assert client.sessions.list().items[0].session_id == session.session_id
        assert client.run("while True: pass", session_id=session.session_id).timed_out
    with pytest.raises(agentsandbox.ValidationError) as caught:
        client.sessions.create(memory_mb=10**9)
    assert caught.value.code == "invalid_request" and [d.field for d in caught.value.details] == ["memory_mb"]


def test_files_of_a_session_by_path(client, tmp_path):
    with client.sessions.context() as session:
        sid = session.session_id
        done = []
        info = client.workspace.write(sid, "deep/a b.bin", iter([b"ab", b"c"]), progress=lambda n, total: done.append(n))
        assert (info.path, info.size_bytes, info.kind, done) == ("/workspace/deep/a b.bin", 3, "file", [2, 3])
        assert client.workspace.read(sid, "/workspace/deep/a b.bin") == b"abc"
        assert client.workspace.read_to(sid, "deep/a b.bin", tmp_path / "x").read_bytes() == b"abc"
        client.run("import os; os.symlink('x', 'link'); open(b'\\xff', 'w'); open('z', 'w')", session_id=sid)
        entries = list(client.workspace.list_all(sid, limit=1))
        assert [e.path for e in entries] == [f"/workspace/{n}" for n in ("deep", "link", "z", "\ufffd")]
        assert client.workspace.stat(sid, "link").target == "x" and entries[3].path_base64
        assert client.workspace.stat(sid, b"\xff").size_bytes == 0
        with pytest.raises(agentsandbox.ConflictError):
            client.workspace.read(sid, "link")
        client.workspace.delete(sid, b"\xff")
        with pytest.raises(agentsandbox.NotFoundError):
            client.workspace.stat(sid, b"\xff")


def test_names_survive(client):
    for name in ('a"b.txt', "a;filename=x.txt", "ü b.txt", "\u202ereversed"):
        uploaded = client.files.upload(b"x", filename=name)
        client.files.delete(uploaded.file_id)
        assert uploaded.filename == name
    with pytest.raises(agentsandbox.ValidationError, match="control characters"):
        client.files.upload(b"x", filename="a\nb.txt")


def test_large_files_in_chunks(client, tmp_path):
    size = 8 << 20
    uploaded = client.files.upload(iter([b"x" * (1 << 20)] * 8), filename="big")
    assert uploaded.size_bytes == size
    assert sum(len(chunk) for chunk in client.files.stream(uploaded.file_id)) == size
    client.files.delete(uploaded.file_id)


async def test_many_at_once(server):
    async with AsyncAgentSandbox(server.key, base_url=server.url) as client:
        results = await asyncio.gather(*(client.run(f"print({n})", timeout_ms=90_000) for n in range(40)))
    assert [r.stdout for r in results] == [f"{n}\n" for n in range(40)]


def test_trio(server):
    async def main():
        async with AsyncAgentSandbox(server.key, base_url=server.url) as client:
            return (await client.run("print('trio')")).stdout

    assert anyio.run(main, backend="trio") == "trio\n"


def test_ports_keys_and_the_network(server, client):
    with client.sessions.context(network="public") as session:
        sid = session.session_id
        client.run("echo hi > index.html; (python3 -m http.server 8000 --bind 0.0.0.0 >/dev/null 2>&1 &)", "bash", session_id=sid)
        opened = client.ports.open(sid, 8000, expires_in_ms=60_000)
        assert eventually(lambda: httpx.get(opened.url + "index.html").text == "hi\n")
        assert [p.url for p in client.ports.list(sid).ports] == [opened.url]
        client.ports.close(sid, 8000)
        assert client.ports.list(sid).ports == [] and httpx.get(opened.url).status_code == 404
        with pytest.raises(agentsandbox.NotFoundError):
            client.ports.close(sid, 8000)
        client.sessions.set_network(sid, "off")
        client.run("import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass", session_id=sid)
        report = client.sessions.get_network(sid)
        assert report.policy.mode == "off" and report.device
        made = client.keys.create("sdk", scopes=["read"])
        with AgentSandbox(made.key_value, base_url=server.url) as other:
            assert other.sessions.get(sid).session_id == sid
            client.keys.revoke(made.id)
            with pytest.raises(agentsandbox.AuthenticationError):
                other.sessions.get(sid)
        assert next(k for k in client.keys.list_all() if k.id == made.id).revoked_at is not None


def test_lists_while_they_are_emptied(client):
    made = [client.files.upload(b"x", filename=f"{n}.txt").file_id for n in range(5)]
    seen = []
    for file in client.files.list_all(limit=2):
        if file.file_id in made:
            seen.append(file.file_id)
            client.files.delete(file.file_id)
    assert seen == made[::-1]


def test_alphagent_says_that_it_is_a_directory(server):
    with alphagent.Sandbox(server.key, base_url=server.url) as sandbox:
        sandbox.exec("mkdir -p 'a b'/c; echo x > 'a b/c/f'")
        with pytest.raises(IsADirectoryError) as caught:
            sandbox.download("/workspace/a b")
        advice = str(caught.value).partition("exec(")[2].partition("), and")[0]
        assert sandbox.exec(ast.literal_eval(advice)).exit_code == 0
        assert sandbox.download("/tmp/packed.tgz").startswith(b"\x1f\x8b")
        with pytest.raises(alphagent.PathIsDirectoryError):
            sandbox.upload("/workspace/a b", b"x")


def test_alphagent(server, client):
    with alphagent.Sandbox(server.key, timeout=2, memory=512, base_url=server.url) as sandbox:
        assert client.sessions.get(sandbox.session_id).memory_mb == 512
        result = sandbox.run("print('Hello!')\nopen('chart.png', 'w').write('x')\nopen('/output/o', 'w')")
        assert (result.output, result.exit_code, sorted(result.artifacts)) == ("Hello!\n", 0, ["/output/o", "/workspace/chart.png"])
        with pytest.raises(alphagent.TimeoutError) as caught:
            sandbox.run("print('part', flush=True)\nwhile True: pass")
        assert caught.value.result.output == "part\n" and not caught.value.workspace_lost
        for code in ("x = 'a' * 10**12", "import numpy\nnumpy.ones(10**12)"):
            with pytest.raises(alphagent.ResourceLimitError) as caught:
                sandbox.run(code, timeout=30)
            assert "MemoryError" in caught.value.result.error and not caught.value.workspace_lost
        assert sandbox.download("/workspace/chart.png") == b"x", "usable, with its files"
        sandbox.upload("/workspace/new/data.bin", bytes(range(256)))
        assert sandbox.exec("wc -c < new/data.bin").output.strip() == "256"
        assert sandbox.run("raise ValueError").exit_code == 1
        with pytest.raises(alphagent.PathNotFoundError):
            sandbox.download("/workspace/nothing")
    with pytest.raises(alphagent.SandboxError, match="terminated"):
        sandbox.run("1")


def test_alphagent_keys(server):
    with pytest.raises(alphagent.AuthenticationError):
        alphagent.Sandbox("wrong", base_url=server.url).run("1")


def test_alphagent_does_not_leak(server, client):
    sandbox = alphagent.Sandbox(server.key, base_url=server.url)
    sandbox.run("1")
    sid = sandbox.session_id
    del sandbox
    gc.collect()
    assert eventually(lambda: sid not in client.sessions.list().sessions)


async def test_alphagent_async(server):
    async with alphagent.AsyncSandbox(server.key, base_url=server.url) as sandbox:
        results = await asyncio.gather(*(sandbox.run(f"print({n})") for n in range(3)))
        assert [r.output for r in results] == ["0\n", "1\n", "2\n"]
