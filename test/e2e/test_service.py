"""The server as a process: load, leftovers, start and stop."""

import concurrent.futures
import json
import os
import signal
import stat
import subprocess

import httpx
import pytest
from server import BIN, Server, eventually, refused, run


def test_200_executions_leave_nothing(tmp_path):
    # A stock that follows demand would be another one after the load than before it.
    s = Server(tmp_path / "data", "--pool-memory-percent", "0").start()
    with s.http(limits=httpx.Limits(max_connections=8)) as http, concurrent.futures.ThreadPoolExecutor(8) as pool:
        # The server opens its connections to the database when it first needs them.
        list(pool.map(lambda _: run(http, "open('out.txt', 'w').write('warm up')"), range(16)))

        def settled() -> bool:
            """The pool is full, and no other sandbox is on this machine."""
            size = s.metric("agentsandbox_pool_size")
            return s.metric("agentsandbox_sandboxes_ready") == s.metric("agentsandbox_sandboxes_live") == size == len(s.sandboxes())

        assert eventually(settled), s.sandboxes()
        files, goroutines = s.open_files(), s.metric("go_goroutines")

        def one(i: int) -> None:
            r = run(http, f"print({i} * 3)\nopen('out.txt', 'w').write('{i}')")
            assert (r["stdout"], r["stderr"], r["return_code"]) == (f"{i * 3}\n", "", 0)
            assert http.get(f"/v1/files/{r['files'][0]['file_id']}").text == str(i)

        for f in [pool.submit(one, i) for i in range(200)]:
            f.result()
        assert http.get("/v1/executions", params={"status": "succeeded"}).json()["total"] == 216
        assert eventually(settled), s.sandboxes()
    assert eventually(lambda: s.open_files() <= files + 2), s.open_file_names()
    assert eventually(lambda: s.metric("go_goroutines") <= goroutines + 5), (s.metric("go_goroutines"), goroutines)
    assert s.stop() == 0, s.log_text()
    assert s.sandbox_pids() == []
    assert s.cgroups() == set()
    left = [os.path.join(d, f) for d, _, fs in os.walk(tmp_path / "data") for f in fs]
    left = [f for f in left if "/blobs/" not in f]
    assert all(os.path.basename(f).startswith(("agentsandbox.db", "admin.key", "lock", "reserve", "vault.key")) for f in left), left


def test_sigterm_waits_for_what_runs(own_server):
    with own_server.http() as http, concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, http, "import time; time.sleep(2); print('finished')")
        assert eventually(lambda: http.get("/v1/executions", params={"status": "running"}).json()["total"] == 1)
        own_server.process.send_signal(signal.SIGTERM)
        assert running.result()["stdout"] == "finished\n"
    assert own_server.process.wait(30) == 0
    assert own_server.sandbox_pids() == []


def test_after_kill_9_records_and_files_are_there(tmp_path):
    s = Server(tmp_path / "data").start()
    with s.http() as http:
        sid = http.post("/v1/sessions", json={}).json()["session_id"]
        done = run(http, "open('kept.txt', 'w').write('kept')", session_id=sid)
    s.stop(signal.SIGKILL)
    assert s.sandbox_pids(), "a sandbox outlives its daemon"
    s.start()
    with s.http() as http:
        assert http.get(f"/v1/executions/{done['execution_id']}").json()["return_code"] == 0
        assert http.get(f"/v1/files/{done['files'][0]['file_id']}").content == b"kept"
        assert run(http, "print(2)")["stdout"] == "2\n"
    assert s.stop() == 0
    assert s.sandbox_pids() == [] and s.cgroups() == set()


def test_first_start_makes_an_admin_key_that_the_cli_finds(tmp_path):
    s = Server(tmp_path / "data")
    del s.env["AGENTSANDBOX_BOOTSTRAP_KEY"]
    s.start()
    try:
        key = (tmp_path / "data" / "admin.key").read_text().strip()
        mode = stat.S_IMODE((tmp_path / "data" / "admin.key").stat().st_mode)
        assert mode == 0o600
        # The welcome follows the moment in which the server is ready.
        assert eventually(lambda: "A first request" in s.log_text()) and s.log_text().count(key) == 1
        cli = subprocess.run(
            [BIN, "run", "--server", s.url, "--data-dir", str(tmp_path / "data"), "-"],
            input=b"import sys; print('by cli'); sys.exit(7)", capture_output=True,
        )
        assert (cli.returncode, cli.stdout) == (7, b"by cli\n"), cli.stderr
        s.stop()
        s.start()
        assert eventually(lambda: s.log_text().count("A first request") == 2)
        assert s.log_text().count(key) == 1, "shown once, at the first start"
    finally:
        s.stop()


def test_a_second_server_on_one_data_directory_is_refused(own_server):
    second = subprocess.run(
        [BIN, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(own_server.data)], capture_output=True, timeout=60
    )
    assert second.returncode != 0 and b"another server uses the data directory" in second.stderr, second.stderr
    with own_server.http() as http:
        assert run(http, "print(1)")["stdout"] == "1\n"


def test_a_newer_database_is_refused(tmp_path):
    s = Server(tmp_path / "data").start()
    s.stop()
    import sqlite3

    with sqlite3.connect(tmp_path / "data" / "agentsandbox.db") as db:
        db.execute("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
    s.launch()
    assert s.process.wait(60) != 0
    assert "newer" in s.log_text()


def test_metrics_and_health(server):
    with httpx.Client(base_url=server.url) as http:
        assert http.get("/healthz").status_code == 200
        text = http.get("/metrics").text
        assert "agentsandbox_sandboxes_ready" in text and "go_goroutines" in text
        docs = http.get("/docs")
        assert docs.status_code == 200 and "https://" not in docs.text.replace("https://spec.openapis.org", ""), "works offline"


def test_print_config(tmp_path):
    out = subprocess.run(
        [BIN, "serve", "--print-config", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:9"],
        env={**os.environ, "AGENTSANDBOX_POOL_SIZE": "5"}, capture_output=True, text=True, check=True,
    ).stdout
    assert "127.0.0.1:9" in out and "5" in out and not (tmp_path / "agentsandbox.db").exists()


def test_doctor(server):
    out = subprocess.run([BIN, "doctor", "--json"], capture_output=True, text=True)
    assert out.returncode == 0, out.stdout
    assert json.loads(out.stdout)


@pytest.mark.parametrize("size_mb", [1024])
def test_a_gigabyte_streams_both_ways(own_server, size_mb):
    chunk = os.urandom(1 << 20)

    def multipart():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
        for _ in range(size_mb):
            yield chunk
        yield b"\r\n--b--\r\n"

    with own_server.http() as http:
        run(http, "print(1)")
        before = own_server.resident_mb()
        r = http.post("/v1/files", content=multipart(), headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert r.status_code in (200, 201), r.text
        assert r.json()["size_bytes"] == size_mb << 20
        got = 0
        with http.stream("GET", f"/v1/files/{r.json()['file_id']}") as d:
            for part in d.iter_bytes(1 << 20):
                got += len(part)
        assert got == size_mb << 20
        assert own_server.resident_mb() < before + 64
        assert http.delete(f"/v1/files/{r.json()['file_id']}").status_code == 204
