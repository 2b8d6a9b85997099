package gvisor

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// loaded is what a run has frozen that found the data libraries loaded: a bare
// interpreter has a tenth of that.
const loaded = "import gc, numpy\nassert gc.get_freeze_count() > 50000, 'the libraries were not loaded ahead'\n"

// awaitFork runs code until a run finds the libraries loaded. It asks for them without
// importing them: imports would take the processor from what loads them.
func awaitFork(t *testing.T, sb runtime.Sandbox) {
	t.Helper()
	eventually(t, "a run that finds the libraries loaded ahead", func() bool {
		out, err := tryCommand(t.Context(), sb, runtime.Command{
			Language: agentsandbox.Python, Code: "import gc\nassert gc.get_freeze_count() > 50000", Modules: dataLibraries.Modules,
			Timeout: time.Minute, OutputLimit: 1 << 20,
		})
		must(t, err)
		return out.result.ExitCode == 0
	})
}

// TestForks looks at the interpreters with data libraries that wait in a session,
// in one sandbox, because it takes seconds to load the libraries.
func TestForks(t *testing.T) {
	sb := newHost(t).start(testLimits)
	awaitFork(t, sb)
	for _, tc := range []struct {
		name string
		test func(*testing.T, runtime.Sandbox)
	}{
		{"as from an import", compareForks},
		{"random numbers", drawInForks},
		{"runs at once", runForksAtOnce},
		{"what a run leaves behind", leaveBehind},
		{"without the server", endServer},
		{"other packages", installOverForks},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, sb) })
	}
}

func compareForks(t *testing.T, sb runtime.Sandbox) {
	for _, statement := range []string{"import numpy, pandas, matplotlib.pyplot", "import matplotlib", "from numpy import linalg", "import seaborn"} {
		if out := python(t, sb, strings.ReplaceAll(compared, "STATEMENT", statement)); out != "" {
			t.Errorf("%s: %.2000s", statement, out)
		}
	}
	const process = loaded + `
import os, sys, subprocess, threading, time
assert os.getppid() == 1 and os.getsid(0) == os.getpgrp() == os.getpid(), (os.getppid(), os.getsid(0), os.getpid())
assert sys.argv == [__file__] and open(__file__).read().startswith("import gc, numpy")
assert os.getuid() == os.geteuid() != 0 and time.process_time() < 5
assert threading.main_thread() is threading.current_thread() and threading.get_native_id() == os.getpid()
assert not os.path.exists("/proc/self/fd/3") or os.readlink("/proc/self/fd/3").startswith("/proc/")
try: os.wait()
except ChildProcessError: pass
else: print("it has a child")
print(sys.stdin.read() == "", file=sys.stderr)
subprocess.run(["true"], check=True)
`
	out, err := try(t.Context(), sb, agentsandbox.Python, process)
	must(t, err)
	if out.result.ExitCode != 0 || out.stdout != "" || out.stderr != "True\n" {
		t.Errorf("%+v", out)
	}
}

func drawInForks(t *testing.T, sb runtime.Sandbox) {
	const draw = loaded + `
import random, uuid, tempfile, ssl
print(random.random()); print(uuid.uuid1()); print(tempfile.mktemp()); print(ssl.RAND_bytes(8).hex())
print(numpy.random.random()); print(numpy.random.default_rng().random())
`
	first := strings.Split(python(t, sb, draw), "\n")
	second := strings.Split(python(t, sb, draw), "\n")
	if len(first) != 6 || len(second) != 6 {
		t.Fatalf("%q, %q", first, second)
	}
	for i := range first {
		if first[i] == second[i] {
			t.Errorf("both drew %q", first[i])
		}
	}
}

// runForksAtOnce checks that of runs at the same time each has its own
// script and output.
func runForksAtOnce(t *testing.T, sb runtime.Sandbox) {
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			word := strings.Repeat("x", i+1)
			out, err := try(t.Context(), sb, agentsandbox.Python, "import numpy, time\ntime.sleep(0.2)\nprint('"+word+"')\nraise ValueError('"+word+"')")
			if err != nil || out.stdout != word+"\n" || !strings.Contains(out.stderr, "    raise ValueError('"+word+"')\n") {
				t.Errorf("run %d: %v, %+v", i, err, out)
			}
		})
	}
	all.Wait()
	awaitFork(t, sb)
}

// leaveBehind checks that a run that is ended takes nothing
// with it that an earlier run has left.
func leaveBehind(t *testing.T, sb runtime.Sandbox) {
	python(t, sb, loaded+`
import subprocess
p = subprocess.Popen(["sleep", "1000"], start_new_session=True)
open("pid", "w").write(str(p.pid))`)
	awaitFork(t, sb)
	out, err := tryCommand(t.Context(), sb, runtime.Command{
		Language: agentsandbox.Python, Timeout: 3 * time.Second, OutputLimit: 1 << 20,
		Code: loaded + "import subprocess\np = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nopen('mine', 'w').write(str(p.pid))\np.wait()",
	})
	must(t, err)
	if !out.result.TimedOut {
		t.Fatalf("%+v", out)
	}
	left, err := try(t.Context(), sb, agentsandbox.Bash, "kill -0 $(cat pid) && echo lives; kill -0 $(cat mine) 2>/dev/null || echo ended")
	must(t, err)
	if left.stdout != "lives\nended\n" {
		t.Errorf("what the runs have started: %+v", left)
	}
	awaitFork(t, sb)
}

// endServer checks that a run which kills or stops all that it
// can costs the next one time and nothing else.
func endServer(t *testing.T, sb runtime.Sandbox) {
	for _, signal := range []string{"KILL", "STOP", "INT"} {
		awaitFork(t, sb)
		if _, err := try(t.Context(), sb, agentsandbox.Bash, "for p in $(pgrep python3); do kill -"+signal+" $p; done"); err != nil {
			t.Fatal(err)
		}
		if got := python(t, sb, "import numpy; print(numpy.eye(2).sum())"); got != "2.0" {
			t.Errorf("after %s: %q", signal, got)
		}
	}
	awaitFork(t, sb)
}

// installOverForks checks that a run gets the packages that the
// user has installed since.
func installOverForks(t *testing.T, sb runtime.Sandbox) {
	if _, err := try(t.Context(), sb, agentsandbox.Bash, "d=$(python3 -m site --user-site); mkdir -p $d/numpy; echo 'word = 2' > $d/numpy/__init__.py"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := python(t, sb, "import numpy; print(numpy.word)"); got != "2" {
			t.Errorf("got %q", got)
		}
	}
}

func TestSmallSandboxesLoadNothingAhead(t *testing.T) {
	h := newHost(t)
	small := testLimits
	small.MemoryBytes = 400 << 20
	sb := h.start(small)
	for range 2 {
		python(t, sb, "import gc, numpy\nassert gc.get_freeze_count() < 50000")
	}
	out, err := try(context.WithoutCancel(t.Context()), sb, agentsandbox.Bash, "pgrep -c python3")
	must(t, err)
	if out.stdout != "1\n" {
		t.Errorf("%s interpreters wait", out.stdout)
	}
}
