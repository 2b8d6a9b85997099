"""Bad input: each time a precise error, and nothing is lost."""

import os
import socket
import subprocess

import pytest
from server import SMALL, Server, eventually, refused, run


def test_no_key_and_a_revoked_key(server):
    with server.http() as admin:
        made = admin.post("/v1/api-keys", json={"name": "short-lived"}).json()
    with server.http(made["key_value"]) as http:
        assert run(http, "print(1)")["stdout"] == "1\n"
        with server.http() as admin:
            listed = admin.get("/v1/api-keys").json()
            assert made["key_value"] not in str(listed)
            assert admin.delete(f"/v1/api-keys/{made['id']}").status_code == 204
        e = refused(http.post("/v1/execute", json={"code": "print(1)"}), 401, "unauthorized")
        assert "revoked" in e["message"]
    with server.http("nobody") as http:
        refused(http.get("/v1/files"), 401)


def test_a_key_can_only_what_its_scopes_say(server):
    with server.http(server.new_key("reader", "read")) as reader:
        assert reader.get("/v1/files").status_code == 200
        refused(reader.post("/v1/execute", json={"code": "1"}), 403, "forbidden")
        refused(reader.post("/v1/files", files={"file": ("a", b"")}), 403)
        refused(reader.post("/v1/api-keys", json={"name": "more"}), 403)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"code": "print(1)", "language": "cobol"}, "language"),
        ({"code": ""}, "code"),
        ({"code": " \n"}, "code"),
        ({"code": "a\0b"}, "code"),
        ({"code": None}, "code"),
        ({}, "code"),
        ({"code": "1", "env_vars": {"A": 1}}, "env_vars"),
        ({"code": "1", "env_vars": {"A": None}}, "env_vars"),
        ({"code": "1", "env_vars": {"A=B": "x"}}, "env_vars"),
        ({"code": "1", "env_vars": {"A\0": "x"}}, "env_vars"),
        ({"code": "1", "env_vars": {"A": "\0"}}, "env_vars"),
        ({"code": "1", "env_vars": ["A"]}, "env_vars"),
        ({"code": "1", "file_ids": [7]}, "file_ids"),
        ({"code": "1", "file_ids": [""]}, "file_ids"),
        ({"code": "1", "timeout_ms": -1}, "timeout_ms"),
        ({"code": "1", "timeout_ms": 10**12}, "timeout_ms"),
        ({"code": "1", "memory_mb": 10**9}, "memory_mb"),
    ],
)
def test_invalid_requests_name_the_field(http, body, field):
    before = http.get("/v1/executions").json()["total"]
    e = refused(http.post("/v1/execute", json=body), 422, "invalid_request")
    assert any(d["field"].startswith(field) for d in e["details"]), e
    assert http.get("/v1/executions").json()["total"] == before


@pytest.mark.parametrize("body", [b"{nope", b"[]", b'"x"', b"", b"\xff\xfe", b"null"])
def test_bodies_that_are_not_json_objects(http, body):
    refused(http.post("/v1/execute", content=body, headers={"Content-Type": "application/json"}), 422)


def test_code_and_body_over_the_limit(tmp_path):
    s = Server(tmp_path / "data", *SMALL, "--max-code-bytes", "1000", "--max-body-bytes", "4000", "--max-upload-bytes", "5000").start()
    try:
        with s.http() as http:
            e = refused(http.post("/v1/execute", json={"code": "#" * 1001}), 413, "too_large")
            assert "1000" in str(e)
            assert run(http, "#" * 1000)["return_code"] == 0
            e = refused(http.post("/v1/execute", json={"code": "#" * 5000}), 413, "too_large")
            assert "4000" in str(e)
            e = refused(http.post("/v1/files", files={"file": ("big", b"x" * 5001)}), 413, "too_large")
            assert "5000" in str(e)
            assert http.post("/v1/files", files={"file": ("fits", b"x" * 5000)}).status_code in (200, 201)
            assert http.get("/v1/files").json()["total"] == 1
    finally:
        s.stop()


def test_output_over_the_limit_is_cut_and_says_so(tmp_path):
    s = Server(tmp_path / "data", *SMALL, "--max-output-bytes", "10000").start()
    try:
        with s.http() as http:
            r = run(http, "import sys\nfor _ in range(2000): print('x' * 99)\nprint('e', file=sys.stderr)\nsys.exit(3)")
            assert len(r["stdout"]) == 10000 and r["truncated"] and r["stdout_bytes"] == 200_000
            cut = "agentsandbox: the output was cut: the first 10000 of 200000 bytes of standard output are kept\n"
            assert (r["stderr"], r["return_code"]) == ("e\n" + cut, 3)
            r = run(http, "print('x' * 9999)")
            assert len(r["stdout"]) == 10000 and not r["truncated"]
    finally:
        s.stop()


def test_deleted_session_and_file(http):
    sid = http.post("/v1/sessions", json={}).json()["session_id"]
    fid = http.post("/v1/files", files={"file": ("a.txt", b"abc")}).json()["file_id"]
    assert http.delete(f"/v1/files/{fid}").status_code == 204
    e = refused(http.post(f"/v1/sessions/{sid}/files", json={"file_ids": [fid]}), 404, "file_not_found")
    assert fid in e["message"]
    assert http.delete(f"/v1/sessions/{sid}").status_code == 204
    e = refused(http.post("/v1/execute", json={"code": "1", "session_id": sid}), 404, "session_not_found")
    assert sid in e["message"]
    refused(http.delete(f"/v1/sessions/{sid}"), 404)


def test_an_upload_cut_in_half_leaves_nothing(own_server):
    host, port = own_server.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {own_server.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="half.bin"\r\n\r\n'
    )
    with socket.create_connection((host, int(port)), timeout=60) as s:
        s.sendall(head.encode() + b"x" * 300_000)
        s.shutdown(socket.SHUT_WR)
        # The end of the answer is when the server is done with the request: before
        # that it may not even have begun.
        while s.recv(65536):
            pass

    def blobs():
        return [os.path.join(d, f) for d, _, fs in os.walk(own_server.data / "blobs") for f in fs]

    assert not blobs()
    with own_server.http() as http:
        assert http.get("/v1/files").json()["total"] == 0
        # A part whose closing boundary is missing is cut too, though the request is whole.
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="half.bin"\r\n\r\nxxxx'
        refused(http.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}), 422)
        assert http.get("/v1/files").json()["total"] == 0 and not blobs()


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(small_disk):
    s = Server(small_disk / "data").start()
    try:
        with s.http() as http:
            kept = http.post("/v1/files", files={"file": ("kept", b"k" * 1000)}).json()["file_id"]
            sid = http.post("/v1/sessions", json={}).json()["session_id"]
            refused(http.post("/v1/files", files={"file": ("big", b"x" * (40 << 20))}), 507, "storage_full")
            assert http.get("/v1/files").json()["total"] == 1, "the failed upload left a row"
            with open(small_disk / "filler", "wb", buffering=0) as f:
                try:
                    while True:
                        f.write(b"\0" * 65536)
                except OSError:
                    pass
            refused(http.post("/v1/files", files={"file": ("more", b"x" * 100_000)}), 507, "storage_full")
            assert http.get(f"/v1/files/{kept}").content == b"k" * 1000, "reads go on"
            (small_disk / "filler").unlink()
            assert run(http, "print(1)", session_id=sid)["stdout"] == "1\n"
            assert http.delete(f"/v1/sessions/{sid}").status_code == 204
    finally:
        assert s.stop() == 0, s.log_text()


def test_the_disk_of_a_sandbox_is_full(http):
    sid = http.post("/v1/sessions", json={}).json()["session_id"]
    r = run(http, "f = open('big', 'wb')\nwhile True: f.write(b'\\0' * (1 << 20))", session_id=sid)
    assert r["return_code"] == 1 and "No space left on device" in r["stderr"], r
    e = refused(http.put(f"/v1/sessions/{sid}/fs", params={"path": "/workspace/more"}, content=b"x" * (4 << 20)), 507, "storage_full")
    assert "sandbox" in e["message"]
    assert run(http, "import os; os.remove('big'); print('freed')", session_id=sid)["stdout"] == "freed\n"
    assert http.put(f"/v1/sessions/{sid}/fs", params={"path": "/workspace/more"}, content=b"x").status_code in (200, 201, 204)
    http.delete(f"/v1/sessions/{sid}")


def test_a_time_limit_keeps_the_output_and_the_session(http):
    sid = http.post("/v1/sessions", json={}).json()["session_id"]
    r = run(http, "print('before', flush=True)\nwhile True: pass", session_id=sid, timeout_ms=500)
    assert (r["status"], r["return_code"], r["stdout"]) == ("timed_out", 124, "before\n")
    assert r["stderr"].endswith("ended after 0.5 s: the time limit\n")
    assert run(http, "print('alive')", session_id=sid)["stdout"] == "alive\n"
    http.delete(f"/v1/sessions/{sid}")


def test_a_client_that_goes_away_ends_its_run(own_server):
    with own_server.http() as http:
        with pytest.raises(Exception):
            http.post("/v1/execute", json={"code": "import time; time.sleep(600)"}, timeout=1)
        records = eventually(
            lambda: [e for e in http.get("/v1/executions").json()["executions"] if e["status"] == "cancelled"], 10
        )
        assert len(records) == 1


def test_duplicate_names_in_one_injection(http):
    ids = [http.post("/v1/files", files={"file": ("same.txt", b"x")}).json()["file_id"] for _ in range(2)]
    e = refused(http.post("/v1/execute", json={"code": "1", "file_ids": ids}), 422)
    assert "file_ids[1]" in e["message"] and "same.txt" in e["message"]
