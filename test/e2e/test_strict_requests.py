"""What a request says is taken as it is meant, or refused with the name of what is wrong. Nothing is dropped without a word."""

import pytest
from server import refused, run


@pytest.mark.parametrize(
    ("body", "field", "meant"),
    [
        ({"network": {"mod": "off"}}, "network.mod", "network.mode"),
        ({"networks": {"mode": "off"}}, "networks", "network"),
        ({"memory": 512}, "memory", "memory_mb"),
        ({"Code": "print(2)"}, "Code", "code"),
        ({"timeout": 5}, "timeout", "timeout_ms"),
        ({"sessionId": "ses_x"}, "sessionId", "session_id"),
    ],
)
def test_unknown_fields_are_refused_and_nothing_runs(http, body, field, meant):
    before = http.get("/v1/executions").json()["total"]
    e = refused(http.post("/v1/execute", json={"code": "print(1)", **body}), 422, "invalid_request")
    assert e["details"][0]["field"] == field and f"Did you mean {meant}?" in e["message"], e
    assert http.get("/v1/executions").json()["total"] == before


def test_unknown_names_on_other_routes(http):
    sid = http.post("/v1/sessions", json={}).json()["session_id"]
    for method, path, body, field in [
        ("POST", "/v1/api-keys", {"name": "x", "tennant": "acme"}, "tennant"),
        ("POST", f"/v1/sessions/{sid}/ports", {"port": 8000, "expires_in": 5}, "expires_in"),
        ("POST", "/v1/sessions", {"secrets": [{"name": "A", "value": "v", "hosts": ["a.org"], "headers": "B"}]}, "secrets[0].headers"),
        ("POST", f"/v1/sessions/{sid}/keepalive", {"idle_timeout": 5}, "idle_timeout"),
        ("PUT", f"/v1/sessions/{sid}/network", {"mode": "off", "alow": []}, "alow"),
        ("PUT", f"/v1/sessions/{sid}/network", {}, "mode"),
        ("GET", "/v1/files?limt=2", None, "limt"),
        ("GET", f"/v1/sessions/{sid}?verbose=1", None, "verbose"),
        ("DELETE", f"/v1/sessions/{sid}?force=1", None, "force"),
        ("DELETE", f"/v1/sessions/{sid}", {"force": True}, "force"),
        ("POST", "/v1/execute?timeout_ms=5", {"code": "print(1)"}, "timeout_ms"),
    ]:
        e = refused(http.request(method, path, json=body), 422, "invalid_request")
        assert e["details"][0]["field"] == field, (method, path, e)
    assert http.get(f"/v1/sessions/{sid}").json()["network"] == http.get("/v1/sessions").json()["items"][0]["network"]
    # What published clients send with every call.
    headers = {"Content-Type": "application/json"}
    assert http.get("/v1/files", headers=headers).status_code == 200
    assert http.request("GET", "/v1/files", json={}).status_code == 200
    assert http.request("DELETE", f"/v1/sessions/{sid}", headers=headers).status_code == 204


def test_names_given_twice_are_refused(http):
    for content, field in [
        ('{"code": "print(1)", "code": "print(2)"}', "code"),
        ('{"code": "print(1)", "env_vars": {"A": "1", "A": "2"}}', "env_vars.A"),
        ('{"code": "print(1)", "network": {"mode": "off", "mode": "public"}}', "network.mode"),
    ]:
        e = refused(http.post("/v1/execute", content=content), 422, "invalid_request")
        assert e["details"][0] == {"field": field, "message": "is given twice."}, e


def test_whole_numbers_however_they_are_written(http):
    for timeout in ("5000.0", "5e3", "50000e-1", "5000"):
        r = http.post("/v1/execute", content='{"code": "print(1)", "timeout_ms": %s}' % timeout)
        assert r.status_code == 200 and r.json()["stdout"] == "1\n", r.text
    made = http.post("/v1/sessions", content='{"memory_mb": 5.12e2, "timeout_ms": 7000.0}').json()
    assert (made["memory_mb"], made["timeout_ms"]) == (512, 7000)
    http.delete("/v1/sessions/" + made["session_id"])
    for timeout in ("1.5", "1e400", "9223372036854775808", "1e-1"):
        e = refused(http.post("/v1/execute", content='{"code": "print(1)", "timeout_ms": %s}' % timeout), 422)
        assert e["details"][0]["field"] == "timeout_ms" and "whole number" in e["message"] and timeout in e["message"], e


@pytest.mark.parametrize("port", [65536, -1, 0, 22.5, "8000", [80], True, {"port": 80}])
def test_a_wrong_port_is_told_what_is_right(http, port):
    e = refused(http.post("/v1/sessions/ses_x/ports", json={"port": port}), 422, "invalid_request")
    assert e["details"][0]["field"] == "port" and "must be a whole number from 1 to 65535, not " in e["message"], e


def test_a_byte_order_mark_is_skipped(http):
    r = http.post("/v1/execute", content=b"\xef\xbb\xbf" + b'{"code": "print(1)"}')
    assert r.status_code == 200 and r.json()["stdout"] == "1\n", r.text


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([("file", ("one.txt", b"1")), ("file", ("two.txt", b"2"))], "file"),
        ([("file", ("one.txt", b"1" * (3 << 20))), ("file", ("two.txt", b"2" * (3 << 20)))], "file"),
        ([("file", ("one.txt", b"1")), ("files", ("two.txt", b"2"))], "files"),
        ([("file", ("one.txt", b"1")), ("session_id", (None, b"ses_x"))], "session_id"),
        ([("session_id", (None, b"ses_x")), ("file", ("one.txt", b"1"))], "session_id"),
        ([("File", ("one.txt", b"1"))], "File"),
    ],
)
def test_an_upload_is_one_file_and_nothing_else(http, parts, field):
    before = http.get("/v1/files").json()["total"]
    e = refused(http.post("/v1/files", files=parts), 422, "invalid_request")
    assert e["details"][0]["field"] == field, e
    assert http.get("/v1/files").json()["total"] == before, "a part of what was refused was stored"


def test_a_large_body_costs_no_more_than_it_may(own_server):
    """A refusal takes the memory of the body, not of two million strings."""

    def allocated() -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("go_memstats_alloc_bytes_total ")))

    body = b'{"code": "1", "file_ids": [' + b",".join([b'""'] * 2_600_000) + b"]}"
    with own_server.http() as http:
        before = allocated()
        for _ in range(5):
            e = refused(http.post("/v1/execute", content=body), 422, "invalid_request")
            assert e["details"] == [{"field": "file_ids", "message": "must have at most 1000 items."}]
        # It was more than 700 MiB each, and three seconds of processor time, when lists were decoded whole.
        assert (allocated() - before) / 5 < 64 << 20
        for content, field in [
            (b'{"code": "1", "env_vars": {' + b",".join(b'"A%d": ""' % i for i in range(500_000)) + b"}}", "env_vars"),
            (b'{"code": "1", "network": {"deny": [' + body[27:], "network.deny"),
            (b'{"code": "1", "network": ' + b"[" * 7_000_000, "network"),
        ]:
            e = refused(http.post("/v1/execute", content=content), 422, "invalid_request")
            assert e["details"][0]["field"] == field, e
        assert run(http, "#" * 1_000_000 + "\nprint(1)")["stdout"] == "1\n"
