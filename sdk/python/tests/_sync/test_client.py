# Made by sdk/python/scripts/unasync.py from the asynchronous twin; do not edit.
"""The client against a local server: what it sends, what it makes of answers, what it repeats."""

import io
import logging
import os
from urllib.parse import parse_qsl, urlsplit

import agentsandbox as package
import pytest
from agentsandbox import AgentSandbox, _sio
from local import Answer, failure

RESULT = {"session_id": "ses_1", "stdout": "2\n", "return_code": 0}
SESSION = {"session_id": "ses_1", "created": True}
FILE = {"file_id": "fil_1", "filename": "a.csv", "size_bytes": 3, "created_at": "2026-01-02T03:04:05Z"}


@pytest.fixture
def client(local):
    with AgentSandbox("sk_secret", base_url=local.url + "/") as c:
        yield c


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses between attempts, which are not waited for."""
    seen = []

    def sleep(seconds):
        seen.append(seconds)

    monkeypatch.setattr(_sio, "sleep", sleep)
    return seen


def test_run_sends_what_was_given_and_nothing_else(local, client):
    local.default = lambda asked: Answer(200, RESULT)
    result = client.run("print(2)")
    assert (result.stdout, result.exit_code, result.success, result.files) == ("2\n", 0, True, [])
    asked = local.asked[0]
    assert (asked.method, asked.path, asked.json) == ("POST", "/v1/execute", {"code": "print(2)", "language": "python"})
    assert asked.headers["Authorization"] == "Bearer sk_secret"
    assert asked.headers["User-Agent"].startswith("agentsandbox-python/" + package.__version__)
    assert len(asked.headers["Idempotency-Key"]) == 32
    given = dict(
        env_vars={"A": "b"}, file_ids=["fil_1"], session_id="ses_1", timeout_ms=5, cpu_time_ms=4, memory_mb=64, cpus=0.5,
        processes=9, open_files=8, disk_mb=7, inodes=6, output_bytes=3, metadata={"k": "v"},
    )  # fmt: skip
    policy = package.NetworkPolicy(mode="allowlist", allow=["*.example.org"])
    client.execute.create("ä", language=package.Language.BASH, network=policy, idempotency_key="mine", **given)
    asked = local.asked[1]
    assert asked.headers["Idempotency-Key"] == "mine"
    network = {"mode": "allowlist", "allow": ["*.example.org"]}
    assert asked.json == {"code": "ä", "language": "bash", "network": network, **given}
    client.run("ls", "bash", "ses_2", network="off")
    assert local.asked[2].json == {"code": "ls", "language": "bash", "session_id": "ses_2", "network": {"mode": "off"}}


def test_an_unknown_language_is_refused_before_anything_is_sent(local, client):
    with pytest.raises(ValueError, match="must be 'python' or 'bash', not 'ruby'"):
        client.run("puts 1", language="ruby")
    assert local.asked == []


def test_a_limit_that_is_no_number_is_named(local, client):
    with pytest.raises(TypeError, match="timeout_ms must be a number of milliseconds, not '5'"):
        client.run("1", timeout_ms="5")
    assert local.asked == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, package.AuthenticationError), (403, package.ForbiddenError), (404, package.NotFoundError),
        (409, package.ConflictError), (413, package.TooLargeError), (422, package.ValidationError),
        (429, package.RateLimitError), (500, package.ServerError), (503, package.ServiceUnavailableError),
        (507, package.StorageFullError), (418, package.AgentSandboxError),
    ],
)  # fmt: skip
def test_an_exception_for_each_status(local, client, status, error):
    local.default = lambda asked: failure(status, "some_code", "A sentence.", Retry_After="7")
    with pytest.raises(error) as caught:
        client.with_options(max_retries=0).run("1")
    e = caught.value
    assert type(e) is error and isinstance(e, package.AgentSandboxError)
    assert (e.status_code, e.message, e.code, e.request_id, e.retry_after) == (status, "A sentence.", "some_code", "req_1", 7)
    assert [(d.field, d.message) for d in e.details] == [("f", "m")]
    assert str(e) == f"[{status}] A sentence." and e.response_body["error"]["code"] == "some_code"


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_refused_for_now_is_repeated_with_the_same_key(local, client, pauses, status):
    local.answers.extend([failure(status), failure(status, Retry_After="5"), Answer(200, RESULT)])
    assert (client.run("1")).stdout == "2\n"
    assert len({a.headers["Idempotency-Key"] for a in local.asked}) == 1 and len(local.asked) == 3
    assert pauses[0] < 1 and 5 <= pauses[1] < 6


def test_what_will_not_change_is_not_repeated(local, client):
    for status in (401, 404, 409, 422, 500, 507):
        local.asked.clear()
        local.answers.append(failure(status))
        with pytest.raises(package.AgentSandboxError):
            client.run("1")
        assert len(local.asked) == 1
    local.answers.append(failure(503, Retry_After="3600"))
    with pytest.raises(package.ServiceUnavailableError):
        client.run("1")
    assert len(local.asked) == 2, "an hour is for the caller to wait"


def test_a_broken_connection_is_repeated_with_the_same_key(local, client):
    local.answers.extend([Answer(cut=0), Answer(200, RESULT, cut=5), failure(409, Retry_After="1"), Answer(200, RESULT)])
    assert (client.run("1")).return_code == 0
    assert len({a.headers["Idempotency-Key"] for a in local.asked}) == 1 and len(local.asked) == 4


def test_attempts_end(local, client):
    local.default = lambda asked: Answer(cut=0)
    with pytest.raises(package.APIConnectionError, match="broke"):
        client.run("1")
    assert len(local.asked) == 4


def test_a_deletion_that_was_done_before_the_connection_broke(local, client):
    local.answers.extend([Answer(cut=0), failure(404)])
    client.sessions.delete("ses_1")
    local.answers.append(failure(404))
    with pytest.raises(package.NotFoundError):
        client.sessions.delete("ses_1")


def test_no_server(local):
    client = AgentSandbox("k", base_url="http://127.0.0.1:1", max_retries=1)
    with pytest.raises(package.APIConnectionError, match="AGENTSANDBOX_BASE_URL") as caught:
        client.run("1")
    import httpx

    assert isinstance(caught.value, httpx.TransportError) and caught.value.status_code is None
    client.close()
    client.close()


def test_answers_of_other_programs(local, client):
    for answer in (Answer(200, b"<html>"), Answer(200, {"stdout": ""}), Answer(302, b"", {"Location": "http://x.invalid/"})):
        local.answers.append(answer)
        with pytest.raises(package.InvalidResponseError):
            client.run("1")
    local.answers.append(Answer(400, b"<html>"))
    with pytest.raises(package.AgentSandboxError, match="400 Bad Request"):
        client.run("1")


def test_the_answer_has_time_to_come(local, client):
    local.default = lambda asked: Answer(201, {**SESSION, "timeout_ms": 500_000})
    client.sessions.create()
    limits, settings = client._transport.session_limits, client._transport.settings
    assert settings.run_timeout(None, limits.of("ses_1")) == 520
    assert settings.run_timeout(None, None) == settings.run_timeout(None, 100_000) == 120
    assert settings.run_timeout(3, 500_000) == 3
    assert settings.http_timeout(520).read == 520 and settings.http_timeout(520).pool is None


def test_options_of_a_copy(local, client):
    local.default = lambda asked: Answer(200, RESULT)
    other = client.with_options(api_key="sk_other", timeout=1, max_retries=0, headers={"X-Request-Id": "abc"})
    other.run("1")
    assert local.asked[0].headers["Authorization"] == "Bearer sk_other" and local.asked[0].headers["X-Request-Id"] == "abc"
    other.close()
    client.run("1")
    assert local.asked[1].headers["Authorization"] == "Bearer sk_secret" and "X-Request-Id" not in local.asked[1].headers
    assert "sk_" not in repr(client) + repr(other) + repr(other._transport.settings)


def test_the_log_has_no_secrets(local, client, caplog):
    local.default = lambda asked: Answer(200, RESULT)
    with caplog.at_level(logging.DEBUG):
        client.run("the_code()", env_vars={"TOKEN": "hush"})
        local.default = lambda asked: Answer(200, b"x")
        client.workspace.read("ses_1", "/workspace/private.txt")
    own = "\n".join(r.getMessage() for r in caplog.records if r.name == "agentsandbox")
    assert "POST /v1/execute: 200" in own and "GET /v1/sessions/ses_1/fs: 200" in own and "private" not in own
    assert not any(word in caplog.text for word in ("sk_secret", "the_code", "hush"))


def test_ids_lead_nowhere_else(local, client):
    local.default = lambda asked: Answer(200, SESSION)
    client.sessions.get("../files/a?b#c d")
    assert local.asked[0].path == "/v1/sessions/..%2Ffiles%2Fa%3Fb%23c%20d"
    with pytest.raises(ValueError, match="empty"):
        client.sessions.get("")


def test_sessions(local, client):
    local.default = lambda asked: Answer(201, {**SESSION, "expires_at": "2026-01-02T03:04:05Z", "network": {"mode": "off"}})
    session = client.sessions.create(
        {"A": "b"}, ["fil_1"], memory_mb=64, idle_timeout_ms=1, max_lifetime_ms=2, secrets=[{"name": "n"}], template="t"
    )
    assert session.session_id == "ses_1" and session.expires_at.year == 2026 and session.network.mode == "off"
    assert local.asked[0].json == {
        "env_vars": {"A": "b"}, "file_ids": ["fil_1"], "memory_mb": 64, "idle_timeout_ms": 1, "max_lifetime_ms": 2,
        "secrets": [{"name": "n"}], "template": "t",
    }  # fmt: skip
    client.sessions.create()
    assert local.asked[1].json == {}
    client.sessions.keepalive("ses_1", idle_timeout_ms=5)
    client.sessions.set_network("ses_1", "public")
    assert [(a.method, a.path, a.json) for a in local.asked[2:]] == [
        ("POST", "/v1/sessions/ses_1/keepalive", {"idle_timeout_ms": 5}),
        ("PUT", "/v1/sessions/ses_1/network", {"mode": "public"}),
    ]
    local.default = lambda asked: Answer(200, {"sessions": ["ses_1"], "items": [SESSION], "total": 1})
    page = client.sessions.list(limit=1, offset=2)
    assert page.sessions == ["ses_1"] and page.items[0].session_id == "ses_1"
    assert local.asked[-1].path == "/v1/sessions?limit=1&offset=2"
    local.default = lambda asked: Answer(204)
    client.sessions.inject_files("ses_1", ["fil_1"])
    assert local.asked[-1].json == {"file_ids": ["fil_1"]}


def test_a_context_deletes_its_session(local, client):
    local.default = lambda asked: Answer(201, SESSION) if asked.method == "POST" else Answer(204)
    with client.sessions.context(env_vars={"A": "b"}) as session:
        assert session.session_id == "ses_1"
    assert local.asked[-1].method == "DELETE"
    with pytest.raises(KeyError):
        with client.sessions.context():
            local.answers.append(failure(500))
            raise KeyError("what ended the block")
    assert local.asked[-1].method == "DELETE"
    with client.sessions.context():
        local.answers.append(failure(404))


def test_uploads_from_everywhere(local, client, tmp_path):
    local.default = lambda asked: Answer(201, FILE)
    path = tmp_path / "a.csv"
    path.write_bytes(b"abc")
    seen = []
    client.files.upload(str(path), progress=lambda done, total: seen.append((done, total)))
    client.files.upload(path, session_id="ses_1")
    with open(path, "rb") as file:
        file.read(1)
        client.files.upload(file)
    client.files.upload(b"abc")
    client.files.upload(io.BytesIO(b"abc"), "x/b.png", "text/x-own")
    client.files.upload((part for part in (b"a", b"bc")), filename='q"ü\n.txt')
    bodies = [a.body for a in local.asked]
    assert [b.split(b"\r\n\r\n")[1].rsplit(b"\r\n--")[0] for b in bodies] == [b"abc", b"abc", b"bc", b"abc", b"abc", b"abc"]
    heads = [b.split(b"\r\n\r\n")[0].decode() for b in bodies]
    assert all('filename="a.csv"\r\nContent-Type: text/csv' in head for head in heads[:3])
    assert 'filename="file"\r\nContent-Type: application/octet-stream' in heads[3]
    assert 'filename="b.png"\r\nContent-Type: text/x-own' in heads[4]
    assert "filename*=UTF-8''q%22%C3%BC%0A.txt\r\n" in heads[5]
    assert seen == [(3, 3)] and local.asked[1].path == "/v1/files?session_id=ses_1"
    assert [int(a.headers["Content-Length"]) for a in local.asked[:5]] == [len(b) for b in bodies[:5]]
    assert local.asked[5].headers["Transfer-Encoding"] == "chunked"
    with pytest.raises(FileNotFoundError):
        client.files.upload("/nonexistent")
    with pytest.raises(TypeError, match="rb"):
        client.files.upload(io.StringIO("text"))
    assert len(local.asked) == 6


def test_uploads_say_where_files_belong(local, client, tmp_path):
    local.default = lambda asked: Answer(201, {**FILE, "filename": "pkg/a.py", "path": "/workspace/pkg/a.py"})
    answer = client.files.upload(b"abc", path="pkg/größe.py")
    head, _, rest = local.asked[0].body.partition(b'name="file"')
    assert 'name="path"\r\n\r\npkg/größe.py\r\n'.encode() in head and "größe.py".encode() in rest
    assert answer.path == "/workspace/pkg/a.py"
    for name in ("pkg/a.py", "pkg/sub/b.py", "pkg/.git/x", "pkg/__pycache__/x", "pkg/env/pyvenv.cfg", "pkg/env/lib/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "pkg" / "link").symlink_to("/etc/passwd")
    for place, want in ((None, ["pkg/a.py", "pkg/sub/b.py"]), (".", ["a.py", "sub/b.py"]), ("x/y", ["x/y/a.py", "x/y/sub/b.py"])):
        local.asked.clear()
        client.files.upload_directory(tmp_path / "pkg", place, session_id="ses_1")
        assert [a.body.split(b"\r\n\r\n")[1].split(b"\r\n")[0].decode() for a in local.asked] == want
    with pytest.raises(NotADirectoryError):
        client.files.upload_directory(tmp_path / "pkg" / "a.py")


def test_an_upload_is_the_same_when_repeated(local, client, tmp_path):
    big = os.urandom(600_000)
    path = tmp_path / "big"
    path.write_bytes(big)
    for source in (path, big, io.BytesIO(big)):
        local.asked.clear()
        local.answers.extend([failure(503), Answer(cut=0), Answer(201, FILE)])
        assert (client.files.upload(source)).file_id == "fil_1"
        first, second, third = local.asked
        assert first.body == second.body == third.body and big in first.body
        assert first.headers["Idempotency-Key"] == third.headers["Idempotency-Key"]
    local.asked.clear()
    local.answers.append(failure(503))
    with pytest.raises(package.ServiceUnavailableError):
        client.files.upload(part for part in (b"a", b"b"))
    assert len(local.asked) == 1, "an iterator cannot be read twice"


def test_a_download_resumes_where_it_broke(local, client, tmp_path):
    data = os.urandom(500_000)

    def serve(asked):
        start = int(asked.headers["Range"][6:-1]) if "Range" in asked.headers else 0
        return Answer(206 if start else 200, data[start:], cut=None if len(local.asked) > 2 else 200_000)

    local.default = serve
    seen = []
    path = client.files.download_to("fil_1", tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "out" and path.read_bytes() == data
    assert len(local.asked) == 3 and "Range" in local.asked[2].headers
    assert seen[-1] == (500_000, 500_000) and {total for _, total in seen} == {500_000}
    assert os.listdir(tmp_path) == ["out"]


def test_a_download_that_fails_leaves_what_was_there(local, client, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    local.default = lambda asked: Answer(200, b"new" * 100, cut=3)
    with pytest.raises(package.APIConnectionError):
        client.files.download_to("fil_1", path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]
    local.default = lambda asked: failure(404)
    with pytest.raises(package.NotFoundError):
        client.files.download_to("fil_1", path)
    with pytest.raises(IsADirectoryError):
        client.files.download_to("fil_1", tmp_path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


def test_timeout_is_refused_where_it_could_mean_two_things(local, client):
    local.default = lambda asked: Answer(200, RESULT)

    def enter(**given):
        with client.sessions.context(**given):
            pass

    for call in (
        lambda **given: client.run("print(2)", **given),
        lambda **given: client.execute.create("print(2)", **given),
        client.sessions.create,
        enter,
    ):
        for seconds in (5, 0, 0.5):
            with pytest.raises(TypeError, match=r"timeout_ms= .*request_timeout= ") as caught:
                call(timeout=seconds)
            assert "timeout=5 elsewhere is timeout_ms=5000" in str(caught.value)
    assert local.asked == []  # nothing was sent
    client.run("print(2)", timeout_ms=5000, request_timeout=30)
    assert local.asked[-1].json["timeout_ms"] == 5000 and "request_timeout" not in local.asked[-1].json
    client.sessions.create(request_timeout=30)
    assert local.asked[-1].json == {}


def test_a_run_is_waited_for_as_long_as_was_asked(local, client):
    import threading

    held = threading.Event()
    local.default = lambda asked: held.wait(60) and Answer(200, RESULT)
    patient = client.with_options(max_retries=0)
    try:
        with pytest.raises(package.APITimeoutError, match=r"did not answer within 0.2 s") as caught:
            patient.run("print(2)", request_timeout=0.2)
        assert "request_timeout" in str(caught.value) and caught.value.reason.endswith("within 0.2 s.")
    finally:
        held.set()


def test_what_is_for_this_machine_does_not_go_to_a_proxy(local, monkeypatch):
    local.default = lambda asked: Answer(200, RESULT)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for url in (local.url, local.url.replace("127.0.0.1", "localhost")):
        with AgentSandbox("sk_secret", base_url=url, max_retries=0) as direct:
            assert (direct.run("print(2)")).stdout == "2\n"
    with AgentSandbox("sk_secret", base_url="http://service.example", max_retries=0) as proxied:
        with pytest.raises(package.APIConnectionError):
            proxied.run("print(2)")


def test_without_a_base_url_nothing_leaves_this_machine(monkeypatch):
    for variable in ("AGENTSANDBOX_BASE_URL", "ALPHAGENT_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    import alphagent

    assert "base_url='http://127.0.0.1:8000'" in repr(AgentSandbox("sk_secret"))
    assert "base_url='http://127.0.0.1:8000'" in repr(alphagent.Sandbox("sk_secret")._client)


def test_ports(local, client):
    port = {"port": 8000, "url": "http://127.0.0.1:1/p/token/", "expires_at": "2026-01-02T03:04:05Z"}
    local.default = lambda asked: Answer(201, port)
    opened = client.ports.open("ses_1", 8000, expires_in_ms=60_000, idempotency_key="mine")
    assert (opened.port, opened.url, opened.expires_at.year) == (8000, port["url"], 2026)
    assert "token" not in repr(opened)
    asked = local.asked[-1]
    assert (asked.method, asked.path, asked.json) == ("POST", "/v1/sessions/ses_1/ports", {"port": 8000, "expires_in_ms": 60_000})
    assert asked.headers["Idempotency-Key"] == "mine"
    local.default = lambda asked: Answer(200, {"ports": [port]})
    assert [p.port for p in (client.ports.list("ses_1")).ports] == [8000]
    local.default = lambda asked: Answer(204)
    client.ports.close("ses_1", 8000)
    assert (local.asked[-1].method, local.asked[-1].path) == ("DELETE", "/v1/sessions/ses_1/ports/8000")


def test_keys(local, client):
    from datetime import datetime, timezone

    key = {"id": "key_1", "name": "ci", "hint": "asbx_abcd", "scopes": ["read"], "created_at": "2026-01-02T03:04:05Z"}
    local.default = lambda asked: Answer(201, {**key, "key_value": "asbx_secret"})
    made = client.keys.create("ci", scopes=["read"], expires_at=datetime(2030, 1, 2, tzinfo=timezone.utc), tenant="t")
    assert (made.id, made.key_value) == ("key_1", "asbx_secret") and "secret" not in repr(made)
    assert local.asked[-1].json == {"name": "ci", "scopes": ["read"], "expires_at": "2030-01-02T00:00:00+00:00", "tenant": "t"}
    with pytest.raises(ValueError, match="time zone"):
        client.keys.create("ci", expires_at=datetime(2030, 1, 2))
    local.default = lambda asked: Answer(200, {"keys": [{**key, "revoked_at": None}], "total": 1})
    assert [k.id for k in client.keys.list_all()] == ["key_1"]
    assert (client.keys.list(limit=1, cursor="c")).keys[0].revoked_at is None
    assert local.asked[-1].path == "/v1/api-keys?limit=1&offset=0&cursor=c"
    local.default = lambda asked: Answer(204)
    client.keys.revoke("key_1")
    assert (local.asked[-1].method, local.asked[-1].path) == ("DELETE", "/v1/api-keys/key_1")


def test_the_network_report(local, client):
    entry = {"at": "2026-01-02T03:04:05Z", "count": 2, "kind": "dns", "name": "example.org", "verdict": "refused", "reason": "off", "rule": ""}
    report = {"policy": {"mode": "off"}, "device": True, "connections": 1, "refusals": {"off": 2}, "names": {"example.org": 2}, "log": [entry]}
    local.default = lambda asked: Answer(200, report)
    got = client.sessions.get_network("ses_1")
    assert (got.policy.mode, got.device, got.refusals, got.log[0].name, got.log[0].count) == ("off", True, {"off": 2}, "example.org", 2)
    assert (local.asked[-1].method, local.asked[-1].path) == ("GET", "/v1/sessions/ses_1/network")


def test_lists_go_by_cursor_while_they_are_emptied(local, client):
    def serve(asked):
        query = dict(parse_qsl(urlsplit(asked.path).query))
        before = int(query.get("cursor", len(items)))
        page = [item for item in reversed(items) if item["n"] < before][: int(query["limit"])]
        more = bool(page) and any(item["n"] < page[-1]["n"] for item in items)
        cursor = str(page[-1]["n"]) if more else ""
        return Answer(200, {name: page, "total": len(items), "limit": 2, "offset": 0, "next_cursor": cursor})

    local.default = serve
    for name, list_all, more in (
        ("files", client.files.list_all, {**FILE, "file_id": "f"}),
        ("items", client.sessions.list_all, {"session_id": "s"}),
        ("executions", client.executions.list_all, {"id": "e", "endpoint": "", "method": "", "created_at": FILE["created_at"]}),
    ):
        key = next(field for field in ("file_id", "session_id", "id") if field in more)
        items = [{**more, "n": n, key: str(n)} for n in range(7)]
        got = []
        for item in list_all(limit=2):
            got.append(getattr(item, "execution_id" if key == "id" else key))
            items = [i for i in items if i[key] != got[-1]]  # deleted as it is shown
        assert got == [str(n) for n in reversed(range(7))], name
    page = client.files.list(2, cursor="5")
    assert page.next_cursor == "" and local.asked[-1].path == "/v1/files?limit=2&offset=0&cursor=5"


def test_lists_go_on_to_the_end(local, client):
    def serve(asked):
        offset = int(asked.path.split("offset=")[1])
        page = [{**FILE, "file_id": f"fil_{n}"} for n in range(offset, min(offset + 2, 5))]
        return Answer(200, {"files": page, "total": 5, "limit": 2, "offset": offset})

    local.default = serve
    assert [f.file_id for f in client.files.list_all(limit=2)] == [f"fil_{n}" for n in range(5)]
    assert len(local.asked) == 3
    log = {"id": "exe_1", "endpoint": "/v1/execute", "method": "POST", "created_at": "2026-01-02T03:04:05Z"}
    local.default = lambda asked: Answer(200, {"executions": [log], "total": 1})
    found = [e for e in client.executions.list_all(status="failed", session_id="ses_1")]
    assert [e.execution_id for e in found] == ["exe_1"]
    assert local.asked[-1].path == "/v1/executions?limit=50&offset=0&session_id=ses_1&status=failed"
    local.default = lambda asked: Answer(200, {**log, "return_code": 3, "stdout": "x"})
    got = client.executions.get("exe_1")
    assert (got.exit_code, got.success, got.stdout) == (3, False, "x")
    local.default = lambda asked: Answer(200, b"\xff\x00")
    assert client.executions.stdout("exe_1") == client.executions.stderr("exe_1") == b"\xff\x00"


def test_files_of_a_session_by_path(local, client, tmp_path):
    info = {"path": "/w", "kind": "file", "size_bytes": 3, "mode": "0644", "modified_at": "2026-01-02T03:04:05Z"}
    local.default = lambda asked: Answer(200, info)
    assert (client.workspace.write("ses_1", "a b&c", io.BytesIO(b"abc"))).kind == "file"
    assert (client.workspace.stat("ses_1", b"/\xff")).size_bytes == 3
    assert [(a.method, a.path, a.body) for a in local.asked] == [
        ("PUT", "/v1/sessions/ses_1/fs?path=%2Fworkspace%2Fa%20b%26c", b"abc"),
        ("GET", "/v1/sessions/ses_1/fs/stat?path=%2F%FF", b""),
    ]
    local.default = lambda asked: Answer(200, b"abc")
    assert client.workspace.read("ses_1", "/x") == b"abc"
    assert (client.workspace.read_to("ses_1", "/x", tmp_path / "x")).read_bytes() == b"abc"
    local.answers.extend(
        [
            Answer(200, {"path": "/", "entries": [info], "next": "\ufffd", "next_base64": "/w=="}),
            Answer(200, {"path": "/", "entries": [info], "next": ""}),
        ]
    )
    assert len([e for e in client.workspace.list_all("ses_1", "/", limit=1)]) == 2
    assert local.asked[-1].path == "/v1/sessions/ses_1/fs/list?path=%2F&after=%FF&limit=1"
    local.default = lambda asked: Answer(204)
    client.workspace.delete("ses_1", "/x")
    assert local.asked[-1].method == "DELETE"
