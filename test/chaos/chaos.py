"""Kills a real server at random moments under load, and checks that nothing is lost.

One process of load and one server: sessions with state, runs with and without a
session, large output, uploads. After every SIGKILL the server is started again
and must have every row that it had acknowledged, every session with its state,
every execution ended with its whole output or going on, and nothing on the host
that it does not know. What happens is drawn from a seed; when, is the machine's.
"""

import argparse
import collections
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))
from server import Server, eventually  # noqa: E402

ORPHAN_SECONDS = 10
ORPHAN_LOOKS = 200
SETTLE_SECONDS = 90


class Broken(Exception):
    """What must not happen."""


def check(holds, what: str) -> None:
    if not holds:
        raise Broken(what)


def program(draw: random.Random, token: str) -> tuple[str, str]:
    """A Bash program that writes its token into the log of its sandbox, and what it prints."""
    kind = draw.choice(["short", "short", "slow", "large", "steady"])
    note = f"echo {token} >> /workspace/log; "
    if kind == "short":
        return note + f"echo {token}", f"{token}\n"
    if kind == "large":  # more than the sandbox retains
        n = draw.randrange(20_000, 150_000)
        return note + f"seq {n}; echo {token}", "".join(f"{i}\n" for i in range(1, n + 1)) + f"{token}\n"
    if kind == "slow":
        n = draw.randrange(5, 40)
        return note + f"for i in $(seq {n}); do echo {token} $i; sleep 0.05; done", "".join(f"{token} {i}\n" for i in range(1, n + 1))
    n = draw.randrange(5, 20)
    block = "x" * 20_000
    return note + f"for i in $(seq {n}); do printf '%020000d\\n' 0; sleep 0.05; done", ("0" * len(block) + "\n") * n


class Session:
    def __init__(self, sid: str):
        self.id = sid
        self.tried: set[str] = set()  # tokens of runs that may have happened
        self.done: set[str] = set()  # tokens of runs that were answered for
        self.gone = False  # its deletion was answered for
        self.ending = False  # its deletion was asked for


class Load:
    """Clients that ask until they are stopped, and remember every answer."""

    def __init__(self, server: Server, seed: int, clients: int):
        self.server, self.seed = server, seed
        self.lock = threading.Lock()
        self.open = threading.Event()  # requests may begin
        self.over = threading.Event()
        self.idle = threading.Semaphore(0)
        self.expected: dict[str, str] = {}  # token to output
        self.executions: dict[str, str] = {}  # id of what was answered for, to token
        self.files: dict[str, bytes] = {}
        self.sessions: dict[str, Session] = {}
        self.errors: list[str] = []
        self.count = collections.Counter()
        self.busy = 0
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(clients)]

    def start(self) -> None:
        for t in self.threads:
            t.start()

    def stop(self) -> None:
        self.over.set()
        self.open.set()
        for t in self.threads:
            t.join()

    def client(self, number: int) -> None:
        draw = random.Random(f"{self.seed}-{number}")
        mine: list[Session] = []
        step = 0
        while not self.over.is_set():
            self.open.wait()
            if self.over.is_set():
                return
            step += 1
            with self.lock:
                self.busy += 1
            try:
                with self.server.http() as http:
                    self.ask(http, draw, mine, f"t{number}x{step}")
            except httpx.TransportError:
                time.sleep(0.05)  # the server is dead, or about to be
            except Exception as e:  # what the server must never cause
                with self.lock:
                    self.errors.append(f"{type(e).__name__}: {e}")
                return
            finally:
                with self.lock:
                    self.busy -= 1

    def ask(self, http: httpx.Client, draw: random.Random, mine: list[Session], token: str) -> None:
        mine[:] = [s for s in mine if not s.ending]
        what = draw.random()
        if not mine or len(mine) < 3 and what < 0.1:
            r = http.post("/v1/sessions", json={})
            if self.refused(r):
                return
            s = Session(r.json()["session_id"])
            mine.append(s)
            with self.lock:
                self.sessions[s.id] = s
                self.count["sessions"] += 1
        elif what < 0.15 and len(mine) > 1:
            s = mine.pop()
            s.ending = True
            r = http.delete(f"/v1/sessions/{s.id}")
            if not self.refused(r):
                check(r.status_code in (204, 404), f"deleting {s.id}: {r.status_code} {r.text}")
                s.gone = True
                self.count["deletions"] += 1
        elif what < 0.25:
            body = token.encode() * draw.randrange(1, 2000)
            r = http.post("/v1/files", files={"file": (f"{token}.bin", body)})
            if not self.refused(r):
                with self.lock:
                    self.files[r.json()["file_id"]] = body
                    self.count["files"] += 1
        else:
            self.execute(http, draw, draw.choice([None, *mine]), token)

    def execute(self, http: httpx.Client, draw: random.Random, s: Session | None, token: str) -> None:
        code, output = program(draw, token)
        with self.lock:
            self.expected[token] = output
            if s:
                s.tried.add(token)
        body = {"language": "bash", "code": f"# {token}\n{code}"}
        if s:
            body["session_id"] = s.id
        r = http.post("/v1/execute", json=body)
        if self.refused(r):
            return
        answer = r.json()
        check(answer["return_code"] == 0 and answer["stdout"] == output, f"{token}: wrong answer, return code {answer['return_code']}, {len(answer['stdout'])} of {len(output)} bytes")
        with self.lock:
            self.executions[answer["execution_id"]] = token
            self.count["executions"] += 1
            if s:
                s.done.add(token)

    def refused(self, r: httpx.Response) -> bool:
        """Whether the server had no room, or was going down."""
        if r.status_code in (429, 503):
            time.sleep(0.05)
            return True
        check(r.status_code < 300 or r.request.method == "DELETE", f"{r.request.method} {r.request.url.path}: {r.status_code} {r.text[:300]}")
        return False

    def pause(self) -> None:
        self.open.clear()


class Chaos:
    def __init__(self, directory: Path, seed: int, kills: int, clients: int = 6, say=print):
        self.draw = random.Random(seed)
        self.kills, self.say = kills, say
        self.server = Server(
            directory / "data", "--pool-size=2", "--pool-data-size=0", "--preload=none", "--max-sandboxes=40", "--default-memory-mb=256",
            "--max-output-bytes=8388608", on_shutdown="keep",
        )
        self.load = Load(self.server, seed, clients)
        self.restarts: list[float] = []
        self.lost = 0
        self.verified: set[str] = set()  # executions, files

    def run(self) -> None:
        self.server.start()
        self.load.start()
        try:
            self.load.open.set()
            for n in range(1, self.kills + 1):
                time.sleep(self.draw.uniform(0, 1.5))
                self.kill()
                if self.draw.random() < 0.2:  # in the middle of the recovery
                    self.server.launch()
                    time.sleep(self.draw.uniform(0, 0.6))
                    self.kill()
                began = time.monotonic()
                self.server.launch()
                self.server.wait_ready()
                self.restarts.append(time.monotonic() - began)
                self.check_orphans()
                self.check_sessions()
                self.check_errors()
                if n % 25 == 0 or n == self.kills:
                    self.settle()
                    self.say(f"{n} kills: {dict(self.load.count)}, {self.lost} never started, slowest restart {max(self.restarts):.2f} s")
                self.load.open.set()
            self.load.pause()
            self.settle()
            self.load.stop()
            self.check_errors()
            self.finish()
        finally:
            self.load.stop()
            self.clean_up()

    def kill(self) -> None:
        self.server.stop(signal.SIGKILL)

    def check_errors(self) -> None:
        check(not self.load.errors, f"answers that must not be: {self.load.errors[:3]}")

    def check_orphans(self) -> None:
        """With no new requests, everything on the host is soon what the server knows of."""
        self.load.pause()
        seen = {"looks": 0}

        def agrees() -> bool:
            seen["looks"] += 1
            root = Path("/sys/fs/cgroup")
            seen["groups"] = {p.name for pattern in ("*/", "") for p in root.glob(f"{pattern}{self.server.group}/*/")}
            seen["records"] = {p.name.removesuffix(".json") for p in (self.server.data / "sandboxes/records").glob("[!.]*")}
            seen["live"] = int(self.server.metric("agentsandbox_sandboxes_live"))
            return seen["groups"] == seen["records"] and len(seen["groups"]) == seen["live"]

        # On a machine with no CPU to spare, a look takes long, and what it compares
        # changes meanwhile.
        agree = eventually(agrees, ORPHAN_SECONDS)
        while not agree and seen["looks"] < ORPHAN_LOOKS:
            agree = agrees()
        check(agree, f"the host and the server disagree {ORPHAN_SECONDS} s after a restart: {seen}")

    def check_sessions(self) -> None:
        with self.server.http() as http:
            live = set()
            while True:
                page = http.get("/v1/sessions", params={"limit": 100, "offset": len(live)}).json()
                live |= set(page["sessions"])
                if len(live) >= page["total"] or not page["sessions"]:
                    break
            with self.load.lock:
                sessions = list(self.load.sessions.values())
            for s in sessions:
                if s.gone:
                    check(s.id not in live, f"{s.id} was deleted and is there again")
                elif not s.ending:
                    check(s.id in live, f"{s.id} is lost: {http.get(f'/v1/sessions/{s.id}').text}")
                    r = http.get(f"/v1/sessions/{s.id}/fs/stat", params={"path": "/workspace"})
                    check(r.status_code == 200, f"{s.id} does not answer: {r.text}")

    def settle(self) -> None:
        """Everything that runs ends, and then everything is compared."""
        self.load.pause()
        with self.server.http() as http:
            def settled():
                with self.load.lock:
                    if self.load.busy:
                        return False
                return http.get("/v1/executions", params={"status": "running"}).json()["total"] == 0

            check(eventually(settled, SETTLE_SECONDS), f"something runs {SETTLE_SECONDS} s after the last request: {http.get('/v1/executions', params={'status': 'running'}).text[:500]}")
            self.check_errors()
            self.check_executions(http)
            for fid, body in self.load.files.items():
                if fid not in self.verified:
                    r = http.get(f"/v1/files/{fid}")
                    check(r.status_code == 200 and r.content == body, f"the file {fid} is not what was uploaded: {r.status_code}")
                    self.verified.add(fid)
            for s in self.load.sessions.values():
                if not s.ending:
                    r = http.get(f"/v1/sessions/{s.id}/fs", params={"path": "/workspace/log"})
                    lines = r.text.split() if r.status_code == 200 else []
                    check(len(lines) == len(set(lines)), f"{s.id}: something ran twice")
                    check(s.done <= set(lines) <= s.tried, f"{s.id}: its log is not that of its runs: {len(lines)} lines, {len(s.done)} answered for, missing {list(s.done - set(lines))[:3]}")

    def check_executions(self, http: httpx.Client) -> None:
        seen, offset, total = set(), 0, 1
        while offset < total:
            page = http.get("/v1/executions", params={"limit": 100, "offset": offset}).json()
            total = page["total"]
            offset += 100
            for item in page["executions"]:
                seen.add(item["id"])
                if item["id"] not in self.verified:
                    self.check_execution(http.get(f"/v1/executions/{item['id']}").json())
                    self.verified.add(item["id"])
        missing = set(self.load.executions) - seen
        check(not missing, f"executions that were answered for are not there: {list(missing)[:3]}")

    def check_execution(self, e: dict) -> None:
        token = e["code"].split()[1]
        if e["status"] == "succeeded":
            check(e["stdout"] == self.load.expected[token] and not e["truncated"], f"{e['id']}: its output is not whole: {len(e['stdout'])} of {len(self.load.expected[token])} bytes")
            return
        # Its record was written, and the server died before the run began; or
        # its session was deleted.
        deleted = any(s.ending and token in s.tried for s in self.load.sessions.values())
        check(e["id"] not in self.load.executions, f"{e['id']} succeeded, and is {e['status']} now")
        check(deleted or e["status"] == "sandbox_lost" and e["stdout"] == "", f"{e['id']} is {e['status']}: {e['error']}, {len(e['stdout'])} bytes of output")
        self.lost += not deleted

    def finish(self) -> None:
        """An orderly end leaves the sessions alone, and one that destroys leaves nothing."""
        with self.server.http() as http:
            live = http.get("/v1/sessions", params={"limit": 100}).json()["total"]
        check(self.server.stop() == 0, f"the server did not end well: {self.server.log_text()}")
        check(len(self.server.sandboxes()) == live, f"{live} sessions, and {len(self.server.sandboxes())} sandboxes after an orderly end")
        self.server.flags = tuple(f for f in self.server.flags if not f.startswith("--on-shutdown")) + ("--on-shutdown=destroy",)
        self.server.start()
        check(self.server.stop() == 0, self.server.log_text())
        check(eventually(lambda: not self.server.sandbox_pids() and not self.server.cgroups()), "something is left on the host")
        left = list((self.server.data / "spool").iterdir()) + list((self.server.data / "sandboxes/records").iterdir())
        check(not left, f"left on the disk: {left}")

    def clean_up(self) -> None:
        """Ends what a failed check has left."""
        if self.server.process.poll() is None:
            self.server.stop(signal.SIGKILL)
        if self.server.sandboxes():
            self.server.flags += ("--on-shutdown=destroy",)
            self.server.launch()
            self.server.wait_ready()
            self.server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-seed", type=int, default=random.randrange(1 << 32), help="what happens is drawn from it")
    parser.add_argument("-kills", type=int, default=300, help="how often the server is killed")
    parser.add_argument("-clients", type=int, default=6, help="clients at once")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="agentsandbox-chaos-"))
    print(f"seed {args.seed}, {args.kills} kills, in {directory}", flush=True)
    chaos = Chaos(directory, args.seed, args.kills, args.clients, lambda line: print(line, flush=True))
    try:
        chaos.run()
    except (Broken, AssertionError) as e:
        print(f"FAILED with seed {args.seed}: {e}\n\nThe server's log: {chaos.server.log}", file=sys.stderr)
        return 1
    restarts = sorted(chaos.restarts)
    print(json.dumps({"seed": args.seed, "kills": args.kills, "counts": dict(chaos.load.count), "never_started": chaos.lost,
                      "restart_s": {"median": round(restarts[len(restarts) // 2], 2), "max": round(restarts[-1], 2)}}))
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
