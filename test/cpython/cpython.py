"""Runs CPython's own tests in a sandbox, in an interpreter that had waited and in one
that is started for them, and compares the two test by test.

A test that passes in the latter and fails in the former, twice, is a fault of the
interpreters that wait, and makes this program exit with 1. Tests that fail in both
are told: they are of the sandbox or of its image.

The tests are those of Debian's package for the Python of the default template, so
this needs a Debian of the same release, apt and dpkg.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))
from server import Server  # noqa: E402

# What touches the interpreter, its processes, threads, imports, streams and exits,
# and the language itself.
MODULES = """
test___all__ test__locale test__xxsubinterpreters test_abc test_argparse test_ast test_asyncgen test_atexit
test_baseexception test_bdb test_buffer test_builtin test_bytes test_c_locale_coercion test_class test_cmd_line
test_cmd_line_script test_code test_code_module test_codecs test_codeop test_collections test_compile
test_contextlib test_copy test_coroutines test_csv test_ctypes test_dataclasses test_decimal test_descr test_dict
test_dis test_doctest test_dynamic test_email test_enum test_eof test_exceptions test_faulthandler test_fcntl
test_file test_fileio test_finalization test_float test_fork1 test_frame test_frozen test_fstring test_functools
test_gc test_generators test_genericpath test_glob test_grammar test_hash test_hashlib test_imp test_import
test_importlib test_inspect test_int test_io test_ipaddress test_itertools test_json test_linecache test_list
test_locale test_logging test_long test_marshal test_math test_memoryview test_mmap test_module
test_multiprocessing_main_handling test_named_expressions test_openpty test_operator test_os test_pathlib test_patma
test_pdb test_pickle test_pkgutil test_platform test_popen test_posix test_pprint test_profile test_pty test_pwd
test_pydoc test_queue test_random test_re test_repl test_resource test_runpy test_scope test_secrets test_select
test_selectors test_set test_shelve test_shutil test_signal test_site test_socket test_sort test_sqlite3
test_statistics test_str test_struct test_subprocess test_super test_symtable test_syntax test_sys
test_sys_setprofile test_sys_settrace test_sysconfig test_tarfile test_tempfile test_thread test_threadedtempfile
test_threading test_threading_local test_threadsignals test_time test_tokenize test_trace test_traceback
test_tracemalloc test_tuple test_types test_typing test_unicode test_unittest test_utf8_mode test_uuid test_wait3
test_wait4 test_warnings test_weakref test_with test_zipfile test_zipimport test_zlib
""".split()  # fmt: skip

# A child that imports the tests, and does not find them: it looks in /usr/lib.
IGNORED = ["test_4_daemon_threads"]

TIMEOUT = 200  # seconds for one module

SCRIPT = """
import gc, sys
assert {waited} == (gc.get_freeze_count() > 0), "this is not the interpreter that was to be tested"
sys.path.insert(0, "/workspace/suite")
sys.argv = [__file__, "--junit-xml", {report!r}, *{ignored!r}, {name!r}]
from test.libregrtest import main
main()
"""


class Sandbox:
    """A session with the tests in it."""

    verbose = False

    def __init__(self, server: Server, archive: bytes):
        self.http = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=TIMEOUT + 60)
        made = self.post("/v1/sessions", {"memory_mb": 2048, "network": {"mode": "off"}, "idle_timeout_ms": 3_600_000})
        self.id = made["session_id"]
        self.put("suite.tar", archive)
        result = self.run("bash", "tar xf suite.tar && rm suite.tar && cp -rn /usr/lib/python3.*/test suite/")
        assert result["return_code"] == 0, result

    def post(self, path: str, body: dict) -> dict:
        r = self.http.post(path, json=body)
        assert r.status_code in (200, 201), (r.status_code, r.text[:1000])
        return r.json()

    def put(self, name: str, content: bytes) -> None:
        r = self.http.put(f"/v1/sessions/{self.id}/fs", params={"path": f"/workspace/{name}"}, content=content)
        assert r.status_code < 300, r.text[:1000]

    def run(self, language: str, code: str) -> dict:
        return self.post("/v1/execute", {"session_id": self.id, "language": language, "code": code, "timeout_ms": TIMEOUT * 1000})

    def test(self, name: str, waited: bool) -> dict[str, str]:
        """Runs one module and returns what became of each of its tests."""
        report = f"/tmp/{name}.xml"
        self.run("bash", f"rm -rf {report} /workspace/build")
        script = SCRIPT.format(waited=waited, report=report, name=name, ignored=[word for test in IGNORED for word in ("-i", test)])
        if waited:
            self.run("python", "pass")  # after a while without one an interpreter waits again
            time.sleep(0.3)
            result = self.run("python", script)
        else:
            self.put("cold.py", script.encode())
            result = self.run("bash", "exec python3 -P /workspace/cold.py")
        if "this is not the interpreter" in result["stderr"]:
            raise RuntimeError(result["stderr"])
        r = self.http.get(f"/v1/sessions/{self.id}/fs", params={"path": report})
        if r.status_code != 200:
            return {name: f"{result['status']}, return code {result['return_code']}: {(result['stdout'] + result['stderr'])[-300:]!r}"}
        if self.verbose:
            print(result["stdout"], result["stderr"], sep="")
        outcome = {name: "passed" if result["return_code"] == 0 else "failed"}
        for case in ElementTree.fromstring(r.content).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            outcome[case.get("name")] = "skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"
        return outcome


def bad(outcome: str | None) -> bool:
    return outcome not in ("passed", "skipped")


def worse(waited: dict, started: dict) -> set[str]:
    """The tests that fail in the interpreter that had waited alone."""
    return {t for t, o in waited.items() if bad(o) and not bad(started.get(t))} | {t for t, o in started.items() if o == "passed" and waited.get(t) == "skipped"}


def suite(server: Server, cache: Path) -> bytes:
    """Returns the tests of the template's Python as a tar archive."""
    with server.http() as http:
        r = http.post("/v1/execute", json={"code": "import sys; print('%d.%d' % sys.version_info[:2])"})
        version = r.json()["stdout"].strip()
    package = f"libpython{version}-testsuite"
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{package}_*.deb")):
        print(f"fetching {package}", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=cache, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as directory:
        for deb in cache.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, directory], check=True)
        base = Path(directory, "usr/lib", f"python{version}")
        base.rename(base.parent / "suite")
        return subprocess.run(["tar", "c", "-C", str(base.parent), "suite"], check=True, capture_output=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules to run, such as test_gc (default: some 150 that touch the interpreter and the language)")
    parser.add_argument("--data", type=Path, default=Path(".cache/cpython"), help="where the package is kept (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print what the tests print")
    args = parser.parse_args()
    Sandbox.verbose = args.verbose
    directory = tempfile.TemporaryDirectory()
    server = Server(Path(directory.name) / "data", "--preload", "none", "--pool-size", "1", "--egress-mode", "off").start()
    try:
        archive = suite(server, args.data)
        box = Sandbox(server, archive)
        listing = box.run("bash", "cd suite/test && ls -d test_*")["stdout"].split()
        there = {n.removesuffix(".py") for n in listing if n.endswith(".py") or "." not in n}
        names = args.modules or [n for n in MODULES if n in there]
        return compare(server, archive, box, names)
    finally:
        server.stop()
        directory.cleanup()


def compare(server: Server, archive: bytes, box: Sandbox, names: list[str]) -> int:
    faults, failing, failing_as, passed, count = {}, {}, {}, 0, 0
    began = time.monotonic()
    for i, name in enumerate(names):
        waited, started = box.test(name, True), box.test(name, False)
        wrong = worse(waited, started)
        if wrong:
            # Once more, in a new sandbox: many of CPython's tests depend on time.
            box = Sandbox(server, archive)
            wrong &= worse(box.test(name, True), box.test(name, False))
        if wrong:
            faults[name] = {t: (waited.get(t), started.get(t)) for t in sorted(wrong)}
        both = sorted(t for t, o in waited.items() if bad(o) and bad(started.get(t)))
        if both:
            failing[name], failing_as[name] = both, waited[name]
        count += len(waited)
        passed += sum(o == "passed" for o in waited.values())
        print(f"{i + 1}/{len(names)} {name}: {len(waited)} tests, {len(both)} fail both ways, {len(wrong)} only after waiting", flush=True)
    print(f"\n{passed} of {count} tests in {len(names)} modules pass in an interpreter that had waited, in {time.monotonic() - began:.0f} s.")
    print("\nThese fail both ways:" if failing else "\nNone fails both ways.")
    for name, tests in failing.items():
        print(f"  {name}: {' '.join(t for t in tests if t != name) or 'as a whole, ' + failing_as[name]}")
    print("\nThese fail only after waiting:" if faults else "\nNone fails only after waiting.")
    for name, tests in faults.items():
        for test, (w, s) in tests.items():
            print(f"  {name}: {test}: {w}, and {s} in an interpreter that was started")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
