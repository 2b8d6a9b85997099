"""Every example of the published client's document, on that client, unmodified."""

import io

import pytest
from agentsandbox import (
    AgentSandbox,
    AgentSandboxError,
    AuthenticationError,
    Language,
    NotFoundError,
    ValidationError,
)
from PIL import Image


def test_quick_start(client):
    result = client.run("print('Hello, World!')")
    assert (result.stdout, result.exit_code) == ("Hello, World!\n", 0)


def test_basic_execution(client):
    assert client.run("print(1 + 1)").stdout == "2\n"
    result = client.run("echo 'Hello' && ls -la", language=Language.BASH)
    assert result.stdout.startswith("Hello\ntotal ")


def test_environment_variables(client):
    result = client.run(
        """
import os
print(os.environ['API_KEY'])
print(os.environ['DEBUG'])
""",
        env_vars={"API_KEY": "secret123", "DEBUG": "true"},
    )
    assert result.stdout == "secret123\ntrue\n"


def test_file_injection(client):
    uploaded = client.files.upload(b"name,value\nfoo,1\nbar,2", filename="data.csv")
    result = client.run(
        """
import pandas as pd
df = pd.read_csv('/workspace/data.csv')
print(df)
""",
        file_ids=[uploaded.file_id],
    )
    assert result.stdout == "  name  value\n0  foo      1\n1  bar      2\n", result.stderr
    assert result.files == []
    client.files.delete(uploaded.file_id)


def test_persistent_workspace(client):
    with client.sessions.context() as session:
        sid = session.session_id
        client.run(
            """
import json
with open('/workspace/state.json', 'w') as f:
    json.dump({'counter': 42}, f)
""",
            session_id=sid,
        )
        result = client.run(
            """
import json
with open('/workspace/state.json') as f:
    data = json.load(f)
print(data['counter'])
""",
            session_id=sid,
        )
        assert result.stdout == "42\n"
    with pytest.raises(NotFoundError):
        client.sessions.get(sid)


def test_sessions_with_files_and_env(client):
    config = client.files.upload(b"db_host=localhost", filename="config.txt")
    data = client.files.upload(b"id,name\n1,Alice", filename="users.csv")
    with client.sessions.context(
        file_ids=[config.file_id, data.file_id], env_vars={"APP_ENV": "production"}
    ) as session:
        result = client.run("import os; print(os.listdir('/workspace'))", session_id=session.session_id)
        assert sorted(eval(result.stdout)) == ["config.txt", "users.csv"]
        result = client.run("import os; print(os.environ['APP_ENV'])", session_id=session.session_id)
        assert result.stdout == "production\n"
    client.files.delete(config.file_id)
    client.files.delete(data.file_id)


def test_inject_into_existing_session(client):
    session = client.sessions.create()
    uploaded = client.files.upload(b"data content", filename="data.txt")
    client.sessions.inject_files(session.session_id, [uploaded.file_id])
    result = client.run("print(open('/workspace/data.txt').read())", session_id=session.session_id)
    assert result.stdout == "data content\n"
    client.sessions.delete(session.session_id)
    client.files.delete(uploaded.file_id)


def test_file_operations(client, tmp_path):
    source = tmp_path / "data.csv"
    source.write_bytes(b"a,b\n1,2\n")
    first = client.files.upload(str(source))
    assert first.filename == "data.csv"
    second = client.files.upload(b"name,value\nfoo,1", filename="data.csv", content_type="text/csv")
    assert second.mime_type == "text/csv" and second.size_bytes == 16
    page = client.files.list(limit=1, offset=0)
    assert page.total >= 2 and [f.file_id for f in page.files] == [second.file_id], "newest first"
    listed = [f.file_id for f in client.files.list_all(limit=1)]
    assert len(listed) == len(set(listed)) == page.total
    assert client.files.download(second.file_id) == b"name,value\nfoo,1"
    client.files.download_to(first.file_id, str(tmp_path / "save.csv"))
    assert (tmp_path / "save.csv").read_bytes() == b"a,b\n1,2\n"
    for f in (first, second):
        client.files.delete(f.file_id)
        with pytest.raises(NotFoundError):
            client.files.download(f.file_id)
        with pytest.raises(NotFoundError):
            client.files.delete(f.file_id)


async def test_async_client(aclient):
    result = await aclient.run("import os; print(os.environ['MSG'])", env_vars={"MSG": "Hello async!"})
    assert result.stdout == "Hello async!\n"
    uploaded = await aclient.files.upload(b"async data", filename="data.txt")
    async with aclient.sessions.context(file_ids=[uploaded.file_id]) as session:
        result = await aclient.run("print(open('/workspace/data.txt').read())", session_id=session.session_id)
        assert result.stdout == "async data\n"
    assert uploaded.file_id in [f.file_id async for f in aclient.files.list_all()]
    await aclient.files.delete(uploaded.file_id)


def test_error_handling(client, server):
    with pytest.raises(AuthenticationError) as e:
        AgentSandbox(api_key="wrong", base_url=server.url).run("print('hello')")
    assert e.value.status_code == 401 and "key" in e.value.message
    with pytest.raises(NotFoundError):
        client.run("print(1)", session_id="ses_nowhere")
    with pytest.raises(ValidationError) as e:
        client.run("")
    assert "code" in e.value.message
    with pytest.raises(AgentSandboxError) as e:
        client.files.list(limit=0)
    assert e.value.status_code == 422


def test_execution_results(client):
    result = client.run("print('hello')\nopen('made.txt', 'w').write('x')")
    assert result.session_id.startswith("ses_")
    assert (result.stdout, result.stderr, result.return_code, result.exit_code, result.success) == ("hello\n", "", 0, 0, True)
    assert [f.filename for f in result.files] == ["made.txt"]


def test_execution_log(client, http):
    started = http.post("/v1/execute", json={"code": "print('logged')"})
    log = client.executions.get(started.headers["X-Execution-Id"])
    assert (log.stdout, log.return_code, log.code) == ("logged\n", 0, "print('logged')")


def test_sessions_list_and_get(client):
    session = client.sessions.create(env_vars={"A": "1"})
    assert session.session_id in client.sessions.list().sessions
    assert client.sessions.get(session.session_id).session_id == session.session_id
    client.sessions.delete(session.session_id)
    assert session.session_id not in client.sessions.list().sessions


def test_chart_comes_back_as_a_valid_image(client):
    result = client.run(
        """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [4, 5, 6])
plt.savefig('/workspace/chart.png')
print('Chart generated!')
"""
    )
    assert result.stdout == "Chart generated!\n" and result.stderr == ""
    assert [f.filename for f in result.files] == ["chart.png"]
    image = Image.open(io.BytesIO(client.files.download(result.files[0].file_id)))
    image.load()
    assert image.format == "PNG" and image.size == (640, 480)
    assert len(image.convert("RGB").getcolors(1 << 24)) > 2, "the picture is empty"


def test_seaborn_example(client):
    result = client.run(
        """
import matplotlib.pyplot as plt
import seaborn as sns

data = [23, 45, 56, 78, 32, 89]
plt.figure(figsize=(10, 6))
sns.barplot(x=list(range(len(data))), y=data)
plt.title('Monthly Performance')
plt.savefig('/workspace/chart.png', dpi=150)
"""
    )
    assert result.return_code == 0, result.stderr
    assert Image.open(io.BytesIO(client.files.download(result.files[0].file_id))).size == (1500, 900)
