"""Where the code of a run stands: in the workspace, under one name, and in no listing."""

import threading

import pytest

PYTHON, BASH = "/workspace/__script__.py", "/workspace/__script__.sh"

# How interpreters come to run code: one that waited, one that starts for the run,
# one with the data libraries.
WAYS = {"waited": {}, "started": {"PYTHONHASHSEED": "1"}, "data": {}}


@pytest.fixture
def session(client):
    made = client.sessions.create().session_id
    yield made
    client.sessions.delete(made)


def code_for(way, code):
    return ("import numpy\n" if way == "data" else "") + code


def python(client, way, code, **more):
    return client.run(code_for(way, code), env_vars=WAYS[way], **more)


BESIDE_PYTHON = [
    "Path(__file__).parent",
    "Path(__file__).resolve().parent",
    "Path(os.path.dirname(os.path.abspath(__file__)))",
    "Path(os.path.dirname(os.path.realpath(sys.argv[0])))",
    "Path(inspect.getsourcefile(lambda: 0)).parent",
    "Path(sys.path[0])",
    "Path(sys._getframe().f_code.co_filename).parent",
]

BESIDE_BASH = [
    'cd "$(dirname "$0")"',
    'cd "$(dirname "$(readlink -f "$0")")"',
    'cd "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
    'cd "${0%/*}"',
    'cd "$(dirname "$(realpath "${BASH_SOURCE}")")"',
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("here", BESIDE_PYTHON)
def test_what_is_beside_a_python_script_is_found(client, way, here):
    data = client.files.upload(file=b"a,b\n1,2\n", filename="data.csv")
    code = f"""
import inspect, os, sys
from pathlib import Path
os.chdir("/tmp")
here = {here}
print((here / "data.csv").read_text(), end="")
(here / "out.txt").write_text("made")
"""
    result = python(client, way, code, file_ids=[data.file_id])
    assert (result.stdout, result.stderr, [f.filename for f in result.files]) == ("a,b\n1,2\n", "", ["out.txt"])


@pytest.mark.parametrize("env", [{}, {"TZ": "UTC"}])
@pytest.mark.parametrize("go", BESIDE_BASH)
def test_what_is_beside_a_bash_script_is_found(client, go, env):
    data = client.files.upload(file=b"a,b\n1,2\n", filename="data.csv")
    result = client.run(f"cd /tmp\n{go} && cat data.csv && echo made > out.txt", language="bash", file_ids=[data.file_id], env_vars=env)
    assert (result.stdout, result.stderr, [f.filename for f in result.files]) == ("a,b\n1,2\n", "", ["out.txt"])


FAILURES = {
    "raised": "def f(x):\n    return 1 / x\n\nf(0)",
    "syntax": "def f(:\n    pass",
    "encoding": "print(1)\nx = '\udcff'".encode("utf-8", "surrogatepass").decode("latin-1") + "\nraise ValueError(x)",
    "warned": "import warnings\nwarnings.warn('old')",
    "in a thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start(); t.join()",
    "printed": "import traceback\ntry: {}['key']\nexcept KeyError: traceback.print_exc()",
    "logged": "import logging\nlogging.basicConfig(format='%(pathname)s:%(lineno)d %(message)s')\nlogging.warning('odd')",
    "spawned": "import multiprocessing as m\ndef f(): 1 / 0\nif __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=f, name='p')\n    p.start(); p.join()",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_equal_failures_give_equal_text(client, session, failure):
    texts = {way: set() for way in WAYS}
    for _ in range(3):
        for way in WAYS:
            texts[way].add(python(client, way, FAILURES[failure], session_id=session).stderr)
            if failure != "spawned":
                texts[way].add(python(client, way, FAILURES[failure]).stderr)
    for way, seen in texts.items():
        assert len(seen) == 1 and PYTHON in min(seen), (way, seen)
    assert "/run/agentsandbox" not in str(texts)
    if failure in ("raised", "printed", "warned", "in a thread", "spawned"):
        assert FAILURES[failure].split("\n")[1].split(":")[-1].strip() in min(texts["waited"])  # the line itself


def test_equal_failures_of_bash_give_equal_text(client, session):
    code = "f() { caller; nosuchcommand; }\nf\nset -x; PS4='+$BASH_SOURCE:$LINENO '\n. ./nothing.sh\necho ${x?unset}"
    seen = {client.run(code, language="bash", env_vars=env, session_id=s).stderr for env in ({}, {"TZ": "UTC"}) for s in (None, session, session)}
    assert len(seen) == 1
    text = seen.pop()
    assert f"{BASH}: line 1: nosuchcommand: command not found\n" in text and f"+{BASH}:4 . ./nothing.sh\n" in text and f"{BASH}: line 5: x: unset\n" in text
    syntax = client.run("echo 1\nif then", language="bash")
    assert syntax.stderr.startswith(f"{BASH}: line 2: syntax error near")


GOES_ON = {
    "source": ("import inspect\ndef f(): return 'itself'\nprint(inspect.getsource(f), end='')", "def f(): return 'itself'\n"),
    "text": ("print(open(__file__).read().splitlines()[-1])", "print(open(__file__).read().splitlines()[-1])\n"),
    "linecache": (
        "import linecache\nlinecache.checkcache()\nprint(len(linecache.getlines(__file__)) > 1, linecache.getline(__file__, 10**6) == '')",
        "True True\n",
    ),
    "doctest": ("def f():\n    '''\n    >>> 1 + 1\n    2\n    '''\nimport doctest\nprint(doctest.testmod().attempted)", "1\n"),
    "runpy": ("import runpy\nif __name__ == '__main__': print(runpy.run_path(__file__, run_name='again')['__name__'])", "again\n"),
    "import": (
        "import importlib.util as u\nif __name__ == '__main__':\n    s = u.spec_from_file_location('again', __file__)\n    m = u.module_from_spec(s); s.loader.exec_module(m); print(m.__name__)",
        "again\n",
    ),
    "pdb": (
        "import io, pdb\np = pdb.Pdb(stdin=io.StringIO('list 1, 2\\nc\\n'), stdout=(out := io.StringIO()), nosigint=True)\nx = 1\np.set_trace(); x = 2\nprint('import ' in out.getvalue(), __file__ in out.getvalue())",
        "True True\n",
    ),
    "subprocess": (
        "import subprocess, sys\nif len(sys.argv) == 1: print(subprocess.run([sys.executable, __file__, 'child'], capture_output=True, text=True).stdout, end='')\nelse: print(sys.argv[1], __file__, sys.path[0])",
        f"child {PYTHON} /workspace\n",
    ),
    "execv": (
        "import os, sys\nif len(sys.argv) == 1: os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])\nprint(sys.argv)",
        f"['{PYTHON}', 'again']\n",
    ),
    "pickle": ("import pickle\nclass P: x = 1\nprint(pickle.loads(pickle.dumps(P())).x)", "1\n"),
    "python -c": ("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, repr(sys.path[0]))'])", "['-c'] ''\n"),
    "profile": ("import cProfile\ndef f(): pass\np = cProfile.Profile(); p.runcall(f); print([e.code.co_filename for e in p.getstats() if hasattr(e.code, 'co_filename')])", f"['{PYTHON}']\n"),
    "module": ("import sys\nprint(sys.modules['__main__'].__file__, __spec__, __name__)", f"{PYTHON} None __main__\n"),
    "futures": (
        "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return 2 * x\nif __name__ == '__main__':\n    with ProcessPoolExecutor(2) as pool: print(list(pool.map(f, [1, 2])))",
        "[2, 4]\n",
    ),
} | {
    method: (
        f"import multiprocessing as m\nclass P:\n    def __init__(self, x): self.x = x\ndef f(p): return P(2 * p.x)\nif __name__ == '__main__':\n    with m.get_context('{method}').Pool(2) as pool: print([p.x for p in pool.map(f, [P(1), P(2)])])",
        "[2, 4]\n",
    )
    for method in ("fork", "spawn", "forkserver")
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", GOES_ON)
def test_what_reads_or_runs_the_script_again(client, session, what, way):
    code, want = GOES_ON[what]
    for s in (None, session, session):
        result = python(client, way, code, session_id=s)
        assert (result.stdout, result.stderr, result.return_code) == (want, "", 0)


@pytest.mark.parametrize(
    "code, want",
    [
        ('test $# = 0 && exec bash "$0" again\necho "$0 $1"', f"{BASH} again\n"),
        ('test $# = 0 && { bash "$BASH_SOURCE" child; exit; }\necho "$1"', "child\n"),
        ('tail -n +3 "$0" | tr a-z A-Z\nexit\nsome text\n', "SOME TEXT\n"),
        ('sed -n "/^# data/,\\$p" "$0" | tail -n 1\nexit\n# data\nlast\n', "last\n"),
        ('grep -c . "$0"', "1\n"),
        ("wc -l < ${BASH_SOURCE[0]}\n", "1\n"),
    ],
)
def test_what_a_bash_script_does_with_itself(client, session, code, want):
    for s in (None, session, session):
        result = client.run(code, language="bash", session_id=s)
        assert (result.stdout, result.stderr, result.return_code) == (want, "", 0)


def test_runs_at_the_same_time_each_see_their_own_code(client, session):
    python_code = """
import os, subprocess, sys, time
open('mark-{0}', 'w').close()
while len([n for n in os.listdir('/workspace') if n.startswith('mark-')]) < {1}: time.sleep(0.02)
own = subprocess.run(['cat', __file__], capture_output=True, text=True).stdout
print(__file__, 'mark-{0}' in own and own == open(__file__).read())
"""
    bash_code = """
touch mark-{0}
until test $(ls | grep -c ^mark-) -ge {1}; do sleep 0.02; done
echo $0 $(grep -c 'touch mark-{0}$' "$0")
"""
    runs, said = 6, {}
    client.run("import numpy", session_id=session)

    def one(n):
        code = code_for("data" if n % 3 == 2 else "waited", python_code) if n % 2 == 0 else bash_code
        said[n] = client.run(code.format(n, runs), language="python" if n % 2 == 0 else "bash", session_id=session).stdout

    threads = [threading.Thread(target=one, args=(n,)) for n in range(runs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert said == {n: f"{PYTHON} True\n" if n % 2 == 0 else f"{BASH} 1\n" for n in range(runs)}


def test_no_listing_has_the_script(client, http, session):
    own = client.run("mkdir sub; touch a.txt main.py __script__.txt sub/__script__.py", language="bash", session_id=session)
    assert {f.filename for f in own.files} == {"__script__.txt", "a.txt", "main.py", "sub/__script__.py"}
    listing = """
import glob, os, pathlib, subprocess, __main__
print(sorted(os.listdir('/workspace')), sorted(os.listdir('sub')), os.listdir(__import__('os').open('/workspace', os.O_RDONLY)).__len__())
print(sorted(e.name for e in os.scandir()), sorted(glob.glob('**/*.py', recursive=True)), len(list(pathlib.Path('.').rglob('*'))))
"""
    result = client.run(listing, session_id=session)
    names = ["__script__.txt", "a.txt", "main.py", "sub"]
    assert result.stdout.splitlines() == [f"{names} ['__script__.py'] 4", f"{names} {['main.py', 'sub/__script__.py']} 5"]
    shell = client.run("ls -A; find . -name '*.py' | sort; ls -A | wc -l; git init -q . && git status --short", language="bash", session_id=session)
    assert shell.stdout == "\n".join([*names, "./main.py", "./sub/__script__.py", "4", "?? __script__.txt", "?? a.txt", "?? main.py", "?? sub/", ""])
    listed = http.get(f"/v1/sessions/{session}/fs/list", params={"path": "/workspace"}).json()
    assert sorted(e["path"].rpartition("/")[2] for e in listed["entries"]) == [".git", *names]


def test_a_long_listing_is_whole(client, session):
    code = "import os\nfor i in range(3000): open(f'{i:04}', 'w').close()\nassert len(os.listdir()) == len(set(os.listdir())) == 3000\nfor n in os.listdir(): os.unlink(n)\nprint(os.listdir())"
    assert client.run(code, session_id=session).stdout == "[]\n"
    # An entry by itself in the buffer of a listing.
    code = "import ctypes, os\nlibc = ctypes.CDLL(None)\nfd = os.open('/workspace', os.O_RDONLY)\nopen('one', 'w').close()\nfound = b''\nb = ctypes.create_string_buffer(40)\nwhile (n := libc.syscall(217, fd, b, 40)) > 0: found += b.raw[19:n].split(b'\\0')[0] + b' '\nprint(sorted(found.split()))"
    assert client.run(code, session_id=session).stdout == "[b'.', b'..', b'one']\n"


ATTACKS = [
    "open(__file__, 'a')",
    "os.unlink(__file__)",
    "os.rename(__file__, 'mine.py')",
    "os.chmod(__file__, 0o777)",
    "os.truncate(__file__, 0)",
    "open('new', 'w').close(); os.replace('new', __file__)",
    "os.link(__file__, 'link.py')",
    "shutil.copystat('/tmp', __file__)",
]


def test_the_script_is_out_of_the_users_reach(client, http, session):
    code = f"import os, shutil\nfor attack in {ATTACKS!r}:\n    try: exec(attack)\n    except OSError: continue\n    print(attack)\nprint(len(open(__file__).read()) > 100)"
    assert client.run(code, session_id=session).stdout == "True\n"
    assert client.run('rm -rf /workspace/* "$0" /workspace; mv "$0" x; ls -A; test -r "$0" && echo read', language="bash", session_id=session).stdout == "read\n"
    answer = http.put(f"/v1/sessions/{session}/fs", params={"path": PYTHON}, content=b"mine")
    assert answer.status_code == 403, answer.text
    assert http.get(f"/v1/sessions/{session}/fs", params={"path": PYTHON}).content == b""
    assert client.run("print(__file__)", session_id=session).stdout == PYTHON + "\n"


def test_a_user_who_takes_the_mounts_away_finds_the_next_run_as_before(client, session):
    take = 'unshare --user --map-root-user --mount sh -c "umount -R /workspace/__script__.py; umount /workspace/__script__.py; rm -f /workspace/__script__.py; ln -s /etc/passwd /workspace/__script__.py"'
    client.run(take + "; true", language="bash", session_id=session)
    code = "print(len(open(__file__).read()))"
    for _ in range(3):
        result = client.run(code, session_id=session)
        assert (result.stdout, result.stderr) == (f"{len(code)}\n", "")
    client.run("rm -f /workspace/__script__.py", language="bash", session_id=session)
    for _ in range(3):
        assert client.run(f"assert __file__ == {PYTHON!r}\n{code}", session_id=session).return_code == 0
