"""What holds for the packages as a whole."""

import ast
import enum
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import agentsandbox
import alphagent
import pydantic
import pytest
from agentsandbox import _retry
from agentsandbox._sources import _TOOLS, directory_files
from local import Answer

ROOT = Path(__file__).resolve().parents[2]


def public_things():
    for package in (agentsandbox, alphagent):
        yield package.__name__, package
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            yield info.name, module
            for name, value in vars(module).items():
                if name.startswith("_") or getattr(value, "__module__", "").partition(".")[0] != package.__name__:
                    continue
                if inspect.isclass(value) or inspect.isfunction(value):
                    yield f"{info.name}.{name}", value
                if inspect.isclass(value):
                    for member, method in vars(value).items():
                        public = not member.startswith("_") or member in ("__init__", "__enter__", "__aenter__")
                        if public and (isinstance(method, property) or inspect.isfunction(method)):
                            yield f"{info.name}.{name}.{member}", method


def test_every_public_name_is_documented():
    missing = [name for name, thing in public_things() if not (inspect.getdoc(thing) or "").strip()]
    assert missing == []


def test_every_field_of_a_model_is_documented():
    source = (ROOT / "agentsandbox/src/agentsandbox/_models.py").read_text().splitlines()
    for i, line in enumerate(source):
        if line.startswith("    ") and not line.startswith("     ") and ": " in line and not line.strip().startswith(('"', "model_config", "def ")):
            assert source[i + 1].strip().startswith('"""'), f"line {i + 1} of _models.py: {line.strip()}"


def test_documented_names_exist():
    for name in (
        "AgentSandbox AsyncAgentSandbox Language ExecuteResponse SessionInfo FileInfo ExecutionLog AgentSandboxError "
        "AuthenticationError ForbiddenError NotFoundError ValidationError RateLimitError ServerError "
        "ServiceUnavailableError ExecuteRequest FileListResponse FileRef FileUploadResponse SessionCreateRequest SessionListResponse"
    ).split():
        assert name in agentsandbox.__all__ and hasattr(agentsandbox, name)
    assert [language.value for language in agentsandbox.Language] == ["python", "bash"]
    parameters = inspect.signature(alphagent.Sandbox).parameters
    assert [(n, parameters[n].default) for n in ("api_key", "timeout", "memory")] == [("api_key", None), ("timeout", 300), ("memory", 4096)]
    assert agentsandbox._settings.DEFAULT_BASE_URL == "http://127.0.0.1:8000" and agentsandbox._settings.DEFAULT_TIMEOUT == 120.0


def test_both_clients_have_the_same_names():
    for a, b in ((agentsandbox.AgentSandbox, agentsandbox.AsyncAgentSandbox), (alphagent.Sandbox, alphagent.AsyncSandbox)):
        names = [{n for n in vars(cls) if not n.startswith("_")} for cls in (a, b)]
        assert names[0] == names[1]


def test_the_generated_code_is_fresh():
    subprocess.run([sys.executable, str(ROOT / "scripts/unasync.py"), "--check"], check=True)


def test_settings_come_from_arguments_then_the_environment(monkeypatch):
    monkeypatch.delenv("AGENTSANDBOX_API_KEY", raising=False)
    monkeypatch.delenv("AGENTSANDBOX_BASE_URL", raising=False)
    with pytest.raises(agentsandbox.AuthenticationError, match="AGENTSANDBOX_API_KEY") as caught:
        agentsandbox.AgentSandbox()
    assert isinstance(caught.value, ValueError)
    monkeypatch.setenv("AGENTSANDBOX_API_KEY", "sk_env")
    monkeypatch.setenv("AGENTSANDBOX_BASE_URL", "https://env.example/")
    settings = agentsandbox.AgentSandbox()._transport.settings
    assert (settings.api_key, settings.base_url) == ("sk_env", "https://env.example")
    settings = agentsandbox.AgentSandbox("sk_arg", base_url="http://arg.example")._transport.settings
    assert (settings.api_key, settings.base_url) == ("sk_arg", "http://arg.example")
    for wrong in ({"timeout": 0}, {"max_retries": -1}, {"max_connections": 0}, {"base_url": "ftp://x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            agentsandbox.AgentSandbox("k", **wrong)
    with pytest.raises(ValueError, match="api_key") as caught:
        agentsandbox.AgentSandbox("schlüssel")
    assert "schl" not in str(caught.value)


def test_exceptions_cross_process_boundaries():
    error = agentsandbox.ValidationError("No.", status_code=422, code="invalid_request", request_id="req_1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == "[422] No." and copy.__dict__ == error.__dict__
    copy = pickle.loads(pickle.dumps(agentsandbox.APITimeoutError("Late.")))
    assert type(copy) is agentsandbox.APITimeoutError and copy.message == "Late."


def test_models_ignore_what_they_do_not_know():
    for name in agentsandbox.__all__:
        thing = getattr(agentsandbox, name)
        if inspect.isclass(thing) and issubclass(thing, pydantic.BaseModel):
            assert thing.model_config["extra"] == "ignore", name
        elif inspect.isclass(thing) and issubclass(thing, enum.Enum):
            assert issubclass(thing, str)
    assert agentsandbox.ExecuteResponse.model_validate_json('{"return_code": 1, "new": {}}').success is False


def test_pauses():
    assert [_retry.parse_retry_after(v) for v in (None, "", "3", "1.5", "-1", "soon", "nan")] == [None, None, 3, 1.5, 0, None, None]
    assert _retry.parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert all(0.125 <= _retry.back_off(0) <= 0.25 and 4 <= _retry.back_off(50) <= 8 for _ in range(100))


PROGRAM = """
import alphagent, os, sys
keep = alphagent.Sandbox()
keep.run("1")
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        sys.exit(0)
    os.waitpid(child, 0)
    keep.run("2")
print("end", flush=True)
"""


@pytest.mark.parametrize("how", ["plain", "fork"])
def test_the_end_of_a_program_ends_its_sandboxes(local, how):
    def answer(asked):
        if asked.path == "/v1/sessions":
            return Answer(201, {"session_id": "ses_0"})
        return Answer(200, {"return_code": 0}) if asked.method == "POST" else Answer(204)

    local.default = answer
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, how]
    paths = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    run = subprocess.run(program, env={"ALPHAGENT_API_KEY": "k", "ALPHAGENT_BASE_URL": local.url, **paths}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    calls = [(a.method, a.path) for a in local.asked]
    assert calls[-1] == ("DELETE", "/v1/sessions/ses_0") and len([m for m, _ in calls if m == "DELETE"]) == 1


def test_the_wheels_hold_the_packages_and_nothing_else(tmp_path):
    for run in ("a", "b"):
        subprocess.run([str(ROOT / "scripts/wheels"), sys.executable, str(tmp_path / run)], check=True, capture_output=True)
    for package, distribution in (("agentsandbox", "agentsandbox_sdk"), ("alphagent", "alphagent_sdk")):
        (a,), (b,) = ((tmp_path / run).glob(f"{distribution}-*.whl") for run in ("a", "b"))
        assert a.read_bytes() == b.read_bytes(), "not reproducible"
        with zipfile.ZipFile(a) as wheel:
            names = wheel.namelist()
        assert f"{package}/py.typed" in names and f"{package}/_sync/__init__.py" in names
        assert all(n.startswith((f"{package}/", f"{distribution}-")) for n in names) and not any("test" in n for n in names)


def examples():
    """Every program that is shown to readers, by where it stands."""
    repository = ROOT.parents[1]
    for document in [repository / "README.md", *repository.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for n, block in enumerate(re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.S | re.M)):
            yield f"{document.relative_to(repository)}, block {n}", block
    for program in ROOT.glob("examples/*.py"):
        yield str(program.relative_to(repository)), program.read_text()


def test_examples_say_where_the_server_is():
    """Another package of the same name would send the key and the code to its own default."""
    found = 0
    for where, text in examples():
        for call in ast.walk(ast.parse(text, where)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("AgentSandbox", "AsyncAgentSandbox", "Sandbox", "AsyncSandbox"):
                found += 1
                assert "base_url" in {keyword.arg for keyword in call.keywords}, f"{where}, line {call.lineno}"
    assert found >= 9


def test_nobody_is_told_to_install_a_package_of_somebody_else():
    repository = ROOT.parents[1]
    for document in [repository / "README.md", *repository.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for line in document.read_text().splitlines():
            assert not re.search(r"pip install .*(agentsandbox|alphagent)(-sdk)?(\s|`|$)", line), f"{document}: {line}"


def test_directories_of_tools_are_those_of_the_service(tmp_path):
    """What is not uploaded is what the service would not keep."""
    listed = re.search(r"toolDirectories = \[\]string\{(.*?)\n\}", (ROOT.parents[1] / "file.go").read_text(), re.S)[1]
    names = re.findall(r'"([^"]+)"', listed)
    for name in names:
        (tmp_path / "pkg" / "sub" / name).mkdir(parents=True)
        (tmp_path / "pkg" / "sub" / name / "x").touch()
    (tmp_path / "pkg" / "sub" / "matplotlib").mkdir()
    (tmp_path / "pkg" / "sub" / "matplotlib" / "kept").touch()
    assert set(names) == _TOOLS
    assert [place for _, place in directory_files(tmp_path / "pkg", None)] == ["pkg/sub/matplotlib/kept"]
