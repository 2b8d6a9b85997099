"""The real binary, as a process that a test starts, looks at and stops."""

import hashlib
import itertools
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx

BIN = os.environ["AGENTSANDBOX_BIN"]

# For servers whose warm sandboxes are not what is tested: each one that is filled costs
# CPU of the other tests.
SMALL = ("--pool-size=1", "--pool-data-size=0")

# Nothing here speaks TLS, and a context of httpx's own, with all authorities of the
# world, would take more CPU for each client than the server does for a request.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# Each worker of a suite that shares the machine has ports of its own, below those that
# the kernel gives out: what is free now is free in a moment, when the server binds it.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = itertools.cycle(range(20000 + 1000 * WORKER, 21000 + 1000 * WORKER))


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server:
    """One `agentsandbox serve` with a data directory of its own."""

    def __init__(
        self, data: Path, *flags: str, env: dict[str, str] | None = None, key: str | None = None, on_shutdown: str = "destroy"
    ):
        self.data = Path(data)
        self.key = key or "test-" + secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._group = ""
        self.log = self.data.parent / f"{self.data.name}.log"
        self.flags = (f"--on-shutdown={on_shutdown}", *flags)
        self.env = {**os.environ, "AGENTSANDBOX_BOOTSTRAP_KEY": self.key, **(env or {})}
        self.process: subprocess.Popen | None = None
        self.prefix: tuple[str, ...] = ()  # a command that runs the server, such as one that enters a namespace

    @property
    def group(self) -> str:
        """What the server calls its control groups and its directory in /run, also when the data directory is gone."""
        try:
            st = (self.data / "sandboxes").stat()
            self._group = "agentsandbox-" + hashlib.sha256(f"{st.st_dev}:{st.st_ino}".encode()).hexdigest()[:12]
        except FileNotFoundError:
            pass
        return self._group or "agentsandbox-of-no-server"

    def start(self) -> "Server":
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        command = [*self.prefix, BIN, "serve", "--listen", self.url.removeprefix("http://"), "--data-dir", str(self.data), *self.flags]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log_text()}")
            try:
                if httpx.get(self.url + "/readyz", verify=PLAIN).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"the server is not ready:\n{self.log_text()}")
            time.sleep(0.02)

    def stop(self, sig: int = signal.SIGTERM, seconds: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(seconds)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]

    def http(self, key: str | None = None, **kw) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key if key is None else key}"}, timeout=150, verify=PLAIN, **kw)

    def new_key(self, tenant: str, *scopes: str) -> str:
        with self.http() as http:
            r = http.post("/v1/api-keys", json={"name": f"key of {tenant}", "tenant": tenant, "scopes": list(scopes) or ["sandbox"]})
            assert r.status_code in (200, 201), r.text
            return r.json()["key_value"]

    def sandbox_pids(self) -> list[int]:
        """Every process on this machine in a control group of this server's sandboxes."""
        pids = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.group in (entry / "cgroup").read_text():
                    pids.append(int(entry.name))
            except OSError:
                continue  # it ended
        return pids

    def cgroups(self) -> set[str]:
        """The control groups of this server's sandboxes, in any hierarchy."""
        return {os.path.join(root, d) for root, dirs, _ in os.walk("/sys/fs/cgroup") for d in dirs if self.group in os.path.join(root, d)}

    def sandboxes(self) -> set[str]:
        """The names of this server's sandboxes on the machine, by their control groups."""
        return {os.path.basename(c) for c in self.cgroups()} - {self.group}

    def metric(self, name: str) -> float:
        text = httpx.get(self.url + "/metrics", verify=PLAIN).text
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    def open_file_names(self) -> list[str]:
        fds = Path(f"/proc/{self.process.pid}/fd")
        return sorted(os.readlink(fds / fd) for fd in os.listdir(fds))

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def eventually(check, seconds: float = 20):
    """Calls check until it returns something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


def run(http: httpx.Client, code: str, **kw) -> dict:
    r = http.post("/v1/execute", json={"code": code, **kw})
    assert r.status_code == 200, (r.status_code, r.text)
    return r.json()


def refused(r: httpx.Response, status: int, code: str | None = None) -> dict:
    """Checks the one shape of errors and returns the error."""
    assert r.status_code == status, (r.status_code, r.text[:500])
    error = r.json()["error"]
    assert error["message"] and error["request_id"] == r.headers["X-Request-Id"]
    if code:
        assert error["code"] == code, error
    return error
