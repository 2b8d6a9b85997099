"""Abusive programs: one server for all of them, and what must hold after each.

A short lane runs with every end-to-end run; ABUSE=full runs everything.
"""

import time
from pathlib import Path

import pytest
from aftermath import FULL, SLACK, Host, Watch
from server import run

TERMINAL = {
    "succeeded", "failed", "timed_out", "memory_exceeded", "process_limit",
    "disk_full", "output_limit", "cancelled", "sandbox_lost",
}  # fmt: skip


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    mine = [i for i in items if here in i.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.abuse)
    if not FULL:
        out = [i for i in mine if not i.get_closest_marker("quick")]
        config.hook.pytest_deselected(items=out)
        items[:] = [i for i in items if i not in out]


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    h = Host(tmp_path_factory.mktemp("abuse"))
    yield h
    h.http.close()
    assert h.server.stop() == 0, h.server.log_text()


@pytest.fixture
def abuse(host):
    """Runs one program, under watch, and checks what must hold after every one."""
    done = []

    def perform(code: str, **kw) -> dict:
        with Watch(host) as w:
            r = host.http.post("/v1/execute", json={"code": code, **kw})
        assert r.status_code == 200, (r.status_code, r.text[:1000])
        done.append((r.json(), w))
        return r.json()

    yield perform
    for result, w in done:
        row = host.http.get(f"/v1/executions/{result['execution_id']}").json()
        assert row["status"] == result["status"] and row["status"] in TERMINAL
        assert row["return_code"] == result["return_code"] and row["ended_at"]
        assert not w.failure, w.failure
        if w.health:
            assert sorted(w.health)[int(len(w.health) * 0.99)] < 0.1 * SLACK, max(w.health)
        if len(w.hello) > 3:
            assert sorted(w.hello)[len(w.hello) // 2] < (2 * host.hello + 0.05) * SLACK, w.hello
    clean = run(host.http, "import os; print(os.listdir('/workspace'), sorted(os.listdir('/tmp')))")
    assert clean["status"] == "succeeded" and clean["stdout"] == "[] ['.keep']\n", clean
    host.check_nothing_left()


@pytest.fixture
def session(host):
    """A session with a file in it, which must still be there at the end."""
    made = host.http.post("/v1/sessions", json={"memory_mb": 512}).json()
    sid = made["session_id"]
    assert run(host.http, "open('kept', 'w').write('kept')", session_id=sid)["status"] == "succeeded"
    yield sid
    after = run(host.http, "print(open('kept').read())", session_id=sid)
    assert (after["stdout"], after["session_status"]) == ("kept\n", "live"), after
    began = time.monotonic()
    assert host.http.delete(f"/v1/sessions/{sid}").status_code == 204
    assert time.monotonic() - began < 5 * SLACK, "it took too long to destroy the sandbox"
