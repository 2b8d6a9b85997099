"""What runs in one sandbox is never seen in another."""

import concurrent.futures
import secrets

from server import refused, run


def test_two_tenants_at_once_see_nothing_of_each_other(server):
    tenants = [server.http(server.new_key(f"tenant-{i}")) for i in range(2)]

    def work(i: int, round_: int) -> None:
        http, secret = tenants[i], f"canary-{i}-{round_}-{secrets.token_hex(8)}"
        code = (
            "import os, time, subprocess\n"
            "open('/workspace/secret', 'w').write(os.environ['SECRET'])\n"
            "open('/tmp/secret', 'w').write(os.environ['SECRET'])\n"
            "time.sleep(0.3)\n"
            "out = subprocess.run('cat /workspace/* /tmp/secret; ls /workspace; ps -ef; cat /proc/[0-9]*/environ',"
            " shell=True, capture_output=True).stdout\n"
            "print(out.replace(b'\\0', b'\\n').decode())\n"
        )
        out = run(http, code, env_vars={"SECRET": secret})["stdout"]
        assert secret in out
        assert "canary-" in out and not any(w.startswith("canary-") and secret not in w for w in out.split())

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for f in [pool.submit(work, i % 2, i) for i in range(12)]:
            f.result()


def test_another_tenants_ids_do_not_exist(server):
    mine, theirs = server.http(server.new_key("mine")), server.http(server.new_key("theirs"))
    sid = mine.post("/v1/sessions", json={}).json()["session_id"]
    fid = mine.post("/v1/files", files={"file": ("a.txt", b"abc")}).json()["file_id"]
    eid = run(mine, "print(1)")["execution_id"]

    def same(method: str, path: str, id_: str, prefix: str, **kw) -> None:
        """The answer for a foreign id is the answer for one that never was, but for the id itself."""
        missing = prefix + "a" * 26
        foreign = refused(theirs.request(method, path.format(id_), **kw), 404)
        nothing = refused(theirs.request(method, path.format(missing), **kw), 404)
        assert foreign["code"] == nothing["code"]
        assert foreign["message"].replace(id_, "ID") == nothing["message"].replace(missing, "ID")

    same("GET", "/v1/sessions/{}", sid, "ses_")
    same("DELETE", "/v1/sessions/{}", sid, "ses_")
    same("GET", "/v1/sessions/{}/fs?path=/workspace/a.txt", sid, "ses_")
    same("GET", "/v1/files/{}", fid, "fil_")
    same("DELETE", "/v1/files/{}", fid, "fil_")
    same("GET", "/v1/executions/{}", eid, "exe_")
    refused(theirs.post("/v1/execute", json={"code": "1", "session_id": sid}), 404, "session_not_found")
    refused(theirs.post("/v1/execute", json={"code": "1", "file_ids": [fid]}), 404, "file_not_found")
    refused(theirs.post("/v1/sessions", json={"file_ids": [fid]}), 404, "file_not_found")
    refused(theirs.post(f"/v1/sessions/{sid}/files", json={"file_ids": [fid]}), 404)
    refused(theirs.post("/v1/files", params={"session_id": sid}, files={"file": ("b", b"x")}), 404, "session_not_found")
    assert theirs.get("/v1/sessions").json()["sessions"] == []
    assert theirs.get("/v1/files").json()["total"] == 0
    assert theirs.get("/v1/executions").json()["total"] == 0
    assert mine.get(f"/v1/sessions/{sid}").status_code == 200
    mine.delete(f"/v1/sessions/{sid}")


def test_the_next_run_finds_nothing_of_the_last(http):
    canary = "canary" + secrets.token_hex(12)
    run(
        http,
        "for d in /workspace /output /tmp /dev/shm /home/user /var/tmp; do echo $CANARY > $d/left; done\n"
        "echo 'echo infected' >> ~/.bashrc; mkdir -p ~/.local/lib\nsetsid sleep 1000 &\n",
        language="bash",
        env_vars={"CANARY": canary},
    )
    for _ in range(4):
        out = run(
            http,
            "grep -rls can[a]ry /workspace /output /tmp /dev/shm /home /var/tmp /run 2>/dev/null\n"
            "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep can[a]ry\n"
            "pgrep -x sleep; ls -A /workspace /output",
            language="bash",
        )["stdout"]
        assert canary not in out and out.split() == ["/output:", "/workspace:"], out


def test_what_must_be_unique_differs(http):
    code = (
        "import os, random, uuid, tempfile, ssl, socket, numpy\n"
        "print(random.random(), uuid.uuid4(), os.urandom(8).hex(), numpy.random.rand(), ssl.RAND_bytes(8).hex(),\n"
        "      tempfile.mktemp(), socket.gethostname(), open('/etc/machine-id').read().strip())"
    )
    rows = [run(http, code)["stdout"].split() for _ in range(5)]
    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(rows), column
    assert all(len(row) == 8 for row in rows)


def test_user_code_is_not_root_and_cannot_become_it(http):
    out = run(
        http,
        "id -u; id -g; grep -E '^(NoNewPrivs|CapEff|CapPrm)' /proc/self/status; "
        "touch /usr/x /etc/x /run/x /x 2>&1 | wc -l; find / -xdev -perm /6000 2>/dev/null | wc -l; "
        "cat /etc/shadow >/dev/null 2>&1; echo $?; kill -9 1 2>/dev/null; echo $?; ls /proc/1/fd >/dev/null 2>&1; echo $?; "
        "ls /proc/self/fd | wc -l; ls /dev",
        language="bash",
    )["stdout"]
    lines = out.splitlines()
    assert lines[:2] == ["1000", "1000"]
    facts = dict(line.split(":\t") for line in lines[2:5] if ":\t" in line)
    assert int(facts["CapEff"], 16) == 0 and int(facts["CapPrm"], 16) == 0, out
    rest = lines[2 + len(facts):]
    assert rest[0] == "4" and rest[1] == "0", out
    assert rest[2] != "0" and rest[3] != "0" and rest[4] != "0", out
    assert rest[5] == "4", "descriptors 0, 1, 2 and that of ls itself: " + out
    assert not {"kvm", "mem", "kmsg", "vda", "sda"} & set(rest[6:]), out


def test_nothing_of_the_host_is_reached(http):
    out = run(
        http,
        "import socket\n"
        "for target in [('127.0.0.1', 8000), ('169.254.169.254', 80), ('10.0.0.1', 22), ('192.0.0.1', 22)]:\n"
        "    s = socket.socket(); s.settimeout(2)\n"
        "    try: s.connect(target); print('reached', target)\n"
        "    except OSError as e: print('no')\n",
    )
    assert out["stdout"] == "no\n" * 4, out
