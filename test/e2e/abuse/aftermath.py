"""What must hold while an abusive program runs, and after it.

Times are looked at in the full run only, on a machine that does nothing else;
ABUSE_SLACK multiplies those that are allowed.
"""

import hashlib
import os
import threading
import time
from pathlib import Path

import httpx
from server import Server, eventually, run

FULL = os.environ.get("ABUSE") == "full"
SLACK = float(os.environ.get("ABUSE_SLACK", "1" if FULL else "inf"))


class Watch:
    """Asks for the health of the server, and a neighbour for hello, while a program runs."""

    def __init__(self, host):
        self.host, self.stop = host, threading.Event()
        self.health, self.hello, self.failure = [], [], None
        self.threads = [threading.Thread(target=f) for f in (self.ask_health, self.ask_neighbour)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()

    def ask_health(self):
        with httpx.Client(base_url=self.host.server.url) as c:
            while not self.stop.wait(0.02):
                began = time.monotonic()
                if c.get("/healthz").status_code != 200:
                    self.failure = "the server is not healthy"
                self.health.append(time.monotonic() - began)

    def ask_neighbour(self):
        with self.host.server.http() as c:
            while not self.stop.wait(0.2):
                self.hello.append(self.host.say_hello(c))


class Host:
    """The server, its neighbour session, and what the machine looked like before any program."""

    def __init__(self, tmp: Path):
        self.canary = tmp / "canary"
        self.canary.write_text("nobody touches this")
        self.server = Server(tmp / "data", "--pool-size", "1", "--pool-memory-percent", "0", "--preload", "none").start()
        self.http = self.server.http()
        self.neighbour = self.http.post("/v1/sessions", json={}).json()["session_id"]
        for _ in range(3):
            self.say_hello(self.http)
            run(self.http, "print(1)")
        self.hello = max(self.say_hello(self.http) for _ in range(5))
        self.settle()
        self.base = self.look()

    def say_hello(self, http) -> float:
        began = time.monotonic()
        assert run(http, "print('hello')", session_id=self.neighbour)["stdout"] == "hello\n"
        return time.monotonic() - began

    def settle(self):
        """Waits for the pool: one warm sandbox and the neighbour's."""
        s = self.server
        assert eventually(lambda: s.metric("agentsandbox_sandboxes_ready") == 1 and len(s.sandboxes()) == 2, 30), s.sandboxes()

    def look(self) -> dict:
        s = self.server
        return {
            "goroutines": s.metric("go_goroutines"),
            "files": s.open_files(),
            "temporary": len(list(Path("/tmp").glob("runsc*"))) + len(list((s.data / "blobs").rglob("*.tmp"))),
            "records": len(list((s.data / "sandboxes" / "records").iterdir())),
            "mounts": len([m for m in Path(f"/proc/{s.process.pid}/mounts").read_text().splitlines() if str(s.data) in m or s.group in m]),
            "passwd": hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest(),
        }

    def check_nothing_left(self):
        self.settle()
        # Connections that the test's own clients keep open are a few of each.
        room = {"goroutines": 24, "files": 12}

        def differs():
            now = self.look()
            return {k: (self.base[k], v) for k, v in now.items() if (v > self.base[k] + room[k] if k in room else v != self.base[k])}

        assert eventually(lambda: not differs(), 20), differs()
        assert self.canary.read_text() == "nobody touches this"
        # The Go runtime gives memory back over minutes; what leaks adds up beyond this.
        assert self.server.resident_mb() < 600, "the memory of the server grows"
