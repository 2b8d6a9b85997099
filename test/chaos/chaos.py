"""Kills a real server at random moments under load, and checks that nothing is lost.

One process of load and one server: sessions with state and a process that stays,
runs with and without a session, large output, uploads. After every SIGKILL the
server is started again and must have every row that it had acknowledged, every
session with its state and process, every execution ended with its whole output or
going on, and nothing on the host that it does not know. What happens is drawn from
a seed; when, is the machine's.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))
from server import BIN, Server, eventually  # noqa: E402

ORPHAN_SECONDS = 10
SETTLE_SECONDS = 90
# The load marks its runs with a token; these runs are the harness's own.
CHECK = "check"


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
        self.process = False  # the process that stays was answered for


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
            with self.lock:
                if not self.open.is_set():
                    continue  # paused since: whoever paused saw nobody busy
                self.busy += 1
            step += 1
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
            stay = f"echo {token} >> /workspace/log; setsid sleep 100000 > /dev/null 2>&1 & echo $! > /tmp/pid"
            s.process = self.execute(http, s, token, stay, "")
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
            s = draw.choice([None, *mine])
            self.execute(http, s, token, *program(draw, token))

    def execute(self, http: httpx.Client, s: Session | None, token: str, code: str, output: str) -> bool:
        """Whether it was done."""
        with self.lock:
            self.expected[token] = output
            if s:
                s.tried.add(token)
        body = {"language": "bash", "code": f"# {token}\n{code}"}
        if s:
            body["session_id"] = s.id
        r = http.post("/v1/execute", json=body)
        if self.refused(r):
            return False
        answer = r.json()
        check(answer["return_code"] == 0 and answer["stdout"] == output, f"{token}: wrong answer, return code {answer['return_code']}, {len(answer['stdout'])} of {len(output)} bytes")
        with self.lock:
            self.executions[answer["execution_id"]] = token
            self.count["executions"] += 1
            if s:
                s.done.add(token)
        return True

    def refused(self, r: httpx.Response) -> bool:
        """Whether the server had no room, or was going down."""
        if r.status_code in (429, 503):
            time.sleep(0.05)
            return True
        check(r.status_code < 300 or r.request.method == "DELETE", f"{r.request.method} {r.request.url.path}: {r.status_code} {r.text[:300]}")
        return False

    def pause(self) -> None:
        with self.lock:
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
        self.times: dict[str, list[float]] = collections.defaultdict(list)
        self.never_started: set[str] = set()  # tokens of runs that were lost
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
                self.restart()
                self.timed("orphans", self.check_orphans)
                self.timed("sessions", self.check_sessions)
                self.check_errors()
                if n % 25 == 0 or n == self.kills:
                    self.timed("settle", self.settle)
                    self.say(f"{n} kills: {dict(self.load.count)}, {len(self.never_started)} never started, {self.table()}")
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

    def check_taken_over(self) -> None:
        """No sandbox that somebody owned died of the restart, also none of a run whose output nobody saw."""
        refused = [line for line in self.server.log.read_text(errors="replace").splitlines() if "cannot be taken over" in line]
        check(not refused, f"sandboxes were lost in a restart: {refused[:3]}")

    def check_errors(self) -> None:
        check(not self.load.errors, f"answers that must not be: {self.load.errors[:3]}")

    def timed(self, name: str, f) -> None:
        began = time.monotonic()
        f()
        self.times[name].append(time.monotonic() - began)

    def table(self) -> dict[str, dict[str, float]]:
        """Seconds: of a restart, from the start of the process on, and of a round's checks."""
        return {name: {"median": round(statistics.median(t), 2), "max": round(max(t), 2)} for name, t in self.times.items()}

    def restart(self) -> None:
        """Starts the server, with the load waiting for it, and notes when what answers."""
        began = time.monotonic()
        self.server.launch()
        with self.server.http() as http:
            def answers() -> bool:
                check(self.server.process.poll() is None, f"the server does not start: {self.server.log_text()}")
                try:
                    return http.get("/v1/sessions", params={"limit": 1}).status_code == 200
                except httpx.TransportError:
                    return False

            check(eventually(answers, SETTLE_SECONDS), f"the server does not answer: {self.server.log_text()}")
            self.times["first_answer"].append(time.monotonic() - began)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                for failure in pool.map(lambda s: self.unanswered(http, s), self.kept_sessions()):
                    check(not failure, failure)
            self.times["sessions_answer"].append(time.monotonic() - began)
        self.server.wait_ready()
        self.times["ready"].append(time.monotonic() - began)

    def kept_sessions(self) -> list[Session]:
        with self.load.lock:
            return [s for s in self.load.sessions.values() if not s.ending]

    def unanswered(self, http: httpx.Client, s: Session) -> str:
        """Why a session that should be there does not answer."""
        r = http.get(f"/v1/sessions/{s.id}/fs/stat", params={"path": "/workspace"})
        return "" if s.ending or r.status_code == 200 else f"{s.id} does not answer: {r.text}"

    def check_orphans(self) -> None:
        """With no new requests, what is on the host is soon exactly what the server knows of."""
        self.load.pause()
        began = time.monotonic()
        while True:
            busy = self.load.busy
            wrong = self.orphans()
            if not wrong:
                return
            now = time.monotonic()
            check(now - began < SETTLE_SECONDS, f"requests do not end: {wrong}")
            if busy:
                deadline = now + ORPHAN_SECONDS
            check(now < deadline, f"the host and the server disagree {ORPHAN_SECONDS} s after a restart and with no request under way: {wrong}")
            time.sleep(0.05)

    def orphans(self) -> str:
        """What differs between host and server, in a look that takes some time."""
        s = self.server
        sets = {
            "records": {p.name.removesuffix(".json") for p in (s.data / "sandboxes/records").iterdir()},
            # gVisor's control socket and state of each sandbox.
            "files": {p.name.removeprefix("runsc-").removesuffix(".sock").split("_sandbox:")[0] for p in (Path("/run") / s.group).iterdir() if p.name != "owner"},
        }
        for p in Path("/sys/fs/cgroup").glob(f"*/{s.group}/*/"):  # a hierarchy each
            sets.setdefault(f"groups of {p.parts[-3]}", set()).add(p.name)
        if unified := {p.name for p in Path(f"/sys/fs/cgroup/{s.group}").glob("*/")}:
            sets["groups"] = unified
        sets["processes"], strays = self.processes()
        live = int(s.metric("agentsandbox_sandboxes_live"))
        everything = set.union(*sets.values())
        wrong = [f"{name} lacks {sorted(everything - found)}" for name, found in sets.items() if found != everything]
        if live != len(everything):
            wrong.append(f"the server counts {live}, and there are {len(everything)}")
        if strays:
            wrong.append(f"processes without a group: {strays}")
        if mounts := [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if s.group in m or str(s.data) in m]:
            wrong.append(f"mounts: {mounts}")
        return "; ".join(wrong)

    def processes(self) -> tuple[set[str], list[int]]:
        """The sandboxes that have processes, and the processes of the program that are neither a server nor in a group."""
        names, strays = set(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                group = (entry / "cgroup").read_text()
                if self.server.group in group:
                    names |= {line.rsplit("/", 1)[1] for line in group.splitlines() if self.server.group in line}
                elif "agentsandbox-" not in group and os.readlink(entry / "exe") == BIN:
                    if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) != os.getpid():
                        strays.append(int(entry.name))
            except OSError:
                continue  # it ended
        return names, strays

    def check_sessions(self) -> None:
        """Every session that was answered for is there, with the process that was left in it."""
        with self.server.http() as http:
            with self.load.lock:  # requests may be under way
                gone = [s.id for s in self.load.sessions.values() if s.gone]
            kept = self.kept_sessions()
            live = self.live_sessions(http)
            for sid in gone:
                check(sid not in live, f"{sid} was deleted and is there again")
            for s in kept:
                check(s.ending or s.id in live, f"{s.id} is lost: {http.get(f'/v1/sessions/{s.id}').text}")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for failure in pool.map(lambda s: self.without_process(http, s), self.kept_sessions()):
                    check(not failure, failure)

    def live_sessions(self, http: httpx.Client) -> set[str]:
        live: set[str] = set()
        while True:
            page = http.get("/v1/sessions", params={"limit": 100, "offset": len(live)}).json()
            live |= set(page["sessions"])
            if len(live) >= page["total"] or not page["sessions"]:
                return live

    def without_process(self, http: httpx.Client, s: Session) -> str:
        if not s.process:
            return ""
        code = f"# {CHECK}\nkill -0 $(cat /tmp/pid) && echo alive"
        r = http.post("/v1/execute", json={"language": "bash", "code": code, "session_id": s.id})
        if s.ending or r.status_code == 200 and r.json()["stdout"] == "alive\n":
            return ""
        return f"the process that was left in {s.id} is not there: {r.status_code} {r.text[:500]}"

    def end_strays(self, http: httpx.Client) -> None:
        """Deletes the sessions whose making or deletion nobody was answered for. No request is under way."""
        with self.load.lock:
            kept = {s.id for s in self.load.sessions.values() if not s.ending}
        for sid in self.live_sessions(http) - kept:
            r = http.delete(f"/v1/sessions/{sid}")
            check(r.status_code == 204, f"deleting {sid}, of which nobody was told: {r.status_code} {r.text}")
            self.load.count["strays"] += 1
            if sid in self.load.sessions:
                self.load.sessions[sid].gone = True

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
            self.check_taken_over()
            self.end_strays(http)
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
                    check(not self.never_started & set(lines), f"{s.id}: something ran and is recorded as lost: {self.never_started & set(lines)}")
                    check(s.done <= set(lines) <= s.tried, f"{s.id}: its log is not that of its runs: {len(lines)} lines, {len(s.done)} answered for, missing {list(s.done - set(lines))[:3]}")

            # Uploads that were cut off, and event logs of no run.
            left = sum(len(files) for _, _, files in os.walk(self.server.data / "blobs")) - http.get("/v1/files", params={"limit": 1}).json()["total"]
            check(left == 0, f"{left} contents of files have no row")
            for log in [p.name for p in (self.server.data / "logs").iterdir()]:
                r = http.get(f"/v1/executions/{log}")
                check(r.status_code == 200 and not r.json()["output_dropped"], f"the event log {log} has no record: {r.status_code} {r.text[:200]}")

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
        if token == CHECK:
            check(e["status"] in ("succeeded", "cancelled", "failed"), f"{e['id']} is {e['status']}")
            return
        if e["status"] == "succeeded":
            check(e["stdout"] == self.load.expected[token] and not e["truncated"], f"{e['id']}: its output is not whole: {len(e['stdout'])} of {len(self.load.expected[token])} bytes, truncated {e['truncated']}, dropped {e['output_dropped']}")
            return
        # Its record was written, and the server died before the run began; or
        # its session was deleted.
        deleted = any(s.ending and token in s.tried for s in self.load.sessions.values())
        check(e["id"] not in self.load.executions, f"{e['id']} succeeded, and is {e['status']} now")
        check(deleted or e["status"] == "sandbox_lost" and e["stdout"] == "", f"{e['id']} is {e['status']}: {e['error']}, {len(e['stdout'])} bytes of output")
        if not deleted:
            self.never_started.add(token)

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
        left = list((self.server.data / "sandboxes/records").iterdir())
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
    print(json.dumps({"seed": args.seed, "kills": args.kills, "counts": dict(chaos.load.count), "never_started": len(chaos.never_started), "seconds": chaos.table()}, indent=1))
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
