"""How much the server takes on: memory, rates, quotas, and what it does when memory runs out."""

import concurrent.futures
import time

import httpx
import pytest
from server import Server, eventually, refused, run

MIB = 1 << 20


@pytest.fixture
def serve(tmp_path):
    """Starts a server with flags; it must end well."""
    started = []

    def start(*flags: str) -> Server:
        s = Server(tmp_path / f"data{len(started)}", *flags).start()
        started.append(s)
        return s

    yield start
    for s in started:
        assert s.stop() == 0, s.log_text()
        assert s.cgroups() == set()


def new_session(http: httpx.Client, **body) -> str:
    r = http.post("/v1/sessions", json=body)
    assert r.status_code == 201, (r.status_code, r.text)
    return r.json()["session_id"]


def wants_retry(r: httpx.Response) -> None:
    assert int(r.headers["Retry-After"]) >= 1, r.headers


def within_budget(s: Server) -> bool:
    return s.metric("agentsandbox_memory_reserved_bytes") <= s.metric("agentsandbox_memory_budget_bytes")


def test_sessions_near_the_limit(serve):
    """A sandbox of 2048 MiB reserves 204: three fit in 700, and those that wait do so within bounds."""
    s = serve("--host-memory-mb", "700", "--queue-timeout-ms", "5000", "--max-queue", "3", "--pool-size", "2")
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(8) as pool:
        sessions = [new_session(http, memory_mb=2048) for _ in range(3)]
        assert within_budget(s)
        answers = [f.result() for f in [pool.submit(http.post, "/v1/sessions", json={"memory_mb": 2048}) for _ in range(8)]]
        for r in answers:
            refused(r, 503, "unavailable")
            wants_retry(r)
        # Five of them at once, because three may wait.
        assert sorted(r.elapsed.total_seconds() >= 5 for r in answers) == [False] * 5 + [True] * 3
        assert within_budget(s)
        assert s.metric("agentsandbox_claims_refused_total") == 8
        # The live ones work, and the room of one that ends is given to who waits.
        assert run(http, "print('here')", session_id=sessions[1])["stdout"] == "here\n"
        waiting = pool.submit(http.post, "/v1/sessions", json={"memory_mb": 2048})
        assert eventually(lambda: s.metric("agentsandbox_claims_waiting") == 1)
        assert http.delete(f"/v1/sessions/{sessions[0]}").status_code == 204
        assert waiting.result().status_code == 201
        # What could never be had is refused at once.
        error = refused(http.post("/v1/sessions", json={"memory_mb": 8000}), 422, "invalid_request")
        assert "host_memory_mb" in error["message"]


def test_five_of_4096_and_the_stock_follows(serve):
    """The limit that alphagent asks for: five fit where their limits added up would not."""
    s = serve("--host-memory-mb", "4000")
    with s.http() as http:
        assert eventually(lambda: s.metric("agentsandbox_sandboxes_ready") == 6)
        sessions = [new_session(http, memory_mb=4096)]
        # From now on one of that kind is warm, so the next claim makes none for itself.
        assert eventually(lambda: s.metric("agentsandbox_sandboxes_ready") == s.metric("agentsandbox_pool_size") == 7)
        before = s.sandboxes()
        sessions.append(new_session(http, memory_mb=4096))
        assert s.sandboxes() >= before
        sessions += [new_session(http, memory_mb=4096) for _ in range(3)]
        for session in sessions:
            assert run(http, "print(6 * 7)", session_id=session)["stdout"] == "42\n"
        assert within_budget(s)


def test_rates(serve):
    s = serve("--rate-per-second", "4", "--rate-burst", "20", "--max-executions-per-key", "2")
    other = s.new_key("other")
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(4) as pool:
        r = http.get("/v1/sessions")
        assert r.headers["RateLimit-Limit"] == "20"
        assert 0 <= int(r.headers["RateLimit-Remaining"]) < 20
        assert int(r.headers["RateLimit-Reset"]) >= 1

        slow = [pool.submit(run, http, "import time; time.sleep(3)") for _ in range(2)]
        assert eventually(lambda: http.get("/v1/executions", params={"status": "running"}).json()["total"] == 2 or time.sleep(0.3))
        r = http.post("/v1/execute", json={"code": "1"})
        assert "max_executions_per_key" in refused(r, 429, "rate_limited")["message"]
        wants_retry(r)
        with s.http(other) as neighbour:
            assert run(neighbour, "print(1)")["stdout"] == "1\n"
        for f in slow:
            f.result()

        answers = [f.result() for f in [pool.submit(http.post, "/v1/sessions", json={"template": "none"}) for _ in range(60)]]
        limited = [r for r in answers if r.status_code == 429]
        assert len(limited) >= 30 and len(limited) < 60, [r.status_code for r in answers]
        for r in limited:
            assert "rate_per_second" in refused(r, 429, "rate_limited")["message"]
            wants_retry(r)
            assert r.headers["RateLimit-Remaining"] == "0"
        with s.http(other) as neighbour:
            assert neighbour.get("/v1/sessions").status_code == 200
        assert httpx.get(s.url + "/healthz").status_code == 200


def test_quotas(serve):
    s = serve("--tenant-max-sessions", "2", "--tenant-max-files", "3", "--tenant-max-bytes", "1000")
    upload = lambda http, size: http.post("/v1/files", files={"file": ("f.bin", b"x" * size)})
    with s.http(s.new_key("ours")) as http, s.http(s.new_key("theirs")) as theirs, concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = [f.result() for f in [pool.submit(http.post, "/v1/sessions", json={}) for _ in range(6)]]
        assert sorted(r.status_code for r in answers) == [201] * 2 + [429] * 4
        r = http.post("/v1/sessions", json={})
        assert "tenant_max_sessions" in refused(r, 429, "rate_limited")["message"]
        wants_retry(r)
        live = http.get("/v1/sessions").json()["sessions"]
        assert http.delete(f"/v1/sessions/{live[0]}").status_code == 204
        new_session(http)
        new_session(theirs)

        answers = [f.result() for f in [pool.submit(upload, http, 300) for _ in range(6)]]
        assert sorted(r.status_code for r in answers) == [200] * 3 + [507] * 3 or sorted(r.status_code for r in answers) == [201] * 3 + [507] * 3
        assert "tenant_max_files" in refused(upload(http, 1), 507, "storage_full")["message"]
        assert upload(theirs, 300).status_code in (200, 201)
        for f in http.get("/v1/files").json()["files"][:2]:
            assert http.delete(f"/v1/files/{f['file_id']}").status_code == 204
        assert "tenant_max_bytes" in refused(upload(http, 701), 507, "storage_full")["message"]
        # What a run makes beyond the quota is left out, and the answer says so.
        r = run(http, "for i in range(3): open(f'f{i}', 'wb').write(bytes(400))")
        assert (r["status"], len(r["files"]), r["files_omitted"]) == ("succeeded", 1, 2)
        assert "tenant_max_bytes" in r["error"]
        assert http.get("/v1/files").json()["total"] == 2


def test_more_keys_are_no_larger_share(serve):
    """A full queue of one tenant's many keys gives a place to another tenant's only one."""
    s = serve("--max-sandboxes", "1", "--pool-size", "0", "--pool-data-size", "0", "--preload", "none", "--max-queue", "4")

    def ask(key: str, code: str) -> httpx.Response:
        with s.http(key) as http:
            return http.post("/v1/execute", json={"code": code})

    many, only = [s.new_key("many") for _ in range(4)], s.new_key("only")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        busy = pool.submit(ask, s.key, "import time; time.sleep(5)")
        with s.http() as http:
            assert eventually(lambda: http.get("/v1/executions", params={"status": "running"}).json()["total"] == 1)
        waiting = [pool.submit(ask, key, "print('many')") for key in many]
        assert eventually(lambda: s.metric("agentsandbox_claims_waiting") == 4)
        late = pool.submit(ask, only, "print('only')").result()
        assert late.json()["stdout"] == "only\n", late.text
        assert sorted(w.result().status_code for w in waiting) == [200, 200, 200, 503]
        assert busy.result().json()["status"] == "succeeded"


FILL = """
import time
blocks = []
for _ in range({mb} // 10):
    blocks.append(bytearray(b'x' * (10 << 20)))
    time.sleep(0.02)
print('held', flush=True)
time.sleep(4)
"""


def test_memory_runs_out(serve):
    """Sandboxes that are within their own limits use more than there is: one ends, the true verdict is given, the rest live."""
    s = serve("--host-memory-mb", "700", "--pool-size", "1", "--pool-data-size", "0")
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(4) as pool:
        sessions = [new_session(http, memory_mb=1024) for _ in range(2)]
        runs = [pool.submit(run, http, FILL.format(mb=mb), session_id=session) for session, mb in zip(sessions, (300, 600))]
        assert eventually(lambda: s.metric("agentsandbox_evictions_total") >= 1), s.metric("agentsandbox_memory_used_bytes")
        assert httpx.get(s.url + "/healthz").status_code == 200
        small, large = (r.result() for r in runs)
        assert (small["status"], small["stdout"]) == ("succeeded", "held\n"), small
        assert (large["status"], large["return_code"], large["signal"]) == ("memory_exceeded", 137, "SIGKILL"), large
        assert "to keep the server alive" in large["error"] and "set aside for it" in large["error"]
        assert large["stderr"].endswith(f"agentsandbox: {large['error']}\n")
        assert http.get(f"/v1/executions/{large['execution_id']}").json()["status"] == "memory_exceeded"
        # Its session is lost and says why; the other one lives.
        message = refused(http.get(f"/v1/sessions/{sessions[1]}"), 404, "session_not_found")["message"]
        assert "was lost" in message and "to keep the server alive" in message
        assert run(http, "print('alive')", session_id=sessions[0])["stdout"] == "alive\n"
        assert eventually(lambda: s.metric("agentsandbox_memory_used_bytes") < 700 * MIB)
        new_session(http, memory_mb=1024)
