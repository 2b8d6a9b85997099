"""Lists by cursor while items come and go, on the real binary."""

import json
import subprocess
import uuid

import httpx
import pytest
from server import BIN, refused


@pytest.fixture
def tenant(server):
    """A client of a tenant of its own, whose lists nobody else touches."""
    with server.http() as admin:
        name = "t-" + uuid.uuid4().hex[:8]
        body = {"name": "k", "tenant": name, "scopes": ["sandbox", "read", "keys"]}
        key = admin.post("/v1/api-keys", json=body).json()["key_value"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        client.key = key
        yield client


def upload(http, n):
    return http.post("/v1/files", files={"file": (f"{n}.txt", b"x")}).json()["file_id"]


def make_key(http, n):
    return http.post("/v1/api-keys", json={"name": f"k{n}"}).json()["id"]


def run_code(http, n):
    return http.post("/v1/execute", json={"code": "true", "language": "bash", "metadata": {"n": "1"}}).json()["execution_id"]


def make_session(http, n):
    return http.post("/v1/sessions", json={"metadata": {"n": "1"}}).json()["session_id"]


# The path of each list, the field with its items, the id of an item, what makes one, and whether DELETE takes it out.
LISTS = {
    "files": ("/v1/files", "files", "file_id", upload, True),
    "sessions": ("/v1/sessions", "items", "session_id", make_session, True),
    "executions": ("/v1/executions", "executions", "id", run_code, False),
    "keys": ("/v1/api-keys", "keys", "id", make_key, False),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_changes_is_shown_whole_and_once(tenant, name):
    path, items, ident, make, deletable = LISTS[name]
    made = [make(tenant, n) for n in range(5)]
    got, cursor = [], ""
    while True:
        page = tenant.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert page["offset"] == 0 and page["limit"] == 2
        ids = [item[ident] for item in page[items]]
        got += ids
        if deletable:
            for one in ids:
                assert tenant.delete(f"{path}/{one}").status_code == 204
        cursor = page["next_cursor"]
        if not cursor:
            break
        make(tenant, "newer")
    # The tenant's first key is older than what the test made.
    assert [i for i in got if i in made] == made[::-1] and len(got) == len(set(got)) == 5 + (name == "keys")


def test_the_audit_log_by_cursor(server):
    with server.http() as http:
        for n in range(5):
            upload(http, n)
        total = http.get("/v1/audit").json()["total"]
        rows, cursor = [], ""
        while len(rows) < 4:
            page = http.get("/v1/audit", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            rows += [e["seq"] for e in page["entries"]]
            cursor = page["next_cursor"]
            upload(http, "newer")
        assert rows == list(range(total, total - 4, -1))


def test_a_cursor_is_of_one_list_one_tenant_and_one_filter(server, tenant):
    cursors = {}
    for name, (path, _, _, make, _) in LISTS.items():
        for n in range(2):
            make(tenant, n)
        cursors[name] = tenant.get(path, params={"limit": 1}).json()["next_cursor"]
        assert cursors[name], name
    for name, cursor in cursors.items():
        path = LISTS[name][0]
        assert tenant.get(path, params={"cursor": cursor, "limit": 100}).status_code == 200
        for other in cursors.keys() - {name}:
            error = refused(tenant.get(path, params={"cursor": cursors[other]}), 422, "invalid_request")
            assert [d["field"] for d in error["details"]] == ["cursor"]
        flipped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        for forged in (flipped, cursor[1:], cursor + "A", "1.1", "' OR 1=1 --", "\0", "é"):
            refused(tenant.get(path, params={"cursor": forged}), 422, "invalid_request")
        refused(tenant.get(path, params={"cursor": cursor, "offset": 1}), 422, "invalid_request")
        with server.http() as stranger:
            refused(stranger.get(path, params={"cursor": cursor}), 422, "invalid_request")
    refused(tenant.get("/v1/executions", params={"cursor": cursors["executions"], "status": "succeeded"}), 422)
    refused(tenant.get("/v1/executions", params={"cursor": cursors["executions"], "metadata[n]": "1"}), 422)
    refused(tenant.get("/v1/sessions", params={"cursor": cursors["sessions"], "metadata[n]": "1"}), 422)


def test_an_old_clients_loop_ends_while_it_deletes(tenant):
    for n in range(7):
        upload(tenant, n)
    offset, rounds = 0, 0
    while True:  # as published clients page
        page = tenant.get("/v1/files", params={"limit": 2, "offset": offset}).json()
        for item in page["files"]:
            tenant.delete(f"/v1/files/{item['file_id']}")
        offset += len(page["files"])
        rounds += 1
        assert rounds < 10
        if offset >= page["total"]:
            break


def test_the_command_line_goes_on_by_cursor(server, tenant):
    made = [upload(tenant, n) for n in range(3)]
    env = {"AGENTSANDBOX_BASE_URL": server.url, "AGENTSANDBOX_API_KEY": tenant.key}
    command = [BIN, "files", "list", "--limit", "2"]
    first = json.loads(subprocess.run([*command, "--json"], env=env, capture_output=True, check=True).stdout)
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "2 of 3 shown; --cursor " in shown.stderr
    for item in first["files"]:
        tenant.delete(f"/v1/files/{item['file_id']}")
    rest = subprocess.run([*command, "--json", "--cursor", first["next_cursor"]], env=env, capture_output=True, check=True)
    rest = json.loads(rest.stdout)
    assert [f["file_id"] for f in rest["files"]] == made[:1] and rest["next_cursor"] == ""
