"""Connections of nobody cannot take the descriptors that runs need."""

import contextlib
import socket
import ssl
import subprocess

import httpx
import pytest
from server import SMALL, Server, eventually, run


@pytest.fixture
def narrow(tmp_path):
    """A server that may have 1,024 open files, as many hosts have it by default."""
    s = Server(tmp_path / "data")
    s.prefix = ("prlimit", "--nofile=1024:1024")
    s.start()
    yield s
    assert s.stop() == 0, s.log_text()


def connect(server: Server, n: int, stack: contextlib.ExitStack, first: bytes = b"") -> list[socket.socket]:
    host, port = server.url.split("//")[1].split(":")
    made = []
    for _ in range(n):
        s = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        with contextlib.suppress(ConnectionError):  # it was closed for another one already
            s.sendall(first)
        made.append(s)
    return made


@pytest.mark.parametrize("first", [b"", b"GET /v1/files HTTP/1.1\r\nHost: x\r\nX-Half: ", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_thousand_idle_connections(narrow, first):
    """Silent ones, ones that stop in their header, and ones that are kept alive after an answer."""
    with contextlib.ExitStack() as stack, narrow.http(narrow.new_key("other")) as http:
        sid = http.post("/v1/sessions", json={"memory_mb": 128}).json()["session_id"]
        for _ in range(3):
            connect(narrow, 500, stack, first)
            assert run(http, "print(1)")["stdout"] == "1\n"
            assert run(http, "print(2)", session_id=sid)["stdout"] == "2\n"
            # What is left is the reserve of runs, of the store and of the watch over memory.
            assert narrow.open_files() < 1024 - 128
            r = run(http, "x = [bytearray(b'x' * (8 << 20)) for _ in range(64)]", memory_mb=128)
            assert r["status"] in ("memory_exceeded", "failed") and r["return_code"] != 0, r
        assert narrow.metric("agentsandbox_http_connections") <= 256
        assert narrow.metric("agentsandbox_http_connections_closed_total") >= 500
    assert "too many open files" not in narrow.log_text()


def test_when_all_connections_are_served_one_more_is_told_to_wait(tmp_path):
    s = Server(tmp_path / "data", *SMALL, "--max-connections", "16").start()
    try:
        key, other = s.new_key("noisy"), s.new_key("other")
        head = "POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n"
        with contextlib.ExitStack() as stack:
            connect(s, 8, stack, (head % key).encode())
            assert eventually(lambda: s.metric("agentsandbox_http_requests_in_flight") == 9)
            # A key has no more than half of them, so the others go on.
            r = httpx.get(s.url + "/v1/files", headers={"Authorization": f"Bearer {key}"})
            assert r.status_code == 429 and r.json()["error"]["code"] == "rate_limited"
            with s.http(other) as http:
                assert http.get("/v1/files").status_code == 200
            connect(s, 8, stack, (head % other).encode())

            def refused() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    r = httpx.get(s.url + "/healthz")
                    if r.status_code == 200:  # one of the eight came before a connection of this test had ended
                        connect(s, 1, stack, (head % other).encode())
                    return r.status_code == 503 and r.headers["Retry-After"] == "1" and r.json()["error"]["code"] == "unavailable"
                return False

            assert eventually(refused)
        assert eventually(lambda: httpx.get(s.url + "/healthz").status_code == 200)
    finally:
        assert s.stop() == 0, s.log_text()


def test_connections_that_never_finish_their_handshake(tmp_path):
    """Under TLS too, what says nothing makes room."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )
    s = Server(tmp_path / "data", "--tls-cert", str(cert), "--tls-key", str(key), "--max-connections", "16")
    s.launch()
    try:
        context = ssl.create_default_context(cafile=str(cert))
        url = s.url.replace("http://", "https://")

        def alive() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url + "/healthz", verify=context).status_code == 200
            return False

        assert eventually(alive, 60)
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                connect(s, 40, stack, b"\x16\x03\x01")
                assert httpx.get(url + "/healthz", verify=context).status_code == 200
    finally:
        s.stop()
