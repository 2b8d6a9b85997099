"""Which files a run lists: what a person would call its files, each change once."""

import concurrent.futures
import struct
import time

import pytest
from server import eventually, refused, run


@pytest.fixture
def session(http):
    sid = http.post("/v1/sessions", json={}).json()["session_id"]
    yield sid
    http.delete(f"/v1/sessions/{sid}")


def names(answer: dict) -> list[str]:
    return sorted(f["path"].removeprefix("/workspace/") for f in answer["files"])


def reasons(answer: dict) -> dict[str, int]:
    found = {r["reason"]: r["count"] for r in answer["files_omitted_reasons"]}
    assert sum(found.values()) == answer["files_omitted"]
    return found


def upload(http, name: str, data: bytes) -> str:
    return http.post("/v1/files", files={"file": (name, data)}).json()["file_id"]


def exists(http, session: str, path: str) -> bool:
    return http.get(f"/v1/sessions/{session}/fs/stat", params={"path": path}).status_code == 200


def put(http, session: str, path: str, data: bytes = b"x") -> None:
    http.put(f"/v1/sessions/{session}/fs", params={"path": path}, content=data).raise_for_status()


NOISE = """
git init -q . && echo hi > note.txt && git add . && git -c user.name=a -c user.email=a@b.c commit -qm x
mkdir -p pk && echo 'X=1' > pk/m.py && python3 -c 'import pk.m'
python3 -m venv --without-pip anyname
mkdir -p web/node_modules/left-pad .pytest_cache .ipynb_checkpoints && echo x | tee web/node_modules/left-pad/index.js .pytest_cache/x .ipynb_checkpoints/x > web/app.js
mkdir -p /output/.git /output/node_modules && echo x | tee /output/.git/config > /output/node_modules/x
"""
FILES = ["/output/.git/config", "/output/node_modules/x", "note.txt", "pk/m.py", "web/app.js"]


def test_files_of_tools_are_left_out_and_counted(http, session):
    for sid in (session, None):
        answer = run(http, NOISE, language="bash", **({"session_id": sid} if sid else {}))
        assert names(answer) == FILES, answer["stderr"]
        assert reasons(answer) == {"ignored": 6}
        record = http.get(f"/v1/executions/{answer['execution_id']}").json()
        assert reasons(record) == {"ignored": 6}
        (listed,) = [e for e in http.get("/v1/executions").json()["executions"] if e["id"] == answer["execution_id"]]
        assert reasons(listed) == {"ignored": 6}
    # Each state is told of once; a change in the repository is a new one.
    assert reasons(run(http, "true", language="bash", session_id=session)) == {}
    assert reasons(run(http, "git status; git tag x; touch .git/x", language="bash", session_id=session)) == {"ignored": 1}
    asked = run(http, "true", language="bash", session_id=session, collect_ignored=True)
    assert {".git/HEAD", "anyname/pyvenv.cfg", "web/node_modules/left-pad/index.js"} < set(names(asked))
    assert not set(FILES) & set(names(asked)) and reasons(asked) == {}
    assert names(run(http, "true", language="bash", session_id=session, collect_ignored=True)) == []


def test_a_session_can_ask_for_all_files_and_a_run_for_less(http):
    info = http.post("/v1/sessions", json={"collect_ignored": True}).json()
    sid = info["session_id"]
    assert info["collect_ignored"] is True and http.get(f"/v1/sessions/{sid}").json()["collect_ignored"] is True
    code = "mkdir -p .cache node_modules; echo x > .cache/a; echo x > node_modules/b"
    assert names(run(http, code, language="bash", session_id=sid, collect_ignored=False)) == []
    assert names(run(http, "true", language="bash", session_id=sid)) == [".cache/a", "node_modules/b"]
    http.delete(f"/v1/sessions/{sid}")


def test_a_file_of_a_background_process_is_in_the_next_run(http, session):
    code = "(until test -e go; do sleep 0.05; done; echo r > report.csv; echo x > /output/more; touch /tmp/done; sleep 1000) > /dev/null 2>&1 & echo begun"
    assert names(run(http, code, language="bash", session_id=session)) == []
    put(http, session, "/workspace/go")
    assert eventually(lambda: exists(http, session, "/tmp/done"))
    assert names(run(http, "print(open('report.csv').read())", session_id=session)) == ["/output/more", "report.csv"]
    assert names(run(http, "print(1)", session_id=session)) == []


def test_runs_at_the_same_time_store_each_file_once(http, session):
    code = "import os, time\nopen('f{0}.txt', 'w').write('x' * {0})\nopen('/tmp/r{0}', 'w')\nwhile len([n for n in os.listdir('/tmp') if n[0] == 'r']) < 5: time.sleep(.01)"
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda i: run(http, code.format(i), session_id=session), range(5)))
    assert sorted(n for a in answers for n in names(a)) == [f"f{i}.txt" for i in range(5)]
    stored = [f for f in http.get("/v1/files", params={"limit": 100}).json()["files"] if f["session_id"] == session]
    assert len(stored) == 5


def array() -> bytes:
    """4096 zeros, as numpy.save has them."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4096,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8 * 4096)


def total(npy: bytes) -> float:
    return sum(struct.unpack("<4096d", npy[-8 * 4096 :]))


EDITS = {
    "np.load": "a = np.load('{f}', mmap_mode='r+'); a += 1; a.flush()",
    "np.load, not flushed": "a = np.load('{f}', mmap_mode='r+'); a[7] = 1; os._exit(0)",
    "np.memmap": "a = np.memmap('{f}', dtype='u1', mode='r+'); a[5000] += 1",
    "mmap": "f = open('{f}', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[9000] = m[9000] ^ 1",
    "mmap in a child": "subprocess.run([sys.executable, '-c', \"import mmap; f = open('{f}', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[9] ^= 1\"], check=True)",
    "copied over a mapping": "a = np.memmap('{f}', dtype='u1', mode='r+'); a[:] = np.random.default_rng(1).integers(0, 255, a.size, dtype='u1')",
}
IMPORTS = "import mmap, os, subprocess, sys, numpy as np\n"


@pytest.mark.parametrize("edit", EDITS)
def test_an_injected_file_that_is_changed_through_a_mapping_is_listed(http, edit):
    fid = upload(http, "field.npy", array())
    answer = run(http, IMPORTS + EDITS[edit].format(f="field.npy"), file_ids=[fid])
    assert names(answer) == ["field.npy"], answer
    changed = http.get(f"/v1/files/{answer['files'][0]['file_id']}").content
    assert len(changed) == len(array()) and changed != array()


def test_files_of_a_session_that_are_changed_through_a_mapping_are_listed(http, session):
    make = "import numpy as np\nfor f in ('a.npy', '/output/b.npy', 'same.npy'): np.save(f, np.zeros(4096))"
    assert names(run(http, make, session_id=session)) == ["/output/b.npy", "a.npy", "same.npy"]
    for _ in range(2):
        edits = IMPORTS + "\n".join(EDITS["np.load"].format(f=f) for f in ("a.npy", "/output/b.npy"))
        assert names(run(http, edits + "\nnp.load('same.npy', mmap_mode='r+').flush()", session_id=session)) == ["/output/b.npy", "a.npy"]
    sums = run(http, "import numpy as np\nprint(np.load('a.npy').sum(), np.load('a.npy', mmap_mode='r').sum())", session_id=session)
    assert sums["stdout"] == "8192.0 8192.0\n" and names(sums) == []


def test_what_a_background_process_changes_through_a_mapping_is_in_the_next_run(http, session):
    assert names(run(http, "import numpy as np\nnp.save('live.npy', np.zeros(4096))", session_id=session)) == ["live.npy"]
    program = "import time, os, numpy as np\na = np.load('live.npy', mmap_mode='r+')\nopen('/tmp/mapped', 'w')\nn = 0\nwhile True:\n    if os.path.exists(f'/tmp/go{n}'): a += 1; n += 1; open(f'/tmp/done{n}', 'w')\n    time.sleep(.01)\n"
    put(http, session, "/tmp/program.py", program.encode())
    run(http, "nohup python3 /tmp/program.py > /dev/null 2>&1 & until test -e /tmp/mapped; do sleep .02; done", language="bash", session_id=session)
    for n in range(3):
        put(http, session, f"/tmp/go{n}")
        assert eventually(lambda: exists(http, session, f"/tmp/done{n + 1}"))
        answer = run(http, "true", language="bash", session_id=session)
        assert names(answer) == ["live.npy"]
        content = http.get(f"/v1/files/{answer['files'][0]['file_id']}").content
        assert total(content) == 4096 * (n + 1)
        assert names(run(http, "true", language="bash", session_id=session)) == []


def test_a_database_that_is_only_read_is_not_listed(http, session):
    make = "import sqlite3\nc = sqlite3.connect('d.db'); c.execute('create table t (x)'); c.execute('insert into t values (1)'); c.commit()"
    assert names(run(http, make, session_id=session)) == ["d.db"]
    for pragma in ("", "c.execute('pragma mmap_size=1000000'); "):
        assert names(run(http, f"import sqlite3\nc = sqlite3.connect('d.db'); {pragma}print(c.execute('select * from t').fetchall())", session_id=session)) == []
    write = "import sqlite3\nc = sqlite3.connect('d.db'); c.execute('pragma mmap_size=1000000'); c.execute('update t set x = 2'); c.commit()"
    assert names(run(http, write, session_id=session)) == ["d.db"]


def test_twenty_thousand_unchanged_files_are_not_read(http, session):
    code = "import os\nfor d in range(100):\n    os.mkdir(f'd{d}')\n    for i in range(200): open(f'd{d}/{i}', 'w').write('x')"
    first = run(http, code, session_id=session)
    assert len(first["files"]) == 1000 and reasons(first) == {"file_limit": 19_000}
    begun = time.monotonic()
    second = run(http, "open('d7/7', 'a').write('y')", session_id=session)
    print("a run beside 20,000 files:", time.monotonic() - begun)
    assert names(second) == ["d7/7"] and reasons(second) == {}


def test_what_was_listed_is_remembered_across_a_restart(own_server):
    own_server.flags = (*own_server.flags, "--on-shutdown=keep")
    own_server.stop()
    own_server.start()
    with own_server.http() as http:
        sid = http.post("/v1/sessions", json={}).json()["session_id"]
        assert names(run(http, "open('a', 'w').write('1')", session_id=sid)) == ["a"]
        run(http, "(until test -e /tmp/go; do sleep .05; done; echo x > made-meanwhile; touch /tmp/done) > /dev/null 2>&1 &", language="bash", session_id=sid)
        put(http, sid, "/tmp/go")
        assert eventually(lambda: exists(http, sid, "/tmp/done"))
    own_server.stop()
    own_server.start()
    with own_server.http() as http:
        assert names(run(http, "print(1)", session_id=sid)) == ["made-meanwhile"]
        assert names(run(http, "open('a', 'w').write('1')", session_id=sid)) == ["a"]
        http.delete(f"/v1/sessions/{sid}")


def test_files_of_the_kernel_are_refused(http, session):
    run(http, "ln -s /proc p; ln -s /proc/self/fd fds; mkdir d; ln -s ../p d/up; ln -s /dev dev; ln -s /sys sys", language="bash", session_id=session)
    fs = f"/v1/sessions/{session}/fs"
    for path in (
        "/proc", "/proc/self/environ", "/proc/1/cmdline", "/proc/meminfo", "/sys", "/sys/kernel", "/dev", "/dev/null", "/dev/pts",
        "/workspace/../proc/uptime", "/workspace/p/meminfo", "/workspace/fds/0", "/workspace/d/up/1/status",
        "/workspace/dev/zero", "/workspace/sys/fs",
    ):
        for method, route in (("GET", fs), ("PUT", fs), ("DELETE", fs), ("GET", fs + "/stat"), ("GET", fs + "/list")):
            problem = refused(http.request(method, route, params={"path": path}), 403, "forbidden")
            assert "/proc, /sys or /dev" in problem["message"], (method, path)
    put(http, session, "/dev/shm/shared", b"data")
    assert http.get(fs, params={"path": "/dev/shm/shared"}).content == b"data"
    put(http, session, "/workspace/process", b"a name that only looks like it")
    assert "proc" in [e["path"].rsplit("/", 1)[1] for e in http.get(fs + "/list", params={"path": "/"}).json()["entries"]]
