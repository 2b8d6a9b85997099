import pytest
from agentsandbox import AgentSandbox, AsyncAgentSandbox
from server import SMALL, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for the tests that do not need their own."""
    s = Server(tmp_path_factory.mktemp("shared") / "data").start()
    yield s
    assert s.stop() == 0, s.log_text()


@pytest.fixture
def own_server(tmp_path):
    """A server that the test may stop, fill or kill."""
    s = Server(tmp_path / "data", *SMALL).start()
    yield s
    s.stop()
    assert not s.sandbox_pids(), "the test leaves sandboxes behind"


@pytest.fixture
def http(server):
    with server.http() as client:
        yield client


@pytest.fixture
def client(server, monkeypatch):
    """The published client, configured as its document says."""
    monkeypatch.setenv("AGENTSANDBOX_BASE_URL", server.url)
    monkeypatch.setenv("AGENTSANDBOX_API_KEY", server.key)
    with AgentSandbox() as c:
        yield c


@pytest.fixture
async def aclient(server):
    async with AsyncAgentSandbox(api_key=server.key, base_url=server.url) as c:
        yield c
