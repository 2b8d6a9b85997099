"""What output costs: it counts against quotas, the oldest goes first, and little of it is in the server's memory."""

import concurrent.futures
import json
import secrets
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from server import BIN, Server, eventually, refused, run

MIB = 1 << 20
PRINT_MIB = "import sys; sys.stdout.write('x' * (1 << 20))"
# Of each stream, as much as is kept: 20 MiB in all.
PRINT_ALL = "import os, sys, time; [s.write('0123456789abcde\\n' * (10 << 16)) and s.flush() for s in (sys.stdout, sys.stderr)]"


@pytest.fixture
def serve(tmp_path):
    """Starts a server with flags; it must end well."""
    started = []

    def start(*flags: str) -> Server:
        s = Server(tmp_path / f"data{len(started)}", "--pool-size", "2", "--pool-data-size", "0", "--preload", "none", *flags).start()
        started.append(s)
        return s

    yield start
    for s in started:
        assert s.stop() == 0, s.log_text()


def record(http: httpx.Client, execution: str) -> dict:
    r = http.get(f"/v1/executions/{execution}")
    assert r.status_code == 200, r.text
    return r.json()


def kept_bytes(s: Server) -> int:
    """What records take on the disk: the database, and the event logs that are not in it."""
    return (s.data / "agentsandbox.db").stat().st_size + sum(p.stat().st_size for p in (s.data / "logs").iterdir())


def whole(http: httpx.Client, execution: str, size: int = MIB) -> bool:
    r = record(http, execution)
    assert not r["output_dropped"] and not r["truncated"] and len(r["stdout"]) == r["stdout_bytes"] == size, r["stderr"]
    assert r["code"]
    return True


def dropped(http: httpx.Client, execution: str, size: int = MIB) -> bool:
    """Whatever is looked at says that the output is gone, and nothing says that there was none."""
    r = record(http, execution)
    assert r["output_dropped"] and r["truncated"] and (r["code"], r["stdout"], r["stdout_bytes"]) == ("", "", size), r
    assert f"agentsandbox: the code and the output of this run ({size} and 0 bytes) are not kept" in r["stderr"]
    assert (r["status"], r["return_code"], r["status_code"]) == ("succeeded", 0, 200)
    for stream in ("stdout", "stderr"):
        assert "output_dropped" in refused(http.get(f"/v1/executions/{execution}/{stream}"), 409, "conflict")["message"]
    assert [e["output_dropped"] for e in http.get("/v1/executions", params={"limit": 100}).json()["executions"] if e["id"] == execution] == [True]
    return True


def test_the_oldest_output_goes_first(serve):
    s = serve("--tenant-max-output-bytes", str(5 * MIB))
    theirs = s.http(s.new_key("theirs"))
    with s.http(s.new_key("ours")) as http, theirs:
        neighbour = run(theirs, PRINT_MIB)["execution_id"]
        runs = []
        for _ in range(12):
            answer = run(http, PRINT_MIB)
            assert len(answer["stdout"]) == MIB and not answer["output_dropped"]
            runs.append(answer["execution_id"])
        assert all(dropped(http, e) for e in runs[:8]) and all(whole(http, e) for e in runs[8:])
        assert whole(theirs, neighbour)
        # What was dropped is gone from the disk: 24 MiB were printed, 6 are kept.
        for _ in range(12):
            run(http, PRINT_MIB)
        assert whole(theirs, neighbour)

        # Many at once, of both.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: run((http, theirs)[n % 2], PRINT_MIB), range(16)))
        assert all(len(a["stdout"]) == MIB for a in answers)
        for client in (http, theirs):
            kept = [e for e in client.get("/v1/executions", params={"limit": 100}).json()["executions"] if not e["output_dropped"]]
            assert 3 <= len(kept) <= 4, len(kept)

        # More than there can ever be room for: the answer is whole, the record says the truth, and no other pays for it.
        large = run(http, "import sys; sys.stdout.write('y' * (6 << 20))")
        assert len(large["stdout"]) == 6 * MIB and large["output_dropped"] and not large["truncated"]
        assert dropped(http, large["execution_id"], 6 * MIB)
        assert sum(not e["output_dropped"] for e in http.get("/v1/executions", params={"limit": 100}).json()["executions"]) == len(kept)
    assert s.stop() == 0  # all of it is in the database now
    assert kept_bytes(s) <= 15 * MIB
    s.start()


def test_after_a_restart_and_on_the_command_line(serve):
    s = serve("--tenant-max-output-bytes", str(3 * MIB))
    with s.http() as http:
        first = run(http, PRINT_MIB)["execution_id"]
        run(http, PRINT_MIB)
        assert s.stop() == 0
        s.start()
    with s.http() as http:
        run(http, PRINT_MIB)
        assert dropped(http, first)
        answer = run(http, PRINT_MIB)
        assert not answer["output_dropped"] and len(answer["stdout"]) == MIB
    env = {**s.env, "AGENTSANDBOX_BASE_URL": s.url, "AGENTSANDBOX_API_KEY": s.key}
    get = lambda *flags: subprocess.run([BIN, "executions", "get", first, *flags], env=env, capture_output=True, text=True, check=False)
    shown = get()
    assert shown.returncode == 0 and "are not kept, for want of room" in shown.stdout, shown
    assert json.loads(get("--json").stdout)["output_dropped"] is True
    for part in ("--stdout", "--stderr", "--code"):
        assert get(part).returncode != 0 and "not kept" in get(part).stderr, get(part)


def test_output_gives_way_to_files(serve):
    s = serve("--tenant-max-bytes", str(4 * MIB))
    upload = lambda http, size: http.post("/v1/files", files={"file": ("f.bin", b"x" * size)})
    with s.http(s.new_key("ours")) as http, s.http(s.new_key("theirs")) as theirs:
        runs = [run(http, PRINT_MIB)["execution_id"] for _ in range(3)]
        neighbour = run(theirs, PRINT_MIB)["execution_id"]
        assert all(whole(http, e) for e in runs)
        assert upload(http, 2 * MIB).status_code in (200, 201)
        assert dropped(http, runs[0]) and dropped(http, runs[1]) and whole(http, runs[2])
        # A file of a run, too; and files never go for output.
        made = run(http, "open('/workspace/f', 'wb').write(bytes(3 << 19))")
        assert len(made["files"]) == 1 and dropped(http, runs[2])
        assert "tenant_max_bytes" in refused(upload(http, MIB), 507, "storage_full")["message"]
        answer = run(http, PRINT_MIB)
        assert len(answer["stdout"]) == MIB and answer["output_dropped"]
        assert http.get("/v1/files").json()["total"] == 2
        assert upload(http, 1000).status_code in (200, 201)
        assert whole(theirs, neighbour)


def test_kept_answers_count(serve):
    """Of the same key, repeating a request never runs the code again, whether its answer is still kept or not."""
    s = serve("--tenant-max-output-bytes", "300000")
    body = {"code": "import uuid; print(uuid.uuid4(), 'z' * 40000)"}
    with s.http() as http:
        ask = lambda key: http.post("/v1/execute", json=body, headers={"Idempotency-Key": key})
        first = ask("first").json()
        for _ in range(12):
            assert ask(secrets.token_hex(8)).status_code == 200
        assert record(http, first["execution_id"])["output_dropped"]
        again = ask("first")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json()["execution_id"] == first["execution_id"] and again.json()["output_dropped"]
        total = http.get("/v1/executions").json()["total"]
        assert total == 13


@pytest.mark.parametrize("where", ["session", "alone"])
def test_much_output_at_once_is_not_in_memory(serve, where):
    """16 runs that have printed 20 MiB each: 320 MiB, of which the server holds a few."""
    runs = 16
    s = serve("--request-memory-mb", "256", "--max-sandboxes", "20")
    logs = s.data / "logs"
    port_file = "/workspace/go"
    with s.http() as http, concurrent.futures.ThreadPoolExecutor(runs) as pool:
        run(http, "print(1)")
        before = s.resident_mb()
        extra = {"timeout_ms": 180_000}
        if where == "session":
            session = http.post("/v1/sessions", json={}).json()["session_id"]
            extra["session_id"] = session
            code = PRINT_ALL + f"\nwhile not os.path.exists('{port_file}'): time.sleep(0.05)"
        else:
            code = PRINT_ALL
        asked = [pool.submit(run, http, code, **extra) for _ in range(runs)]
        if where == "session":
            full = lambda: [f for f in logs.glob("exe_*") if f.stat().st_size >= 19.9 * MIB]
            assert eventually(lambda: len(full()) == runs, 120), [f.stat().st_size for f in logs.glob("*")]
            assert s.resident_mb() < before + 100, (before, s.resident_mb())
            assert http.put(f"/v1/sessions/{session}/fs", params={"path": port_file}, content=b"").status_code < 300
        answers = [f.result() for f in asked]
        for a in answers:
            assert (len(a["stdout"]), len(a["stderr"]), a["truncated"]) == (10 * MIB, 10 * MIB, False)
        peak = int(next(l.split()[1] for l in Path(f"/proc/{s.process.pid}/status").read_text().splitlines() if l.startswith("VmHWM"))) / 1024
        print("resident before, at the peak:", before, peak)
        assert peak < before + 450, (before, peak)
        assert {f.name for f in logs.glob("*")} == {a["execution_id"] for a in answers}
        assert len(record(http, answers[3]["execution_id"])["stderr"]) == 10 * MIB


def test_a_reader_who_does_not_read_holds_up_no_other(serve):
    """One key's answers that nobody takes fill its share; another tenant's large answers arrive."""
    s = serve("--request-memory-mb", "128")
    body = json.dumps({"code": PRINT_ALL, "timeout_ms": 180_000}).encode()
    host, port = s.url.removeprefix("http://").split(":")
    stalled = []
    for _ in range(3):
        sock = socket.create_connection((host, int(port)))
        sock.sendall(
            f"POST /v1/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {s.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        stalled.append(sock)
    with s.http() as http, s.http(s.new_key("theirs")) as theirs:
        ended = lambda: http.get("/v1/executions", params={"status": "succeeded"}).json()["total"] == 3
        assert eventually(ended, 180), http.get("/v1/executions").json()
        answer = run(theirs, PRINT_ALL, timeout_ms=180_000)
        assert (len(answer["stdout"]), len(answer["stderr"])) == (10 * MIB, 10 * MIB)
        assert run(http, "print(1)")["stdout"] == "1\n"
    for sock in stalled:
        sock.close()
