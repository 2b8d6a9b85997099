#!/usr/bin/env python3
"""Runs the suites over and over beside a load, and counts which tests fail.

A test that fails now and then is a fault of the product or of the test. The logs
of the runs that failed are kept in the directory that is printed at the end.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUITES = {"unit": "unit", "race": "race", "e2e": "e2e", "sdk": "sdk-quick", "documents": "documents"}

# How go test and pytest name what failed. A package that ends before its tests do,
# by a panic or a time-out, has a line of its own.
FAILED = re.compile(r"^\s*--- FAIL: (\S+)|^(?:FAILED|ERROR) (\S+)|^FAIL\s+(\S+/\S+)", re.M)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="no run begins after this (60)")
    parser.add_argument("--load", type=int, default=4, help="busy processes beside the suites (4)")
    parser.add_argument("--suites", default=",".join(SUITES), help=f"some of {','.join(SUITES)}, separated by commas")
    args = parser.parse_args()
    args.suites = args.suites.split(",")
    for suite in args.suites:
        if suite not in SUITES:
            parser.error(f"there is no suite {suite!r}: choose from {', '.join(SUITES)}")
    return args


def run(suite: str, log: Path) -> set[str]:
    """Runs a suite once and returns the names of what failed."""
    with open(log, "wb") as out:
        code = subprocess.run(["make", "--no-print-directory", SUITES[suite]], stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode
    if code == 0:
        log.unlink()
        return set()
    names = {next(name for name in match if name) for match in FAILED.findall(log.read_text(errors="replace"))}
    return names or {f"{suite}: make ended with {code}"}


def main() -> int:
    args = arguments()
    logs = Path(tempfile.mkdtemp(prefix="flaky-"))
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.load)]
    failures: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + args.minutes * 60
    try:
        while time.monotonic() < end:
            for suite in args.suites:
                if time.monotonic() >= end:
                    break
                runs[suite] += 1
                began = time.monotonic()
                failed = run(suite, logs / f"{runs[suite]:03}-{suite}.log")
                failures.update(failed)
                print(f"{suite} {runs[suite]}: {time.monotonic() - began:.0f} s, {', '.join(sorted(failed)) or 'ok'}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        for process in load:
            process.kill()
    print(f"\n{sum(runs.values())} runs beside {args.load} busy processes")
    for name, count in failures.most_common():
        print(f"{count:4} x {name}")
    if failures:
        print(f"logs: {logs}")
    else:
        os.rmdir(logs)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
