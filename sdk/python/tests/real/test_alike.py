"""What the published agentsandbox-sdk 0.1.0 and ours both do, against the real server.

Run twice by sdk/python/tests/run, once with each package: nothing here may use
what only one of them has.
"""

import io
import uuid

import agentsandbox
import httpx
import pytest
from agentsandbox import AgentSandbox, AgentSandboxError, AsyncAgentSandbox, Language


@pytest.fixture
def client(server):
    with AgentSandbox(api_key=server.key, base_url=server.url) as c:
        yield c


def test_run(client):
    result = client.run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (result.stdout, result.stderr, result.return_code) == ("out\n", "err\n", 3)
    assert (result.exit_code, result.success, result.files) == (3, False, []) and result.session_id
    assert client.run("echo $X", language=Language.BASH, env_vars={"X": "y"}).stdout == "y\n"
    assert client.execute.create("echo hi", language="bash").stdout == "hi\n"
    with pytest.raises(ValueError, match="ruby"):
        client.run("puts 1", language="ruby")


def test_session(client):
    uploaded = client.files.upload(b"one", filename="a.txt")
    with client.sessions.context(file_ids=[uploaded.file_id], env_vars={"E": "f"}) as session:
        sid = session.session_id
        assert session.created is True and sid in client.sessions.list().sessions
        assert client.sessions.get(sid).session_id == sid
        result = client.run("import os; open('b.txt', 'w').write(open('a.txt').read() + os.environ['E'])", session_id=sid)
        assert [f.filename for f in result.files] == ["b.txt"]
        assert client.files.download(result.files[0].file_id) == b"onef"
        other = client.files.upload(b"two", filename="c.txt")
        assert client.sessions.inject_files(sid, [other.file_id]) is None
        assert client.run("cat c.txt", language="bash", session_id=sid).stdout == "two"
    with pytest.raises(agentsandbox.NotFoundError):
        client.sessions.get(sid)
    session = client.sessions.create()
    assert client.sessions.delete(session.session_id) is None
    with pytest.raises(agentsandbox.NotFoundError):
        client.sessions.delete(session.session_id)


def test_a_session_ends_with_its_block(client):
    with pytest.raises(KeyError):
        with client.sessions.context() as session:
            raise KeyError
    with pytest.raises(agentsandbox.NotFoundError):
        client.sessions.get(session.session_id)


def test_files(client, tmp_path):
    path = tmp_path / f"{uuid.uuid4().hex}.bin"
    path.write_bytes(b"\x00\xff" * 1000)
    by_path, by_text = client.files.upload(path), client.files.upload(str(path))
    by_bytes = client.files.upload(b"abc", filename="ü b.csv", content_type="text/x-own")
    unnamed = client.files.upload(b"abc")
    by_file = client.files.upload(io.BytesIO(b"in memory"), filename="m.txt")
    with open(path, "rb") as file:
        from_file = client.files.upload(file)
    assert by_path.filename == by_text.filename == from_file.filename == path.name and unnamed.filename == "file"
    assert (by_bytes.filename, by_bytes.mime_type, by_bytes.size_bytes) == ("ü b.csv", "text/x-own", 3)
    assert isinstance(by_bytes.created_at, str)
    everything = [by_path, by_text, by_bytes, unnamed, by_file, from_file]
    page = client.files.list(limit=2, offset=1)
    assert len(page.files) == 2 and (page.limit, page.offset) == (2, 1) and page.total >= 6
    listed = {f.file_id: f for f in client.files.list_all(limit=2)}
    assert {f.file_id for f in everything} <= set(listed) and len(listed) == page.total
    assert listed[by_bytes.file_id].created_at.utcoffset() is not None
    assert client.files.download(by_file.file_id) == b"in memory"
    saved = client.files.download_to(by_path.file_id, str(tmp_path / "saved"))
    assert saved == tmp_path / "saved" and saved.read_bytes() == path.read_bytes()
    for f in everything:
        assert client.files.delete(f.file_id) is None
    with pytest.raises(agentsandbox.NotFoundError):
        client.files.download(by_path.file_id)
    with pytest.raises(FileNotFoundError):
        client.files.upload(tmp_path / "nothing")


def test_errors(client, server):
    with pytest.raises(agentsandbox.AuthenticationError) as caught:
        AgentSandbox(api_key="wrong", base_url=server.url).run("1")
    assert caught.value.status_code == 401 and caught.value.message and str(caught.value).startswith("[401] ")
    for call in (client.sessions.get, client.files.download, client.executions.get):
        with pytest.raises(agentsandbox.NotFoundError) as caught:
            call("nothing")
        assert caught.value.status_code == 404 and isinstance(caught.value, AgentSandboxError)
    with pytest.raises(agentsandbox.ValidationError) as caught:
        client.files.list(limit=101)
    assert caught.value.status_code == 422 and "limit" in caught.value.message
    with pytest.raises(httpx.TransportError):
        AgentSandbox(api_key="k", base_url="http://127.0.0.1:1").run("1")


def test_a_missing_key(monkeypatch):
    monkeypatch.delenv("AGENTSANDBOX_API_KEY", raising=False)
    with pytest.raises(ValueError, match="AGENTSANDBOX_API_KEY"):
        AgentSandbox()


def test_execution_log(client, server):
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=120) as http:
        made = http.post("/v1/execute", json={"code": "print(1)\nraise SystemExit(2)"})
    log = client.executions.get(made.headers["X-Execution-Id"])
    assert (log.return_code, log.stdout, log.success, log.exit_code) == (2, "1\n", False, 2)
    assert log.execution_id == log.id == made.headers["X-Execution-Id"] and log.language == Language.PYTHON
    assert (log.endpoint, log.method, log.status_code) == ("/v1/execute", "POST", 200) and log.duration_ms >= 0


def test_a_client_of_ones_own(server):
    with httpx.Client(timeout=100) as http:
        with AgentSandbox(server.key, base_url=server.url, http_client=http) as client:
            assert client.run("print(1)").stdout == "1\n"
        assert not http.is_closed


async def test_async(server):
    async with AsyncAgentSandbox(api_key=server.key, base_url=server.url) as client:
        uploaded = await client.files.upload(b"async data", filename="data.txt")
        async with client.sessions.context(file_ids=[uploaded.file_id]) as session:
            result = await client.run("print(open('data.txt').read())", session_id=session.session_id)
        assert result.stdout == "async data\n"
        assert uploaded.file_id in [f.file_id async for f in client.files.list_all()]
        await client.files.delete(uploaded.file_id)
