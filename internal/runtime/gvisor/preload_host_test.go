package gvisor

import (
	"context"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/runtimetest"
)

// startLoaded makes a sandbox with the data libraries loaded ahead.
func startLoaded(h *host) runtime.Sandbox {
	h.t.Helper()
	h.make(dataSnapshot)
	spec := h.spec(testLimits)
	spec.Snapshot = dataSnapshot
	sb, err := h.Start(h.t.Context(), spec)
	must(h.t, err)
	h.t.Cleanup(func() {
		if err := sb.Destroy(context.Background()); err != nil {
			h.t.Errorf("destroy: %v", err)
		}
	})
	return sb
}

// TestSuiteWithTheDataLibraries holds such a sandbox against the contract of runs: the
// first one is given the interpreter that has the libraries, whatever it runs.
func TestSuiteWithTheDataLibraries(t *testing.T) {
	runtimetest.Suite(t, func(t *testing.T) runtime.Sandbox { return startLoaded(openHost(t, func(*Options) {})) }, runtimetest.RunsOnly)
}

// compared is a program that holds its own interpreter, which had the libraries,
// against one that it starts, and prints what differs.
const compared = `
import sys
imported = list(sys.modules)
STATEMENT
import os, subprocess, json
state = {
    "before": imported,
    "modules": sorted(m for m in sys.modules if not m.startswith("_sysconfigdata")),
    "names": {n: sorted(vars(sys.modules[n])) for n in ("numpy", "pandas", "matplotlib") if n in sys.modules},
    "finders": [str(f).split(" at ")[0] for f in sys.meta_path],
    "files": sorted(os.listdir("/proc/self/fd")),
    "threads": len(os.listdir("/proc/self/task")) if "numpy" not in sys.modules else 0,
}
import warnings, signal, gc
state["filters"] = [str(f) for f in warnings.filters]
state["signals"] = [str(signal.getsignal(s)).split(" at ")[0] for s in range(1, 32) if s not in (9, 19)]
state["gc"] = [gc.isenabled(), gc.get_threshold()]
if len(sys.argv) > 1:
    print(json.dumps(state))
else:
    assert not gc.get_freeze_count() == 0, "nothing was loaded ahead"
    child = subprocess.run([sys.executable, "-P", __file__, "child"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    theirs = json.loads(child.stdout)
    mine = json.loads(json.dumps(state))
    for key in mine:
        if mine[key] != theirs[key]:
            print("differs:", key, mine[key], theirs[key])
    print(child.stderr, end="")
`

// TestDataLibrariesComeAsFromAnImport compares the first run of a sandbox.
func TestDataLibrariesComeAsFromAnImport(t *testing.T) {
	for _, statement := range []string{"pass", "import numpy, pandas, matplotlib.pyplot", "import matplotlib", "from numpy import linalg", "import seaborn"} {
		t.Run(statement, func(t *testing.T) {
			t.Parallel()
			if out := python(t, startLoaded(newHost(t)), strings.ReplaceAll(compared, "STATEMENT", statement)); out != "" {
				t.Errorf("%.2000s", out)
			}
		})
	}
}

func TestDataLibrariesAreEachSandboxesOwn(t *testing.T) {
	const draw = `
import random, uuid, tempfile, secrets, ssl, numpy, pandas, matplotlib.pyplot as plt, gc
assert gc.get_freeze_count()
print(random.random()); print(uuid.uuid4()); print(tempfile.mktemp()); print(secrets.token_hex()); print(ssl.RAND_bytes(8).hex())
print(numpy.random.random()); print(numpy.random.default_rng().random())
import os; plt.plot([1, 2]); plt.savefig("/workspace/a.png"); assert os.path.getsize("/workspace/a.png") > 1000
assert pandas.DataFrame({"a": [1, 2]}).a.sum() == 3
a = numpy.eye(300); assert (a @ a).trace() == 300
`
	h := newHost(t)
	first := strings.Split(python(t, startLoaded(h), draw), "\n")
	second := strings.Split(python(t, startLoaded(h), draw), "\n")
	if len(first) != 7 || len(second) != 7 {
		t.Fatalf("%q, %q", first, second)
	}
	for i := range first {
		if first[i] == second[i] {
			t.Errorf("both drew %q", first[i])
		}
	}
}

func TestDataLibrariesGiveWay(t *testing.T) {
	h := newHost(t)
	for name, tc := range map[string]struct{ before, code, want string }{
		"a module of the workspace":  {"echo 'word = 1' > /workspace/pandas.py", "import pandas; print(pandas.word)", "1"},
		"a package of the user":      {"d=$(python3 -m site --user-site); mkdir -p $d/numpy; echo 'word = 2' > $d/numpy/__init__.py", "import numpy; print(numpy.word)", "2"},
		"settings of the workspace":  {"echo 'lines.linewidth: 7' > /workspace/matplotlibrc", "import matplotlib; print(matplotlib.rcParams['lines.linewidth'])", "7.0"},
		"a module that the run adds": {"true", "open('cycler.py', 'w').write('word = 3')\nimport cycler; print(cycler.word)", "3"},
	} {
		t.Run(name, func(t *testing.T) {
			sb := startLoaded(h)
			out, err := try(t.Context(), sb, agentsandbox.Bash, tc.before)
			must(t, err)
			if out.result.ExitCode != 0 {
				t.Fatalf("%+v", out)
			}
			if got := python(t, sb, tc.code); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
