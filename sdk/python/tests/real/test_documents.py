"""Every example of the two documents, word for word, in a clean environment with the
built wheels, against the real server; what each prints is compared with what the
document says. test/docs does that for the READMEs.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from document import blocks

HERE = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    "agentsandbox": HERE / "documents/agentsandbox.md",
    "alphagent": HERE / "documents/alphagent.md",
}

CLIENT = "from agentsandbox import AgentSandbox\nclient = AgentSandbox()\n"
SANDBOX = "from alphagent import Sandbox\nsandbox = Sandbox(timeout=60)\n"
# The document's example waits for the default of 300 s.
SHORT = "import alphagent\nalphagent.Sandbox.__init__.__defaults__ = (None, 1, 4096)\n"
CHART = SANDBOX + "sandbox.upload('/workspace/chart.png', b'png')\n"


@dataclass
class Case:
    """An example: what comes before it, what it prints ("…" is anything), and what is looked at after it."""

    prints: str
    before: str = ""
    after: str = ""


CASES = {
    "agentsandbox": [
        Case("Hello, World!\n\n0\n"),
        Case("2\n\nHello\ntotal …\n\n"),
        Case("secret123\ntrue\n\n", CLIENT, "print(result.stdout)"),
        Case("  name  value\n0  foo      1\n1  bar      2\n\n", CLIENT, "print(result.stdout)"),
        Case("42\n\nTrue\n", CLIENT, "print(sid not in client.sessions.list().sessions)"),
        Case("['config.txt', 'users.csv']\n", CLIENT + "print = lambda text: __import__('sys').stdout.write(str(sorted(eval(text))) + '\\n')\n"),
        Case("data content\n\n", CLIENT, "print(result.stdout)"),
        Case(
            "Uploaded: fil_…\nTotal: …\n  - data.csv (16 bytes)\n…a,b\n1,2\n",
            CLIENT + "file_id = client.files.upload(b'a,b\\n1,2\\n', filename='kept.csv').file_id\n",
            "print(open('/path/to/save.csv').read(), end='')",
        ),
        Case("Hello async!\n\n…"),
        Case("hello\n", "", "print(result.stdout, end='')"),
        Case("ses_…\nhello\n\n\n0\n0\nTrue\n[]\n", CLIENT),
        Case("AgentSandbox(base_url='https://custom.api.com', timeout=120)\n", "", "print(client)"),
    ],
    "alphagent": [
        Case("Hello from the sandbox!\n2 + 2 = 4\n\n"),
        Case("Sandbox(session_id=None, timeout=300, memory=4096)\n", "from alphagent import Sandbox\n", "print(sandbox)"),
        Case("Sandbox(session_id=None, timeout=300, memory=4096)\n", "", "print(sandbox)"),
        Case("Hello!\n\n0\n", SANDBOX),
        Case("total …\n", SANDBOX, "print(result.output, end='')"),
        Case("True\n", SANDBOX, "print(sandbox.download('data.csv') == open('data.csv', 'rb').read())"),
        Case("b'png'\n", CHART, "print(open('chart.png', 'rb').read())"),
        Case("None\n", CHART, "print(sandbox.session_id)"),
        Case("Chart generated!\n\n0\n…\n['/workspace/chart.png']\n", SANDBOX),
        Case("Execution timed out\n2\n", SHORT, "print(sandbox.run('print(1 + 1)').output, end='')"),
        Case(
            "…count  2.000000…\nTotal revenue: ${df['revenue'].sum():,.2f}\n",
            "from alphagent import Sandbox\n",
            "print(result.output, end='')",
        ),
        Case("True\n", "from alphagent import Sandbox\n", "print(chart.startswith(b'\\x89PNG') and chart == open('output_chart.png', 'rb').read())"),
        Case("Example Domain\n\n", "from alphagent import Sandbox\n"),
    ],
}

def examples():
    for document, cases in CASES.items():
        found = blocks(DOCUMENTS[document])
        assert len(found) == len(cases), f"{document} has {len(found)} examples, and {len(cases)} are expected"
        for number, (block, case) in enumerate(zip(found, cases)):
            name = f"{document}-{number}-{block.heading}"
            yield pytest.param(block, case, id=name)


# Runs a program where /path/to/data.csv exists, as one example has it, without
# touching the machine: in a mount namespace with another root.
OWN_ROOT = """
set -eu
root=$1 work=$2; shift 2
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
for d in /*; do
  if [ -L "$d" ]; then cp -P "$d" "$root$d"; elif [ -d "$d" ]; then mkdir "$root$d"; mount --rbind "$d" "$root$d"; fi
done
mkdir -p "$root/path/to"
printf 'name,value\\nfoo,1\\n' > "$root/path/to/data.csv"
exec chroot "$root" sh -c 'cd "$1"; shift; exec "$@"' sh "$work" "$@"
"""


@pytest.mark.parametrize(("block", "case"), examples())
def test_example(block, case, server, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "AGENTSANDBOX_API_KEY": server.key,
        "AGENTSANDBOX_BASE_URL": server.url,
        "ALPHAGENT_API_KEY": server.key,
        "ALPHAGENT_BASE_URL": server.url,
    }
    text = block.text
    if block.language == "bash":  # shell first, then Python, in one block of the document
        exports = [line for line in text.splitlines() if line.startswith("export ")]
        for line in exports:
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value.strip('"')
        text = "\n".join(line for line in text.splitlines() if line not in exports)
    work = tmp_path / "work"
    work.mkdir()
    (work / "data.csv").write_bytes(b"a,b\n1,2\n")
    (work / "sales.csv").write_bytes(b"month,revenue\n1,10.5\n2,31.5\n")
    (work / "example.py").write_text(f"{case.before}\n{text}\n{case.after}\n")
    (tmp_path / "root").mkdir()
    program = [os.environ["SDK_CLEAN_PYTHON"], "-I", "example.py"]
    command = ["unshare", "--mount", "sh", "-c", OWN_ROOT, "sh", str(tmp_path / "root"), str(work), *program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert matches(case.prints, run.stdout), f"expected:\n{case.prints}\ngot:\n{run.stdout}\n{run.stderr}"


def matches(wanted: str, got: str) -> bool:
    """Compare, with … for anything."""
    first, *rest = wanted.split("…")
    if not got.startswith(first):
        return False
    at = len(first)
    for i, part in enumerate(rest):
        last = i == len(rest) - 1
        at = (max(at, len(got) - len(part)) if last and got.endswith(part) else -1) if last else got.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at == len(got)
