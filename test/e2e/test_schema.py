"""The server keeps to the description that it serves of itself."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from server import Server

# Whether data is accepted is left out: the server takes null for a field that is
# left out, and refuses what a schema cannot say (a time that is past, a body that
# is cut, limits of this server).
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "ignored_auth", "unsupported_method", "allow_header_conformance",
    "use_after_free", "ensure_resource_availability",
]


def test_schemathesis(tmp_path):
    """Requests made from the document, valid and not: no 5xx, and every answer is as described."""
    s = Server(tmp_path / "data", "--pool-size", "2", "--pool-data-size", "0", "--max-sandboxes", "16", "--default-memory-mb", "256").start()
    enough, refusals = threading.Event(), set()

    def sweep() -> None:
        """Nobody deletes the sessions that are made, and the server has room for so many."""
        with s.http() as http:
            while not enough.wait(1):
                r = http.get("/v1/sessions")
                if r.status_code != 200:  # too many requests, perhaps
                    refusals.add((r.status_code, r.text[:200]))
                    continue
                for sid in r.json()["sessions"][3:]:
                    http.delete(f"/v1/sessions/{sid}")

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        out = subprocess.run(
            [
                Path(sys.executable).parent / "schemathesis", "run", s.url + "/openapi.json", "-H", f"Authorization: Bearer {s.key}",
                "--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--suppress-health-check", "all",
                "--max-examples", os.environ.get("SCHEMA_EXAMPLES", "5"), "--max-time", os.environ.get("SCHEMA_SECONDS", "60"),
                "--generation-database", "none", "--request-timeout", "130", "--continue-on-failure", "--no-color",
                # It finds the key that it uses in the list of keys, and revokes it.
                "--exclude-operation-id", "revokeKey",
            ],
            cwd=tmp_path, capture_output=True, text=True,
        )
    finally:
        enough.set()
        sweeper.join()
        assert s.stop() == 0, s.log_text()
    assert all(status == 429 for status, _ in refusals), refusals
    assert out.returncode == 0, out.stdout[-8000:]
    assert "Tested: " in out.stdout, out.stdout[-2000:]
