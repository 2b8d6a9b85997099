"""Work that must not be lost or done twice when a server fails, restarts or is copied."""

import re
import signal
import threading

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
