package runtimetest

import (
	"strings"
	"testing"
)

// scriptTests check that code runs as a fresh interpreter runs a script, even
// if the interpreter was waiting for it. Each runs its code several times: the
// first runs of a sandbox may find an interpreter that waits, or none.
var scriptTests = map[string]func(*testing.T, *box){
	"Script/runs as a fresh interpreter would": func(t *testing.T, b *box) {
		// The script prints its whole state, then starts an interpreter on a
		// copy of itself in the same way and compares.
		code := `
import sys, os
state = {
    "modules": sorted(m for m in sys.modules if m != "sitecustomize"),
    "main": sorted(vars(sys.modules["__main__"])),
    "name": __name__, "doc": __doc__, "package": __package__, "spec": __spec__,
    "loader": type(__loader__).__name__, "cached": __cached__ if "__cached__" in globals() else None,
    "builtins": str(type(__builtins__)), "annotations": globals().get("__annotations__"),
    "argv": len(sys.argv),
    "path": [p for p in sys.path if p not in (os.path.dirname(os.path.abspath(__file__)), os.getcwd())],
    "flags": str(sys.flags), "prefix": [sys.prefix, sys.exec_prefix, sys.executable],
    "encoding": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering == ("CHILD" not in os.environ), sys.stdin.encoding, sys.getfilesystemencoding()],
    "hooks": [str(h).split(" at ")[0] for h in sys.meta_path], "path_hooks": len(sys.path_hooks),
    "trace": [sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__],
    "env": sorted(k for k in os.environ if k not in ("CHILD", "_", "SHLVL", "LC_CTYPE")),
}
import signal, threading
state["signals"] = {s.name: str(signal.getsignal(s)).split(" at ")[0] for s in signal.Signals if s.name not in ("SIGKILL", "SIGSTOP")}
state["mask"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
state["threads"] = threading.active_count()
state["frames"] = sys._getframe().f_back is None
import json
text = json.dumps(state, default=str, indent=1)
if "CHILD" not in os.environ:
    import shutil, subprocess
    shutil.copy(__file__, "copy.py")
    child = subprocess.run([sys.executable, "-P", "copy.py"], env={**os.environ, "CHILD": "1"},
                           capture_output=True, text=True, stdin=subprocess.DEVNULL)
    mine = json.loads(text)
    theirs = json.loads(child.stdout)
    for key in mine:
        if mine[key] != theirs[key]:
            print("differs:", key, mine[key], theirs[key])
    print(child.stderr, end="")
else:
    print(text)
`
		for range 3 {
			if out := b.must(python(code)); out != "" {
				t.Errorf("%s", out)
			}
		}
	},
	"Script/finds modules of the workspace": func(t *testing.T, b *box) {
		b.put("/workspace/neighbour.py", "word = 'found'\n")
		for range 3 {
			if out := b.must(python("import sys, os, neighbour\nprint(neighbour.word, sys.path[0] == os.getcwd(), len(sys.argv), os.path.isabs(__file__))")); out != "found True 1 True\n" {
				t.Errorf("got %q", out)
			}
		}
	},
	"Script/tracebacks show the code and nothing else": func(t *testing.T, b *box) {
		for range 3 {
			o := b.run(python("def broken():\n    raise ValueError('why')  # here\n\nbroken()\n"))
			text := o.stderr.String()
			if o.ExitCode != 1 || !strings.Contains(text, "raise ValueError('why')  # here") || !strings.HasSuffix(text, "ValueError: why\n") || strings.Count(text, "File ") != 2 || strings.Contains(text, "sitecustomize") {
				t.Errorf("got %v", o)
			}
		}
		o := b.run(python("x = = 1"))
		if text := o.stderr.String(); o.ExitCode != 1 || !strings.HasSuffix(text, "SyntaxError: invalid syntax\n") || strings.Contains(text, "sitecustomize") {
			t.Errorf("got %v", o)
		}
		o = b.run(python("import traceback; traceback.print_stack()"))
		if text := o.stderr.String(); strings.Count(text, "File ") != 1 {
			t.Errorf("got %v", o)
		}
	},
	"Script/ends as an interpreter ends": func(t *testing.T, b *box) {
		for _, tc := range []struct {
			code, stdout, stderr string
			exit                 int
		}{
			{"import sys; sys.exit('a message')", "", "a message\n", 1},
			{"import sys; sys.exit()", "", "", 0},
			{"import atexit; atexit.register(print, 'last'); print('first')", "first\nlast\n", "", 0},
			{"import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\nprint('main')", "main\nthread\n", "", 0},
			{"import threading, time\nthreading.Thread(target=lambda: (time.sleep(100), print('no')), daemon=True).start()", "", "", 0},
			{"print('no newline', end='')", "no newline", "", 0},
			{"import sys; print(repr(sys.stdin.read()))", "''\n", "", 0},
		} {
			o := b.run(python(tc.code))
			if o.stdout.String() != tc.stdout || o.stderr.String() != tc.stderr || o.ExitCode != tc.exit {
				t.Errorf("%s: %v", tc.code, o)
			}
		}
		o := b.run(python("import os, signal\nos.kill(os.getpid(), signal.SIGINT)"))
		if o.Signal != 2 || !strings.HasSuffix(o.stderr.String(), "KeyboardInterrupt\n") {
			t.Errorf("after SIGINT: %v", o)
		}
	},
	"Script/multiprocessing and pickle know the script": func(t *testing.T, b *box) {
		for _, method := range []string{"fork", "spawn"} {
			out := b.must(python(`
import multiprocessing, pickle
class Point:
    def __init__(self, x): self.x = x
def double(p): return Point(2 * p.x)
if __name__ == "__main__":
    with multiprocessing.get_context("` + method + `").Pool(2) as pool:
        print(sorted(p.x for p in pool.map(double, [Point(i) for i in range(4)])))
    print(pickle.loads(pickle.dumps(Point(7))).x, Point.__module__)
`))
			if out != "[0, 2, 4, 6]\n7 __main__\n" {
				t.Errorf("%s: %q", method, out)
			}
		}
	},
	"Script/variables that Python reads when it starts": func(t *testing.T, b *box) {
		b.put("/workspace/lib/extra.py", "word = 'extra'\n")
		for range 2 {
			for _, tc := range []struct{ name, value, code, want string }{
				{"PYTHONPATH", "lib", "import extra, os; print(extra.word, os.environ['PYTHONPATH'])", "extra lib\n"},
				{"PYTHONOPTIMIZE", "1", "assert False\nprint('optimized')", "optimized\n"},
				{"PYTHONHASHSEED", "0", "import sys; print(sys.flags.hash_randomization)", "0\n"},
				{"PYTHONIOENCODING", "latin-1", "import sys; print(sys.stdout.encoding)", "iso8859-1\n"},
				{"TZ", "XXX-5", "import time; print(time.strftime('%Z'))", "XXX\n"},
				{"PYTHONUTF8", "0", "import sys; print(sys.flags.utf8_mode)", "0\n"},
			} {
				cmd := python(tc.code)
				cmd.Env = map[string]string{tc.name: tc.value}
				if out := b.must(cmd); out != tc.want {
					t.Errorf("%s=%s: %q, want %q", tc.name, tc.value, out, tc.want)
				}
			}
			if out := b.must(python("import os; print('PYTHONPATH' in os.environ, __debug__)")); out != "False True\n" {
				t.Errorf("afterwards: %q", out)
			}
		}
		cmd := python("print('never')")
		cmd.Env = map[string]string{"PYTHONHOME": "/nowhere"}
		if o := b.run(cmd); o.ExitCode != 1 || o.stdout.Len() > 0 || o.stderr.Len() == 0 {
			t.Errorf("an interpreter that cannot start: %v", o)
		}
	},
	"Script/packages that the user installs are found": func(t *testing.T, b *box) {
		b.must(python("pass"))
		site := strings.TrimSpace(b.must(python("import site; print(site.getusersitepackages())")))
		b.must(bash("mkdir -p '" + site + "' && echo \"word = 'installed'\" > '" + site + "/installed.py'"))
		for range 2 {
			if out := b.must(python("import installed; print(installed.word)")); out != "installed\n" {
				t.Errorf("got %q", out)
			}
		}
	},
	"Script/nothing of a run is in the next": func(t *testing.T, b *box) {
		b.must(python("import builtins, sys, os, json\nbuiltins.canary = json.canary = 1\nos.environ['CANARY'] = '1'\nsys.path.append('canary')\nimport random; random.seed(1)"))
		for range 2 {
			out := b.must(python("import builtins, sys, os\nprint('json' in sys.modules, 'random' in sys.modules, hasattr(builtins, 'canary'), 'CANARY' in os.environ, 'canary' in sys.path)"))
			if out != "False False False False False\n" {
				t.Errorf("got %q", out)
			}
		}
		first := b.must(python("import random; print(random.random())"))
		if second := b.must(python("import random; print(random.random())")); first == second {
			t.Errorf("two runs drew %q", first)
		}
	},
}
