"""Builds of the template that fail, on the real binary."""

import os
import re
import shutil
import subprocess

import pytest
from server import BIN


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="nothing builds templates here")
@pytest.mark.parametrize("verb", [["templates", "build"], ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]])
def test_the_log_of_a_failed_build_is_printed_line_by_line(tmp_path, verb):
    nowhere = "http://user:secret@127.0.0.1:9"  # where nobody listens
    env = {**os.environ, "http_proxy": nowhere, "https_proxy": nowhere}
    run = subprocess.run(
        [BIN, *verb, "--cache-dir", str(tmp_path / "cache")], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 1, run.stderr
    lines = run.stderr.splitlines()
    first = next(n for n, line in enumerate(lines) if re.search(r"build the template default: install Debian: exit status \d+$", line))
    log = [line for line in lines[first + 1 :] if line.startswith("agentsandbox:   ")]
    assert len(log) > 5 and any("127.0.0.1:9" in line for line in log)
    assert "Check that apt-get update works" in lines[-1]
    assert "\\n" not in run.stderr and "secret" not in run.stderr
