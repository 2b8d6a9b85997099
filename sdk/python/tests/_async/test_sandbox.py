"""alphagent against a local server: verdicts, ends, and what happens when the sandbox dies."""

import builtins
import gc
import time

import alphagent
import pytest
from alphagent import AsyncSandbox
from alphagent.exceptions import ResourceLimitError, SandboxError, SandboxLostError
from local import Answer, failure


class Service:
    """As much of the service as a sandbox needs."""

    def __init__(self, local):
        self.local = local
        self.sessions = []
        self.result = {}
        local.default = self.answer

    def answer(self, asked):
        if asked.path == "/v1/sessions":
            self.sessions.append(f"ses_{len(self.sessions)}")
            return Answer(201, {"session_id": self.sessions[-1], "created": True, "status": "live"})
        if asked.path == "/v1/execute":
            return Answer(200, {"session_id": "ses_0", "return_code": 0, "duration_ms": 12, "status": "succeeded", **self.result})
        if asked.method == "DELETE":
            return Answer(204)
        if asked.path.endswith(self.sessions[-1]):
            return Answer(200, {"session_id": self.sessions[-1], "status": "live"})
        return failure(404, "path_not_found", "Nothing is there.")

    def deleted(self):
        return [a.path.rpartition("/")[2] for a in self.local.asked if a.method == "DELETE"]


@pytest.fixture
def service(local, monkeypatch):
    monkeypatch.setenv("ALPHAGENT_API_KEY", "sk-alphagent-1")
    monkeypatch.setenv("ALPHAGENT_BASE_URL", local.url)
    return Service(local)


async def test_a_run(service, local):
    sandbox = AsyncSandbox()
    assert sandbox.session_id is None and local.asked == []
    service.result = {"stdout": "Hello!\n", "files": [{"file_id": "f", "filename": "a/b.png", "path": "/output/a/b.png"}]}
    result = await sandbox.run("print('Hello!')")
    assert (result.output, result.error, result.exit_code, result.duration_ms) == ("Hello!\n", "", 0, 12)
    assert result.artifacts == ["/output/a/b.png"] and result.success
    await sandbox.exec("ls", timeout=2, env_vars={"A": "b"})
    assert local.asked[0].json == {"timeout_ms": 300_000, "memory_mb": 4096}
    assert local.asked[0].headers["Authorization"] == "Bearer sk-alphagent-1"
    assert local.asked[1].json == {"code": "print('Hello!')", "language": "python", "session_id": "ses_0"}
    assert local.asked[2].json == {
        "code": "ls", "language": "bash", "session_id": "ses_0", "timeout_ms": 2000, "env_vars": {"A": "b"},
    }  # fmt: skip
    assert "sk-" not in repr(sandbox)
    await sandbox.terminate()
    await sandbox.terminate()
    assert service.deleted() == ["ses_0"] and sandbox.session_id is None
    with pytest.raises(SandboxError, match="terminated"):
        await sandbox.run("1")


async def test_code_that_fails_is_a_result(service):
    service.result = {"return_code": 1, "status": "failed", "stderr": "Traceback (most recent call last):\nValueError: MemoryError: no"}
    async with AsyncSandbox() as sandbox:
        assert (await sandbox.run("raise ValueError")).exit_code == 1


async def test_too_long(service):
    service.result = {"return_code": 124, "status": "timed_out", "stdout": "part"}
    async with AsyncSandbox() as sandbox:
        with pytest.raises(alphagent.TimeoutError, match="300 s") as caught:
            await sandbox.run("while True: pass")
        assert isinstance(caught.value, builtins.TimeoutError) and isinstance(caught.value, SandboxError)
        assert caught.value.result.output == "part" and not caught.value.workspace_lost
        service.result = {}
        assert (await sandbox.run("1")).success
    assert service.sessions == ["ses_0"] == service.deleted()


TRACE = "Traceback (most recent call last):\n  File \"main.py\", line 1\n"


@pytest.mark.parametrize(
    ("status", "code", "stderr"),
    [
        ("memory_exceeded", 137, ""), ("process_limit", 1, ""), ("disk_full", 1, ""), ("output_limit", 137, ""),
        ("failed", 1, TRACE + "MemoryError\n"),
        ("failed", 1, TRACE + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7 TiB\n"),
    ],
)  # fmt: skip
async def test_beyond_a_limit(service, status, code, stderr):
    service.result = {"return_code": code, "status": status, "stderr": stderr, "stdout": "part"}
    async with AsyncSandbox() as sandbox:
        with pytest.raises(ResourceLimitError) as caught:
            await sandbox.run("x = 'a' * 10**12")
        assert caught.value.result.output == "part" and not caught.value.workspace_lost


async def test_a_sandbox_that_died_is_replaced(service, local):
    async with AsyncSandbox() as sandbox:
        service.result = {"return_code": 137, "status": "memory_exceeded", "session_status": "lost"}
        with pytest.raises(ResourceLimitError) as caught:
            await sandbox.run("1")
        assert caught.value.workspace_lost and sandbox.session_id is None
        service.result = {"return_code": 137, "status": "sandbox_lost"}
        with pytest.raises(SandboxLostError):
            await sandbox.run("1")
        local.answers.append(failure(404, "session_not_found"))
        with pytest.raises(SandboxLostError) as caught:
            await sandbox.exec("ls")
        assert caught.value.workspace_lost
        service.result = {}
        assert (await sandbox.run("1")).success and sandbox.session_id == "ses_2"


@pytest.mark.parametrize("ended", ["lost", "deleted", "expired"])
async def test_a_sandbox_that_ended_under_a_run_is_replaced(service, ended):
    async with AsyncSandbox() as sandbox:
        service.result = {"return_code": 137, "status": "cancelled", "session_status": ended}
        with pytest.raises(SandboxError) as caught:
            await sandbox.run("1")
        assert caught.value.workspace_lost and sandbox.session_id is None
        service.result = {}
        assert (await sandbox.run("1")).success and sandbox.session_id


async def test_files(service, local):
    async with AsyncSandbox() as sandbox:
        info = {"path": "/workspace/a", "kind": "file", "size_bytes": 3, "mode": "0644", "modified_at": "2026-01-02T03:04:05Z"}
        local.answers.append(Answer(200, info))
        assert await sandbox.upload("/workspace/a", b"abc") is None
        assert local.asked[-1].body == b"abc" and local.asked[-1].path == "/v1/sessions/ses_0/fs?path=%2Fworkspace%2Fa"
        local.answers.append(Answer(200, b"abc"))
        assert await sandbox.download("/workspace/a") == b"abc"
        with pytest.raises(alphagent.PathNotFoundError) as caught:
            await sandbox.download("/nope")
        assert isinstance(caught.value, FileNotFoundError)
        with pytest.raises(TypeError, match="bytes"):
            await sandbox.upload("/workspace/a", "text")


async def test_keys(service, local, monkeypatch):
    local.default = lambda asked: failure(401, "unauthorized", "The key is not valid.")
    with pytest.raises(alphagent.AuthenticationError, match="not valid") as caught:
        await AsyncSandbox("sk-wrong").run("1")
    assert caught.value.status_code == 401
    monkeypatch.delenv("ALPHAGENT_API_KEY")
    with pytest.raises(alphagent.AuthenticationError, match="ALPHAGENT_API_KEY"):
        AsyncSandbox()


async def test_a_block_that_fails_ends_its_sandbox(service, local):
    with pytest.raises(KeyError):
        async with AsyncSandbox():
            local.answers.append(failure(500))
            raise KeyError("what ended the block")
    assert service.deleted() == ["ses_0"]


async def test_collection_ends_the_session(service):
    sandbox = AsyncSandbox()
    await sandbox.run("1")
    await sandbox._client.close()
    del sandbox
    gc.collect()
    end = time.monotonic() + 20
    while not service.deleted() and time.monotonic() < end:
        time.sleep(0.01)
    assert service.deleted() == ["ses_0"]


async def test_advice_names_what_users_of_this_package_set(monkeypatch, local, service):
    import threading

    for variable in ("ALPHAGENT_API_KEY", "ALPHAGENT_BASE_URL"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AGENTSANDBOX_API_KEY", "sk_other")
    messages = []
    with pytest.raises(alphagent.AuthenticationError) as caught:
        AsyncSandbox()
    messages.append(str(caught.value))
    with pytest.raises(SandboxError) as caught:
        await AsyncSandbox("sk", base_url="http://127.0.0.1:9").run("1")
    messages.append(str(caught.value))
    assert "ALPHAGENT_BASE_URL" in messages[-1] and "127.0.0.1:9" in messages[-1]
    held = threading.Event()
    local.default = lambda asked: held.wait(60) and Answer(204)
    sandbox = AsyncSandbox("sk", base_url=local.url)
    sandbox._client = sandbox._client.with_options(timeout=0.1, max_retries=0)
    try:
        with pytest.raises(alphagent.TimeoutError) as caught:
            await sandbox.run("1")
        messages.append(str(caught.value))
    finally:
        held.set()
    for message in messages:
        assert "AGENTSANDBOX_" not in message and "timeout_ms" not in message, message


async def test_a_directory_is_not_downloaded_and_that_is_said(service, local):
    async with AsyncSandbox() as sandbox:
        info = {"path": "/workspace/a b", "size_bytes": 0, "mode": "755", "modified_at": "2026-01-02T03:04:05Z"}

        def answer(asked):
            if "/fs/stat" in asked.path:
                return Answer(200, {**info, "kind": kind})
            return failure(409, "conflict", "It is not of the kind.") if "/fs?" in asked.path else service.answer(asked)

        local.default = answer
        kind = "directory"
        with pytest.raises(alphagent.PathIsDirectoryError, match="'/workspace/a b' is a directory.*tar czf") as caught:
            await sandbox.download("/workspace/a b")
        assert isinstance(caught.value, (SandboxError, builtins.IsADirectoryError))
        with pytest.raises(IsADirectoryError, match="is a directory"):
            await sandbox.upload("/workspace/a b", b"x")
        kind = "other"
        with pytest.raises(SandboxError, match="not of the kind"):
            await sandbox.download("/workspace/fifo")
        local.default = service.answer
