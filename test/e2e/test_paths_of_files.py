"""Where files belong: a package can be sent, and names that are not text stay apart."""

import base64
import json
import os
import subprocess

import pytest
from server import BIN, refused, run


def cli(server, *args: str, cwd) -> subprocess.CompletedProcess:
    env = {**os.environ, "AGENTSANDBOX_BASE_URL": server.url, "AGENTSANDBOX_API_KEY": server.key}
    return subprocess.run([BIN, *args], capture_output=True, text=True, errors="surrogateescape", cwd=cwd, env=env, timeout=120)


def upload(http, data: bytes, name: str = "x", **form) -> dict:
    r = http.post("/v1/files", files={"file": (name, data)}, data=form)
    assert r.status_code == 201, r.text
    return r.json()


def test_a_package_is_sent_and_imported(http):
    init = upload(http, b"from .core import X\n", "__init__.py", path="pkg/__init__.py")
    core = upload(http, b"X = 41\n", "C:\\code\\core.py", path="pkg/core.py")
    assert (init["filename"], init["path"]) == ("pkg/__init__.py", "/workspace/pkg/__init__.py")
    ids = [init["file_id"], core["file_id"]]
    answer = run(http, "import pkg\nprint(pkg.X)", file_ids=ids)
    assert answer["stdout"] == "41\n" and answer["files"] == []
    sid = http.post("/v1/sessions", json={"file_ids": ids}).json()["session_id"]
    late = http.post("/v1/files", params={"session_id": sid}, files={"file": ("l", b"Y = 1\n")}, data={"path": "pkg/late/__init__.py"}).json()
    assert run(http, "from pkg.late import Y\nimport pkg\nprint(pkg.X + Y)", session_id=sid)["stdout"] == "42\n"
    assert http.post(f"/v1/sessions/{sid}/files", json={"file_ids": [late["file_id"]]}).status_code == 204
    http.delete(f"/v1/sessions/{sid}")
    metadata = http.get(f"/v1/files/{late['file_id']}/metadata").json()
    assert metadata["path"] == "/workspace/pkg/late/__init__.py" and metadata["filename"] == "pkg/late/__init__.py"
    assert upload(http, b"", "reports/q1/data.csv")["filename"] == "data.csv" and upload(http, b"", "x")["path"] is None
    problem = refused(http.post("/v1/execute", json={"code": "1", "file_ids": [core["file_id"], upload(http, b"", path="pkg/core.py")["file_id"]]}), 422)
    assert problem["details"][0]["field"] == "file_ids[1]"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a/..", ".", "a/./b", "", "a//b", "a/", "a\x00b", "a\nb", "x" * 256, "a/" * 2050 + "b", b"\xff.txt", "a\\b"],
    ids=lambda path: repr(path[:12]),
)
def test_an_unsafe_path_is_refused(http, path):
    body = b"--B\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n" + (path if isinstance(path, bytes) else path.encode()) + b"\r\n"
    body += b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\ndata\r\n--B--\r\n"
    r = http.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert refused(r, 422, "invalid_request")["details"][0]["field"] == "path"


def test_a_path_that_comes_late_or_twice_is_refused(http):
    part = b"--B\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\na/b\r\n"
    file = b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\ndata\r\n"
    before = http.get("/v1/files").json()["total"]
    for body in (file + part, part + part + file):
        r = http.post("/v1/files", content=body + b"--B--\r\n", headers={"Content-Type": "multipart/form-data; boundary=B"})
        assert refused(r, 422)["details"][0]["field"] == "path"
    assert http.get("/v1/files").json()["total"] == before


NAMES = [b"r\xe9sum\xe9.txt", b"r\xe8sum\xe8.txt", b"half \xc3", b"dir\xff/f\xfe", "größe.txt".encode()]
CODE = "import os\nos.mkdir(b'dir\\xff')\n" + "".join(f"open({n!r}, 'w').write({n!r}.hex())\n" for n in NAMES)


def test_names_that_are_not_text_are_distinct_and_have_their_bytes(http):
    answer = run(http, CODE)
    assert len({f["filename"] for f in answer["files"]}) == len(NAMES) == len({f["path"] for f in answer["files"]})
    listed = {f["file_id"]: f for f in http.get("/v1/files", params={"limit": 100}).json()["files"]}
    for f in answer["files"]:
        exact = base64.b64decode(f["filename_base64"]) if "filename_base64" in f else f["filename"].encode()
        assert http.get(f"/v1/files/{f['file_id']}").text == exact.hex()
        assert listed[f["file_id"]]["filename"] == f["filename"] and listed[f["file_id"]].get("filename_base64") == f.get("filename_base64")
        if "path_base64" in f:
            assert base64.b64decode(f["path_base64"]) == b"/workspace/" + exact


def test_the_command_line_saves_every_file_and_keeps_the_status(server, tmp_path):
    (tmp_path / "p.py").write_text(CODE + "open('taken', 'w').write('new')\nopen('/output/taken', 'w').write('other')\nraise SystemExit(7)")
    done = cli(server, "run", "p.py", "-o", "out", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    saved = {os.path.relpath(os.path.join(d, f), os.fsencode(tmp_path / "out")) for d, _, fs in os.walk(os.fsencode(tmp_path / "out")) for f in fs}
    assert saved == {*NAMES, b"workspace/taken", b"output/taken"}
    # What is in the way is a warning, and nothing outside of the directory is touched.
    (tmp_path / "q.py").write_text("open('a', 'w').write('1'); open('b', 'w').write('2')")
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "a").symlink_to("../victim")
    (tmp_path / "victim").write_text("mine")
    done = cli(server, "run", "q.py", "-o", "trap", cwd=tmp_path)
    assert done.returncode == 0 and "already there" in done.stderr and (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "trap" / "b").read_text() == "2"
    (tmp_path / "file").write_text("")
    done = cli(server, "run", "q.py", "-o", "file", cwd=tmp_path)
    assert done.returncode == 0 and "--output-dir" in done.stderr


def test_the_command_line_sends_a_directory(server, tmp_path):
    for name, text in {"pkg/__init__.py": "from .sub.core import X", "pkg/sub/core.py": "X = 41", "pkg/.git/config": "x", "pkg/__pycache__/a.pyc": "x", "pkg/env/pyvenv.cfg": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pkg" / "sub" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "link").symlink_to("/etc/passwd")
    (tmp_path / "use.py").write_text("import os, pkg\nprint(pkg.X, sorted(os.listdir('pkg')))")
    done = cli(server, "run", "use.py", "-f", "pkg", cwd=tmp_path)
    assert done.stdout == "41 ['__init__.py', '__pycache__', 'sub']\n", done.stderr
    done = cli(server, "files", "upload", "pkg", "--path", "src/deep", "--json", cwd=tmp_path)
    paths = {f["path"] for f in json.loads(done.stdout)["files"]}
    assert paths == {"/workspace/src/deep/" + n for n in ("__init__.py", "sub/__init__.py", "sub/core.py")}
    done = cli(server, "files", "upload", "use.py", "--path", "../x", cwd=tmp_path)
    assert done.returncode == 1 and "path" in done.stderr
