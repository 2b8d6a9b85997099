import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from local import LocalServer  # noqa: E402


@pytest.fixture
def local():
    server = LocalServer()
    yield server
    server.close()
