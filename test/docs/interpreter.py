"""Runs the Python blocks of one document, one after the other, in one namespace.

Reads a block as a line of JSON, [name, text], and answers with one,
[what it printed, traceback or null].
"""

import contextlib
import io
import json
import sys
import traceback

namespace = {"__name__": "__main__"}
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    name, text = json.loads(line)
    printed, failure = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(text, name, "exec"), namespace)
        except BaseException:
            failure = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failure]), file=answers, flush=True)
