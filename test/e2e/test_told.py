"""What a run says of its end to a client that shows nothing but standard error, and what the network refused to it."""

import threading

import pytest
from server import Server, eventually, refused, run

ALLOWED = {"mode": "allowlist", "allow": ["allowed.example:443"], "deny": ["denied.example"]}
ELSEWHERE = "93.184.216.34"  # public; nothing goes there, because no list has it


def session(http, **kw) -> str:
    r = http.post("/v1/sessions", json=kw)
    assert r.status_code == 201, r.text
    return r.json()["session_id"]


def last(answer) -> str:
    lines = answer["stderr"].splitlines()
    assert lines, answer
    assert lines[-1].startswith("agentsandbox: "), answer
    return lines[-1].removeprefix("agentsandbox: ")


def test_what_the_network_refused_is_in_the_answer(http):
    code = f"""
import socket
def dial(*to):
    try: socket.create_connection(to, 20).close()
    except OSError as e: return e
for _ in range(3): dial("other.example", 443)
dial("denied.example", 443)
print(dial("10.1.2.3", 5432)), print(dial("{ELSEWHERE}", 9999))
raise SystemExit(3)
"""
    for at in ({"network": ALLOWED}, {"session_id": session(http, network=ALLOWED)}):
        answer = run(http, code, **at)
        assert answer["stdout"] == "[Errno 111] Connection refused\n" * 2
        said = {(r["host"], r["port"], r["reason"]): r for r in answer["network_refused"]}
        assert set(said) == {("other.example", 0, "not_allowed"), ("denied.example", 0, "denied"), ("10.1.2.3", 5432, "range"), (ELSEWHERE, 9999, "not_allowed")}
        assert said["other.example", 0, "not_allowed"]["count"] >= 3
        assert said["denied.example", 0, "denied"]["rule"] == "session deny denied.example"
        assert answer["network_refused_omitted"] == 0
        assert last(answer).startswith("the network policy refused other.example (in no allow-list of the session), "), answer
        record = http.get("/v1/executions/" + answer["execution_id"]).json()
        assert record["network_refused"] == answer["network_refused"] and record["stderr"] == answer["stderr"]
        assert answer["stderr_bytes"] == 0  # the line is not the code's


def test_each_run_has_its_own_refusals(http):
    s = session(http, network=ALLOWED)
    ask = "import socket\ntry: socket.getaddrinfo('{}', 80)\nexcept OSError: pass"
    assert [r["host"] for r in run(http, ask.format("a.example"), session_id=s)["network_refused"]] == ["a.example"]
    quiet = run(http, "print(1)", session_id=s)
    assert (quiet["network_refused"], quiet["stderr"]) == ([], "")
    second = run(http, ask.format("b.example"), session_id=s)
    # A run that did what it was to do has no line of ours, whatever it tried.
    assert ([r["host"] for r in second["network_refused"]], second["status"], second["stderr"]) == (["b.example"], "succeeded", "")


def test_more_kinds_than_have_room(http):
    code = "import socket\nfor i in range(30):\n    try: socket.getaddrinfo(f'n{i}.example', 80, type=socket.SOCK_STREAM, family=socket.AF_INET)\n    except OSError: pass\nraise SystemExit(1)"
    answer = run(http, code, network=ALLOWED)
    assert len(answer["network_refused"]) == 20 and answer["network_refused_omitted"] >= 10
    assert last(answer).endswith(" and more, see network_refused")


@pytest.mark.parametrize("policy,words", [
    (ALLOWED, ["in no allow-list of the session", "Add it to network.allow"]),
    ({"mode": "public", "deny": [ELSEWHERE]}, ["session deny " + ELSEWHERE, "network.deny"]),
])  # fmt: skip
def test_plain_http_is_told_why(http, policy, words):
    answer = run(http, f"curl -sS -w '%{{http_code}}' http://{ELSEWHERE}/path", language="bash", network=policy)
    assert answer["stdout"].endswith("403") and "agentsandbox: refused by the network policy" in answer["stdout"], answer
    assert all(w in answer["stdout"] for w in words), answer
    assert [(r["host"], r["port"]) for r in answer["network_refused"]] == [(ELSEWHERE, 80)]


def test_a_session_that_is_switched_off_says_so(http):
    s = session(http)
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "off"}).status_code == 200
    answer = run(http, f"curl -sS http://{ELSEWHERE}/", language="bash", session_id=s)
    assert "network off" in answer["stdout"], answer


def test_a_refused_name_is_told_in_dns(http):
    code = """
import socket, struct
query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 1) + b"\\5other\\7example\\0" + struct.pack(">2H", 1, 1) + b"\\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.sendto(query, ("192.0.0.1", 53)); print(s.recv(1500)[3] & 15, s.getsockname() and "")
s.sendto(query, ("192.0.0.1", 53)); print(s.recv(1500)[28:].decode("latin-1"))
"""
    answer = run(http, code, network=ALLOWED)
    assert answer["stdout"].startswith("3 ") and "in no allow-list of the session" in answer["stdout"], answer


SIGNALS = {
    "SIGSEGV": "import ctypes; ctypes.string_at(0)", "SIGABRT": "import os; os.abort()", "SIGFPE": "import os; os.kill(os.getpid(), 8)",
    "SIGILL": "import os; os.kill(os.getpid(), 4)", "SIGKILL": "import os; os.kill(os.getpid(), 9)", "SIGTERM": "import os; os.kill(os.getpid(), 15)",
    "SIGUSR1": "import os; os.kill(os.getpid(), 10)",
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_is_told(http, name):
    for language, code in (("python", SIGNALS[name]), ("bash", f"kill -{name[3:]} $$")):
        answer = run(http, code, language=language)
        assert answer["status"] == "failed" and last(answer).startswith("ended by " + name), answer
        assert http.get(f"/v1/executions/{answer['execution_id']}").json()["stderr"] == answer["stderr"]


def test_output_that_was_cut_is_told(http):
    answer = run(http, "import sys\nprint('x' * 5000)\nprint('y', file=sys.stderr)", output_bytes=1024)
    assert answer["status"] == "succeeded" and answer["truncated"] and len(answer["stdout"]) == 1024
    assert answer["stderr"] == "y\nagentsandbox: the output was cut: the first 1024 of 5001 bytes of standard output are kept\n"
    answer = run(http, "import sys\nsys.stderr.write('x' * 5000)\nraise SystemExit(1)", output_bytes=1024)
    assert answer["stderr"] == "x" * 1024 + "\nagentsandbox: the output was cut: the first 1024 of 5000 bytes of standard error are kept\n"
    assert answer["stderr_bytes"] == 5000


def test_nothing_is_said_where_nothing_is_amiss(http):
    for code in "print(1)", "import sys; sys.exit(0)", "open('/output/a', 'w').write('x')":
        answer = run(http, code)
        assert answer["stderr"] == "" and answer["status"] == "succeeded", answer
    assert run(http, "exit 7", language="bash")["stderr"] == ""


def in_background(http, s, code="import time; print('began', flush=True); time.sleep(600)"):
    got = []
    thread = threading.Thread(target=lambda: got.append(run(http, code, session_id=s)))
    thread.start()
    assert eventually(lambda: http.get("/v1/executions", params={"session_id": s, "status": "running"}).json()["total"] == 1)
    return thread, got


def test_the_end_of_the_session_is_told(http):
    s = session(http)
    thread, got = in_background(http, s)
    assert http.delete(f"/v1/sessions/{s}").status_code == 204
    thread.join(60)
    assert got[0]["status"] == "cancelled" and last(got[0]) == "The session was deleted while this ran.", got


def test_a_run_of_a_key_that_is_revoked_goes_on(http, server):
    made = http.post("/v1/api-keys", json={"name": "short-lived", "scopes": ["sandbox", "read"]}).json()
    with server.http(made["key_value"]) as other:
        s = session(other)
        thread, got = in_background(other, s, "import os, time\nwhile not os.path.exists('/workspace/go'): time.sleep(0.05)\nprint('done')")
        assert http.delete("/v1/api-keys/" + made["id"]).status_code == 204
        assert other.get("/v1/sessions").status_code == 401
        assert run(http, "touch /workspace/go", language="bash", session_id=s)["status"] == "succeeded"
        thread.join(60)
        assert got[0]["status"] == "succeeded" and got[0]["stdout"] == "done\n", got
    http.delete(f"/v1/sessions/{s}")


def test_the_expiry_of_the_session_is_told(tmp_path):
    server = Server(tmp_path / "data", "--pool-size=1", "--preload=none").start()
    try:
        with server.http() as http:
            s = session(http, max_lifetime_ms=4000)
            thread, got = in_background(http, s)
            thread.join(120)
            assert got[0]["status"] == "cancelled" and last(got[0]) == "The session expired while this ran.", got
    finally:
        server.stop()


def test_the_session_of_a_run_without_one_is_told_to_have_ended(http):
    first = run(http, "print(1)")
    for r in (http.post("/v1/execute", json={"code": "print(2)", "session_id": first["session_id"]}), http.get("/v1/sessions/" + first["session_id"]),
              http.delete("/v1/sessions/" + first["session_id"])):  # fmt: skip
        refused(r, 404, "session_not_found")
        assert "was made for one run, and ended with it" in r.text, r.text
    refused(http.post("/v1/execute", json={"code": "print(2)", "session_id": "ses_00000000000000000000000009"}), 404, "session_not_found")
