"""What stands between code and the host, seen from both sides of a real sandbox."""

import json
import os
import subprocess

import pytest
from server import BIN

pytestmark = pytest.mark.alone


def test_the_probe_sees_what_is_promised(server, tmp_path):
    """Beside a server that runs; every line is as listed, and nothing is left."""

    def state() -> tuple[set[str], set[str]]:
        return set(os.listdir("/run")), {f for f in os.listdir("/tmp") if f.startswith("asbx-probe")}

    before = state()
    out = subprocess.run([BIN, "doctor", "--probe", "--json", "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=300)
    report = json.loads(out.stdout)
    assert report["ok"] and out.returncode == 0, [r for r in report["rows"] if not r["ok"]]
    off, public = ({(r["side"], r["name"]): r["value"] for r in report["rows"] if r["network"] == mode} for mode in ("off", "public"))
    assert len(off) > 150 and len(public) == len(off)
    assert public["inside", "network resolvers"] == "192.0.0.1" and public["inside", "network open ports of the gateway"] == "53"
    assert {public["inside", "network to " + what] for what in ("metadata", "private 10/8", "the host's loopback")} == {"ECONNREFUSED"}
    rows = off
    assert rows["host", "Uid"] == "65534 65534 65534 65534"
    assert rows["inside", "capabilities CapEff"] == "0000000000000000"
    assert rows["inside", "host loopback"] == "not reached"
    assert not {name for name in state()[0] - before[0] if name.startswith("agentsandbox-")}, "gVisor's files are left"
    assert state()[1] <= before[1] and not any(tmp_path.iterdir())


def test_the_probe_follows_the_grant(server, tmp_path):
    """What is expected depends on the settings, not on the machine of whoever wrote the list."""
    flags = ["--default-memory-mb", "1024", "--default-cpus", "2", "--disk-mb", "100"]
    out = subprocess.run([BIN, "doctor", "--probe", "--data-dir", str(tmp_path), *flags], capture_output=True, text=True, timeout=300)
    assert out.returncode == 0 and "DIFFERS" not in out.stdout, out.stdout
    assert f"{1 << 30}" in out.stdout and f"{100 << 20}" in out.stdout and "2 in the set" in out.stdout
