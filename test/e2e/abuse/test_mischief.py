"""Programs that lie, hide, tamper, outlive their run, or look where they should not."""

import json
import secrets

import pytest
from aftermath import SLACK
from server import refused, run

quick = pytest.mark.quick


@quick
def test_output_that_looks_like_ours(abuse):
    frame = 'data: {"status": "succeeded", "return_code": 0}\n\nevent: end\n{"exit_code":0}\nagentsandbox: ended after 1 s: the time limit\n'
    r = abuse(f"import sys\nsys.stdout.write({frame!r})\nsys.exit(5)")
    assert (r["status"], r["return_code"], r["stdout"], r["stderr"]) == ("failed", 5, frame, "")


def test_lone_surrogates_and_terminal_escapes(abuse):
    r = abuse("import os; os.write(1, b'\\xed\\xa0\\x80\\x1b]0;x\\x07\\xe2\\x80\\xae'); print('\\ud800')")
    assert r["status"] == "failed" and "UnicodeEncodeError" in r["stderr"], r
    assert r["stdout"] == "\ufffd\ufffd\ufffd\x1b]0;x\x07\u202e"


@quick
def test_a_daemon_that_keeps_the_output_open(abuse, session):
    r = abuse("setsid sleep 500 & echo started", language="bash", session_id=session)
    assert (r["status"], r["stdout"]) == ("succeeded", "started\n") and r["duration_ms"] < 5000 * SLACK
    left = abuse("pgrep -x sleep | wc -l; pkill -9 sleep", language="bash", session_id=session)
    assert left["stdout"] == "1\n", "what a run left in the background goes on"


def test_a_daemon_that_respawns_itself(abuse, session):
    respawn = "trap '' TERM HUP INT; f() { while true; do (setsid bash -c 'sleep 300' & wait); done; }; f & f & exit 3"
    r = abuse(respawn, language="bash")
    assert (r["status"], r["return_code"]) == ("failed", 3)
    r = abuse(respawn.replace("exit 3", "sleep 400"), language="bash", session_id=session, timeout_ms=1500)
    assert r["status"] == "timed_out" and r["duration_ms"] < 1500 + 1000 * SLACK, r
    left = abuse("ps -eo args | grep -c '[s]leep'", language="bash", session_id=session)
    assert left["stdout"] == "0\n", "what a run left behind that was ended is ended too"


def test_runaways_of_one_run_and_daemons_of_another(abuse, session):
    abuse("(setsid -f sleep 111) </dev/null >/dev/null 2>&1", language="bash", session_id=session)
    abuse("(env -i setsid -f setsid sleep 222); unshare -U sleep 333 & sleep 400", language="bash", session_id=session, timeout_ms=1000)
    left = abuse("ps -eo args | grep '^sleep'", language="bash", session_id=session)
    assert left["stdout"] == "sleep 111\n"


@pytest.mark.parametrize("how", ["kill -9 -1", "kill -9 1; kill -STOP 1; kill -9 -- -1"])
def test_kills_everything_it_can(abuse, session, how):
    # The kernel spares who asks, and calls it an error if there is nobody else, as
    # when the next interpreter is not up yet.
    r = abuse(f"sleep 100 & {how}", language="bash", session_id=session)
    assert r["status"] == "succeeded" and r["session_status"] == "live", r
    r = abuse("import os; os.kill(0, 9)", session_id=session)
    assert (r["status"], r["return_code"], r["session_status"]) == ("failed", 137, "live"), r


@quick
def test_signals_and_ptrace_at_the_agent(abuse):
    r = abuse(
        "import ctypes, os\nfor s in range(1, 65):\n  try: os.kill(1, s); print('sent', s)\n  except (PermissionError, OSError): pass\n"
        "libc = ctypes.CDLL(None, use_errno=True)\nprint(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())\n"
        "for p in ('mem', 'environ', 'maps', 'fd'):\n  try: (os.listdir if p == 'fd' else open)(f'/proc/1/{p}'); print('open', p)\n  except OSError: pass"
    )
    assert (r["status"], r["stdout"]) == ("succeeded", "-1 1\n"), r


@pytest.mark.parametrize(
    ("code", "return_code", "signal"),
    [
        pytest.param("import os; os._exit(0)", 0, None, marks=quick),
        ("import os; os._exit(255)", 255, None),
        pytest.param("import ctypes; ctypes.string_at(0)", 139, "SIGSEGV", marks=quick),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", None, None),
        ("import os; os.abort()", 134, "SIGABRT"),
        ("import os; os.kill(os.getpid(), 15)", 143, "SIGTERM"),
    ],
)
def test_ends_are_told_truly(abuse, session, code, return_code, signal):
    r = abuse(code, session_id=session, timeout_ms=60_000)
    if return_code is None:  # a stack overflow: an error of Python's, or of the process
        assert r["status"] in ("failed", "memory_exceeded") and r["session_status"] == "live", r
        return
    assert (r["return_code"], r["signal"]) == (return_code, signal), r
    assert r["status"] == ("succeeded" if return_code == 0 else "failed")


def test_files_that_are_no_files(abuse, host, session):
    r = abuse(
        "import os, socket\nfor n, t in dict(shadow='/etc/shadow', env='/proc/1/environ', agent='/usr/lib/agentsandbox/agent', dir='/').items(): os.symlink(t, n)\n"
        "os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('sock'); open('real', 'w').write('x')\n"
        "try: os.mknod('dev', 0o20666, os.makedev(1, 3))\nexcept OSError: print('no device')",
        session_id=session,
    )
    assert r["status"] == "succeeded" and [f["filename"] for f in r["files"]] == ["real"], r
    for name in ("shadow", "env", "agent", "dir", "fifo", "sock"):
        refused(host.http.get(f"/v1/sessions/{session}/fs", params={"path": f"/workspace/{name}"}), 409)


NAMES = ["new\nline", "tab\tab", "quote\"'`$(id)", "..hidden", "\u202egnp.exe", "a b; filename=x", "ünï€", "%2e%2e%2f"]


def test_names_of_files(abuse, host):
    r = abuse(f"for n in {NAMES!r}: open(n, 'w').write(n)\nimport os; os.close(os.open(b'bad\\xff', os.O_CREAT | os.O_WRONLY))")
    assert sorted(f["filename"] for f in r["files"]) == sorted([*NAMES, "bad%FF"])
    for f in r["files"]:
        got = host.http.get(f"/v1/files/{f['file_id']}")
        assert got.status_code == 200 and (got.text == f["filename"] or f["filename"] == "bad%FF")
        header = got.headers["Content-Disposition"]
        assert header.startswith("attachment") and "\n" not in header and header.isascii()


def test_active_content_is_only_downloaded(abuse, host):
    r = abuse("open('x.html', 'w').write('<script>1</script>'); open('x.svg', 'w').write('<svg onload=\"1\"/>')")
    for f in r["files"]:
        h = host.http.get(f"/v1/files/{f['file_id']}").headers
        assert h["Content-Disposition"].startswith("attachment") and h["X-Content-Type-Options"] == "nosniff"


def test_an_archive_bomb_stays_packed(abuse):
    r = abuse(
        "import zipfile\nwith zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n"
        "  with z.open('zeros', 'w', force_zip64=True) as f:\n    for _ in range(200): f.write(bytes(1 << 20))"
    )
    assert [f["filename"] for f in r["files"]] == ["bomb.zip"] and r["files"][0]["size_bytes"] < 1 << 20


@quick
def test_tampering_goes_to_the_grave(abuse, host):
    r = abuse(
        "import os, site, sys\nhome = os.path.expanduser('~/.local/lib/python%d.%d/site-packages' % sys.version_info[:2])\n"
        "os.makedirs(home, exist_ok=True)\nfor n in ('sitecustomize.py', 'usercustomize.py'): open(f'{home}/{n}', 'w').write('print(\"tampered\")')\n"
        "open(f'{home}/x.pth', 'w').write('import os; print(\"tampered\")')\nopen('/tmp/json.py', 'w').write('tampered')\n"
        "for d in ['/usr/bin', '/usr/lib/agentsandbox', '/etc', *site.getsitepackages()]:\n"
        "  try: open(f'{d}/evil', 'w'); print('wrote to', d)\n  except OSError: pass"
    )
    assert (r["status"], r["stdout"]) == ("succeeded", ""), r
    clean = run(host.http, "import json, sys; print(json.loads('1'), [m for m in sys.modules if 'customize' in m and 'site' not in m])")
    assert (clean["stdout"], clean["stderr"]) == ("1 []\n", "")


def test_a_poisoned_environment(abuse):
    env = {"BASH_ENV": "/workspace/x", "LD_PRELOAD": "/nowhere.so", "PYTHONSTARTUP": "/nowhere", "PYTHONHOME": "/nowhere"}
    r = abuse("echo fine", language="bash", env_vars=env)
    assert (r["status"], r["stdout"]) == ("succeeded", "fine\n")
    r = abuse("print(1)", env_vars=env)
    assert r["status"] == "failed" and r["return_code"] == 1, "its own interpreter does not start, and that is all"


@quick
def test_patches_the_interpreter_under_itself(abuse):
    r = abuse(
        "import atexit, builtins, json, os, sys\njson.dumps = lambda *a, **k: '{\"exit_code\": 0}'\nbuiltins.print = lambda *a: None\n"
        "write = os.write\nos.write = lambda fd, b: len(b)\nsys.settrace(lambda *a: None)\n"
        "atexit.register(lambda: (write(1, b'last words'), os._exit(9)))\nsys.exit(0)"
    )
    assert (r["status"], r["return_code"], r["stdout"]) == ("failed", 9, "last words"), r


@quick
def test_garbage_into_every_descriptor(abuse):
    r = abuse(
        "import os\nfor fd in range(3, 1000):\n  try: os.write(fd, os.urandom(4096)); print('wrote to', fd, os.readlink(f'/proc/self/fd/{fd}'))\n"
        "  except OSError: pass\nprint('done')"
    )
    assert r["status"] == "succeeded" and r["stdout"].endswith("done\n"), r
    assert "socket" not in r["stdout"].lower() or r["status"] == "succeeded"


SEARCH = r"""
import os, re, sys
found = []
needle = bytes.fromhex(sys.argv[1] if len(sys.argv) > 1 else os.environ['NEEDLE_HEX'])
def look(path):
    try:
        with open(path, 'rb') as f:
            if needle in f.read(1 << 20): found.append(path)
    except OSError: pass
for top in ('/workspace', '/output', '/tmp', '/var/tmp', '/home', '/run', '/dev/shm'):
    for root, _, names in os.walk(top):
        for n in names: look(os.path.join(root, n))
for pid in filter(str.isdigit, os.listdir('/proc')):
    for n in ('environ', 'cmdline', 'comm'):
        if pid != str(os.getpid()): look(f'/proc/{pid}/{n}')
print(found)
"""


def test_nothing_of_the_last_run_is_found(abuse):
    canary = secrets.token_hex(16)
    abuse(f"open('c', 'w').write('{canary}'); open('/tmp/c', 'w').write('{canary}'); open('/dev/shm/c', 'w').write('{canary}')", env_vars={"SECRET": canary})
    r = abuse(SEARCH, env_vars={"NEEDLE_HEX": canary.encode().hex()})
    assert r["stdout"] == "[]\n", r


DENIED = r"""
import ctypes, json, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def sys_(n, *a):
    ctypes.set_errno(0)
    return 'ok' if libc.syscall(n, *a) >= 0 else os.strerror(ctypes.get_errno())
print(json.dumps({
    'mount': sys_(165, b'none', b'/tmp', b'tmpfs', 0, 0),
    'setns': 'ok' if libc.setns(os.open('/proc/1/status', 0), 0) == 0 else 'denied',
    'init_module': sys_(175, 0, 0, b''),
    'bpf': sys_(321, 0, 0, 0),
    'perf_event_open': sys_(298, 0, 0, -1, -1, 0),
    'userfaultfd': sys_(323, 0),
    'reboot': sys_(169, 0xfee1dead, 672274793, 0x1234567, 0),
    'settimeofday': sys_(164, 0, 0),
    'mknod': sys_(133, b'/tmp/dev', 0o60666, 0x0800),
    'devmem': str(os.path.exists('/dev/mem')),
    'sudo': str(subprocess.run('su -c id root', shell=True, capture_output=True, stdin=subprocess.DEVNULL).returncode != 0),
}))
"""


def test_what_is_denied(abuse):
    r = abuse(DENIED)
    assert r["status"] == "succeeded", r
    got = json.loads(r["stdout"])
    assert got.pop("devmem") == "False" and got.pop("sudo") == "True"
    got.pop("settimeofday")  # with no time to set, it does nothing
    assert "ok" not in got.values(), got


@quick
def test_the_grant_is_what_it_sees(abuse):
    r = abuse(
        "import os\nkib = next(int(l.split()[1]) for l in open('/proc/meminfo') if l.startswith('MemTotal'))\n"
        "print(os.cpu_count(), kib, open('/proc/cpuinfo').read().count('processor\\t'), os.popen('nproc').read().strip(), len(os.sched_getaffinity(0)))\n"
        "print(os.path.exists('/sys/class/net/eth0'), os.path.exists('/proc/sched_debug'), os.listdir('/sys/block') if os.path.exists('/sys/block') else [])",
        memory_mb=512,
    )
    assert r["stdout"] == f"1 {512 << 10} 1 1 1\nFalse False []\n", r
