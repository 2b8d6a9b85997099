"""What sandboxes reach, what they do not, and the ways into them, on the real server."""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading

import httpx
import pytest
from outside import ADDRESS, Outside, package_index
from server import BIN, Server, eventually, refused, run

PACKAGE = "iniconfig"  # small, pure Python, and not in the template
SECRET = "the-value-of-the-secret"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    o = Outside(tmp_path_factory.mktemp("outside"))
    yield o
    o.close()


@pytest.fixture(scope="module")
def index():
    return package_index(PACKAGE)


@pytest.fixture(scope="module")
def egress(tmp_path_factory, outside, index):
    """A server whose operator has opened the package index and the stand-ins."""
    opened = [f"--egress-open={host}" for host in (ADDRESS, *index[1])]
    s = Server(
        tmp_path_factory.mktemp("egress") / "data", "--pool-size=1", "--preload=none", f"--egress-dns={outside.names.server}",
        f"--ca-bundle={outside.bundle}", f"--egress-ca-cert={outside.bundle.parent}/ca.pem", f"--egress-ca-key={outside.bundle.parent}/ca.key", "--egress-deny=denied.example.com", *opened, on_shutdown="keep",
    ).start()  # fmt: skip
    yield s
    with s.http() as http:
        for session in http.get("/v1/sessions").json()["sessions"]:
            http.delete(f"/v1/sessions/{session}")
    assert s.stop() == 0, s.log_text()
    assert eventually(lambda: not s.sandbox_pids() and not s.cgroups()), "something is left on the host"


@pytest.fixture
def http(egress):
    with egress.http() as client:
        yield client


def session(http, **kw) -> str:
    r = http.post("/v1/sessions", json=kw)
    assert r.status_code == 201, r.text
    return r.json()["session_id"]


def bash(http, code, **kw):
    return run(http, code, language="bash", **kw)


FETCH = """
import json, os, sys, time, urllib.request
for url in json.loads(os.environ["URLS"]):
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=60) as r: said = r.status
    except urllib.error.HTTPError as e: said = e.code
    except OSError as e: said = str(getattr(e, "reason", e))
    print(json.dumps([said, time.monotonic() - began < 15]))
"""


def fetch(http, *urls, **kw) -> list:
    out = run(http, FETCH, env_vars={"URLS": json.dumps(urls)}, **kw)
    assert out["return_code"] == 0, out
    return [json.loads(line) for line in out["stdout"].splitlines()]


def test_pip_installs_what_the_next_execution_imports(http, index):
    env = {"PIP_INDEX_URL": index[0]}
    s = session(http)
    assert run(http, f"import {PACKAGE}", session_id=s)["return_code"] == 1
    r = bash(http, f"pip install --no-input {PACKAGE}", session_id=s, env_vars=env)
    assert r["return_code"] == 0 and "Successfully installed" in r["stdout"], r
    r = run(http, f"import {PACKAGE}; print({PACKAGE}.__name__)", session_id=s)
    assert r["stdout"] == PACKAGE + "\n", r


def test_what_the_documents_fetch(http):
    r = run(http, "import requests\nfrom bs4 import BeautifulSoup\nresp = requests.get('https://example.com')\nsoup = BeautifulSoup(resp.text, 'html.parser')\nprint(soup.title.text)")
    assert r["stdout"] == "Example Domain\n", r["stderr"]
    assert bash(http, "curl -fsS https://www.example.com/ | head -c 6")["stdout"] == "<html>"


def test_refusals_are_fast_and_logged(egress, http, outside):
    port = egress.url.rsplit(":", 1)[1]
    s = session(http)
    urls = ["http://169.254.169.254/", "http://metadata.example.com/", "http://rebound.example.com/", "http://10.0.0.1/", "http://[fd00:ec2::254]/",
            "http://[::ffff:127.0.0.1]/", "http://192.0.0.1/", f"http://127.0.0.1:{port}/", "http://denied.example.com/", "http://100.64.0.1/"]  # fmt: skip
    for url, (said, fast) in zip(urls, fetch(http, *urls, session_id=s)):
        assert fast and not isinstance(said, int), (url, said)
    report = http.get(f"/v1/sessions/{s}/network").json()
    assert report["policy"] == {"mode": "public"} and report["device"]
    assert report["refusals"]["range"] >= 5 and report["refusals"]["denied"] >= 1, report["refusals"]
    rules = " ".join(e["rule"] for e in report["log"] if e["verdict"] == "refused")
    assert "cloud metadata" in rules and "private" in rules and "server deny denied.example.com" in rules, rules
    assert "denied.example.com" not in outside.names.asked
    assert egress.metric("agentsandbox_egress_decisions_total") > 0


def test_an_allowlist_lets_through_what_it_names(http, outside):
    port = outside.web.port
    s = session(http, network={"mode": "allowlist", "allow": [f"*.example.com:{port}"], "deny": ["www.example.com"]})
    assert http.get(f"/v1/sessions/{s}").json()["network"] == {"mode": "allowlist", "allow": [f"*.example.com:{port}"], "deny": ["www.example.com"]}
    said = [said for said, _ in fetch(http, *(f"http://{host}:{port}/x" for host in ("api.example.com", "www.example.com", "other.example.net")), f"http://{ADDRESS}:{port}/", session_id=s)]
    assert said[0] == 200 and not any(isinstance(x, int) and x == 200 for x in said[1:]), said
    # For one run alone, and with nothing on the list.
    out = fetch(http, f"http://api.example.com:{port}/x", network={"mode": "allowlist"})
    assert out[0][0] != 200 and out[0][1], out


def test_what_is_more_than_the_server_allows_is_an_error(http):
    for policy, field in [
        ({"mode": "allowlist", "allow": ["example.com", "127.0.0.1"]}, "network.allow[1]"),
        ({"mode": "allowlist", "allow": ["169.254.169.254"]}, "network.allow[0]"),
        ({"mode": "allowlist", "allow": ["*bad"]}, "network.allow[0]"),
        ({"mode": "allowlist", "allow": ["denied.example.com"]}, "network.allow[0]"),
        ({"mode": "all"}, "network.mode"),
        ({"allow": ["example.com"]}, "network.allow"),
    ]:
        for path, body in ("/v1/sessions", {}), ("/v1/execute", {"code": "1"}):
            error = refused(http.post(path, json={**body, "network": policy}), 422, "invalid_request")
            assert error["details"][0]["field"] == field, error
    s = session(http)
    assert refused(http.post("/v1/execute", json={"code": "1", "session_id": s, "network": {"mode": "off"}}), 422)["details"][0]["field"] == "network"
    refused(http.put("/v1/sessions/ses_aaaaaaaaaaaaaaaaaaaaaaaaaa/network", json={"mode": "off"}), 404, "session_not_found")


def test_another_policy_cuts_a_live_connection(http, outside):
    port = outside.web.port
    s = session(http)
    code = f"""
import socket, pathlib
c = socket.create_connection(("api.example.com", {port}))
c.sendall(b"GET /drip HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
print(c.recv(12).decode()); pathlib.Path("/workspace/open").touch()
try:
    while c.recv(65536): pass
    print("cut")
except OSError: print("cut")
try: socket.create_connection(("api.example.com", {port})); print("reached")
except OSError as e: print("refused")
"""
    with httpx.Client(base_url=http.base_url, headers=http.headers, timeout=60) as other:
        answer = []
        t = threading.Thread(target=lambda: answer.append(run(other, code, session_id=s)))
        t.start()
        assert eventually(lambda: http.get(f"/v1/sessions/{s}/fs/stat", params={"path": "/workspace/open"}).status_code == 200)
        assert http.get(f"/v1/sessions/{s}/network").json()["open_connections"] == 1
        r = http.put(f"/v1/sessions/{s}/network", json={"mode": "allowlist", "allow": ["www.example.com"]})
        assert r.status_code == 200 and r.json()["network"]["allow"] == ["www.example.com"], r.text
        t.join(30)
    assert answer[0]["stdout"] == "HTTP/1.1 200\ncut\nrefused\n", answer
    log = http.get(f"/v1/sessions/{s}/network").json()["log"]
    assert any(e["verdict"] == "cut" and "policy replaced" in e["rule"] for e in log), log
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "public"}).status_code == 200
    assert fetch(http, f"http://api.example.com:{port}/x", session_id=s)[0][0] == 200


def test_off_is_no_device(http):
    look = "import socket; print(sorted(n for _, n in socket.if_nameindex()), open('/etc/resolv.conf').read())"
    assert run(http, look, network={"mode": "off"})["stdout"] == "['lo'] \n"
    s = session(http, network={"mode": "off"})
    assert run(http, look, session_id=s)["stdout"] == "['lo'] \n"
    assert http.get(f"/v1/sessions/{s}/network").json()["device"] is False
    refused(http.put(f"/v1/sessions/{s}/network", json={"mode": "public"}), 409, "conflict")
    refused(http.post(f"/v1/sessions/{s}/ports", json={"port": 80}), 409, "conflict")
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "off"}).status_code == 200
    # One that has a device can be cut off.
    s = session(http)
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "off"}).json()["network"] == {"mode": "off"}
    assert fetch(http, "https://example.com/", session_id=s)[0][0] != 200


def headers_seen(http, outside, url, **kw) -> dict:
    """What the server got. That it must not come back is not tested: a host that echoes tells."""
    r = bash(http, f'curl -sS -o /dev/null -H "X-Key: $API_TOKEN" {url}', **kw)
    assert r["return_code"] == 0, r
    return {k.lower(): v for k, v in outside.web.seen[-1][1].items()}


def test_a_secret_goes_to_its_host_alone(egress, http, outside):
    port = outside.web.port
    s = session(http, secrets=[{"name": "API_TOKEN", "value": SECRET, "hosts": ["api.example.com"]},
                               {"name": "OTHER", "value": SECRET + "2", "hosts": ["www.example.com"], "header": "Authorization: Bearer"}])  # fmt: skip
    shown = http.get(f"/v1/sessions/{s}").json()["secrets"]
    assert shown == [{"name": "API_TOKEN", "hosts": ["api.example.com"]}, {"name": "OTHER", "hosts": ["www.example.com"], "header": "Authorization: Bearer"}]
    inside = bash(http, "echo $API_TOKEN; cat /proc/self/environ | tr '\\0' '\\n'", session_id=s)["stdout"]
    assert inside.startswith("asb_placeholder_") and SECRET not in inside
    for _ in range(2):
        assert headers_seen(http, outside, f"http://api.example.com:{port}/x", session_id=s)["x-key"] == SECRET
        other = headers_seen(http, outside, f"http://other.example.net:{port}/x", session_id=s)
        assert other["x-key"].startswith("asb_placeholder_") and "authorization" not in other
        assert headers_seen(http, outside, f"http://www.example.com:{port}/x", session_id=s)["authorization"] == f"Bearer {SECRET}2"
        # The next server has them, and nothing on the disk says what they are.
        egress.stop(signal.SIGKILL)
        kept = read_all(egress.data)
        egress.launch()
        egress.wait_ready()
        assert s.encode() in kept and SECRET.encode() not in kept
    for body, field in [
        ({"secrets": [{"name": "A B", "value": "x", "hosts": ["a.example"]}]}, "secrets"),
        ({"secrets": [{"name": "A", "value": "x", "hosts": ["10.0.0.1"]}]}, "secrets.A.hosts"),
        ({"secrets": [{"name": "A", "value": "x", "hosts": ["a.example"]}], "env_vars": {"A": "1"}}, "secrets.A"),
    ]:
        assert refused(http.post("/v1/sessions", json=body), 422)["details"][0]["field"] == field
    assert SECRET not in egress.log_text()


def audit_rows(http, about: str) -> list:
    rows = [r for r in http.get("/v1/audit", params={"limit": 100}).json()["entries"] if r["object_id"] == about and r["action"].endswith(("Egress", "Secret"))]
    return [(r["action"], r["outcome"], r["detail"]) for r in reversed(rows)]


def test_refusals_and_uses_of_secrets_are_in_the_audit_log(egress, http, outside):
    port = outside.web.port
    s = session(http, secrets=[{"name": "API_TOKEN", "value": SECRET, "hosts": ["*.example.com"]}])
    for _ in range(3):
        headers_seen(http, outside, f"http://api.example.com:{port}/x", session_id=s)
    fetch(http, *["http://169.254.169.254/"] * 5, "http://10.0.0.1/", "http://denied.example.com/", session_id=s)
    # The first of each within a second, while the session lives, and counted once.
    said = eventually(lambda: len(audit_rows(http, s)) == 4 and audit_rows(http, s))
    assert said, audit_rows(http, s)
    assert ("useSecret", "ok", f'API_TOKEN to "api.example.com" at {ADDRESS} port {port}') in said
    assert ("refuseEgress", "range", "tcp 169.254.169.254 port 80: cloud metadata address") in said
    assert ("refuseEgress", "range", "tcp 10.0.0.1 port 80: private address") in said
    assert ("refuseEgress", "denied", 'dns "denied.example.com": server deny denied.example.com') in said
    # Thousands of hostile names: few rows, printable, and counted.
    bash(http, "for i in $(seq 300); do getent hosts x$i.denied.example.com; done", session_id=s)
    out = run(http, "import socket\nfor i in range(40):\n    with socket.create_connection(('api.example.com', %d)) as c: c.sendall(b'GET / HTTP/1.1\\r\\nHost: \\xff\\x1b%%d\\r\\n\\r\\n' %% i); c.recv(999)" % port, session_id=s)
    assert out["return_code"] == 0, out
    http.delete(f"/v1/sessions/{s}").raise_for_status()
    said = audit_rows(http, s)
    assert len(said) < 40 and all(len(d) < 1500 and d.isascii() and d.isprintable() for _, _, d in said), said
    action, outcome, total = said[-1]
    assert action == "countEgress" and outcome == "ok" and "cloud metadata 5" in total and "used: API_TOKEN 3 (api.example.com 3)" in total, total
    # A run without a session has one row.
    r = http.post("/v1/execute", json={"code": "import socket\nfor _ in range(9):\n    try: socket.create_connection(('127.0.0.2', 1))\n    except OSError: pass\nfor _ in range(9):\n    try: socket.create_connection(('10.0.0.2', 1))\n    except OSError: pass"})
    said = eventually(lambda: audit_rows(http, r.json()["execution_id"]))
    assert said == [("countEgress", "ok", "refused: range 9 (private 9)")], said
    assert SECRET not in http.get("/v1/audit").text
    verified = subprocess.run([BIN, "audit", "verify", "--data-dir", egress.data], capture_output=True, text=True)
    assert verified.returncode == 0, verified


def test_a_secret_goes_into_tls_where_the_operator_has_an_authority(http, outside):
    s = session(http, secrets=[{"name": "API_TOKEN", "value": SECRET, "hosts": ["www.example.com"]}])
    code = 'curl -sS -o /dev/null -w "%{http_code} %{ssl_verify_result}\\n" -H "X-Key: $API_TOKEN" '
    for url, want in ("https://www.example.com/x", SECRET), ("https://example.com/x", "asb_placeholder_"):
        r = bash(http, code + url, session_id=s)
        assert r["stdout"] == "200 0\n", r
        assert {k.lower(): v for k, v in outside.tls.seen[-1][1].items()}["x-key"].startswith(want)


def read_all(directory) -> bytes:
    return b"".join(p.read_bytes() for p in directory.rglob("*") if p.is_file())


def test_the_network_outlives_a_killed_server(egress, http, outside):
    port = outside.web.port
    s = session(http, network={"mode": "allowlist", "allow": ["api.example.com", "www.example.com"]})
    urls = [f"http://{host}:{port}/x" for host in ("api.example.com", "www.example.com", "other.example.net")]
    assert [said == 200 for said, _ in fetch(http, *urls, session_id=s)] == [True, True, False]
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "allowlist", "allow": ["www.example.com"]}).status_code == 200
    begin = "import time, urllib.request\nprint('x' * 200_000, flush=True)\nwhile True:\n    try:\n        print(urllib.request.urlopen('http://api.example.com:%d/late').status); break\n    except OSError: time.sleep(0.2)" % port

    def once():
        try:
            with egress.http() as client:
                client.post("/v1/execute", json={"code": begin.replace("/late", "/early") + "\ntime.sleep(3)\n" + begin, "timeout_ms": 60000})
        except Exception:
            pass  # the server dies meanwhile

    t = threading.Thread(target=once)
    t.start()
    assert eventually(lambda: any(path == "/early" for path, _ in outside.web.seen), 60)
    egress.stop(signal.SIGKILL)
    t.join()
    egress.launch()
    egress.wait_ready()
    assert http.get(f"/v1/sessions/{s}").json()["network"] == {"mode": "allowlist", "allow": ["www.example.com"]}
    assert [said == 200 for said, _ in fetch(http, *urls, session_id=s)] == [False, True, False]
    # A run in a sandbox of its own, too.
    assert eventually(lambda: any(path == "/late" for path, _ in outside.web.seen), 60)


SERVE = """
import base64, hashlib, http.server, json, socket, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers.get("Upgrade") == "websocket":
            accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
            while data := self.connection.recv(4096): self.connection.sendall(data)
            self.close_connection = True
            return
        if self.path == "/away":
            self.send_response(302); self.send_header("Location", "/there"); self.send_header("Content-Length", "0"); self.end_headers(); return
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        for name, value in ("Content-Length", str(len(body))), ("Set-Cookie", "a=b; Path=/; Domain=example.com"), ("Service-Worker-Allowed", "/"): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), H).serve_forever()
"""


def serve(http, s: str, port: int = 8000):
    http.put(f"/v1/sessions/{s}/fs", params={"path": "/tmp/serve.py"}, content=SERVE).raise_for_status()
    bash(http, f"setsid python3 /tmp/serve.py {port} >/dev/null 2>&1 & for i in $(seq 100); do (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.1; done", session_id=s)


def test_a_port_has_a_url(egress, http):
    s = session(http)
    serve(http, s)
    r = http.post(f"/v1/sessions/{s}/ports", json={"port": 8000, "expires_in_ms": 3_600_000})
    assert r.status_code == 200, r.text
    opened = r.json()
    assert opened["port"] == 8000 and opened["url"].startswith(egress.url + "/p/") and http.get(f"/v1/sessions/{s}/ports").json()["ports"] == [opened]
    url = opened["url"]
    with httpx.Client(timeout=60) as stranger:
        r = stranger.get(url + "a//b/%2e%2e/c?x=1", headers={"Authorization": f"Bearer {egress.key}", "Cookie": "mine=1; agentsandbox_key=2"})
        assert r.status_code == 200, r.text
        seen = {k.lower(): v for k, v in r.json()["headers"].items()}
        assert r.json()["path"] == "/a//b/%2e%2e/c?x=1"
        assert "authorization" not in seen and seen["cookie"] == "mine=1" and egress.key not in r.text
        path = url.removeprefix(egress.url)
        assert r.headers["Set-Cookie"] == f"a=b; Path={path}" and "Service-Worker-Allowed" not in r.headers
        assert r.headers["Content-Security-Policy"].startswith("sandbox ") and "allow-same-origin" not in r.headers["Content-Security-Policy"]
        assert not any(h.lower().startswith("access-control") for h in r.headers) and r.headers["Referrer-Policy"] == "no-referrer"
        assert stranger.get(url + "away").headers["Location"] == path + "there"
        assert stranger.post(url + "x", content=b"y" * 100_000).status_code == 200
        assert stranger.get(url.rstrip("/")).headers["Location"] == path
        web_socket(egress, path)
        # Damaged, closed, and of nobody.
        for bad in (url[:-3] + "xx/", egress.url + "/p/x/", egress.url + "/p/../v1/sessions"):
            assert stranger.get(bad).status_code in (404, 401), bad
        assert http.delete(f"/v1/sessions/{s}/ports/8000").status_code == 204
        refused(stranger.get(url), 404, "port_not_found")
        refused(http.delete(f"/v1/sessions/{s}/ports/8000"), 404, "port_not_found")
        again = http.post(f"/v1/sessions/{s}/ports", json={"port": 8000}).json()["url"]
        assert stranger.get(again).status_code == 200 and stranger.get(url).status_code == 404
        short = http.post(f"/v1/sessions/{s}/ports", json={"port": 8000, "expires_in_ms": 1000}).json()["url"]
        assert eventually(lambda: stranger.get(short).status_code == 404)
        nobody = http.post(f"/v1/sessions/{s}/ports", json={"port": 9}).json()["url"]
        refused(stranger.get(nobody), 502, "port_not_reached")
        kept = http.post(f"/v1/sessions/{s}/ports", json={"port": 8000}).json()["url"]
        egress.stop(signal.SIGKILL)
        egress.launch()
        egress.wait_ready()
        assert stranger.get(kept).status_code == 200, "the URL outlives the server"
        http.delete(f"/v1/sessions/{s}").raise_for_status()
        refused(stranger.get(kept), 404, "port_not_found")
    for body in {"port": 0}, {"port": 65536}, {"port": 80, "expires_in_ms": -1}:
        refused(http.post(f"/v1/sessions/{s}/ports", json=body), 422)


def test_ports_have_a_host_of_their_own_if_the_operator_says_so(tmp_path):
    s = Server(tmp_path / "data", "--pool-size=1", "--preload=none")
    host = "localhost:" + s.url.rsplit(":", 1)[1]
    s.flags += (f"--ports-host={host}",)
    s.start()
    try:
        with s.http() as http, httpx.Client(timeout=60) as stranger:
            kept = session(http)
            serve(http, kept, 8000)
            url = http.post(f"/v1/sessions/{kept}/ports", json={"port": 8000}).json()["url"]
            assert url.startswith(f"http://{host}/p/")
            assert http.get(f"/v1/sessions/{kept}/ports").json()["ports"][0]["url"] == url
            path = url.removeprefix(f"http://{host}")
            # By the address, and told the name: what a resolver makes of it is not tested.
            ask = lambda at, to, **kw: stranger.get(s.url + to, headers={"Host": at, **kw})  # noqa: E731
            api = s.url.removeprefix("http://")
            assert ask(host, path + "x").json()["path"] == "/x"
            assert ask(host, path + "away").headers["Location"] == path + "there"
            refused(ask(api, path + "x"), 404, "route_not_found")
            for own in "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/sessions", "/":
                refused(ask(host, own, Authorization=f"Bearer {s.key}"), 404, "route_not_found")
            assert ask(api, "/healthz").status_code == 200
            web_socket(s, path, host)
    finally:
        assert s.stop() == 0, s.log_text()


def web_socket(egress, path: str, name: str | None = None):
    host, port = egress.url.removeprefix("http://").split(":")
    key = base64.b64encode(os.urandom(16)).decode()
    with socket.create_connection((host, int(port)), 30) as c:
        c.sendall(f"GET {path}ws HTTP/1.1\r\nHost: {name or host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += c.recv(4096)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        assert head.startswith(b"HTTP/1.1 101") and accept in head, head
        c.sendall(b"\x81\x85abcd" + bytes(a ^ b for a, b in zip(b"hello", b"abcda")))
        assert c.recv(4096) == b"\x81\x85abcd" + bytes(a ^ b for a, b in zip(b"hello", b"abcda"))


def test_forward_brings_a_port_here(egress, http):
    s = session(http)
    serve(http, s, 8001)
    env = {**os.environ, "AGENTSANDBOX_API_KEY": egress.key}
    p = subprocess.Popen([BIN, "forward", s, "8001", "0", "--server", egress.url], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = p.stdout.readline()
        here = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert here, (said, p.poll())
        with httpx.Client(base_url=f"http://127.0.0.1:{here[1]}", timeout=60) as client:
            assert client.get("/some/path").json()["path"] == "/some/path"
        with socket.create_connection(("127.0.0.1", int(here[1])), 30) as c:
            c.sendall(b"GET /half HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            c.shutdown(socket.SHUT_WR)
            got = b""
            while data := c.recv(65536):
                got += data
            assert b'"/half"' in got
    finally:
        p.send_signal(signal.SIGINT)
        p.wait(20)
    assert p.returncode == 130, p.stderr.read()
    none = subprocess.run([BIN, "forward", "ses_aaaaaaaaaaaaaaaaaaaaaaaaaa", "80", "--server", egress.url], env=env, capture_output=True, text=True, timeout=60)
    assert none.returncode == 1 and "ses_aaaaaaaaaaaaaaaaaaaaaaaaaa" in none.stderr


def test_another_tenant_sees_none_of_it(egress, http):
    s = session(http)
    url = http.post(f"/v1/sessions/{s}/ports", json={"port": 80}).json()["url"]
    with egress.http(egress.new_key("stranger")) as other:
        for method, path, body in [("GET", "network", None), ("PUT", "network", {"mode": "off"}), ("GET", "ports", None), ("POST", "ports", {"port": 80}),
                                   ("DELETE", "ports/80", None)]:  # fmt: skip
            refused(other.request(method, f"/v1/sessions/{s}/{path}", json=body), 404, "session_not_found")
        r = other.get(f"/v1/sessions/{s}/ports/80/tunnel", headers={"Connection": "Upgrade", "Upgrade": "agentsandbox-tcp"})
        refused(r, 404, "session_not_found")
    with egress.http(egress.new_key("reader", "read")) as reader:
        refused(reader.get(f"/v1/sessions/{s}/ports"), 403, "forbidden")
    assert url not in json.dumps(http.get(f"/v1/sessions/{s}").json())
    audit = http.get("/v1/audit").text
    assert "openPort" in audit and url not in audit


def test_a_template_is_narrowed_by_the_operator(tmp_path, outside):
    port = outside.web.port
    s = Server(tmp_path / "data", "--pool-size=1", "--preload=none", *outside.flags(), "--egress-template=default=allow:*.example.com", "--egress-template=default=deny:www.example.com").start()
    urls = [f"http://{host}:{port}/x" for host in ("api.example.com", "www.example.com", "other.example.net")]
    try:
        with s.http() as http:
            for kw in {}, {"session_id": session(http)}, {"session_id": session(http, network={"mode": "allowlist", "allow": ["api.example.com", "*.example.com"]})}:
                assert [said == 200 for said, _ in fetch(http, *urls, **kw)] == [True, False, False], kw
            assert http.get(f"/v1/sessions/{kw['session_id']}/network").json()["log"][-1]["rule"].endswith("of the template")
            assert [said == 200 for said, _ in fetch(http, *urls, network={"mode": "allowlist"})] == [False] * 3
            narrow = session(http)
            assert http.get(f"/v1/sessions/{narrow}").json()["network"] == {"mode": "allowlist", "allow": ["*.example.com"]}
            for policy in {"mode": "public"}, {"mode": "allowlist", "allow": ["other.example.net"]}, {"mode": "allowlist", "allow": ["www.example.com"]}:
                refused(http.post("/v1/sessions", json={"network": policy}), 422)
                refused(http.post("/v1/execute", json={"code": "1", "network": policy}), 422)
                refused(http.put(f"/v1/sessions/{narrow}/network", json=policy), 422)
    finally:
        assert s.stop() == 0, s.log_text()
    for entry in "typo=off", "default=public", "default=allow:10.0.0.1":
        out = subprocess.run([BIN, "serve", "--listen=127.0.0.1:0", f"--data-dir={tmp_path}/other", f"--egress-template={entry}"], capture_output=True, text=True, timeout=60)
        assert out.returncode != 0 and "egress_template" in out.stderr, (entry, out.stderr)


def test_variables_of_the_operator(tmp_path):
    s = Server(tmp_path / "data", "--pool-size=1", "--preload=none", "--sandbox-env=PIP_INDEX_URL=http://mirror.example/simple", "--sandbox-env=B=c d,e").start()
    try:
        with s.http() as http:
            assert bash(http, "echo $PIP_INDEX_URL $B")["stdout"] == "http://mirror.example/simple c d,e\n"
            assert bash(http, "echo $B", env_vars={"B": "mine"})["stdout"] == "mine\n"
            assert bash(http, "echo $B", session_id=session(http))["stdout"] == "c d,e\n"
    finally:
        assert s.stop() == 0, s.log_text()
