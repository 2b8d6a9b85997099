import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "test/e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from outside import Outside  # noqa: E402
from server import Server  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The real binary, with the key that the documents use, and a stand-in for the site that one of them fetches."""
    outside = Outside(tmp_path_factory.mktemp("outside"))
    try:
        s = Server(tmp_path_factory.mktemp("sdk") / "data", *outside.flags(), key="your-api-key").start()
        yield s
        assert s.stop() == 0, s.log_text()
    finally:
        outside.close()
