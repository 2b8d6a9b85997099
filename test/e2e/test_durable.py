"""Work that must not be lost or done twice when a server fails, restarts or is copied."""

import re
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from server import Server, eventually, run

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
