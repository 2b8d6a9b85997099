"""A server that is killed, or stopped, and what lives on."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from server import Server, eventually, run

sys.path.insert(0, str(Path(__file__).parent.parent / "chaos"))
from chaos import Chaos  # noqa: E402


@pytest.fixture
def mortal(tmp_path):
    """A server whose sessions outlive it, as is the default."""
    s = Server(tmp_path / "data", "--pool-size=1", "--pool-data-size=0", "--shutdown-grace-ms=500", on_shutdown="keep").start()
    yield s
    if s.process.poll() is not None:
        s.launch()
        s.wait_ready()
    with s.http() as http:
        for session in http.get("/v1/sessions").json()["sessions"]:
            http.delete(f"/v1/sessions/{session}")
    s.stop()
    assert eventually(lambda: not s.sandbox_pids() and not s.cgroups()), "something is left on the host"


def begin(server: Server, code: str, **kw) -> threading.Thread:
    """Starts an execution and does not care for its answer."""

    def post():
        try:
            with server.http() as http:
                http.post("/v1/execute", json={"code": code, **kw})
        except Exception:
            pass  # the server dies meanwhile

    t = threading.Thread(target=post)
    t.start()
    return t


# Code that begins with more output than stays in memory, so that
# the test sees that it has begun.
SAID = "x" * 200_000 + "\n"
LOUD = "import time; print('x' * 200_000, flush=True); "


def begun(server: Server, execution: str) -> None:
    assert eventually(lambda: (server.data / "logs" / execution).exists(), 60), "the run does not begin"


def running(http, session: str | None = None) -> list[str]:
    query = {"status": "running", **({"session_id": session} if session else {})}
    return [e["id"] for e in http.get("/v1/executions", params=query).json()["executions"]]


def outcome(http, execution: str) -> dict:
    """Waits until an execution has ended."""

    def ended():
        e = http.get(f"/v1/executions/{execution}").json()
        return e["status"] != "running" and e

    e = eventually(ended, 60)
    assert e, "the execution goes on for ever"
    return e


def restart(server: Server, sig: int = signal.SIGKILL) -> None:
    server.stop(sig)
    server.launch()
    server.wait_ready()


def test_sessions_outlive_a_killed_server(mortal):
    with mortal.http() as http:
        session = http.post("/v1/sessions", json={"env_vars": {"NAME": "value"}}).json()["session_id"]
        run(http, "echo state > kept; (while :; do date +%s%N > /tmp/next; mv /tmp/next /tmp/beat; sleep 0.05; done) >/dev/null 2>&1 & echo $! > /tmp/pid", language="bash", session_id=session)
        before = mortal.sandboxes()
    for _ in range(2):
        restart(mortal)
    with mortal.http() as http:
        assert http.get("/v1/sessions").json()["sessions"] == [session]
        assert http.get(f"/v1/sessions/{session}").json()["status"] == "live"
        r = run(http, "cat kept; echo $NAME; kill -0 $(cat /tmp/pid) && a=$(cat /tmp/beat) && until test $a != $(cat /tmp/beat); do sleep 0.05; done && echo beats", language="bash", session_id=session)
        assert r["stdout"] == "state\nvalue\nbeats\n", r
        # The sandbox is the one from before; those of the pool are not.
        assert len(before & mortal.sandboxes()) == 1
        assert http.delete(f"/v1/sessions/{session}").status_code == 204
    assert not before & mortal.sandboxes()


def test_runs_outlive_a_killed_server(mortal):
    lines = 60_000  # more than the sandbox retains
    loud = f"import os, time\nfor i in range({lines}):\n    print(f'line {{i:06}}', flush=i % 1000 == 0)\n    if i == {lines} // 2:\n        open('/workspace/half', 'w').close()\n        while not os.path.exists('/workspace/go'): time.sleep(0.01)\nopen('made.txt', 'w').write('made')"
    with mortal.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        begin(mortal, loud, session_id=session)
        assert eventually(lambda: http.get(f"/v1/sessions/{session}/fs/stat", params={"path": "/workspace/half"}).status_code == 200), http.get(f"/v1/sessions/{session}/fs/stat", params={"path": "/workspace/half"}).text
        (in_session,) = running(http)
        begin(mortal, LOUD + "time.sleep(3); open('out.txt', 'w').write('x'); print('over')")
        assert eventually(lambda: len(running(http)) == 2)
        (once,) = set(running(http)) - {in_session}
        begun(mortal, once)
    restart(mortal)
    with mortal.http() as http:
        run(http, "open('/workspace/go', 'w').close()", session_id=session)
        e = outcome(http, in_session)
        assert (e["status"], e["return_code"], e["truncated"]) == ("succeeded", 0, False), {**e, "stdout": "", "code": ""}
        assert e["stdout"] == "".join(f"line {i:06}\n" for i in range(lines))
        assert e["files_count"] >= 1
        e = outcome(http, once)
        assert (e["status"], e["stdout"], e["files_count"]) == ("succeeded", SAID + "over\n", 1), e["status"]
        files = http.get("/v1/files").json()["files"]
        assert {f["filename"] for f in files} >= {"made.txt", "out.txt"}
    assert {p.name for p in (mortal.data / "logs").iterdir()} == {in_session, once}  # and of no run that printed little


def test_time_limits_outlive_a_killed_server(mortal):
    with mortal.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        begin(mortal, LOUD + "time.sleep(100)", session_id=session, timeout_ms=5000)
        assert eventually(lambda: running(http))
        (execution,) = running(http)
        begun(mortal, execution)
    restart(mortal)
    with mortal.http() as http:
        e = outcome(http, execution)
        assert (e["status"], e["return_code"]) == ("timed_out", 124)
        assert e["stdout"] == SAID
        assert run(http, "print(1)", session_id=session)["stdout"] == "1\n"


def test_what_died_meanwhile_is_lost(mortal):
    with mortal.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        begin(mortal, "import time; time.sleep(100)", session_id=session)
        assert eventually(lambda: running(http))
        (execution,) = running(http)
    mortal.stop(signal.SIGKILL)
    for pid in mortal.sandbox_pids():
        with contextlib.suppress(ProcessLookupError):  # the list is of a moment ago
            os.kill(pid, signal.SIGKILL)
    mortal.launch()
    mortal.wait_ready()
    with mortal.http() as http:
        assert outcome(http, execution)["status"] == "sandbox_lost"
        rows = [e for e in http.get("/v1/audit").json()["entries"] if e["action"] == "recoverExecution"]
        assert [(e["object_id"], e["outcome"]) for e in rows] == [(execution, "unavailable")], rows
        r = http.get(f"/v1/sessions/{session}")
        assert r.status_code == 404 and "lost" in r.json()["error"]["message"]
        assert http.get("/v1/sessions").json()["sessions"] == []


def test_sigterm_leaves_sessions_alive(mortal):
    with mortal.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
        run(http, "open('kept', 'w').write('state')", session_id=session)
        begin(mortal, LOUD + "time.sleep(2.5); print('over')", session_id=session)
        begin(mortal, "import time; time.sleep(100)")
        assert eventually(lambda: len(running(http)) == 2)
        (in_session,) = running(http, session)
        (once,) = set(running(http)) - {in_session}
        begun(mortal, in_session)
    assert mortal.stop() == 0, mortal.log_text()
    assert "sessions stay alive" in mortal.log_text() and "sessions=1" in mortal.log_text()
    assert len(mortal.sandboxes()) == 1, "the pool and the runs without a session end with the server"
    mortal.launch()
    mortal.wait_ready()
    with mortal.http() as http:
        assert outcome(http, once)["status"] == "cancelled"
        e = outcome(http, in_session)
        assert (e["status"], e["stdout"]) == ("succeeded", SAID + "over\n"), e["status"]
        assert run(http, "print(open('kept').read())", session_id=session)["stdout"] == "state\n"


def test_sigterm_can_end_sessions(tmp_path):
    s = Server(tmp_path / "data", "--pool-size=1", "--pool-data-size=0", on_shutdown="destroy").start()
    with s.http() as http:
        session = http.post("/v1/sessions", json={}).json()["session_id"]
    assert s.stop() == 0
    assert not s.sandbox_pids() and not s.cgroups()
    s.start()
    with s.http() as http:
        assert http.get(f"/v1/sessions/{session}").status_code == 404
    s.stop()


@pytest.mark.alone  # it looks at the processes of the whole machine
def test_a_little_chaos(tmp_path):
    said = []
    Chaos(tmp_path, seed=20, kills=5, clients=4, say=said.append).run()
    assert said[-1].startswith("5 kills")
