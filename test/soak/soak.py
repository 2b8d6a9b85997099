#!/usr/bin/env python3
"""Mixed abuse and normal work at a steady rate, for as long as wanted; then everything must be as before.

    make soak                      ten minutes
    make soak SOAK="--seconds 60"  one

Descriptors, goroutines, processes, control groups, mounts and temporary files
return to the baseline, and memory has no slope. The table says so; so does the
exit status. The same --seed does the same things in the same order.
"""

import argparse
import concurrent.futures
import contextlib
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import httpx  # noqa: E402
from server import Server  # noqa: E402

MEMORY_MB = 192


class Surprise(Exception):
    """An answer that no client may ever get."""


def execute(http, code, good, language="bash", **kw):
    r = http.post("/v1/execute", json={"code": code, "language": language, "timeout_ms": 60_000, **kw})
    if r.status_code in (429, 503) and "Retry-After" in r.headers:
        return None
    if r.status_code != 200:
        raise Surprise(f"{r.status_code} {r.text[:300]}")
    if r.json()["status"] not in good:
        raise Surprise(f"{r.json()['status']}, {r.json()['duration_ms']} ms: {r.json()['stderr'][-200:]}")
    for f in r.json()["files"]:
        http.delete(f"/v1/files/{f['file_id']}")
    return r.json()


# Normal work.


def hello(http):
    if (r := execute(http, "print(6 * 7)", {"succeeded"}, "python")) and r["stdout"] != "42\n":
        raise Surprise(str(r))


def produce(http):
    r = execute(http, "for i in 1 2 3; do head -c 100000 /dev/urandom > f$i; done", {"succeeded"})
    if r and len(r["files"]) != 3:
        raise Surprise(str(r))


def upload(http):
    made = http.post("/v1/files", files={"file": ("a.bin", os.urandom(200_000))}).json()
    if len(http.get(f"/v1/files/{made['file_id']}").content) != 200_000:
        raise Surprise("the file is not whole")
    execute(http, "test $(stat -c %s a.bin) = 200000", {"succeeded"}, file_ids=[made["file_id"]])
    http.delete(f"/v1/files/{made['file_id']}")


@contextlib.contextmanager
def session(http):
    r = http.post("/v1/sessions", json={"memory_mb": MEMORY_MB})
    if r.status_code in (429, 503):
        yield None
        return
    sid = r.json()["session_id"]
    try:
        yield sid
    finally:
        if http.delete(f"/v1/sessions/{sid}").status_code not in (204, 404):
            raise Surprise("a session cannot be deleted")


def stay(http):
    with session(http) as sid:
        if sid:
            execute(http, "echo kept > a", {"succeeded"}, session_id=sid)
            r = execute(http, "cat a", {"succeeded"}, session_id=sid)
            if r and r["stdout"] != "kept\n":
                raise Surprise(str(r))


# Abuse. What a verdict may be where a limit can be met in more than one way.


def spin(http):
    execute(http, "while :; do :; done", {"timed_out"}, timeout_ms=400)


def deaf(http):
    execute(http, "import signal, time\nfor s in range(1, 64):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\ntime.sleep(99)", {"timed_out"}, "python", timeout_ms=400)


def hoard(http):
    execute(http, "a = []\nwhile True: a.append(bytearray(b'x') * (1 << 20))", {"memory_exceeded", "failed", "sandbox_lost"}, "python", memory_mb=MEMORY_MB)


def bomb(http):
    execute(http, "f() { f | f & }; f; sleep 1", {"succeeded", "failed", "timed_out", "process_limit", "memory_exceeded", "sandbox_lost"}, memory_mb=512, timeout_ms=2500)


def shout(http):
    execute(http, "yes | head -c 10000000; yes error | head -c 10000000 >&2", {"succeeded", "output_limit"})


def fill(http):
    execute(http, "head -c 400000000 /dev/zero > big", {"failed", "disk_full", "memory_exceeded", "sandbox_lost"}, memory_mb=512)


def linger(http):
    execute(http, "setsid sh -c 'while :; do sleep 1; done' & setsid sleep 1000 > /dev/null 2>&1 & echo out", {"succeeded"})


def litter(http):
    execute(http, "mkfifo p; ln -s /etc/shadow l; truncate -s 1T sparse; for i in $(seq 500); do : > e$i; done; echo x > $'n\\n\"x'", {"succeeded", "failed"})


def crash(http):
    execute(http, "import ctypes; ctypes.string_at(0)", {"failed"}, "python")


def hang_up(http):
    with contextlib.suppress(httpx.TransportError):
        http.post("/v1/execute", json={"code": "sleep 60", "language": "bash"}, timeout=0.5)


def half_upload(http):
    url = http.base_url
    with socket.create_connection((url.host, url.port)) as s:
        s.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: h\r\nAuthorization: {http.headers['Authorization']}\r\nContent-Length: 1000000\r\n"
            'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="h"\r\n\r\n'.encode()
            + b"x" * 100_000
        )


def nonsense(http):
    for r in [
        http.post("/v1/execute", content=b"[" * 100_000),
        http.get("/v1/sessions/ses_" + "a" * 26),
        http.get("/v1/files", headers={"Authorization": "Bearer nobody"}),
        http.post("/v1/execute", json={"code": "1", "language": "cobol"}),
    ]:
        if not 400 <= r.status_code < 500:
            raise Surprise(f"{r.status_code} {r.text[:300]}")


def pull_away(http):
    """Deletes a session while it runs, twice."""
    with session(http) as sid:
        if not sid:
            return
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            running = pool.submit(http.post, "/v1/execute", json={"code": "sleep 30", "language": "bash", "session_id": sid})
            deletes = [pool.submit(http.delete, f"/v1/sessions/{sid}") for _ in range(2)]
            got = sorted(d.result().status_code for d in deletes)
            if got.count(204) != 1 or running.result().status_code >= 500:
                raise Surprise(f"{got} {running.result().text[:300]}")


NORMAL = [hello, hello, hello, produce, upload, stay]
ABUSE = [spin, deaf, hoard, bomb, shout, fill, linger, litter, crash, hang_up, half_upload, nonsense, pull_away]


def measure(s: Server) -> dict[str, float]:
    run = Path("/run") / s.group
    mounts = Path(f"/proc/{s.process.pid}/mountinfo").read_text().splitlines()
    return {
        "descriptors": s.open_files(),
        "goroutines": s.metric("go_goroutines"),
        "processes": len(s.sandbox_pids()),
        "control groups": len(s.cgroups()),
        "mounts": sum(s.group in m or str(s.data) in m for m in mounts),
        "files in /run": len(os.listdir(run)) if run.exists() else 0,
        "records of sandboxes": len(os.listdir(s.data / "sandboxes" / "records")),
        # Files of runs whose answer nobody got stay listed, until they are deleted.
        "contents without a file": sum(len(files) for _, _, files in os.walk(s.data / "blobs")) - total(s, "/v1/files"),
        "running executions": total(s, "/v1/executions", status="running"),
        "sessions": total(s, "/v1/sessions"),
    }


def total(s: Server, path: str, **query: str) -> int:
    with s.http() as http:
        return http.get(path, params={"limit": 1, **query}).json()["total"]


# How far above the baseline is still at it: idle connections of the database and
# of HTTP come and go.
SLACK = {"descriptors": 8, "goroutines": 8}


def settled(s: Server, baseline: dict[str, float] | None, seconds: float) -> dict[str, float]:
    """Waits until the pool is full and nothing is above the baseline, and measures."""

    def check():
        size = s.metric("agentsandbox_pool_size")
        if not s.metric("agentsandbox_sandboxes_ready") == s.metric("agentsandbox_sandboxes_live") == size:
            return None
        now = measure(s)
        return now if baseline is None or not over(now, baseline) else None

    end = time.monotonic() + seconds
    while True:
        if now := check():
            return now
        if time.monotonic() > end:
            return measure(s)
        time.sleep(0.5)


def over(now: dict[str, float], baseline: dict[str, float]) -> list[str]:
    return [name for name, was in baseline.items() if now[name] > was + SLACK.get(name, 0)]


class Work:
    """Does what the dice say, at a steady rate, until told to stop."""

    def __init__(self, s: Server, seed: int, rate: float, workers: int):
        self.s, self.rate, self.dice = s, rate, random.Random(seed)
        self.pool = concurrent.futures.ThreadPoolExecutor(workers)
        self.room = threading.Semaphore(workers)
        self.done, self.late, self.surprises, self.lock = Counter(), 0, [], threading.Lock()
        self.http = s.http(limits=httpx.Limits(max_connections=2 * workers, keepalive_expiry=5))

    def one(self, what) -> None:
        try:
            what(self.http)
        except Exception as e:  # whatever it is, it is a finding
            with self.lock:
                self.surprises.append(f"{what.__name__}: {e!r}"[:500])
        finally:
            self.room.release()
            with self.lock:
                self.done[what.__name__] += 1

    def go(self, seconds: float, each_second) -> None:
        end = due = time.monotonic()
        end += seconds
        looked = 0.0
        while (now := time.monotonic()) < end:
            if now - looked >= 1:
                looked = now
                each_second()
            if now < due:
                time.sleep(min(due - now, 0.2))
                continue
            due += 1 / self.rate
            # A machine that is too slow for the rate does less, it does not pile up.
            if not self.room.acquire(blocking=False):
                self.late += 1
                continue
            self.pool.submit(self.one, self.dice.choice(NORMAL if self.dice.random() < 0.6 else ABUSE))

    def finish(self) -> None:
        self.pool.shutdown(wait=True)
        self.http.close()


def main() -> int:
    # Whoever stops the soak does not leave its server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--seconds", type=float, default=600, help="length, the warm-up excluded (600)")
    args.add_argument("--warm-up", type=float, default=60, help="seconds of the same work before the baseline (60)")
    args.add_argument("--rate", type=float, default=3, help="things begun each second (3)")
    args.add_argument("--workers", type=int, default=6, help="things at once (6)")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--memory-rise-mb", type=float, default=64, help="how much the daemon's memory may rise (64)")
    a = args.parse_args()
    with tempfile.TemporaryDirectory(prefix="asbx-soak") as dir_:
        s = Server(Path(dir_) / "data", "--pool-size", "2", "--pool-memory-percent", "0", "--pool-data-size", "0", "--disk-mb", "256", "--max-output-bytes", "1000000").start()
        try:
            ok = soak(s, a)
        finally:
            stopped = s.stop()
        left = {"processes": len(s.sandbox_pids()), "control groups": len(s.cgroups()), "files in /run": int((Path("/run") / s.group).exists())}
        if stopped != 0 or any(left.values()):
            print(f"after the end (status {stopped}) there is left: {left}\n{s.log_text()[-2000:]}")
            ok = False
    print("ok" if ok else "FAILED")
    return 0 if ok else 1


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def soak(s: Server, a) -> bool:
    say(f"warming up for {a.warm_up:g} s")
    warm = Work(s, a.seed, a.rate, a.workers)
    warm.go(a.warm_up, lambda: None)
    warm.finish()
    say("taking the baseline")
    baseline = settled(s, None, 120)
    memory: list[float] = []
    peak: Counter = Counter()

    def look() -> None:
        memory.append(s.resident_mb())
        peak["descriptors"] = max(peak["descriptors"], s.open_files())

    say(f"working for {a.seconds:g} s, {a.rate:g} things each second")
    work = Work(s, a.seed + 1, a.rate, a.workers)
    work.go(a.seconds, look)
    work.finish()
    say("waiting for the baseline")
    after = settled(s, baseline, 180)
    wrong = over(after, baseline)
    print(f"{'':<24}{'before':>10}{'after':>10}")
    for name, was in baseline.items():
        print(f"{name:<24}{was:>10g}{after[name]:>10g}{'   ABOVE THE BASELINE' if name in wrong else ''}")
    # The second quarter against the last one: what is cached has been by then.
    quarter = max(len(memory) // 4, 1)
    early, late = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    steep = late - early > a.memory_rise_mb
    print(f"{'memory of the daemon, MiB':<24}{early:>9.0f}{late:>10.0f}{'   IT RISES' if steep else ''}   (peak {max(memory):.0f})")
    surprises = warm.surprises + work.surprises
    print(f"\n{sum(work.done.values())} things done, {work.late} left out for want of time: " + ", ".join(f"{n} {name}" for name, n in sorted(work.done.items())))
    for text in surprises[:20]:
        print("surprise:", text)
    if not work.done:
        print("nothing was done")
    return bool(work.done) and not wrong and not steep and not surprises


if __name__ == "__main__":
    sys.exit(main())
