"""What requests hold in the server's memory is bounded, and no key can take it from the others."""

import contextlib
import json
import re
import socket
from pathlib import Path

import httpx
import pytest
from server import SMALL, Server, eventually, refused, run

READERS = 40


def peak_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def send(server: Server, stack: contextlib.ExitStack, head: str, body: bytes = b"") -> socket.socket:
    """A request whose answer nobody reads."""
    host, port = server.url.removeprefix("http://").split(":")
    s = stack.enter_context(socket.socket())
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(60)
    s.connect((host, int(port)))
    s.sendall(head.encode() + b"\r\n" + body)
    return s


def status_of(s: socket.socket) -> int:
    """The status of an answer, of which no more is taken than that."""
    line = b""
    while len(line) < len("HTTP/1.1 200"):
        line += s.recv(len("HTTP/1.1 200") - len(line))
    return int(line[-3:])


@pytest.fixture
def busy(tmp_path):
    s = Server(tmp_path / "data", *SMALL, "--request-memory-mb", "160").start()
    yield s
    s.stop()


def test_readers_who_do_not_read(busy):
    """Control characters are six times their size as JSON: forty readers would be gigabytes."""
    with busy.http(busy.new_key("noisy")) as http, contextlib.ExitStack() as stack:
        r = run(http, "import sys; sys.stdout.write(chr(1) * (10 << 20)); sys.stderr.write(chr(2) * (10 << 20))")
        assert len(r["stdout"]) == len(r["stderr"]) == 10 << 20
        key = http.headers["Authorization"]
        path = f"/v1/executions/{r['execution_id']}"
        before = peak_mb(busy)
        readers = [send(busy, stack, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n") for _ in range(READERS)]
        answers = [status_of(s) for s in readers]
        assert 1 <= answers.count(200) <= 8 and answers.count(200) + answers.count(503) == READERS, answers
        assert peak_mb(busy) - before < 500, "the readers hold more than they may"
        # The key itself goes on with what is small, and is told to wait for the rest; the others notice nothing.
        refused(http.get(path), 503, "unavailable")
        assert int(http.get(path).headers["Retry-After"]) >= 1
        assert http.get("/v1/sessions").status_code == 200
        with busy.http(busy.new_key("other")) as other:
            made = run(other, "print('x' * (8 << 20))")
            assert len(other.get(f"/v1/executions/{made['execution_id']}").json()["stdout"]) == (8 << 20) + 1
        stack.close()
        while (again := http.get(path)).status_code == 503:
            pass
        assert again.json()["stdout"] == "\x01" * (10 << 20)
    assert busy.metric("agentsandbox_http_memory_bytes") == 0


def test_readers_of_bytes_who_do_not_read(busy):
    """The bytes of a stream are sent from where they are kept: forty readers hold next to nothing."""
    with busy.http(busy.new_key("noisy")) as http, contextlib.ExitStack() as stack:
        r = run(http, "import sys; sys.stdout.write(chr(1) * (10 << 20))")
        key = http.headers["Authorization"]
        path = f"/v1/executions/{r['execution_id']}/stdout"
        before = peak_mb(busy)
        readers = [send(busy, stack, f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n") for _ in range(READERS)]
        assert [status_of(s) for s in readers] == [200] * READERS
        assert peak_mb(busy) - before < 60, "the readers hold more than they may"
        assert http.get(path).content == b"\x01" * (10 << 20)
        assert http.get(path, headers={"Range": "bytes=-3"}).content == b"\x01" * 3
        stack.close()
    assert eventually(lambda: busy.metric("agentsandbox_http_memory_bytes") == 0)


def test_bodies_that_are_half_sent(busy):
    noisy = busy.new_key("noisy")
    with contextlib.ExitStack() as stack:
        before = peak_mb(busy)
        half = b'{"code": "' + b"#" * (7 << 20)
        head = f"POST /v1/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {noisy}\r\nContent-Length: {8 << 20}\r\n"
        for _ in range(READERS):
            with contextlib.suppress(ConnectionError):  # refused before it was sent
                send(busy, stack, head, half)
        refused_total = r'agentsandbox_http_requests_total{method="POST",route="/v1/execute",status="503"} [1-9]'
        assert eventually(lambda: re.search(refused_total, httpx.get(busy.url + "/metrics").text))
        assert peak_mb(busy) - before < 500
        with busy.http(noisy) as http:
            assert http.get("/v1/sessions").status_code == 200
        with busy.http(busy.new_key("other")) as other:
            assert run(other, "#" * (1 << 19) + "\nprint(1)")["stdout"] == "1\n"


def test_requests_under_way_are_bounded_per_key(tmp_path):
    s = Server(tmp_path / "data", *SMALL, "--max-requests-per-key", "3").start()
    try:
        key, other = s.new_key("noisy"), s.new_key("other")
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n"
        with contextlib.ExitStack() as stack, s.http(key) as http:
            for _ in range(3):
                send(s, stack, head)
            while s.metric("agentsandbox_http_requests_in_flight") < 4:
                pass  # three, and the one that asks
            r = http.get("/v1/files")
            assert "max_requests_per_key" in refused(r, 429, "rate_limited")["message"] and r.headers["Retry-After"] == "1"
            with s.http(other) as http2:
                assert http2.get("/v1/files").status_code == 200
            stack.close()
            while (r := http.get("/v1/files")).status_code == 429:
                pass
            assert r.status_code == 200
    finally:
        s.stop()


def test_a_reader_who_takes_a_little_at_a_time_gets_all(busy):
    """An answer that is streamed is whole, as JSON, whatever its bytes are."""
    with busy.http() as http:
        code = "import sys; sys.stdout.buffer.write((bytes(range(256)) + '€😀\\u2028'.encode()) * 20000)"
        r = run(http, code)
        raw = http.get(f"/v1/executions/{r['execution_id']}/stdout").content
        assert r["stdout"] == raw.decode(errors="replace") and len(raw) == 266 * 20000
        text = bytearray()
        with http.stream("GET", f"/v1/executions/{r['execution_id']}") as answer:
            for piece in answer.iter_raw(1000):
                text += piece
        assert json.loads(text)["stdout"] == r["stdout"]
