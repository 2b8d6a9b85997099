"""Every code block of the documentation, run against a real server, and what it
prints compared with what it promises. documents.py says how blocks are marked.
"""

import configparser
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from documents import Block, Unmarked, blocks, documents, matches, tidy
from models import Models

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
KEY = "test-key-of-the-documents"
SERVER = ("127.0.0.1", 8000)


class World:
    """What the blocks of one document find: a directory that looks like the
    repository, programs, a key, and a server unless they start one."""

    def __init__(self, directory: Path, models: str):
        self.cwd = directory / "repository"
        self.cwd.mkdir()
        for entry in ROOT.iterdir():
            (self.cwd / entry.name).symlink_to(entry)
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{ROOT / 'bin'}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "AGENTSANDBOX_API_KEY": KEY,
            "ALPHAGENT_API_KEY": KEY,
            "AGENTSANDBOX_BOOTSTRAP_KEY": KEY,
            "AGENTSANDBOX_DATA_DIR": str(directory / "data"),
            "AGENTSANDBOX_ON_SHUTDOWN": "destroy",
            "OPENAI_API_KEY": "model-key",
            "OPENAI_BASE_URL": models + "/v1",
            "ANTHROPIC_API_KEY": "model-key",
            "ANTHROPIC_BASE_URL": models,
        }
        for name in ("AGENTSANDBOX_CACHE_DIR", "GOFLAGS", "GOPROXY", "GOMODCACHE", "GOCACHE", "GOTOOLCHAIN"):
            if name in os.environ:
                self.env[name] = os.environ[name]
        self.log = directory / "log"
        self.servers: list[tuple[subprocess.Popen, tuple[str, int]]] = []
        self.python: subprocess.Popen | None = None

    def serve(self, command: str) -> None:
        """Start a server, and wait until it listens where its command or default says."""
        where = re.search(r"127\.0\.0\.1:(\d+)", command)
        address = ("127.0.0.1", int(where[1])) if where else SERVER
        assert not listens(address), f"{address} is taken"
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.cwd, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.servers.append((process, address))
        end = time.monotonic() + 300
        while not listens(address):
            assert process.poll() is None and time.monotonic() < end, f"{command}\n{self.log.read_text()}"
            time.sleep(0.05)

    def sh(self, text: str) -> str:
        run = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=self.cwd, env=self.env, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, f"status {run.returncode}\n{run.stdout}\n{run.stderr}"
        return run.stdout

    def run_python(self, name: str, text: str) -> str:
        if self.python is None:
            self.python = subprocess.Popen(
                [sys.executable, str(HERE / "interpreter.py")], cwd=self.cwd, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self.python.stdin.write(json.dumps([name, text]) + "\n")
        self.python.stdin.flush()
        printed, failure = json.loads(self.python.stdout.readline())
        assert failure is None, f"{printed}\n{failure}"
        return printed

    def close(self) -> None:
        if self.python:
            self.python.stdin.close()
            self.python.wait(60)
            self.python.stdout.close()
        for process, address in reversed(self.servers):
            os.killpg(process.pid, signal.SIGTERM)  # the server may be a child of make
            status = process.wait(60)
            assert status in (0, -signal.SIGTERM), f"status {status}\n{self.log.read_text()}"
            end = time.monotonic() + 60
            while listens(address):
                assert time.monotonic() < end, f"{process.args} left something that listens\n{self.log.read_text()}"
                time.sleep(0.05)


def listens(address: tuple[str, int]) -> bool:
    with socket.socket() as s:
        s.settimeout(5)
        return s.connect_ex(address) == 0


@pytest.fixture
def world(tmp_path):
    with Models() as models:
        w = World(tmp_path, models)
        yield w
        w.close()


@pytest.mark.parametrize("path", documents(ROOT), ids=lambda p: str(p.relative_to(ROOT)))
def test_document(path, world):
    found = blocks(path.read_text())
    if any(b.runs for b in found) and not any(b.marker == "serves" and re.search(r"\bserve\b", b.text) for b in found):
        world.serve("agentsandbox serve")
    printed, previous = "", None
    for block in found:
        name = f"{path.relative_to(ROOT)}:{block.line}"
        if block.language == "output":
            assert previous and previous.runs, f"{name}: the output of nothing that runs"
            assert matches(block.text, printed), f"{name}: promised\n{tidy(block.text)}\nprinted\n{tidy(printed)}"
        printed, previous = look_at(world, name, block), block


def look_at(world: World, name: str, block: Block) -> str:
    """Run a block, or check what can be checked of one that is not run."""
    if block.language == "json":
        parse_values(block.text)
    elif block.language == "ini":
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)
    if not block.runs:
        return ""
    if block.marker == "serves":
        world.serve(block.text.strip())
        return ""
    printed = world.sh(block.text) if block.language == "sh" else world.run_python(name, block.text)
    if block.promises:
        promised = "\n".join(block.promises)
        assert matches(promised, printed), f"{name}: promised\n{promised}\nprinted\n{tidy(printed)}"
    return printed


def parse_values(text: str) -> None:
    """One or several JSON values."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        _, at = decoder.raw_decode(text, at)


@pytest.mark.parametrize(
    "text",
    [
        "```\nx\n```\n",
        "```console\nx\n```\n",
        "```sh\nx\n",
        "text\n\n    indented\n",
        "- item\n\n  ```sh\n  x\n  ```\n",
        "<!-- test: no -->\n```sh\nx\n```\n",
        "<!-- test: later -->\n```sh\nx\n```\n",
        "<!-- test: serves -->\n```python\nx\n```\n",
        "<!-- test: no, because -->\n```output\nx\n```\n",
        "<!-- test: no, because -->\n\ntext\n",
    ],
)
def test_a_block_that_is_not_marked_is_found(text):
    with pytest.raises(Unmarked):
        blocks(text)


def test_blocks_and_promises():
    text = "<!-- test: no, because -->\n```sh\nx\n```\n- item\n  text\n\n```python\nprint(1)  # => 1\nprint(2)  # => …2\n```\n"
    skipped, run = blocks(text)
    assert (skipped.line, skipped.runs, run.line, run.runs, run.promises) == (2, False, 8, True, ["1", "…2"])
    assert matches("1\n…2", "1\n\n 12\n") and not matches("1", "1\n2\n") and not matches("1\n2", "1\n") and matches("a.c", "a.c") and not matches("a.c", "abc")
