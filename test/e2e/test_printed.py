"""What Python prints arrives, whatever ends it, and in order; and what a run
installs it can import."""

import pytest
from server import run

# How a Python ends itself, with the return code that this gives.
ENDS = {
    "os._exit(3)": 3,
    "os.abort()": 134,
    "__import__('ctypes').string_at(0)": 139,
    "os.kill(os.getpid(), 9)": 137,
    "os.killpg(0, 9)": 137,
    "os.kill(os.getpid(), 15)": 143,
}
LINES = "import os, sys\nfor i in range(3): print('line', i)\n"
PRINTED = "line 0\nline 1\nline 2\n"

# How Python code is run, below a run of Python or Bash: it is in code.py.
BELOW = {
    "bash": ("bash", "python3 code.py || true"),
    "a script": ("bash", "printf '#!/usr/bin/env python3\\n' | cat - code.py >tool; chmod +x tool; ./tool || true"),
    "isolated": ("bash", "python3 -I code.py || true"),
    "a virtual environment": ("bash", "python3 -m venv --without-pip /tmp/v && /tmp/v/bin/python code.py || true"),
    "os.system": ("python", "import os\nos.system('python3 code.py')"),
    "subprocess": ("python", "import subprocess, sys\nsubprocess.run([sys.executable, 'code.py'])"),
    "posix_spawn": ("python", "import os, sys\nos.waitpid(os.posix_spawn(sys.executable, ['python3', 'code.py'], os.environ), 0)"),
    "fork": ("python", "import os\nif os.fork() == 0: exec(open('code.py').read())\nos.wait()"),
    "exec": ("python", "import os, sys\nos.execv(sys.executable, ['python3', 'code.py'])"),
    "multiprocessing by fork": (
        "python",
        "import multiprocessing\np = multiprocessing.get_context('fork').Process(target=lambda: exec(open('code.py').read()))\np.start()\np.join()",
    ),
    "multiprocessing by spawn": (
        "python",
        "import multiprocessing, runpy\n"
        "if __name__ == '__main__':\n"
        "    p = multiprocessing.get_context('spawn').Process(target=runpy.run_path, args=('code.py',))\n    p.start()\n    p.join()",
    ),
}


def given(http, code: str) -> dict:
    file = http.post("/v1/files", files={"file": ("code.py", code.encode())}).json()
    return {"file_ids": [file["file_id"]]}


@pytest.mark.parametrize("end", ENDS)
def test_lines_arrive_before_every_end(http, end):
    r = run(http, LINES + end)
    assert (r["stdout"], r["return_code"]) == (PRINTED, ENDS[end]), r


@pytest.mark.parametrize("below", BELOW)
def test_lines_of_a_python_below_a_run_arrive(http, below):
    language, code = BELOW[below]
    r = run(http, code, language=language, **given(http, LINES + "os._exit(1)"))
    assert r["stdout"] == PRINTED, r


def test_lines_arrive_before_the_end_by_a_limit(http):
    memory = run(http, LINES + "x = []\nwhile True: x.append(bytearray(1 << 24))", memory_mb=128)
    assert (memory["stdout"], memory["status"]) == (PRINTED, "memory_exceeded"), memory
    cpu = run(http, LINES + "while True: pass", cpu_time_ms=300)
    assert (cpu["stdout"], cpu["status"]) == (PRINTED, "timed_out"), cpu
    for language, code in [("python", LINES + "import time\ntime.sleep(60)"), ("bash", "python3 code.py")]:
        late = run(http, code, language=language, timeout_ms=1500, **given(http, LINES + "import time\ntime.sleep(60)"))
        assert (late["stdout"], late["status"], late["return_code"], late["signal"]) == (PRINTED, "timed_out", 124, "SIGKILL"), late
        assert late["stderr"].endswith("agentsandbox: ended after 1.5 s: the time limit\n")


def test_lines_arrive_in_order(http):
    r = run(http, "import os, subprocess\nprint(1)\nos.system('echo 2')\nprint(3)\nsubprocess.run(['echo', '4'])\nprint(5)\nos.write(1, b'6\\n')\nprint(7)")
    assert r["stdout"] == "1\n2\n3\n4\n5\n6\n7\n", r
    many = run(http, "for i in range(50_000): print('line', i)\nimport os\nos.abort()")
    assert many["stdout"] == "".join(f"line {i}\n" for i in range(50_000))


def test_a_pipe_or_file_of_the_code_itself_is_buffered_as_everywhere(http):
    show = "import sys; print(sys.stdout.line_buffering)"
    r = run(http, f'python3 -c "{show}" | cat; python3 -c "{show}" >out; cat out; python3 -c "{show}"', language="bash")
    assert r["stdout"] == "False\nFalse\nTrue\n", r


def test_the_time_limit_has_python_say_where_it_was(http):
    session = http.post("/v1/sessions", json={}).json()["session_id"]
    for kw in ({}, {"session_id": session}, {"session_id": session}):
        r = run(http, "import time\ndef hang():\n    time.sleep(60)\nprint('x', end='')\nhang()", timeout_ms=1000, **kw)
        assert (r["status"], r["return_code"], r["stdout"]) == ("timed_out", 124, "x"), r
        lines = r["stderr"].splitlines()
        assert "    time.sleep(60)" in lines and lines[-2:] == ["KeyboardInterrupt", "agentsandbox: ended after 1 s: the time limit"], r
    # Code that minds nothing gains a moment, and no more.
    r = run(http, "import time\nfor i in range(10**6):\n    try: time.sleep(60)\n    except KeyboardInterrupt: print('caught', i)", timeout_ms=1000)
    assert (r["status"], r["return_code"], r["stdout"]) == ("timed_out", 124, "caught 0\n"), r


# A wheel that the code makes itself: nothing is fetched.
WHEEL = """
import os, subprocess, sys, zipfile
def wheel(version):
    name = f'/tmp/tiny_thing-{version}-py3-none-any.whl'
    with zipfile.ZipFile(name, 'w') as z:
        info = f'tiny_thing-{version}.dist-info/'
        z.writestr('tiny_thing/__init__.py', f'X = {version}')
        z.writestr(info + 'METADATA', f'Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: {version}\\n')
        z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        z.writestr(info + 'RECORD', '')
    return name
"""
INSTALL = {
    "python -m pip": "subprocess.check_call([sys.executable, '-m', 'pip', 'install', '-q', '--no-index', wheel('1.0')])",
    "pip": "subprocess.check_call(['pip', 'install', '-q', '--no-index', wheel('1.0')])",
    "pip --user": "subprocess.check_call(['pip', 'install', '-q', '--user', '--no-index', wheel('1.0')])",
    "os.system": "assert os.system('pip install -q --no-index ' + wheel('1.0')) == 0",
    "runpy": "import runpy\nsys.argv = ['pip', 'install', '-q', '--no-index', wheel('1.0')]\n"
    "try: runpy.run_module('pip', run_name='__main__')\nexcept SystemExit as e: assert e.code == 0",
    "pip --target": "subprocess.check_call(['pip', 'install', '-q', '--no-index', '--target', '/workspace', wheel('1.0')])",
}


@pytest.mark.parametrize("how", INSTALL)
@pytest.mark.parametrize("before", ["", "import numpy\n"], ids=["bare", "with a library"])
def test_a_run_imports_what_it_has_installed(http, how, before):
    code = before + WHEEL + f"try: import tiny_thing\nexcept ImportError:\n{_indent(INSTALL[how])}\n    import tiny_thing\nprint(tiny_thing.X)"
    r = run(http, code)
    assert r["stdout"].endswith("1.0\n") and r["return_code"] == 0, r


def test_a_package_is_there_for_cold_interpreters_and_later_runs(http):
    session = http.post("/v1/sessions", json={}).json()["session_id"]
    code = WHEEL + f"{INSTALL['pip']}\nimport tiny_thing\nprint(tiny_thing.X)"
    # An interpreter of the run's own, one in Bash, one that waits.
    assert run(http, code, session_id=session, env_vars={"TZ": "UTC"})["stdout"] == "1.0\n"
    assert run(http, "python3 -c 'import tiny_thing; print(tiny_thing.X)'", language="bash", session_id=session)["stdout"] == "1.0\n"
    for library in ("", "import numpy\n"):
        assert run(http, library + "import tiny_thing; print(tiny_thing.X)", session_id=session)["stdout"] == "1.0\n"
    # Another version, in place of the one that the same interpreter could have seen.
    again = WHEEL + "subprocess.check_call(['pip', 'install', '-q', '--no-index', wheel('2.0')])\nimport tiny_thing\nprint(tiny_thing.X)"
    assert run(http, again, session_id=session)["stdout"] == "2.0\n"
    bash = "pip uninstall -q -y tiny-thing && pip install -q --no-index /tmp/tiny_thing-1.0-py3-none-any.whl && python3 -c 'import tiny_thing; print(tiny_thing.X)'"
    assert run(http, bash, language="bash", session_id=session)["stdout"] == "1.0\n"


def _indent(code: str) -> str:
    return "".join("    " + line + "\n" for line in code.splitlines())


# Code of the user's that comes before that of the run, and how it ends the process.
FIRST = {
    "BASH_ENV that exits": ("bash", "BASH_ENV", "echo x >> /workspace/count; exit 3", 3),
    "BASH_ENV that is killed": ("bash", "BASH_ENV", "echo x >> /workspace/count; kill -9 $$", 137),
    "sitecustomize that exits": ("python", "PYTHONPATH", "import os\nprint('x', file=open('/workspace/count', 'a'), flush=True)\nos._exit(4)", 4),
}


@pytest.mark.parametrize("first", FIRST)
def test_what_comes_before_the_code_runs_once_too(http, first):
    language, variable, code, status = FIRST[first]
    session = http.post("/v1/sessions", json={}).json()["session_id"]
    place = "/workspace/first/sitecustomize.py" if language == "python" else "/workspace/first"
    http.put(f"/v1/sessions/{session}/fs", params={"path": place}, content=code.encode()).raise_for_status()
    r = run(http, "echo never" if language == "bash" else "print('never')", language=language, session_id=session, env_vars={variable: "/workspace/first"})
    assert (r["return_code"], r["stdout"]) == (status, ""), r
    assert run(http, "cat count", language="bash", session_id=session)["stdout"] == "x\n"
