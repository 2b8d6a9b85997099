"""Memory that is shared or mapped: /dev/shm in proportion to the memory limit, and maps that cost nothing."""

import pytest
from server import run

SHARED = """
from multiprocessing import shared_memory
s = shared_memory.SharedMemory(create=True, size={} << 20)
s.buf[::4096] = bytes(len(s.buf[::4096]))
print("ok"); s.close(); s.unlink()
"""


def session(http, **kw) -> str:
    r = http.post("/v1/sessions", json=kw)
    assert r.status_code == 201, r.text
    return r.json()["session_id"]


def room(http, **kw) -> int:
    return int(run(http, "import os; s = os.statvfs('/dev/shm'); print(s.f_blocks * s.f_bsize >> 20)", **kw)["stdout"])


def test_dev_shm_follows_the_memory_limit(http):
    assert room(http, memory_mb=2048) == 1024
    assert room(http, memory_mb=64) == 64
    assert room(http, session_id=session(http, memory_mb=1024)) == 512
    assert run(http, SHARED.format(100), memory_mb=2048)["stdout"] == "ok\n"


@pytest.mark.parametrize("code", [
    SHARED.format(100),
    "import mmap, os\nf = open('/dev/shm/x', 'wb+'); f.truncate(100 << 20)\nm = mmap.mmap(f.fileno(), 0)\nfor i in range(0, len(m), 4096): m[i] = 1",
    "with open('/dev/shm/x', 'wb') as f:\n    for _ in range(100): f.write(bytes(1 << 20))",
])  # fmt: skip
def test_a_full_dev_shm_is_named(http, code):
    answer = run(http, code, memory_mb=128)
    assert answer["status"] == "disk_full", answer
    assert answer["stderr"].splitlines()[-1].startswith("agentsandbox: failed while /dev/shm was full"), answer


def test_what_fails_beside_a_full_dev_shm_fails_by_itself(http):
    s = session(http, memory_mb=256)
    filled = run(http, "head -c 1G /dev/zero > /dev/shm/kept", language="bash", session_id=s)
    assert filled["status"] == "disk_full", filled
    for code in "exit 3", "false", "ls /nowhere":
        answer = run(http, code, language="bash", session_id=s)
        assert answer["status"] == "failed" and "/dev/shm" not in answer["stderr"], answer
    # Who is ended by it is told so, whoever filled it.
    answer = run(http, "import mmap\nf = open('/dev/shm/y', 'wb+'); f.truncate(1 << 20)\nmmap.mmap(f.fileno(), 0)[0] = 1", session_id=s)
    assert (answer["status"], answer["signal"]) == ("disk_full", "SIGBUS"), answer
    http.delete(f"/v1/sessions/{s}")


MAPS = {
    "a sparse file, read": "f = sparse(); m = mmap.mmap(f.fileno(), TIB, prot=mmap.PROT_READ); print(m[0] + m[TIB - 1])",
    "a sparse file, written": "f = sparse(); m = mmap.mmap(f.fileno(), TIB); m[TIB // 2] = 7; m.flush(); print(m[TIB // 2] - 7)",
    "a file that shrinks and grows": "f = sparse(); m = mmap.mmap(f.fileno(), TIB); del m; f.truncate(1); m = mmap.mmap(f.fileno(), 1); print(m[0])",
    "address space that is reserved": "m = call(None, 16 * TIB, 0, 0x22, -1, 0); print(0 if m not in (None, 2**64 - 1) else m)",
    "memory that is not accounted for": "m = call(None, 16 * TIB, 3, 0x4022, -1, 0); print(0 if m not in (None, 2**64 - 1) else m)",
    "a numpy memmap": "import numpy; sparse().close(); m = numpy.memmap('/tmp/sparse', 'u1', 'r+'); m[TIB - 1] = 1; print(m[TIB - 1] - 1)",
}
TOOLS = """
import ctypes, mmap
TIB = 1 << 40
call = ctypes.CDLL(None, use_errno=True).mmap; call.restype = ctypes.c_void_p
call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
def sparse():
    f = open("/tmp/sparse", "wb+"); f.truncate(TIB); return f
"""


@pytest.mark.parametrize("what", MAPS)
def test_maps_that_cost_nothing(http, what):
    answer = run(http, TOOLS + MAPS[what])
    assert (answer["stdout"], answer["status"]) == ("0\n", "succeeded"), answer


ABSURD = {
    "text": "x = 'a' * 10**12", "bytes": "x = bytes(1 << 40)", "an array that grows": "b = bytearray(1 << 20); b *= 1 << 20", "a list": "x = [0] * 10**12",
    "numpy": "import numpy; numpy.zeros(1 << 40, 'u1')", "numpy, filled": "import numpy; numpy.full(1 << 40, 1, 'u1')",
    "numpy that grows": "import numpy; a = numpy.zeros(1 << 30, 'u1'); a.resize(1 << 40)",
}  # fmt: skip


@pytest.mark.parametrize("what", ABSURD)
def test_what_no_host_could_serve_is_a_memory_error(http, what):
    answer = run(http, ABSURD[what])
    assert answer["status"] == "failed" and "MemoryError" in answer["stderr"], answer


@pytest.mark.parametrize("code", [
    "m = mmap.mmap(-1, TIB)", "f = sparse(); mmap.mmap(f.fileno(), TIB, access=mmap.ACCESS_COPY)",
    "p = call(None, TIB, 0, 0x22, -1, 0)\nif ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(p), ctypes.c_size_t(TIB), 3): raise OSError(ctypes.get_errno(), 'Cannot allocate memory')",
    "brk = ctypes.CDLL(None).sbrk; brk.restype = ctypes.c_void_p; brk.argtypes = [ctypes.c_long]\nif brk(TIB) == 2**64 - 1: raise OSError(12, 'Cannot allocate memory')",
])  # fmt: skip
def test_other_ways_to_ask_for_it(http, code):
    answer = run(http, TOOLS + code)
    assert answer["status"] == "failed" and "Cannot allocate memory" in answer["stderr"], answer


def test_memory_that_is_used_is_still_bounded(http):
    answer = run(http, "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 24))", memory_mb=256)
    assert answer["status"] == "memory_exceeded", answer


# Opens pipes and fills them, each with 256 KiB: the memory is full long before the limit of open files.
FILL = """
import fcntl, os
for _ in range({pipes}):
    r, w = os.pipe(); os.set_blocking(w, False)
    fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 18)
    assert os.write(w, b"x" * (1 << 18)) == 1 << 18
"""


def test_what_pipes_held_ends_no_run_that_follows(http):
    """It is in the kernel's own memory, which has to be given back. Without that, two runs in five of these are ended."""
    for _ in range(8):
        session = http.post("/v1/sessions", json={"memory_mb": 512}).json()["session_id"]
        full = run(http, FILL.format(pipes=7000), session_id=session)
        assert full["status"] == "memory_exceeded", full
        for _ in range(2):
            after = run(http, "print(1)", session_id=session)
            assert (after["status"], after["stdout"]) == ("succeeded", "1\n"), after
        http.delete(f"/v1/sessions/{session}")


def test_what_pipes_held_at_the_end_of_a_run_is_given_back(http):
    """Without that, a run that allocates 300 of 512 MiB is ended, each time."""
    for end, status in ("", "succeeded"), ("os._exit(3)", "failed"), ("os.kill(os.getpid(), 9)", "failed"):
        session = http.post("/v1/sessions", json={"memory_mb": 512}).json()["session_id"]
        for _ in range(2):
            filled = run(http, FILL.format(pipes=1000) + end, session_id=session)
            assert filled["status"] == status and "Error" not in filled["stderr"], filled
            after = run(http, "print(len(b'x' * (300 << 20)))", session_id=session)
            assert (after["status"], after["stdout"]) == ("succeeded", f"{300 << 20}\n"), after
        http.delete(f"/v1/sessions/{session}")
