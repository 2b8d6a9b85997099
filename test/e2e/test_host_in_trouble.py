"""What the host does to the server: its helpers are killed, it has no room for another process."""

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest
from server import Server, eventually, run


def ancestors(pid: int):
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Killer(threading.Thread):
    """Kills the first program of every sandbox of a server, as often as it sees one."""

    def __init__(self, server: Server):
        super().__init__(daemon=True)
        self.server, self.killed, self.enough = server, 0, threading.Event()

    def run(self):
        while not self.enough.is_set():
            for entry in os.listdir("/proc"):
                try:
                    if "agentsandbox-birth" in os.readlink(f"/proc/{entry}/exe") and self.server.process.pid in ancestors(int(entry)):
                        os.kill(int(entry), signal.SIGKILL)
                        self.killed += 1
                except (OSError, ValueError):
                    continue

    def __exit__(self, *_):
        self.enough.set()
        self.join()

    def __enter__(self):
        self.start()
        return self


def test_the_first_program_of_sandboxes_is_killed(tmp_path):
    """A run gets its answer or an error that says so, nothing is left, and the next one works."""
    s = Server(tmp_path / "data", "--pool-size=0", "--pool-data-size=0", "--preload=none").start()
    with s.http() as http:
        with Killer(s) as killer:
            answers = [http.post("/v1/execute", json={"code": "print(1)"}) for _ in range(12)]
        assert killer.killed, "no first program was seen"
        for r in answers:
            assert r.status_code == 200 and r.json()["stdout"] == "1\n" or r.status_code == 503 and r.json()["error"]["message"], r.text
        assert run(http, "print(2)")["stdout"] == "2\n"
        assert eventually(lambda: not s.sandboxes() and not s.sandbox_pids()), (s.sandboxes(), s.sandbox_pids())
    assert s.stop() == 0
    assert not s.cgroups()


PIDS = Path("/sys/fs/cgroup/pids")


@pytest.mark.skipif(not PIDS.is_dir(), reason="no controller of processes of version 1")
def test_no_room_for_another_process(tmp_path):
    """Runs fail with an error that says so, and all is well when there is room again.

    A program in Go ends where it needs a thread and gets none. Then the next start
    takes the sessions over.
    """
    group = PIDS / f"asbx-e2e-{os.getpid()}"
    s = Server(tmp_path / "data", "--pool-size=0", "--pool-data-size=0", "--preload=none", on_shutdown="keep").start()
    group.mkdir()
    try:
        with s.http() as http:
            session = http.post("/v1/sessions", json={}).json()["session_id"]
            run(http, "open('kept', 'w').write('1')", session_id=session)
            (group / "cgroup.procs").write_text(str(s.process.pid))
            (group / "pids.max").write_text(str(len(os.listdir(f"/proc/{s.process.pid}/task"))))
            for _ in range(4):
                try:
                    r = http.post("/v1/execute", json={"code": "print(2)"})
                    assert r.status_code == 503 and r.json()["error"]["code"] == "unavailable", r.text
                except httpx.TransportError:
                    break
            (group / "pids.max").write_text("max")
        if eventually(lambda: s.process.poll() is not None, seconds=1):
            s.start()
        with s.http() as http:
            assert run(http, "print(open('kept').read())", session_id=session)["stdout"] == "1\n"
            assert run(http, "print(4)")["stdout"] == "4\n"
            assert eventually(lambda: len(s.sandboxes()) == 1), s.sandboxes()
            http.delete(f"/v1/sessions/{session}")
    finally:
        s.stop()
        group.rmdir()
