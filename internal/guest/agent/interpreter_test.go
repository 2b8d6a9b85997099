package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func (a *Agent) waitingPID() int {
	a.interprets.mu.Lock()
	defer a.interprets.mu.Unlock()
	if it := a.interprets.waiting; it != nil {
		return it.pid
	}
	return 0
}

func TestPrepareSaysWhyNoInterpreterWaits(t *testing.T) {
	c := client(t, newAgent(t, func(o *Options) { o.Env = append(o.Env, "PYTHONHOME=/nowhere") }))
	if err := c.PrepareSnapshot(deadline(t), nil); !errors.Is(err, runtime.ErrNotStarted) || !strings.Contains(err.Error(), "encodings") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
	c = client(t, newAgent(t, func(o *Options) { o.Python = "/nowhere/python3" }))
	if err := c.PrepareSnapshot(deadline(t), nil); !errors.Is(err, runtime.ErrNotStarted) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("PrepareSnapshot: %v", err)
	}
}

func TestWaitingInterpreterIsUsedOnlyWhereItIsAsGoodAsNew(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	const pid = "import os; print(os.getpid())"
	ready := func() int {
		t.Helper()
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
		return a.waitingPID()
	}
	is := func(got string, waiting int, want bool) {
		t.Helper()
		if (got == strconv.Itoa(waiting)+"\n") != want {
			t.Errorf("process %q ran the code, %d was waiting; the same is %v", got, waiting, want)
		}
	}
	p := ready()
	is(python(t, c, pid, map[string]string{"X": "1"}), p, true)

	p = ready()
	is(python(t, c, pid, map[string]string{"PYTHONOPTIMIZE": "1"}), p, false)
	is(python(t, c, pid, nil), p, true) // it waited on

	p = ready()
	if err := unix.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	if err := unix.Kill(p, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	if err := unix.Kill(p, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, true) // and is woken

	p = ready()
	site := strings.TrimSpace(python(t, c, "import site; print(site.getusersitepackages())", map[string]string{"TZ": "UTC"}))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, pid, nil), p, false)

	p = ready()
	if err := os.WriteFile(filepath.Join(site, "module.py"), []byte("word = 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	is(python(t, c, "import module, os; print(os.getpid())", nil), p, false)
}

// TestRandomStateIsNew checks the promise on which snapshots rest: whatever an
// interpreter has loaded while it waits, runs draw different numbers.
func TestRandomStateIsNew(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	site := strings.TrimSpace(python(t, c, "import site; print(site.getusersitepackages())", nil))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(site, "seed.pth"), []byte("import random; random.seed(1)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 {
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
		seen[python(t, c, "import sys\nassert 'random' in sys.modules\nimport random; print(random.random())", nil)] = true
	}
	if len(seen) != 3 {
		t.Errorf("the runs drew %v", seen)
	}
}

// TestSubInterpretersBeginAsUsual checks that the launcher, which a sub-interpreter
// meets too, does not wait in it for another script.
func TestSubInterpretersBeginAsUsual(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	const code = `
import os
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
os.dup2(os.open("said", os.O_CREAT | os.O_RDWR), 2)
interpreters.run_string(interpreters.create(), """
import sys
print([p for p in sys.path if "launch" in p], "sitecustomize" in sys.modules and "launch" in sys.modules["sitecustomize"].__file__, flush=True)
""")
print(repr(open("said").read()))
`
	for range 2 { // in an interpreter that is started, and in one that has waited
		if got := python(t, c, code, nil); got != "[] False\n''\n" {
			t.Errorf("got %q", got)
		}
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRunSurvivesTheDeathOfTheInterpreterThatWaited hands a run to a process
// that dies before it hears of it.
func TestRunSurvivesTheDeathOfTheInterpreterThatWaited(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	for round := range 5 {
		if err := a.interprets.wait(deadline(t)); err != nil {
			t.Fatal(err)
		}
		a.interprets.mu.Lock()
		it := a.interprets.waiting
		a.interprets.mu.Unlock()
		if round == 4 { // somebody else writes to its output, and interrupts it
			if err := os.WriteFile("/proc/"+strconv.Itoa(it.pid)+"/fd/1", []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(it.pid, unix.SIGINT); err != nil {
				t.Fatal(err)
			}
			// It may die before it is given the run, or after.
			if got := python(t, c, "print('ran')", nil); got != "ran\n" && got != "xran\n" {
				t.Errorf("got %q", got)
			}
			continue
		}
		// It is dead, and nobody has noticed: no reaper runs meanwhile.
		a.children.mu.Lock()
		err := unix.Kill(it.pid, unix.SIGKILL)
		_, werr := awaitExit(unix.P_PID, it.pid)
		a.children.mu.Unlock()
		if err != nil || werr != nil {
			t.Fatal(err, werr)
		}
		if got := python(t, c, "print('ran')", nil); got != "ran\n" {
			t.Errorf("got %q", got)
		}
	}
}

// TestRunTakesWhatIsStarting stops what will wait just after it was started: a run
// does not start another one, and lets it go on.
func TestRunTakesWhatIsStarting(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	stopped := func(refill func(), pid func() int) string {
		t.Helper()
		refill()
		for end := time.Now().Add(10 * time.Second); pid() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing was started")
			}
		}
		if err := unix.Kill(pid(), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		return strconv.Itoa(pid()) + "\n"
	}
	starting := stopped(a.interprets.refill, a.waitingPID)
	if got := python(t, c, "import os; print(os.getpid())", nil); got != starting {
		t.Errorf("process %q ran the code, %q was starting", got, starting)
	}
	starting = stopped(a.shells.refill, func() int {
		a.shells.mu.Lock()
		defer a.shells.mu.Unlock()
		if a.shells.waiting == nil {
			return 0
		}
		return a.shells.waiting.pid
	})
	if got := do(t, c, agentsandbox.Bash, "echo $$", nil); got != starting {
		t.Errorf("process %q ran the script, %q was starting", got, starting)
	}
}
