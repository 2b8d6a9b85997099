"""Work that must not be lost or done twice when a server fails, restarts or is copied."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from server import BIN, Server, eventually, run

QUICK = ("--pool-size=1", "--pool-data-size=0", "--shutdown-grace-ms=500")


@pytest.fixture
def keeper(tmp_path):
    """A server whose sessions outlive it; at the end nothing of it is left."""
    s = Server(tmp_path / "data", *QUICK, on_shutdown="keep").start()
    yield s
    s.stop()
    s.flags = (*s.flags, "--on-shutdown=destroy")
    s.start().stop()
    assert eventually(lambda: not s.sandbox_pids() and not s.cgroups()), "something is left on the host"


def new_session(server: Server, key: str | None = None) -> str:
    with server.http(key) as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        run(http, "echo state > kept", language="bash", session_id=session)
        return session


def alive(server: Server, session: str, key: str | None = None) -> bool:
    with server.http(key) as http:
        r = http.post("/v1/execute", json={"code": "cat kept", "language": "bash", "session_id": session})
        return r.status_code == 200 and r.json()["stdout"] == "state\n"


def failing_start(server: Server) -> str:
    """Starts the server, which must end by itself, and returns what it logged."""
    before = len(server.log.read_text())
    server.launch()
    assert server.process.wait(60) == 1
    return server.log.read_text()[before:]


def test_a_start_with_a_revoked_key_loses_no_session(keeper):
    other = keeper.new_key("default", "sandbox", "admin")
    session = new_session(keeper)
    with keeper.http(other) as http:
        (first,) = [k["id"] for k in http.get("/v1/api-keys").json()["keys"] if k["name"] != "key of default"]
        assert http.delete(f"/v1/api-keys/{first}").status_code in (200, 204)
    keeper.stop()
    for _ in range(2):
        log = failing_start(keeper)
        assert "revoked" in log and "died" not in log
    keeper.env["AGENTSANDBOX_BOOTSTRAP_KEY"] = keeper.key = other
    keeper.start()
    assert alive(keeper, session)


def test_a_start_that_is_stopped_while_it_recovers_loses_no_session(keeper):
    sessions = [new_session(keeper) for _ in range(3)]
    keeper.stop()
    for _ in range(3):
        seen = len(keeper.log.read_text())
        keeper.launch()
        assert eventually(lambda: len(keeper.log.read_text()) > seen or keeper.process.poll() is not None, 60)
        keeper.stop(signal.SIGTERM)
    keeper.start()
    assert all(alive(keeper, s) for s in sessions)


COUNTED = "echo >> runs; until test -e go; do sleep 0.02; done; cat go"


def test_a_key_runs_the_code_once_across_a_restart(keeper):
    with keeper.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
    once = {"json": {"code": COUNTED, "language": "bash", "session_id": session}, "headers": {"Idempotency-Key": "once"}}
    answers: list[httpx.Response] = []

    def ask():
        with keeper.http() as http:
            answers.append(http.post("/v1/execute", **once))

    first = threading.Thread(target=ask)
    first.start()
    with keeper.http() as http:
        assert eventually(lambda: http.get(f"/v1/sessions/{session}/fs/stat", params={"path": "/workspace/runs"}).status_code == 200)
    keeper.stop()
    first.join()
    assert answers[0].status_code == 503 and "exe_" in answers[0].text, answers[0].text
    keeper.start()
    again = [threading.Thread(target=ask) for _ in range(2)]
    for t in again:
        t.start()
    with keeper.http() as http:
        assert run(http, "cat runs; echo gone > go", language="bash", session_id=session)["stdout"] == "\n"
        for t in again:
            t.join()
        for r in [*answers[1:], http.post("/v1/execute", **once)]:
            assert r.status_code == 200 and r.headers["Idempotency-Replayed"] == "true", r.text
            assert (r.json()["stdout"], r.json()["execution_id"]) == ("gone\n", re.search(r"exe_\w+", answers[0].text)[0])
        assert run(http, "wc -l < runs", language="bash", session_id=session)["stdout"].strip() == "1"


def copied(server: Server, to: Path) -> Server:
    subprocess.run(["cp", "-a", str(server.data), str(to)], check=True)
    return Server(to, *QUICK, key=server.key, on_shutdown="keep")


def wait_fully_stopped(server: Server) -> None:
    server.stop()
    server.flags = (*server.flags, "--on-shutdown=destroy")
    server.start().stop()
    assert eventually(lambda: not server.sandbox_pids() and not server.cgroups()), "something is left on the host"
    assert not Path("/run", server.group).exists()


def test_a_copy_of_the_data_directory_touches_nothing_of_the_original(keeper, tmp_path):
    session = new_session(keeper)
    begun = threading.Thread(target=lambda: keeper.http().post("/v1/execute", json={"code": COUNTED, "language": "bash", "session_id": session}))
    begun.start()
    with keeper.http() as http:
        assert eventually(lambda: http.get(f"/v1/sessions/{session}/fs/stat", params={"path": "/workspace/runs"}).status_code == 200)
    before = keeper.sandboxes()
    copy = copied(keeper, tmp_path / "copy")
    try:
        copy.start()
        assert "is a copy" in copy.log.read_text()
        with copy.http() as http:
            # It knows of the session, and why it has none.
            gone = http.get(f"/v1/sessions/{session}")
            assert gone.status_code == 404 and "copy" in gone.text, gone.text
            (x,) = [e for e in http.get("/v1/executions").json()["executions"] if e["status"] == "sandbox_lost"]
            assert "copy" in x["error"], x
            assert run(http, "print(1)")["stdout"] == "1\n"
        # Both start again, beside each other.
        assert alive(keeper, session) and before <= keeper.sandboxes()
        own = new_session(copy)
        keeper.stop()
        begun.join()
        keeper.start()
        copy.stop()
        copy.start()
        assert alive(keeper, session) and alive(copy, own)
        with keeper.http() as http:
            run(http, "echo gone > go", language="bash", session_id=session)
            assert eventually(lambda: all(e["status"] == "succeeded" for e in http.get("/v1/executions").json()["executions"]))
    finally:
        wait_fully_stopped(copy)
    assert alive(keeper, session)


def test_a_backup_that_is_restored_over_a_copy(keeper, tmp_path):
    """rsync of the original into the directory of a stopped copy, which keeps its own sandboxes apart from the original's."""
    session = new_session(keeper)
    copy = copied(keeper, tmp_path / "copy")
    try:
        copy.start()
        copy.stop()
        subprocess.run(["cp", "-a", str(keeper.data) + "/.", str(copy.data)], check=True)
        copy.start()
        with copy.http() as http:
            assert "copy" in http.get(f"/v1/sessions/{session}").text
        assert alive(keeper, session)
    finally:
        wait_fully_stopped(copy)
    assert alive(keeper, session)


def test_a_renamed_data_directory_keeps_its_sandboxes(keeper, tmp_path):
    session = new_session(keeper)
    keeper.stop()
    keeper.data = keeper.data.rename(tmp_path / "moved")
    keeper.start()
    assert alive(keeper, session)


def test_a_restored_backup_leaves_the_sandboxes_of_what_it_replaces(keeper, tmp_path):
    session = new_session(keeper)
    keeper.stop()
    subprocess.run(["cp", "-a", str(keeper.data), str(tmp_path / "backup")], check=True)
    original = keeper.data.rename(tmp_path / "set-aside")
    restored = Server(keeper.data, *QUICK, key=keeper.key, on_shutdown="keep")
    (tmp_path / "backup").rename(restored.data)
    try:
        restored.start()
        with restored.http() as http:
            assert "copy" in http.get(f"/v1/sessions/{session}").text
    finally:
        wait_fully_stopped(restored)
    keeper.data = original
    keeper.start()
    assert alive(keeper, session)


def blob_of(server: Server, file_id: str) -> Path:
    (path,) = (server.data / "blobs").rglob(file_id)
    return path


@pytest.mark.parametrize("restarted", [False, True])
def test_damaged_contents_are_an_error_that_says_so(own_server, restarted):
    content = b"0123456789" * 30_000
    damages = {
        "cut": lambda p: os.truncate(p, 1000),
        "empty": lambda p: os.truncate(p, 0),
        "longer": lambda p: os.truncate(p, len(content) + 1),
        "flipped": lambda p: p.write_bytes(content[:150_000] + b"x" + content[150_001:]),
        "missing": lambda p: p.unlink(),
    }
    with own_server.http() as http:
        stored = {}
        for name in damages:
            f = http.post("/v1/files", files={"file": (f"{name}.bin", content)}).json()
            stored[name] = (f["file_id"], http.get(f"/v1/files/{f['file_id']}").headers["ETag"])
    if restarted:
        own_server.stop()
        own_server.start()
    with own_server.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        for name, damage in damages.items():
            file_id, etag = stored[name]
            damage(blob_of(own_server, file_id))
            for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=-5"}, {"If-None-Match": etag}, {"If-None-Match": etag, "Range": "bytes=0-9"}):
                r = http.get(f"/v1/files/{file_id}", headers=headers)
                assert r.status_code == 500 and "ETag" not in r.headers, (name, headers, r.status_code, r.headers)
                assert file_id in r.text and "damaged" in r.text, r.text
            r = http.post(f"/v1/sessions/{session}/files", json={"file_ids": [file_id]})
            assert r.status_code >= 400, (name, r.text)
            assert http.get(f"/v1/files/{file_id}/metadata").status_code == 200
            assert http.delete(f"/v1/files/{file_id}").status_code == 204


def test_contents_that_are_cut_while_they_are_sent_break_the_connection(own_server):
    size = 64 << 20
    with own_server.http() as http:
        file_id = http.post("/v1/files", files={"file": ("large.bin", b"x" * size)}).json()["file_id"]
        for headers in ({}, {"Range": f"bytes=10-{size - 10}"}):
            os.truncate(blob_of(own_server, file_id), size)
            blob_of(own_server, file_id).write_bytes(b"x" * size)
            with pytest.raises(httpx.TransportError):
                with http.stream("GET", f"/v1/files/{file_id}", headers=headers) as r:
                    assert r.status_code in (200, 206)
                    for n, _ in enumerate(r.iter_raw(1 << 16)):
                        if n == 3:
                            os.truncate(blob_of(own_server, file_id), 1 << 20)


def test_nothing_succeeds_without_its_row_in_the_audit_log(own_server):
    def audit_log(statement: str) -> None:
        db = sqlite3.connect(own_server.data / "agentsandbox.db", timeout=30)
        with contextlib.closing(db), db:
            db.execute(statement)

    def rows() -> list[tuple]:
        return [(e["action"], e["object_id"]) for e in http.get("/v1/audit", params={"limit": 100}).json()["entries"]]

    with own_server.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        file_id = http.post("/v1/files", files={"file": ("a", b"x")}).json()["file_id"]
        changes = [
            lambda: http.post("/v1/execute", json={"code": "print(1)"}),
            lambda: http.post("/v1/execute", json={"code": "open('made', 'w')", "session_id": session}),
            lambda: http.post("/v1/sessions", json={}),
            lambda: http.post("/v1/files", files={"file": ("b", b"x")}),
            lambda: http.post("/v1/api-keys", json={"name": "x"}),
            lambda: http.put(f"/v1/sessions/{session}/network", json={"mode": "off"}),
            lambda: http.put(f"/v1/sessions/{session}/fs", params={"path": "/workspace/x"}, content=b"x"),
            lambda: http.delete(f"/v1/files/{file_id}"),
            lambda: http.delete(f"/v1/sessions/{session}"),
        ]
        before = len(rows())
        for n, first in enumerate(changes):
            audit_log("CREATE TRIGGER no_row BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'made to fail'); END")
            r = first()
            assert r.status_code == 500 and "audit log" in r.text and "carried out" in r.text, (n, r.status_code, r.text)
            for change in changes:  # and then nothing more is done
                r = change()
                assert r.status_code == 503 and "audit log" in r.text, (n, r.status_code, r.text)
            assert http.get("/v1/sessions").status_code == 200
            audit_log("DROP TRIGGER no_row")
            if n + 1 < len(changes):
                assert http.post("/v1/execute", json={"code": "print(2)"}).status_code == 200
        assert http.post("/v1/execute", json={"code": "print(2)"}).status_code == 200
        # No row is missing: those that were overdue were written.
        actions = [a for a, _ in rows()]
        assert len(actions) == before + 2 * len(changes), actions
        assert {"deleteSession", "deleteFile", "createKey", "uploadFile"} <= set(actions)


def test_a_sandbox_whose_server_is_gone_for_good_ends_itself(tmp_path):
    s = Server(tmp_path / "data", *QUICK, "--orphan-timeout-ms=3000", on_shutdown="keep").start()
    session = new_session(s)
    with s.http() as http:
        run(http, "sleep 1000 >/dev/null 2>&1 &", language="bash", session_id=session)
    # A restart in between is no end: another server talks to it.
    s.stop()
    s.start()
    assert alive(s, session)
    pids = s.sandbox_pids()
    assert pids
    s.stop(signal.SIGKILL)
    assert eventually(lambda: not s.sandbox_pids(), 60), "the sandbox lives on"
    s.flags = (*s.flags, "--on-shutdown=destroy")
    s.start().stop()
    assert eventually(lambda: not s.cgroups()), "something is left on the host"


def doctor(*flags: str) -> dict[str, dict]:
    r = subprocess.run([BIN, "doctor", "--orphans", "--json", *flags], capture_output=True, text=True, check=True)
    return {server["name"]: server for server in json.loads(r.stdout)["servers"]}


def test_doctor_ends_the_sandboxes_of_servers_that_are_gone_and_no_others(keeper, tmp_path):
    servers = {name: Server(tmp_path / name, *QUICK, on_shutdown="keep").start() for name in ("gone", "stopped", "moved")}
    sessions = {name: new_session(s) for name, s in servers.items()}
    running = new_session(keeper)
    gone, stopped, moved = servers.values()
    gone_group = gone.group
    for s in servers.values():
        s.stop()
    try:
        moved.data = moved.data.rename(tmp_path / "elsewhere")
        shutil.rmtree(gone.data)
        # Another directory at the same place owns nothing.
        (gone.data / "sandboxes").mkdir(parents=True)
        before = {s.group: s.sandboxes() for s in (keeper, stopped, moved)}
        listed = doctor()
        assert [listed[g]["owner"] for g in (keeper.group, stopped.group, moved.group, gone_group)] == ["running", "stopped", "stopped", "gone"]
        assert listed[moved.group]["state_dir"] == str(moved.data / "sandboxes")
        assert listed[gone_group]["sandboxes"] and not listed[gone_group]["ended"]
        ended = doctor("--end")
        assert [n for n, s in ended.items() if s["ended"]].count(gone_group) == 1
        assert not any(ended[s.group]["ended"] for s in (keeper, stopped, moved))
        assert gone_group not in doctor() and not Path("/run", gone_group).exists()
        assert not [d for root, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs if d == gone_group]
        assert {s.group: s.sandboxes() for s in (keeper, stopped, moved)} == before
        assert alive(keeper, running)
        for name in ("stopped", "moved"):
            servers[name].start()
            assert alive(servers[name], sessions[name])
    finally:
        for s in (stopped, moved):
            wait_fully_stopped(s)
