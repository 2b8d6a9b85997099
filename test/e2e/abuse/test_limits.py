"""Programs that want more than there is: processors, memory, processes, disk, output, time."""

import pytest
from aftermath import SLACK
from server import run

quick = pytest.mark.quick


def ended_in_time(r: dict, limit_ms: int) -> None:
    assert (r["status"], r["return_code"]) == ("timed_out", 124), r
    assert r["stderr"].splitlines()[-1] == f"agentsandbox: ended after {limit_ms / 1000:g} s: the time limit"
    # Python has 150 ms more to say where it was.
    assert limit_ms <= r["duration_ms"] <= limit_ms + 150 + 250 * SLACK, r["duration_ms"]
    # The grant is one processor.
    assert r["cpu_ms"] <= r["duration_ms"] * 1.1 + 100, (r["cpu_ms"], r["duration_ms"])


BUSY = {
    "loop": "while True: pass",
    "64 threads": "import threading\nfor _ in range(64): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()",
    "holds the GIL and ignores signals": (
        "import ctypes, signal\n"
        "for s in range(1, 65):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "ctypes.PyDLL(None).usleep(2_000_000_000)"
    ),
    "sleeps": "import time; time.sleep(10**8)",
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=quick if n == "loop" else ()) for n in BUSY])
def test_never_ends(abuse, name):
    r = abuse("print('before', flush=True)\n" + BUSY[name], timeout_ms=2000)
    ended_in_time(r, 2000)
    assert r["stdout"] == "before\n"


@quick
def test_cpu_time_of_all_processes_together(abuse):
    r = abuse("import os\nfor _ in range(3): os.fork()\nwhile True: pass", cpu_time_ms=500)
    assert (r["status"], r["return_code"]) == ("timed_out", 124), r
    assert r["stderr"].endswith("agentsandbox: ended after 0.5 s of CPU time: the CPU time limit\n")
    assert r["cpu_ms"] >= 500


def test_an_allocation_that_nobody_could_serve(abuse):
    r = abuse("x = 'a' * 10**12")
    assert (r["status"], r["return_code"]) == ("failed", 1) and "MemoryError" in r["stderr"], r


MEMORY = {
    "blocks": "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))",
    "memfds": "import os\nfds = [os.memfd_create('x') for _ in range(50)]\nwhile True:\n  for fd in fds: os.write(fd, b'x' * (1 << 20))",
    "many processes": "import os\nfor _ in range(8): os.fork()\nx = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=quick if n == "blocks" else ()) for n in MEMORY])
def test_memory(abuse, session, name):
    r = abuse(MEMORY[name], session_id=session, timeout_ms=60_000)
    assert (r["status"], r["return_code"], r["signal"], r["session_status"]) == ("memory_exceeded", 137, "SIGKILL", "live"), r
    assert "the memory limit" in r["stderr"].splitlines()[-1]
    assert r["memory_peak_bytes"] > 500 << 20


def test_memory_of_a_sandbox_of_its_own(abuse):
    r = abuse(MEMORY["blocks"], memory_mb=256)
    assert (r["status"], r["session_status"]) == ("memory_exceeded", None), r


def test_a_plain_sigkill_is_told_from_the_memory_limit(abuse, session):
    r = abuse("import os; os.kill(os.getpid(), 9)", session_id=session)
    assert (r["status"], r["return_code"], r["signal"]) == ("failed", 137, "SIGKILL"), r
    assert r["stderr"] == "agentsandbox: ended by SIGKILL, sent by a process of the sandbox\n"


def test_pipes(abuse, session, host):
    r = abuse(
        "import os, fcntl\nps = []\ntry:\n  while True:\n    p = os.pipe(); ps.append(p); os.set_blocking(p[1], False)\n"
        "    os.write(p[1], b'x' * 65536)\nexcept OSError as e: print(e.errno)",
        session_id=session,
        timeout_ms=60_000,
    )
    assert r["status"] == "memory_exceeded" or r["stdout"] == "24\n", r
    for _ in range(3):
        next_one = run(host.http, "print(1)", session_id=session)
        assert (next_one["status"], next_one["stdout"]) == ("succeeded", "1\n"), next_one


def test_shared_memory(abuse, host):
    sid = host.http.post("/v1/sessions", json={"memory_mb": 512}).json()["session_id"]
    r = abuse("dd if=/dev/zero of=/dev/shm/x bs=1M; s=$?; ls -l /dev/shm/x | cut -d' ' -f5; exit $s", language="bash", session_id=sid)
    assert (r["status"], r["return_code"], r["session_status"]) == ("disk_full", 1, "live"), r
    assert "No space left on device" in r["stderr"] and int(r["stdout"]) == 256 << 20, r
    assert "agentsandbox: failed while /dev/shm was full" in r["stderr"]
    r = abuse("rm /dev/shm/x && echo room > /dev/shm/y && cat /dev/shm/y", language="bash", session_id=sid)
    assert (r["status"], r["stdout"]) == ("succeeded", "room\n"), r
    assert host.http.delete(f"/v1/sessions/{sid}").status_code == 204


@pytest.mark.parametrize("where", [pytest.param("/tmp", marks=quick), "/workspace"])
def test_disk(abuse, host, where):
    sid = host.http.post("/v1/sessions", json={"disk_mb": 64}).json()["session_id"]
    r = abuse(f"dd if=/dev/zero of={where}/x bs=1M; s=$?; ls -l {where}/x | cut -d' ' -f5; exit $s", language="bash", session_id=sid)
    assert (r["status"], r["return_code"], r["session_status"]) == ("disk_full", 1, "live"), r
    assert "No space left on device" in r["stderr"] and 60 << 20 < int(r["stdout"]) <= 64 << 20
    assert r["stderr"].endswith("agentsandbox: failed while the disk of the sandbox was full\n")
    r = abuse(f"rm {where}/x && echo room > {where}/y && cat {where}/y", language="bash", session_id=sid)
    assert (r["status"], r["stdout"]) == ("succeeded", "room\n"), r
    assert host.http.delete(f"/v1/sessions/{sid}").status_code == 204


def test_a_million_empty_files(abuse, host):
    sid = host.http.post("/v1/sessions", json={"inodes": 20_000}).json()["session_id"]
    code = "import os\nos.mkdir('d')\nfor i in range(10**6): os.close(os.open(f'd/{i}', os.O_CREAT))"
    r = abuse(code, session_id=sid, timeout_ms=100_000)
    assert (r["status"], r["return_code"], r["session_status"]) == ("disk_full", 137, "live"), r
    assert r["stderr"].endswith("agentsandbox: ended: more than 20000 files, directories and links in the sandbox\n")
    assert len(r["files"]) <= 1000 and r["files_omitted"] > 0
    page = host.http.get(f"/v1/sessions/{sid}/fs/list", params={"path": "/workspace/d", "limit": 100})
    assert page.status_code == 200 and len(page.json()["entries"]) == 100, page.text[:300]
    r = abuse("rm -rf d; ls | wc -l", language="bash", session_id=sid)
    assert r["stdout"] == "0\n", r
    assert host.http.delete(f"/v1/sessions/{sid}").status_code == 204


def test_nested_directories_and_long_names(abuse, session):
    r = abuse(
        "import os\nfor i in range(1000):\n  os.mkdir('d'); os.chdir('d')\nopen('deep', 'w').write('x')\n"
        "os.chdir('/workspace'); open('n' * 255, 'w').write('long')",
        session_id=session,
    )
    assert r["status"] == "succeeded", r
    assert [f["filename"] for f in r["files"]] == ["n" * 255] and r["files_omitted"] >= 1, r["files_omitted"]


def test_a_sparse_file_and_links(abuse, host, session):
    r = abuse(
        "import os\nos.truncate(os.open('huge', os.O_CREAT | os.O_RDWR), 1 << 40)\nopen('one', 'w').write('1')\n"
        "for i in range(100): os.symlink('one', f's{i}')\nfor i in range(20): os.link('one', f'h{i:02}')",
        session_id=session,
    )
    assert r["status"] == "succeeded" and r["files_omitted"] == 1, r
    assert sorted(f["filename"] for f in r["files"]) == [f"h{i:02}" for i in range(20)] + ["one"]


def test_open_files(abuse, session):
    r = abuse("import os\nn = 0\ntry:\n  while True: os.dup(0); n += 1\nexcept OSError as e: print(e.errno, n)", session_id=session, open_files=200)
    assert (r["status"], r["stdout"]) == ("succeeded", "24 197\n") or r["stdout"].startswith("24 19"), r


FORKS = {
    "bomb": "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(1000)",
    "bomb of bombs": "import os\nwhile True: os.fork()",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
}


@pytest.mark.parametrize("name", FORKS)
def test_processes(abuse, session, name):
    r = abuse(FORKS[name], session_id=session, processes=60, timeout_ms=5000)
    if name == "bomb of bombs":
        # The first process fails as soon as any other has taken the last place, and
        # that it was taken may be over by the time that anybody looks.
        assert r["status"] in ("process_limit", "failed", "timed_out"), r
        assert r["status"] == "timed_out" or "Resource temporarily unavailable" in r["stderr"], r
    elif name == "threads":  # the main thread failed, and waits for the others
        assert r["status"] == "timed_out" and "can't start new thread" in r["stderr"], r
    else:
        assert (r["status"], r["return_code"]) == ("process_limit", 1), r
        assert r["stderr"].endswith("agentsandbox: failed after reaching the limit of 60 processes\n")
        assert "Resource temporarily unavailable" in r["stderr"]
    assert r["session_status"] == "live"
    abuse("pkill -9 -f __script__.py; true", language="bash", session_id=session)


@quick
def test_a_shell_fork_bomb(abuse, session):
    r = abuse(":(){ :|:& };:\nsleep 60", language="bash", session_id=session, processes=60, timeout_ms=2000)
    assert r["status"] in ("timed_out", "process_limit") and r["session_status"] == "live", r
    assert r["duration_ms"] < 2000 + 1000 * SLACK
    left = abuse("ps -e | wc -l", language="bash", session_id=session)
    assert int(left["stdout"]) < 12, left["stdout"]


ALL_FORK = "import os\nwhile True:\n  try: os.fork()\n  except BaseException: pass"


@pytest.mark.parametrize("language", ["python", "bash"])
def test_a_fork_bomb_at_its_limit_ends_in_time(abuse, session, language):
    """Each of its processes goes on forking, and none minds an interrupt."""
    code = ALL_FORK if language == "python" else f"python3 - <<'E'\n{ALL_FORK}\nE"
    r = abuse(code, language=language, session_id=session, timeout_ms=1500)
    assert r["status"] in ("timed_out", "memory_exceeded") and r["session_status"] == "live", r
    left = abuse("ps -e | wc -l", language="bash", session_id=session)
    assert int(left["stdout"]) < 12, left["stdout"]


@quick
def test_a_fork_bomb_left_behind(abuse, session):
    """What is said of the run is true; the next one makes room first, and says so."""
    bomb = "import os, time\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(1000)\nexcept BlockingIOError: os._exit(0)"
    r = abuse(bomb, session_id=session, processes=60)
    assert (r["status"], r["return_code"], r["session_status"]) == ("succeeded", 0, "live"), r
    left = abuse("ps -e | wc -l", language="bash", session_id=session, processes=60)
    assert left["status"] == "succeeded" and int(left["stdout"]) < 12, left
    assert "processes that earlier runs had left behind were ended" in left["stderr"], left["stderr"]


def test_ten_thousand_orphans(abuse, session):
    r = abuse(
        "import os\nfor i in range(10_000):\n  try: p = os.fork()\n  except BlockingIOError: continue\n"
        "  if p == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\n  os.waitpid(p, 0)",
        session_id=session,
        timeout_ms=90_000,
    )
    assert r["status"] in ("succeeded", "timed_out"), r
    left = abuse("ps -e | wc -l", language="bash", session_id=session)
    assert int(left["stdout"]) < 12, left["stdout"]


def test_yes_for_ever(abuse):
    r = abuse("yes", language="bash")
    assert (r["status"], r["return_code"], r["truncated"]) == ("output_limit", 137, True), r["stderr"]
    assert len(r["stdout"]) == 10 << 20 and r["stdout_bytes"] > 1 << 30
    cut, ended = r["stderr"].splitlines()
    assert cut == f"agentsandbox: the output was cut: the first 10485760 of {r['stdout_bytes']} bytes of standard output are kept"
    assert ended == "agentsandbox: ended: more than 1073741824 bytes of output on one stream"


def test_a_gigabyte_on_one_line(abuse):
    r = abuse("import sys\nfor _ in range(1000): sys.stdout.write('x' * 10**6)\nsys.exit(7)")
    assert (r["status"], r["return_code"], r["truncated"]) == ("failed", 7, True)
    assert (r["stdout_bytes"], len(r["stdout"])) == (10**9, 10 << 20)
    assert r["stderr"] == "agentsandbox: the output was cut: the first 10485760 of 1000000000 bytes of standard output are kept\n"


@quick
def test_both_streams_at_once(abuse):
    r = abuse(
        "import sys, threading\n"
        "def w(s):\n  for _ in range(400): s.write('x' * 99_999 + '\\n')\n"
        "ts = [threading.Thread(target=w, args=(s,)) for s in (sys.stdout, sys.stderr)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]",
        output_bytes=100_000,
    )
    assert (r["status"], r["truncated"], r["stdout_bytes"], r["stderr_bytes"]) == ("succeeded", True, 40_000_000, 40_000_000), r["status"]
    kept, notes = r["stderr"][:100_000], r["stderr"][100_000:].splitlines()
    assert len(r["stdout"]) == len(kept) == 100_000
    assert len(notes) == 1 and notes[0].startswith("agentsandbox: the output was cut: "), notes


def test_bytes_that_are_no_text(abuse, host):
    r = abuse("import os\nb = bytes(range(256)) * 4096 * 8\nwhile b: b = b[os.write(1, b):]")
    assert r["status"] == "succeeded" and r["stdout_bytes"] == 8 << 20 and not r["truncated"]
    exact = host.http.get(f"/v1/executions/{r['execution_id']}/stdout").content
    assert exact == bytes(range(256)) * 4096 * 8
    assert "\ufffd" in r["stdout"] and "\x1b" in r["stdout"]
