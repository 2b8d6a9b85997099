"""`agentsandbox mcp --listen`: names of hosts, how many conversations, and keys that are revoked."""

import concurrent.futures
import contextlib
import re
import signal
import socket
import subprocess
import uuid

import httpx
import pytest
from server import BIN, eventually

ACCEPT = {"Accept": "application/json, text/event-stream"}
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip


@contextlib.contextmanager
def door(server, *flags, prefix=()):
    command = [*prefix, BIN, "mcp", "--listen", "127.0.0.1:0", "--server", server.url, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            yield re.search(r"http://\S+/mcp", process.stderr.readline())[0]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, process.stderr.read()


class Conversation:
    def __init__(self, url, key):
        self.url = url
        self.headers = {**ACCEPT, "Authorization": f"Bearer {key}"}
        began = httpx.post(url, json=HELLO, headers=self.headers, timeout=60)
        self.status, self.retry = began.status_code, began.headers.get("Retry-After")
        if self.status == 200:
            self.headers["Mcp-Session-Id"] = began.headers["Mcp-Session-Id"]

    def post(self, method, **params):
        body = {"jsonrpc": "2.0", "id": 2, "method": method, "params": params}
        return httpx.post(self.url, json=body, headers=self.headers, timeout=60)

    def bash(self, code):
        answer = self.post("tools/call", name="execute_bash", arguments={"code": code})
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]["structuredContent"]

    def gone(self):
        return self.post("ping").status_code == 404


@pytest.fixture
def tenant(server):
    """The key of a tenant of its own, the id of that key, and the sessions of the tenant."""
    with server.http() as http:
        name = "t-" + uuid.uuid4().hex[:8]
        key, other = (http.post("/v1/api-keys", json={"name": "k", "tenant": name, "scopes": ["sandbox", "read"]}).json() for _ in range(2))
        reader = {"Authorization": f"Bearer {other['key_value']}"}
        yield key["key_value"], key["id"], lambda: set(http.get("/v1/sessions", headers=reader).json()["sessions"])


def test_hosts_behind_a_proxy(server):
    right = {**ACCEPT, "Authorization": f"Bearer {server.key}"}

    def status(url, **headers):
        return httpx.post(url, json=HELLO, headers={**right, **headers}).status_code

    with door(server) as url:
        port = httpx.URL(url).port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", "[::1]:9", "127.9.9.9"):
            assert status(url, Host=host) == 200, host
        for host in ("mcp.example.com", "mcp.example.com:443", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1"):
            assert status(url, Host=host) == 403, host
        assert "--allowed-host mcp.example.com" in httpx.post(url, json=HELLO, headers={**right, "Host": "mcp.example.com:443"}).text
    with door(server, "--allowed-host", "mcp.example.com", "--allowed-host", "Other.Example.com:8443") as url:
        for host in ("mcp.example.com", "MCP.example.com:443", "other.example.com", "localhost"):
            assert status(url, Host=host) == 200, host
        assert status(url, Host="page.example") == 403
        assert status(url, Host="mcp.example.com", Origin="https://mcp.example.com") == 200
        # A page whose name was bound to this address, and one from elsewhere.
        assert status(url, Host="page.example", Origin="http://page.example") == 403
        assert status(url, Host="mcp.example.com", Origin="https://page.example") == 403
        assert status(url, Host="localhost", Origin="null") == 403
    with door(server, "--allowed-host", "*") as url:
        assert status(url, Host="whatever.example") == 200
        assert status(url, Host="page.example", Origin="http://page.example") == 403


def test_one_key_has_so_many_conversations(server, tenant):
    key, _, sessions = tenant
    running = lambda: httpx.get(server.url + "/v1/executions?status=running", headers={"Authorization": f"Bearer {key}"}).json()["executions"]  # noqa: E731
    with door(server, "--conversations-per-key", "3") as url:
        first, second, third = (Conversation(url, key) for _ in range(3))
        kept = {c.bash("true")["session_id"] for c in (first, second, third)}
        assert sessions() == kept
        first.post("ping")  # now the second is idle for longest
        fourth = Conversation(url, key)
        assert fourth.status == 200 and second.gone() and not first.gone() and not third.gone()
        assert eventually(lambda: len(sessions()) == 2)  # its sandbox ended with it
        assert Conversation(url, server.key).status == 200  # another key has its own
        # None is idle: there is no place, until there is.
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(c.bash, "sleep 20") for c in (first, third, fourth)]
            assert eventually(lambda: len(running()) == 3)
            refused = Conversation(url, key)
            assert (refused.status, refused.retry) == (503, "10")
            httpx.delete(url, headers=third.headers, timeout=60)
            assert eventually(lambda: Conversation(url, key).status == 200)
            for c in (first, fourth):
                httpx.delete(url, headers=c.headers, timeout=60)
            with contextlib.suppress(Exception):  # what ran was ended
                [r.result() for r in runs]


def test_many_at_once_stay_within_the_bound(server, tenant):
    key, _, sessions = tenant
    with door(server, "--conversations-per-key", "4") as url, concurrent.futures.ThreadPoolExecutor(16) as pool:
        conversations = list(pool.map(lambda _: Conversation(url, key), range(40)))
        assert {c.status for c in conversations} <= {200, 503}
        alive = [c for c in conversations if c.status == 200 and not c.gone()]
        assert 1 <= len(alive) <= 4
        assert Conversation(url, key).status == 200


def test_a_revoked_key_ends_its_conversation_and_its_sandbox(server, tenant):
    key, key_id, sessions = tenant
    with door(server, "--lease", "2s") as url, server.http() as http:
        used, idle = Conversation(url, key), Conversation(url, key)
        own = used.bash("true")["session_id"]
        other = Conversation(url, server.key)
        others = other.bash("echo kept > file")["session_id"]
        # Kept for as long as the conversation lasts: this is longer than the lease.
        assert used.bash("sleep 5; echo still")["stdout"] == "still\n"
        assert used.bash("true")["session_id"] == own
        assert http.delete(f"/v1/api-keys/{key_id}").status_code == 204
        assert eventually(lambda: used.gone() and idle.gone())
        assert eventually(lambda: own not in sessions())
        assert Conversation(url, key).status == 401
        assert other.bash("cat file")["stdout"] == "kept\n"
        assert http.get(f"/v1/sessions/{others}").status_code == 200


def test_a_sandbox_ends_with_a_door_that_was_killed(server, tenant):
    key, _, sessions = tenant
    command = [BIN, "mcp", "--listen", "127.0.0.1:0", "--server", server.url, "--lease", "1s"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        url = re.search(r"http://\S+/mcp", process.stderr.readline())[0]
        Conversation(url, key).bash("true")
        assert len(sessions()) == 1
        process.kill()
    assert eventually(lambda: sessions() == set())


def test_an_idle_sandbox_ends_and_the_conversation_goes_on(server, tenant):
    key, _, sessions = tenant
    with door(server, "--lease", "1s", "--idle", "2s") as url:
        conversation = Conversation(url, key)
        own = conversation.bash("sleep 4; echo busy")  # a run is no idle time
        assert own["stdout"] == "busy\n"
        assert eventually(lambda: sessions() == set())
        assert conversation.bash("echo again")["session_id"] != own["session_id"]


def test_connections_of_nobody_keep_nobody_out(server):
    """More of them than there are descriptors, idle after a request without a key: the longest idle ones go."""
    with door(server, prefix=("prlimit", "--nofile=96")) as url, contextlib.ExitStack() as idle:
        held = []
        for _ in range(120):
            s = idle.enter_context(socket.create_connection((httpx.URL(url).host, httpx.URL(url).port), timeout=20))
            s.sendall(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert s.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
            held.append(s)
        c = Conversation(url, server.key)
        assert c.status == 200 and c.bash("echo in")["stdout"] == "in\n"
        assert held[0].recv(1) == b"", "the longest idle connection is still there"
