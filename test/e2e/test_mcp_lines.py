"""`agentsandbox mcp` over standard input and output, with lines that are no messages."""

import contextlib
import json
import os
import subprocess

import pytest
from server import BIN, eventually

PARSE, INVALID, UNKNOWN_METHOD = -32700, -32600, -32601


class Talk:
    """A conversation by its lines."""

    def __init__(self, process):
        self.process = process
        self.ids = 0

    def send(self, line: bytes):
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def read(self) -> dict:
        line = self.process.stdout.readline()
        assert line, (self.process.wait(30), self.process.stderr.read())
        return json.loads(line)

    def request(self, method, **params) -> dict:
        self.ids += 1
        ident = f"r{self.ids}"
        self.send(json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode() + b"\n")
        answer = self.read()
        assert answer["id"] == ident, answer
        return answer

    def tool(self, name, **arguments) -> dict:
        result = self.request("tools/call", name=name, arguments=arguments)["result"]
        assert not result.get("isError"), result
        return result["structuredContent"]


@contextlib.contextmanager
def talk(server, *flags, version="2025-06-18", key=None):
    env = {"AGENTSANDBOX_BASE_URL": server.url, "AGENTSANDBOX_API_KEY": key or server.key, "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [BIN, "mcp", *flags], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            t = Talk(process)
            client = {"name": "test", "version": "1"}
            hello = t.request("initialize", protocolVersion=version, capabilities={}, clientInfo=client)
            assert hello["result"]["protocolVersion"] == version
            t.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
            yield t
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait(30)
        assert code == 0, process.stderr.read()


def live(server) -> set:
    with server.http() as http:
        return set(http.get("/v1/sessions").json()["sessions"])


def message(**fields) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


# Each line, and the (id, code) of every answer to it.
STRAY = {
    "text": (b"Hello?", [(None, PARSE)]),
    "half an object": (b'{"jsonrpc":"2.0",', [(None, PARSE)]),
    "two messages on a line": (message(id=1, method="ping") + message(id=2, method="ping"), [(None, PARSE)]),
    "invalid UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"ping\xff"}', [(None, PARSE)]),
    "UTF-16": ("\ufeff{}".encode("utf-16-le"), [(None, PARSE)]),
    "a NUL": (b"\0", [(None, PARSE)]),
    "deep arrays": (b"[" * 200_000 + b"]" * 200_000, [(None, PARSE)]),
    "deep arguments": (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}}", [(None, PARSE)]),
    "nested arrays": (b"[[[]]]", [(None, INVALID)]),
    "an empty batch": (b"[]", [(None, INVALID)]),
    "a batch": (
        b"[" + message(id=1, method="ping") + b"," + message(method="x") + b"," + message(id="b", method="ping") + b"]",
        [(1, INVALID), ("b", INVALID)],
    ),
    "a batch of notifications": (b"[" + message(method="notifications/x") + b"]", [(None, INVALID)]),
    "a number": (b"17", [(None, INVALID)]),
    "a string": (b'"ping"', [(None, INVALID)]),
    "null": (b"null", [(None, INVALID)]),
    "an empty object": (b"{}", [(None, INVALID)]),
    "an object without method": (message(id=7), [(7, INVALID)]),
    "a method that is a number": (message(id=7, method=5), [(7, INVALID)]),
    "a method that is null": (message(id="x", method=None), [("x", INVALID)]),
    "no version": (b'{"id":3,"method":"ping"}', [(3, INVALID)]),
    "another version": (b'{"jsonrpc":"1.0","id":3,"method":"ping"}', [(3, INVALID)]),
    "the id null": (message(id=None, method="ping"), [(None, INVALID)]),
    "the id true": (message(id=True, method="ping"), [(None, INVALID)]),
    "the id an object": (message(id={}, method="ping"), [(None, INVALID)]),
    "the id an array": (message(id=[1], method="ping"), [(None, INVALID)]),
    "the id a fraction": (message(id=1.5, method="ping"), [(None, INVALID)]),
    "an id that would be rounded": (message(id=2**53 + 1, method="ping"), [(None, INVALID)]),
    "params that are a list": (message(id=4, method="ping", params=[1]), [(4, INVALID)]),
    "params that are a text": (message(id=4, method="tools/call", params="x"), [(4, INVALID)]),
    "an unknown method": (message(id=4, method="no/such"), [(4, UNKNOWN_METHOD)]),
    "an empty method": (message(id=4, method=""), [(4, UNKNOWN_METHOD)]),
    "an unknown notification": (message(method="notifications/no-such", params={"a": 1}), []),
    "an answer to nothing": (message(id=99, result={}), []),
    "an error without an id": (message(id=None, error={"code": -1, "message": "x"}), []),
    "an empty line": (b"", []),
    "spaces": (b" \t ", []),
    "a carriage return": (b"\r", []),
}


def test_lines_that_are_no_messages_are_answered_and_the_conversation_goes_on(server):
    before = live(server)
    with talk(server) as t:
        own = t.tool("execute_bash", code="echo kept > file")["session_id"]
        for name, (line, answers) in STRAY.items():
            t.send(line + b"\n")
            got = [t.read() for _ in answers]
            assert [(a["id"], a["error"]["code"]) for a in got] == answers, name
            assert all(a["jsonrpc"] == "2.0" and a["error"]["message"] for a in got)
            assert "result" in t.request("ping"), name  # and nothing else was answered
        # The conversation has its sandbox still.
        out = t.tool("execute_bash", code="cat file")
        assert (out["stdout"], out["session_id"]) == ("kept\n", own)
        assert live(server) - before == {own}
    assert eventually(lambda: not live(server) - before)


def test_a_huge_line_is_answered_without_being_kept(server):
    with talk(server) as t:
        start = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"'
        t.send(start)
        for _ in range(64):
            t.send(b"x" * (1 << 20))
        t.send(b'"}}\n')
        answer = t.read()
        assert answer["id"] is None and answer["error"]["code"] == INVALID and "16777216 bytes" in answer["error"]["message"]
        with open(f"/proc/{t.process.pid}/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 200_000, f"{peak} KiB"
        assert t.tool("execute_bash", code="echo on")["stdout"] == "on\n"
        large = t.tool("write_file", path="/workspace/large", text="y" * (8 << 20))  # a large message is none too large
        assert large["size_bytes"] == 8 << 20


@pytest.mark.parametrize("ident", [0, -1, 2**53 - 1, 1.0, "", "ü\u2028", "1"])
def test_ids_come_back_as_they_were(server, ident):
    with talk(server) as t:
        t.send(message(id=ident, method="ping") + b"\n")
        answer = t.read()
        assert answer["id"] == ident and type(answer["id"]) in (str, int) and "result" in answer


def test_byte_order_marks_and_line_ends(server):
    with talk(server) as t:
        for n, line in enumerate([b"\xef\xbb\xbf%s\n", b"%s\r\n", b"  %s  \n", b"\n\r\n\n%s\n", b"\xef\xbb\xbf%s\r\n"]):
            t.send(line % message(id=n, method="ping"))
            answer = t.read()
            assert answer["id"] == n and "result" in answer


def test_the_end_in_the_middle_of_a_line(server):
    before = live(server)
    for rest, code in ((b'{"jsonrpc":"2.0","id":1,"meth', PARSE), (b"\xff", PARSE), (b"[1]", INVALID)):
        with talk(server) as t:
            t.tool("execute_bash", code="true")
            t.send(rest)
            t.process.stdin.close()
            answer = t.read()
            assert answer["id"] is None and answer["error"]["code"] == code
            assert t.process.wait(30) == 0, t.process.stderr.read()
        assert eventually(lambda: not live(server) - before)


def test_tools_reach_what_the_conversation_has_made(server):
    with server.http() as http:
        strange = http.post("/v1/sessions", json={"metadata": {"conversation": "guess"}}).json()["session_id"]
        with talk(server) as one, talk(server) as two:
            own = one.tool("execute_bash", code="true")["session_id"]
            made = [one.tool("create_session", metadata={"n": str(n)})["session_id"] for n in range(3)]
            other = two.tool("create_session")["session_id"]
            listed, cursor = [], {}
            while True:
                page = one.tool("list_sessions", limit=2, **cursor)
                listed += [s["session_id"] for s in page["sessions"]]
                if not (cursor := {"cursor": page["next_cursor"]} if page.get("next_cursor") else {}):
                    break
            assert listed == [*made[::-1], own] and page["total"] == 4
            for session in (strange, other, "ses_none"):
                for tool, arguments in {
                    "execute_python": {"code": "1"}, "execute_bash": {"code": "true"}, "write_file": {"path": "/workspace/x", "text": ""},
                    "read_file": {"path": "/etc/passwd"}, "list_files": {}, "delete_session": {},
                }.items():  # fmt: skip
                    result = one.request("tools/call", name=tool, arguments={**arguments, "session_id": session})["result"]
                    assert result["isError"] and "--all-sessions" in result["content"][0]["text"], (tool, result)
            assert one.tool("execute_bash", code="echo in", session_id=made[0])["stdout"] == "in\n"
            assert one.tool("delete_session", session_id=made[0])["deleted"] == made[0]
            two.tool("delete_session", session_id=other)
            for session in made[1:]:
                one.tool("delete_session", session_id=session)
        with talk(server, "--all-sessions") as t:
            assert strange in [s["session_id"] for s in t.tool("list_sessions", limit=100)["sessions"]]
            assert t.tool("execute_bash", code="echo there", session_id=strange)["stdout"] == "there\n"
            assert t.tool("delete_session", session_id=strange)["deleted"] == strange


def test_the_sandbox_is_as_the_flags_say(server):
    flags = ["--memory-mb", "512", "--cpus", "0.5", "--disk-mb", "256", "--network", "off", "--idle", "7m", "-t", "3s", "--template", "default"]
    with talk(server, *flags) as t, server.http() as http:
        own = t.tool("execute_bash", code="true")["session_id"]
        for session in (own, t.tool("create_session", memory_mb=256)["session_id"]):
            info = http.get(f"/v1/sessions/{session}").json()
            memory = 512 if session == own else 256
            got = (info["memory_mb"], info["cpus"], info["disk_mb"], info["network"]["mode"], info["idle_timeout_ms"], info["timeout_ms"])
            assert got == (memory, 0.5, 256, "off", 420_000, 3000)
        assert t.tool("execute_bash", code="sleep 30")["status"] == "timed_out"


def test_a_filter_of_tools(server):
    def names(*flags):
        with talk(server, *flags) as t:
            tools = {tool["name"] for tool in t.request("tools/list")["result"]["tools"]}
            refused = t.request("tools/call", name="delete_session", arguments={"session_id": "x"})
            assert ("error" in refused) == ("delete_session" not in tools)
            return tools

    every = names()
    assert len(every) == 10
    assert names("--tools", "execute_python,read_file") == {"execute_python", "read_file"}
    assert names("--exclude-tools", "create_session,list_sessions,delete_session") == {n for n in every if not n.endswith(("_session", "_sessions"))}
    assert names("--tools", "execute_bash,read_file", "--exclude-tools", "read_file") == {"execute_bash"}
    for flags in (["--tools", "execute_ruby"], ["--exclude-tools", "nothing"], ["--tools", "read_file", "--exclude-tools", "read_file"]):
        run = subprocess.run([BIN, "mcp", *flags], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert run.returncode != 0 and "tool" in run.stderr, run
