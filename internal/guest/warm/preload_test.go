package warm

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// preloaded are modules that every Python has, with packages and compiled ones
// among them.
var preloaded = []string{"json", "xml.etree.ElementTree", "concurrent.futures", "random", "decimal", "no_such_module"}

// aheadOf makes an interpreter wait that has the modules loaded, and returns its
// process id.
func aheadOf(t *testing.T, w *world) string {
	t.Helper()
	w.waitingInterpreter(t)
	stop := w.python.Preload(preloaded)
	defer stop()
	return strconv.Itoa(w.waitingInterpreter(t)) + "\n"
}

// TestHiddenModulesComeAsFromAnImport compares what statements do in an
// interpreter that had loaded the modules and in one that had not.
func TestHiddenModulesComeAsFromAnImport(t *testing.T) {
	w := newWorld(t)
	const report = `
import sys
print(sorted(sys.modules), [str(f).split(' at ')[0] for f in sys.meta_path], sys.path_hooks == sys.path_hooks)
print({n: sorted(vars(m)) for n, m in sys.modules.items() if n.partition('.')[0] in ('xml', 'json', 'concurrent', 'logging')})
print({n: (m.__spec__.name, m.__spec__.origin, type(m.__loader__).__name__) for n, m in sys.modules.items() if m.__spec__})
import warnings; print(warnings.filters)
import os; print(sorted(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')))
print(sys.flags, sys.argv[1:])
`
	for _, statement := range []string{
		"pass", "import json", "import xml", "import xml.etree.ElementTree as e; assert e.fromstring('<a/>').tag == 'a'",
		"from concurrent import futures", "import json.decoder, decimal", "import logging", "from xml.etree import ElementTree",
		"import importlib; importlib.import_module('json.encoder')",
		"import json, sys; del sys.modules['json']; import json as j; assert j is not json",
	} {
		fresh := do(t, w.python, statement+report, map[string]string{"TZ": "UTC"})
		pid := aheadOf(t, w)
		got := do(t, w.python, statement+report+"print(os.getpid())", nil)
		if body, ran := strings.CutSuffix(got, pid); !ran {
			t.Errorf("%s: another process than %q ran it", statement, pid)
		} else if body != fresh {
			t.Errorf("%s\n%s\nwant\n%s", statement, body, fresh)
		}
	}
}

func TestHiddenModulesGiveWay(t *testing.T) {
	w := newWorld(t)
	own := filepath.Join(w.workspace, "later")
	for name, tc := range map[string]struct{ code, want string }{
		"a file that the run writes": {"open('json.py', 'w').write('word = 1')\nimport json; print(json.word)", "1\n"},
		"an entry of sys.path":       {"import sys, os\nos.mkdir(" + strconv.Quote(own) + "); open(" + strconv.Quote(own+"/decimal.py") + ", 'w').write('word = 2')\nsys.path.insert(0, " + strconv.Quote(own) + ")\nimport decimal; print(decimal.word)", "2\n"},
		"an entry at the end":        {"import sys, os\nos.makedirs('end'); open('end/decimal.py', 'w').write('word = 2')\nsys.path.append('end')\nimport decimal; print(decimal.Decimal(3))", "3\n"},
		"an import hook":             {"import sys, types, importlib.util\nclass F:\n  @classmethod\n  def find_spec(c, n, p, t=None):\n    if n == 'json': return importlib.util.spec_from_loader(n, c)\n  @staticmethod\n  def create_module(s): return types.ModuleType('json')\n  @staticmethod\n  def exec_module(m): m.word = 4\nsys.meta_path.insert(0, F)\nimport json; print(json.word)", "4\n"},
		"sys.modules":                {"import sys\nsys.modules['json'] = None\ntry: import json\nexcept ModuleNotFoundError: print(5)", "5\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(filepath.Join(w.workspace, "json.py"))
			pid := aheadOf(t, w)
			if got := do(t, w.python, tc.code+"\nimport os; print(os.getpid())", nil); got != tc.want+pid {
				t.Errorf("got %q, want %q", got, tc.want+pid)
			}
		})
	}
	// What is there before the run gets an interpreter of its own.
	if err := os.WriteFile(filepath.Join(w.workspace, "random.py"), []byte("word = 6"), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := aheadOf(t, w)
	if got := do(t, w.python, "import random; print(random.word)\nimport os; print(os.getpid())", nil); !strings.HasPrefix(got, "6\n") || strings.HasSuffix(got, pid) {
		t.Errorf("got %q", got)
	}
}

func TestPreloadedInterpretersRenewAndEnd(t *testing.T) {
	w := newWorld(t)
	aheadOf(t, w)
	first := do(t, w.python, "import random; print(random.random())", nil)
	aheadOf(t, w)
	if second := do(t, w.python, "import random; print(random.random())", nil); first == second {
		t.Errorf("two runs drew %q", first)
	}
	aheadOf(t, w)
	const ends = "import atexit, json, logging, sys\natexit.register(lambda: print(json.dumps([1])))\nclass C:\n  def __del__(self): print('gone')\nc = C()\nf = open('out.txt', 'w'); f.write('flushed')"
	if got := do(t, w.python, ends, nil); got != "[1]\ngone\n" {
		t.Errorf("at the end: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(w.workspace, "out.txt")); string(got) != "flushed" {
		t.Errorf("the file has %q, %v", got, err)
	}
}
