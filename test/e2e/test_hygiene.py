"""Repeated requests, expiry, retention and the audit log, on the real binary."""

import concurrent.futures
import json
import signal
import sqlite3
import subprocess
import uuid
from datetime import datetime, timedelta

import httpx
import pytest
from server import BIN, Server, eventually, refused, run


@pytest.fixture
def start(tmp_path):
    """Starts a server with flags, which ends with the test, however that ends."""
    started = []

    def start_server(*flags: str) -> Server:
        started.append(Server(tmp_path / "data", *flags))
        return started[-1].start()

    yield start_server
    for s in started:
        s.stop()


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def replayed(r: httpx.Response) -> bool:
    return r.headers.get("Idempotency-Replayed") == "true"


def executions(http: httpx.Client, **query) -> int:
    return http.get("/v1/executions", params=query).json()["total"]


def test_one_effect_and_one_answer(http):
    before = executions(http)
    body = {"code": "import uuid, sys; print(uuid.uuid4()); open('out.txt', 'w').write('x'); sys.exit(3)", "metadata": {"job": "7"}}
    key = str(uuid.uuid4())
    first = http.post("/v1/execute", json=body, headers=keyed(key))
    again = http.post("/v1/execute", json=body, headers=keyed(key))
    assert first.status_code == again.status_code == 200 and first.content == again.content
    assert not replayed(first) and replayed(again)
    assert first.headers["X-Execution-Id"] == again.headers["X-Execution-Id"] == first.json()["execution_id"]
    assert executions(http) == before + 1
    assert http.get(f"/v1/executions/{first.json()['execution_id']}").json()["metadata"] == {"job": "7"}

    error = refused(http.post("/v1/execute", json={"code": "print(2)"}, headers=keyed(key)), 422, "invalid_request")
    assert error["details"][0]["field"] == "Idempotency-Key"
    refused(http.post("/v1/sessions", json=body, headers=keyed(key)), 422)
    refused(http.post("/v1/execute", json=body, headers=keyed("x" * 256)), 422)


def test_at_once(http):
    body = {"code": "import time, uuid; time.sleep(1); print(uuid.uuid4())"}
    key = str(uuid.uuid4())
    before = executions(http)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/execute", json=body, headers=keyed(key)), range(6)))
    assert [a.status_code for a in answers] == [200] * 6
    assert len({a.content for a in answers}) == 1
    assert sum(replayed(a) for a in answers) == 5
    assert executions(http) == before + 1


def test_every_post(server, http):
    def twice(path, **kw):
        key = str(uuid.uuid4())
        first, again = (http.post(path, headers=keyed(key), **kw) for _ in range(2))
        assert first.status_code < 300, first.text
        assert (first.status_code, first.content) == (again.status_code, again.content) and replayed(again), path
        return first

    sid = twice("/v1/sessions", json={}).json()["session_id"]
    assert http.get("/v1/sessions").json()["sessions"].count(sid) == 1
    before = http.get("/v1/files").json()["total"]
    # httpx chooses a new boundary each time: the form differs, the file does not.
    fid = twice("/v1/files", files={"file": ("a.bin", b"x" * 3_000_000)}).json()["file_id"]
    assert http.get("/v1/files").json()["total"] == before + 1
    twice(f"/v1/sessions/{sid}/files", json={"file_ids": [fid]})
    twice(f"/v1/sessions/{sid}/keepalive")
    key = str(uuid.uuid4())
    assert http.post("/v1/files", files={"file": ("a.bin", b"1")}, headers=keyed(key)).status_code == 201
    refused(http.post("/v1/files", files={"file": ("a.bin", b"2")}, headers=keyed(key)), 422)

    # The value of a key is shown once, and stored nowhere.
    made = http.post("/v1/api-keys", json={"name": "once"}, headers=keyed(key + "k"))
    error = refused(http.post("/v1/api-keys", json={"name": "once"}, headers=keyed(key + "k")), 409, "conflict")
    assert made.json()["id"] in error["message"]
    value = made.json()["key_value"].encode()
    for name in ("agentsandbox.db", "agentsandbox.db-wal"):
        assert value not in (server.data / name).read_bytes()

    # A key belongs to who sends it.
    with server.http(server.new_key("other")) as other:
        assert not replayed(other.post("/v1/files", files={"file": ("a.bin", b"2")}, headers=keyed(key)))
    assert http.delete(f"/v1/sessions/{sid}").status_code == 204


def test_a_refusal_is_the_answer_too(http):
    key = str(uuid.uuid4())
    first, again = (http.post("/v1/execute", json={"code": "1", "session_id": "ses_none"}, headers=keyed(key)) for _ in range(2))
    refused(first, 404)
    # Its body names the first request, in whose log line the reason is.
    assert (again.status_code, again.content) == (404, first.content) and replayed(again)


def test_after_kill_9(start):
    """The run that was under way is never run again: its record is the answer."""
    s = start()
    body = {"code": "import time; print('begun', flush=True); time.sleep(5)"}
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = http.post("/v1/execute", json={"code": "import uuid; print(uuid.uuid4())"}, headers=keyed("done"))
        sid = http.post("/v1/sessions", json={}, headers=keyed("session")).json()["session_id"]
        cut = pool.submit(http.post, "/v1/execute", json=body, headers=keyed("cut"))
        assert eventually(lambda: executions(http, status="running") == 1)
        lost = http.get("/v1/executions", params={"status": "running"}).json()["executions"][0]["id"]
        s.stop(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            cut.result()
    s.start()
    with s.http() as http:
        again = http.post("/v1/execute", json={"code": "import uuid; print(uuid.uuid4())"}, headers=keyed("done"))
        assert again.content == done.content and replayed(again)
        assert http.post("/v1/sessions", json={}, headers=keyed("session")).json()["session_id"] == sid
        for _ in range(2):
            r = http.post("/v1/execute", json=body, headers=keyed("cut"))
            assert r.status_code == 200 and replayed(r) and r.json()["execution_id"] == lost
            assert r.json()["status"] != "running"
        assert executions(http) == 2
    assert s.stop() == 0


def test_idle_sessions_expire(start):
    # Of each session the next request comes at once: a busy machine must not take its idle time for that.
    s = start("--session-idle-ms", "4500", "--max-session-idle-ms", "60000")
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(1) as pool:
        refused(http.post("/v1/sessions", json={"idle_timeout_ms": 60001}), 422, "invalid_request")
        old = http.post("/v1/sessions", json={"max_lifetime_ms": 4000}).json()["session_id"]
        ending = pool.submit(run, http, "import time; time.sleep(60)", session_id=old)
        kept = http.post("/v1/sessions", json={}).json()["session_id"]
        r = http.post(f"/v1/sessions/{kept}/keepalive", json={"idle_timeout_ms": 60000})
        assert r.status_code == 200 and r.json()["idle_timeout_ms"] == 60000
        idle = http.post("/v1/sessions", json={}).json()
        created, expires = (datetime.fromisoformat(idle[f]) for f in ("created_at", "expires_at"))
        assert expires - created == timedelta(milliseconds=4500) and idle["idle_timeout_ms"] == 4500
        busy = http.post("/v1/sessions", json={}).json()["session_id"]
        assert run(http, "import time; time.sleep(8); print('alive')", session_id=busy)["stdout"] == "alive\n"
        error = refused(http.get(f"/v1/sessions/{idle['session_id']}"), 404, "session_not_found")
        assert "expired at 20" in error["message"] and "4.5s" in error["message"]
        assert http.get(f"/v1/sessions/{kept}").json()["status"] == "live"
        ended = ending.result()
        assert ended["status"] == "cancelled"
        assert "4s" in refused(http.get(f"/v1/sessions/{old}"), 404)["message"]
        assert eventually(lambda: http.get(f"/v1/sessions/{busy}").status_code == 404)
        assert http.get("/v1/sessions").json()["sessions"] == [kept]

        def expired() -> set[str]:
            rows = http.get("/v1/audit", params={"limit": 100}).json()["entries"]
            return {e["object_id"] for e in rows if e["action"] == "expireSession" and e["key_id"] is None}

        assert eventually(lambda: expired() == {old, idle["session_id"], busy}), expired()
    assert s.stop() == 0, s.log_text()
    assert s.sandbox_pids() == []


def test_retention(start):
    s = start("--file-retention-ms", "3000", "--record-retention-ms", "6000")

    def blobs() -> int:
        return sum(p.is_file() for p in (s.data / "blobs").rglob("*"))

    with s.http() as http:
        x = run(http, "open('made.txt', 'w').write('x')")
        fid = http.post("/v1/files", files={"file": ("up.txt", b"u")}).json()["file_id"]
        assert blobs() == 2
        # It takes longer than the file would live.
        r = run(http, "import time; time.sleep(4); print(open('up.txt').read())", file_ids=[fid])
        assert r["stdout"] == "u\n"
        assert eventually(lambda: blobs() == 0)
        assert http.get("/v1/files").json()["total"] == 0
        refused(http.get(f"/v1/files/{fid}"), 404, "file_not_found")
        refused(http.get(f"/v1/files/{fid}/metadata"), 404, "file_not_found")
        assert eventually(lambda: http.get(f"/v1/executions/{x['execution_id']}").status_code == 404)
        assert eventually(lambda: executions(http) == 0)
    assert s.stop() == 0


def test_file_metadata_and_head(http):
    made = http.post("/v1/files", files={"file": ("a.csv", b"1,2\n", "text/csv")}).json()
    assert http.get(f"/v1/files/{made['file_id']}/metadata").json() == made
    head = http.head(f"/v1/files/{made['file_id']}")
    assert (head.status_code, head.content, head.headers["Content-Length"], head.headers["ETag"]) == (200, b"", "4", f'"{made["sha256"]}"')


def test_metadata_filters(http):
    mark = uuid.uuid4().hex
    run(http, "1", metadata={"mark": mark, "n": "1"})
    run(http, "2", metadata={"mark": mark, "n": "2"})
    sid = http.post("/v1/sessions", json={"metadata": {"mark": mark}}).json()["session_id"]
    assert executions(http, **{"metadata[mark]": mark}) == 2
    assert executions(http, **{"metadata[mark]": mark, "metadata[n]": "2"}) == 1
    assert http.get("/v1/sessions", params={"metadata[mark]": mark}).json()["sessions"] == [sid]
    assert http.get("/v1/sessions", params={"metadata[mark]": "no"}).json()["sessions"] == []
    refused(http.post("/v1/execute", json={"code": "1", "metadata": {"": "x"}}), 422)


def audit(s: Server, *args: str) -> tuple[int, dict, str]:
    r = subprocess.run([BIN, "audit", "verify", "--data-dir", str(s.data), "--json", *args], capture_output=True, text=True)
    return r.returncode, json.loads(r.stdout), r.stderr


def test_audit(start):
    s = start()
    secret = "the-secret-" + uuid.uuid4().hex
    with s.http() as http:
        run(http, f"print('{secret}')", env_vars={"TOKEN": secret})
        r = http.post("/v1/execute", json={"code": "1"}, headers={"X-Request-Id": "mine-1"})
        refused(http.delete("/v1/files/fil_none"), 404)
        http.get("/v1/files")
        entries = http.get("/v1/audit").json()["entries"]
        assert [(e["action"], e["outcome"]) for e in entries] == [
            ("deleteFile", "file_not_found"), ("execute", "ok"), ("execute", "ok"), ("bootstrapKey", "ok")]
        assert entries[1]["request_id"] == "mine-1" and entries[1]["object_id"] == r.json()["execution_id"]
        assert entries[1]["remote"].startswith("127.0.0.1:") and entries[1]["key_id"] == entries[3]["object_id"]
        assert secret not in json.dumps(entries)
        with s.http(s.new_key("other")) as other:
            refused(other.get("/v1/audit"), 403, "forbidden")
    code, early, _ = audit(s)  # beside the running server
    assert (code, early["ok"], early["rows"]) == (0, True, 5)
    s.stop(signal.SIGKILL)
    s.start()
    with s.http() as http:
        run(http, "1")
        assert http.get("/v1/audit").json()["total"] == 6
        table = subprocess.run([BIN, "audit", "list", "--server", s.url, "--api-key", s.key], capture_output=True, text=True)
        assert table.returncode == 0 and "bootstrapKey" in table.stdout
    assert s.stop() == 0
    code, late, _ = audit(s, "--head", early["head"])
    assert (code, late["rows"]) == (0, 6)

    whole = (s.data / "agentsandbox.db").read_bytes()
    for statement, row in {
        "UPDATE audit SET outcome = 'ok' WHERE seq = 4": 4,
        "UPDATE audit SET key_id = 'key_x' WHERE seq = 2": 2,
        "DELETE FROM audit WHERE seq = 3": 3,
    }.items():
        (s.data / "agentsandbox.db").write_bytes(whole)
        with sqlite3.connect(s.data / "agentsandbox.db") as db:
            db.execute(statement)
        db.close()
        code, report, err = audit(s)
        assert (code, report["ok"], report["broken"]) == (1, False, row), report
        assert f"row {row} of the audit log" in err
    # What is cut off at the end leaves no gap: the head, kept elsewhere, shows it.
    (s.data / "agentsandbox.db").write_bytes(whole)
    with sqlite3.connect(s.data / "agentsandbox.db") as db:
        db.execute("DELETE FROM audit WHERE seq = 6")
    db.close()
    assert audit(s)[0] == 0
    code, report, err = audit(s, "--head", late["head"])
    assert code == 1 and "cut off" in err


def test_command_line_repeats_safely(server, tmp_path):
    source = tmp_path / "x.py"
    source.write_text("import uuid; print(uuid.uuid4())")
    command = [BIN, "run", str(source), "--idempotency-key", uuid.uuid4().hex, "--metadata", "job=1", "--server", server.url, "--api-key", server.key]
    first, again = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr
    assert first.stdout == again.stdout != ""
