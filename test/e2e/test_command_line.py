"""The command line against a real sandbox: a run has the limits that its flags ask for, and its end is told once."""

import os
import subprocess

import pytest
from server import BIN, refused, run


def cli(server, *args: str, code: str = "") -> subprocess.CompletedProcess:
    env = {**os.environ, "AGENTSANDBOX_BASE_URL": server.url, "AGENTSANDBOX_API_KEY": server.key}
    return subprocess.run([BIN, *args], input=code, capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.parametrize(
    ("flags", "code", "status", "said"),
    [
        (["--network", "off"], "import socket; socket.getaddrinfo('example.org', 80)", 1, "gaierror"),
        (["--allow", "allowed.example:443"], "import socket; socket.getaddrinfo('other.example', 80)", 1, "refused other.example (in no allow-list"),
        (["--deny", "denied.example"], "import socket; socket.getaddrinfo('denied.example', 80)", 1, "refused denied.example"),
        (["--disk-mb", "64"], "open('x', 'wb').write(bytes(100_000_000))", 1, "--disk-mb"),
        (["--inodes", "1024"], "for i in range(10**6): open(f'{i}', 'w').close()", 137, "--inodes"),
        (["--processes", "16"], "import subprocess\nfor _ in range(40): subprocess.Popen(['sleep', '9'])", 1, "--processes"),
        (["--open-files", "32"], "f = [open('/dev/null') for _ in range(99)]", 1, "Too many open files"),
        (["--cpu-time", "500ms"], "while True: pass", 124, "--cpu-time"),
        (["--memory-mb", "128"], "b'x' * 10**9", 137, "--memory-mb"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_takes_every_limit(server, flags, code, status, said):
    done = cli(server, "run", "-", *flags, code=code)
    assert done.returncode == status and said in done.stderr, done


def test_what_is_lost_is_told_once(server):
    done = cli(server, "run", "-", "--output-bytes", "1024", code="print('x' * 5000)")
    assert done.stdout == "x" * 1024
    assert done.stderr == "agentsandbox: the output was cut: the first 1024 of 5001 bytes of standard output are kept\n"
    done = cli(server, "run", "-", "--output-bytes", "1024", "--json", code="print('x' * 5000)")
    assert done.stderr.startswith("agentsandbox: The output was cut: the code wrote 5001 bytes to stdout")


def test_a_session_keeps_as_much_output_as_it_was_made_with(server):
    session = cli(server, "sessions", "create", "--output-bytes", "2000").stdout.strip()
    done = cli(server, "exec", session, "--", "head -c 3000 /dev/zero | tr '\\0' x")
    assert len(done.stdout) == 2000 and "2000 of 3000 bytes" in done.stderr
    assert cli(server, "exec", session, "--cpu-time", "300ms", "--", "while :; do :; done").returncode == 124
    assert cli(server, "sessions", "delete", session).returncode == 0


def test_an_empty_session_is_not_none(server, http):
    for command in (["run", "-", "--session", ""], ["exec", "", "--", "true"]):
        done = cli(server, *command, code="1")
        assert done.returncode == 125 and "id of the session is empty" in done.stderr, done
    assert refused(http.post("/v1/execute", json={"code": "1", "session_id": ""}), 422)["details"][0]["field"] == "session_id"
    assert run(http, "print(1)", session_id=None)["stdout"] == "1\n"
