"""Ports of sessions on the real server: what passes, what a hostile app or a slow client can hold up, and what ends a connection."""

import json
import os
import socket
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import httpx
import pytest
from server import BIN, PLAIN, Server, eventually, refused, run

# A server in the sandbox that sends the bytes of a file named by the path, and does
# with the connection what the query says.
HOSTILE = """
import socket, threading, time, urllib.parse
ANSWERS = {
    "unsolicited 101": b"HTTP/1.1 101 X\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n",
    "101 with a body": b"HTTP/1.1 101 X\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\nContent-Length: 9\\r\\n\\r\\nhello",
    "101 without upgrade": b"HTTP/1.1 101 X\\r\\n\\r\\n",
    "status 000": b"HTTP/1.1 000 X\\r\\n\\r\\n",
    "status 099": b"HTTP/1.1 099 X\\r\\n\\r\\n",
    "status 1000": b"HTTP/1.1 1000 X\\r\\n\\r\\n",
    "no answer": b"",
    "half a header": b"HTTP/1.1 200 OK\\r\\nContent-Ty",
    "http/0.9": b"<html>\\r\\n\\r\\n",
    "http/2 preface": b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n",
    "1xx flood": b"HTTP/1.1 103 X\\r\\nLink: </x>\\r\\n\\r\\n" * 10000,
    "bad chunk": b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nffffffffffffffffff\\r\\n",
    "too short": b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhello",
    "too long": b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhello",
    "trailers": b"HTTP/1.1 200 OK\\r\\nTrailer: NEL\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n1\\r\\nx\\r\\n0\\r\\nNEL: x\\r\\n\\r\\n",
    "two lengths": b"HTTP/1.1 200 OK\\r\\nContent-Length: 1\\r\\nContent-Length: 2\\r\\n\\r\\nxx",
}
def serve(c):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        part = c.recv(65536)
        if not part: return
        head += part
    path = urllib.parse.unquote(head.split(b" ")[1].decode())[1:]
    try:
        if path == "reset in the body":
            c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhello")
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0"); c.close(); return
        if path == "endless header":
            c.sendall(b"HTTP/1.1 200 OK\\r\\n")
            while True: c.sendall(b"X: y\\r\\n" * 1000)
        if path == "endless body":
            c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
            while True: c.sendall(b"x" * 65536)
        if path == "slow drip":
            c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
            while True: c.sendall(b"x"); time.sleep(.2)
        c.sendall(ANSWERS[path])
    except OSError:
        return
    time.sleep(100000)  # and it never closes
s = socket.create_server((HOST, 8000), backlog=100)
print("listening", flush=True)
while True:
    c = s.accept()[0]
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""

ENDLESS = {"no answer", "half a header", "endless body", "slow drip", "bad chunk", "too short", "reset in the body"}
FORMS = sorted(
    {"unsolicited 101", "101 with a body", "101 without upgrade", "status 000", "status 099", "status 1000", "http/0.9", "http/2 preface", "1xx flood", "two lengths", "endless header"}
    | {"too long", "trailers"} | ENDLESS
)


def served(http: httpx.Client, program: str, host: str = "0.0.0.0", session: str = "", **asked) -> tuple[str, str]:
    """Starts a program in a session that prints a line when it listens on port 8000; returns the session and the port's URL."""
    session = session or http.post("/v1/sessions", json=asked).json()["session_id"]
    http.put(f"/v1/sessions/{session}/fs", params={"path": "/workspace/app.py"}, content=f"HOST = {host!r}\n{program}").raise_for_status()
    out = run(http, "nohup python3 app.py > said 2> failed & until grep -q listening said; do sleep 0.02; done", language="bash", session_id=session)
    assert out["return_code"] == 0, out
    r = http.post(f"/v1/sessions/{session}/ports", json={"port": 8000})
    assert r.status_code == 200, r.text
    return session, r.json()["url"]


def http_server(body: str, host: str = "HOST") -> str:
    """A program with http.server; body is the method that answers every request."""
    return (
        "import http.server, json\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def log_message(self, *a): pass\n"
        "    def answer(self, body=b'', status=200, *headers):\n"
        "        self.send_response_only(status)\n"
        "        for k, v in headers: self.send_header(k, v)\n"
        "        self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)\n"
        "    def do_GET(self):\n" + "".join(f"        {line}\n" for line in body.strip().splitlines()) + "    do_POST = do_GET\n"
        f"s = http.server.ThreadingHTTPServer(({host}, 8000), H)\nprint('listening', flush=True)\ns.serve_forever()\n"
    )


def ask(url: str, raw_path: str = "", *headers: str) -> httpx.Response:
    """A GET whose path is sent as it is written."""
    u = urlsplit(url)
    with socket.create_connection((u.hostname, u.port), 30) as s:
        lines = [f"GET {u.path}{raw_path} HTTP/1.1", f"Host: {u.netloc}", "Connection: close", *headers]
        s.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        data = b""
        while part := s.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    return httpx.Response(int(status.split()[1]), headers=[tuple(f.split(b": ", 1)) for f in fields], content=body if b"chunked" not in head else body)


def left(http: httpx.Client, session: str) -> bool:
    return http.get(f"/v1/sessions/{session}").status_code == 200


def knock(url: str, form: str):
    """Asks the hostile app for a form of answer and returns the connection, of which nothing more is read."""
    u = urlsplit(url)
    s = socket.create_connection((u.hostname, u.port), 30)
    s.sendall(f"GET {u.path}{form.replace(' ', '%20')} HTTP/1.1\r\nHost: {u.netloc}\r\n\r\n".encode())
    return s


def test_hostile_answers_hold_nobody_up(tmp_path):
    """Each form of a hostile answer, then idle expiry, DELETE, and the end of the server."""
    server = Server(tmp_path / "data", "--preload=none", "--shutdown-grace-ms=2000").start()
    try:
        with server.http() as http:
            deleted, url = served(http, HOSTILE)
            idle, idle_url = served(http, HOSTILE, idle_timeout_ms=3000)
            kept, kept_url = served(http, HOSTILE)
            assert len(FORMS) >= 16
            for form in FORMS:
                if form not in ENDLESS:
                    got = httpx.get(url + form, verify=PLAIN, timeout=30)
                    assert got.status_code == (200 if form in ("too long", "trailers") else 502), (form, got)
                    assert "nel" not in got.headers and "internal" not in got.text, (form, got.text)
            # An app that does not come to an end is a use of the session while somebody waits for it.
            for form in FORMS:
                knock(idle_url, form).close()
            assert eventually(lambda: not left(http, idle), 60), "the session does not expire"
            error = refused(http.get(f"/v1/sessions/{idle}"), 404)
            assert "expired" in error["message"], error
            waiting = [knock(url, form) for form in FORMS]
            assert http.delete(f"/v1/sessions/{deleted}", timeout=60).status_code == 204
            refused(httpx.get(url, verify=PLAIN), 404, "port_not_found")
            assert eventually(lambda: server.metric("agentsandbox_sandboxes_live") <= 1 + server.metric("agentsandbox_pool_size"))
            waiting += [knock(kept_url, form) for form in FORMS]
            eventually(lambda: http.get(f"/v1/sessions/{kept}").json().get("busy", True))
        assert server.stop(seconds=45) == 0
        for s in waiting:
            s.close()
    finally:
        server.stop()
    log = server.log.read_text()
    for word in ("panic", "goroutine ", "not waited for", '"stack"', "stack="):
        assert word not in log, [line for line in log.splitlines() if word in line][:3]


def send_slowly(server: Server, head: str, drip: bytes, ended: threading.Event) -> None:
    """Sends a head, and then a byte every now and then, or nothing, until the server hangs up."""
    u = urlsplit(server.url)
    with socket.create_connection((u.hostname, u.port), 60) as s:
        s.sendall(head.encode())
        s.settimeout(0.2)
        while not ended.is_set():
            try:
                s.sendall(drip)
                if not s.recv(65536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    ended.set()


def slow_clients(server: Server, http: httpx.Client, session: str) -> list[threading.Event]:
    """Clients of a session that are as slow as can be; the events are set when the server has let them go."""
    run(http, "head -c 50000000 /dev/zero > large", language="bash", session_id=session)
    auth = f"Host: x\r\nAuthorization: Bearer {server.key}\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    heads = [
        f"POST /v1/files?session_id={session} HTTP/1.1\r\n{auth}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 999999\r\n\r\n{part}",
        f"PUT /v1/sessions/{session}/fs?path=/workspace/slow HTTP/1.1\r\n{auth}Content-Length: 999999\r\n\r\n",
    ]
    ended = []
    for head in heads:
        for drip in (b"x", b""):
            event = threading.Event()
            threading.Thread(target=send_slowly, args=(server, head, drip, event), daemon=True).start()
            ended.append(event)
    u = urlsplit(server.url)
    code = "print('x' * 9_000_000)"
    body = json.dumps({"code": code, "session_id": session})
    for request in (
        f"GET /v1/sessions/{session}/fs?path=/workspace/large HTTP/1.1\r\n{auth}\r\n",
        f"POST /v1/execute HTTP/1.1\r\n{auth}Content-Length: {len(body)}\r\n\r\n{body}",
    ):
        s = socket.create_connection((u.hostname, u.port), 60)  # kept by the caller, and never read
        s.sendall(request.encode())
        ended.append(s)
    assert eventually(lambda: http.get("/v1/executions", params={"session_id": session}).json()["executions"][0]["status"] == "succeeded")
    return ended


def test_slow_clients_hold_nobody_up(tmp_path):
    server = Server(tmp_path / "data", "--preload=none", "--shutdown-grace-ms=1000").start()
    try:
        with server.http() as http:
            session = http.post("/v1/sessions", json={}).json()["session_id"]
            clients = slow_clients(server, http, session)
            assert http.delete(f"/v1/sessions/{session}", timeout=30).status_code == 204
            assert all(c.wait(30) for c in clients if isinstance(c, threading.Event)), "a slow upload goes on"
            refused(http.get(f"/v1/sessions/{session}"), 404)
            old = http.post("/v1/sessions", json={"max_lifetime_ms": 10_000}).json()["session_id"]
            clients += slow_clients(server, http, old)
            assert eventually(lambda: not left(http, old), 60), "the session does not expire"
            assert eventually(lambda: server.metric("agentsandbox_sandboxes_live") <= server.metric("agentsandbox_pool_size"))
            last = http.post("/v1/sessions", json={}).json()["session_id"]
            clients += slow_clients(server, http, last)
        assert server.stop(seconds=40) == 0
    finally:
        server.stop()
    log = server.log.read_text()
    assert "not waited for" not in log and "panic" not in log


def test_what_an_app_gets_and_says(server, http):
    app = http_server(
        """
if self.path.startswith('/to?'):
    return self.answer(b'', 302, ('Location', self.path[4:].replace('HOST', self.headers['Host'])), ('NEL', 'x'), ('Link', '</next>; rel=next'), ('X-Accel-Redirect', '/x'),
        ('Set-Cookie', 'prefs={"a":[1,2]}; Path=/app; Domain=example.com; Priority=High'), ('Content-Security-Policy', "default-src 'self'"))
self.answer(json.dumps({'path': self.path, 'headers': self.headers.items()}).encode(), 200, ('ETag', '"1"'))
"""
    )
    session, url = served(http, app)
    token = urlsplit(url).path.split("/")[2]
    prefix = f"/p/{token}"
    for path in ("q?a=1;b=2", "q?a=%zz&;", "?", "%2F//x/..;v=1/%7e", "a{b}|c?d[]=e", "q?next=" + prefix):
        assert ask(url, path).json()["path"] == "/" + path, path
    cookie = 'a="x, y"; json={"k": "v;"}; arr[]=żółć; agentsandbox_key=1; b='
    got = ask(url, "x", "Cookie: " + cookie, f"Referer: {url}page?x", "Authorization: Bearer x", "X-Forwarded-Prefix: " + prefix, "X-Forwarded-Proto: https").json()
    headers = {k.lower(): v.encode("latin-1").decode() for k, v in got["headers"]}
    assert headers["cookie"] == 'a="x, y"; json={"k": "v;"}; arr[]=żółć; b=', headers
    assert headers["referer"] == f"http://{urlsplit(url).netloc}/page?x" and headers["x-forwarded-proto"] == "https"
    assert "authorization" not in headers
    assert token not in json.dumps(got) and session not in token and "default" not in token
    for to, want in {
        "/x?y": prefix + "/x?y",
        "http://HOST/items/": prefix + "/items/",
        "//HOST/a": prefix + "/a",
        "http://localhost:8000/a": prefix + "/a",
        "https://127.0.0.1/a#b": prefix + "/a#b",
        "http://localhost:9/a": "http://localhost:9/a",
        "https://other.example/": "https://other.example/",
        "next": "next",
    }.items():
        r = ask(url, "to?" + to)
        assert r.headers["location"] == want, (to, r.headers)
    assert r.headers["set-cookie"] == f'prefs={{"a":[1,2]}}; Path={prefix}/app; Priority=High'
    assert r.headers["link"] == f"<{prefix}/next>; rel=next" and r.headers["content-security-policy"].startswith("default-src 'self', sandbox ")
    assert "nel" not in r.headers and "x-accel-redirect" not in r.headers
    # The URL is as clients reach it.
    r = http.post(f"/v1/sessions/{session}/ports", json={"port": 8000}, headers={"X-Forwarded-Proto": "https"})
    assert r.json()["url"].startswith("https://"), r.text
    assert http.delete(f"/v1/sessions/{session}").status_code == 204


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_servers_that_listen_for_themselves_are_reached(server, http, address):
    app = http_server("self.answer(self.rfile.read(int(self.headers.get('Content-Length') or 0))[::-1])")
    app = app.replace("s = http.server.Threading", "import socket\nif ':' in HOST: http.server.ThreadingHTTPServer.address_family = socket.AF_INET6\ns = http.server.Threading")
    session, url = served(http, app, address)
    sent = os.urandom(2_000_000)
    assert httpx.post(url, content=sent, verify=PLAIN, timeout=60).content == sent[::-1]
    # forward, too
    port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
    env = {**os.environ, "AGENTSANDBOX_BASE_URL": server.url, "AGENTSANDBOX_API_KEY": server.key}
    forward = subprocess.Popen([BIN, "forward", session, "8000", str(port)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def forwarded():
            try:
                return httpx.post(f"http://127.0.0.1:{port}", content=sent, verify=PLAIN, timeout=60).content == sent[::-1]
            except httpx.TransportError:
                return False

        assert eventually(forwarded)
    finally:
        forward.terminate()
        forward.wait(20)
    # Nobody listens, on the same port of the machine either.
    own = socket.create_server(("127.0.0.1", 0))
    r = http.post(f"/v1/sessions/{session}/ports", json={"port": own.getsockname()[1]})
    refused(httpx.get(r.json()["url"], verify=PLAIN), 502, "port_not_reached")
    # What was dialled can be bound.
    out = run(http, f"import socket; socket.create_server(('127.0.0.1', {own.getsockname()[1]})); print('bound')", session_id=session)
    assert out["stdout"] == "bound\n"
    assert http.delete(f"/v1/sessions/{session}").status_code == 204


def tunnel(server: Server, key: str, session: str, port: int = 8000) -> tuple[socket.socket, int]:
    u = urlsplit(server.url)
    s = socket.create_connection((u.hostname, u.port), 30)
    s.sendall(
        f"GET /v1/sessions/{session}/ports/{port}/tunnel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\nUpgrade: agentsandbox-tcp\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        part = s.recv(1)
        assert part, head
        head += part
    return s, int(head.split()[1])


ECHO = """
import socket, threading
def serve(c):
    while data := c.recv(65536): c.sendall(data)
s = socket.create_server((HOST, 8000), backlog=100)
print("listening", flush=True)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def works(s: socket.socket) -> bool:
    s.sendall(b"x")
    return s.recv(1) == b"x"


def over(s: socket.socket) -> bool:
    """Waits for the server to hang up."""
    try:
        while s.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_what_ends_connections_to_ports(tmp_path):
    """Their number, idleness, the network switched off, a revoked key."""
    flags = ("--port-max-connections=3", "--port-max-connections-per-key=2", "--port-max-connections-per-url=1", "--port-idle-ms=4000")
    server = Server(tmp_path / "data", "--preload=none", *flags).start()
    try:
        with server.http() as http:
            made = http.post("/v1/api-keys", json={"name": "a", "tenant": "default", "scopes": ["sandbox"]}).json()
            key, other = made["key_value"], server.key
            with server.http(key) as its:
                session, url = served(its, ECHO)
            # How many.
            first, _ = tunnel(server, key, session)
            second, _ = tunnel(server, key, session)
            third, status = tunnel(server, key, session)
            assert status == 429, status
            fourth, status = tunnel(server, other, session)
            fifth, more = tunnel(server, other, session)
            assert (status, more) == (101, 429)
            assert works(first) and works(fourth)
            # Idle.
            assert over(second) and over(first)
            # Off is for both ways.
            sixth, _ = tunnel(server, other, session)
            assert works(sixth)
            assert http.put(f"/v1/sessions/{session}/network", json={"mode": "off"}).status_code == 200
            assert over(sixth)
            assert tunnel(server, other, session)[1] == 409
            refused(httpx.get(url, verify=PLAIN), 502, "port_not_reached")
            assert session not in httpx.get(url, verify=PLAIN).text
            assert http.put(f"/v1/sessions/{session}/network", json={"mode": "public"}).status_code == 200
            # A revoked key.
            its, _ = tunnel(server, key, session)
            others, _ = tunnel(server, other, session)
            through = knock(url, "x")
            assert works(its) and works(others) and through.recv(1) is not None
            assert http.delete(f"/v1/api-keys/{made['id']}").status_code in (200, 204)
            assert over(its) and works(others)
            refused(httpx.get(url, verify=PLAIN), 404, "port_not_found")
            assert http.get(f"/v1/sessions/{session}/ports").json()["ports"] == []
            assert http.delete(f"/v1/sessions/{session}").status_code == 204
    finally:
        assert server.stop() == 0, server.log_text()


def test_a_key_that_expires_loses_what_it_opened(own_server):
    with own_server.http() as http:
        session, _ = served(http, ECHO)
        end = datetime.now(timezone.utc) + timedelta(seconds=15)
        key = http.post("/v1/api-keys", json={"name": "short", "scopes": ["sandbox"], "expires_at": end.isoformat()}).json()["key_value"]
        its, _ = tunnel(own_server, key, session)
        others, _ = tunnel(own_server, own_server.key, session)
        with own_server.http(key) as holder:
            opened = holder.post(f"/v1/sessions/{session}/ports", json={"port": 8000, "expires_in_ms": 3_600_000}).json()
        assert datetime.fromisoformat(opened["expires_at"].replace("Z", "+00:00")) <= end
        assert works(its) and works(others)
        assert over(its) and works(others)
        refused(httpx.get(opened["url"], verify=PLAIN), 404, "port_not_found")
        assert http.get(f"/v1/sessions/{session}/ports").json()["ports"] == []
        assert tunnel(own_server, key, session)[1] == 401


def test_a_websocket_is_logged_as_one(own_server):
    app = """
import base64, hashlib, socket
s = socket.create_server((HOST, 8000))
print("listening", flush=True)
while True:
    c = s.accept()[0]
    head = c.recv(65536).decode()
    key = [l.split(": ")[1] for l in head.split("\\r\\n") if l.lower().startswith("sec-websocket-key")][0]
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    c.sendall(f"HTTP/1.1 101 X\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: {accept}\\r\\nStrict-Transport-Security: x\\r\\n\\r\\n".encode())
    c.sendall(c.recv(100)); c.close()
"""
    with own_server.http() as http:
        session, url = served(http, app, "127.0.0.1")
        u = urlsplit(url)
        with socket.create_connection((u.hostname, u.port), 30) as s:
            s.sendall(f"GET {u.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += s.recv(1)
            assert b" 101 " in head and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head and b"Strict" not in head, head
            s.sendall(b"ping")
            assert s.recv(100) == b"ping"
        assert eventually(lambda: [line for line in own_server.log.read_text().splitlines() if "/p/{token}" in line and "status=101" in line])
        assert http.delete(f"/v1/sessions/{session}").status_code == 204
