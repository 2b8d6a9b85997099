package warm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

func TestWaitingInterpreterIsUsedOnlyWhereItIsAsGoodAsNew(t *testing.T) {
	w := newWorld(t)
	const pid = "import os; print(os.getpid())"
	ready := func() int { return w.waitingInterpreter(t) }
	is := func(got string, waiting int, want bool) {
		t.Helper()
		if (got == strconv.Itoa(waiting)+"\n") != want {
			t.Errorf("process %q ran the code, %d was waiting; the same is %v", got, waiting, want)
		}
	}
	p := ready()
	is(do(t, w.python, pid, map[string]string{"X": "1"}), p, true)

	p = ready()
	is(do(t, w.python, pid, map[string]string{"PYTHONOPTIMIZE": "1"}), p, false)
	is(do(t, w.python, pid, nil), p, true) // it waited on

	p = ready()
	signal(t, p, unix.SIGKILL)
	is(do(t, w.python, pid, nil), p, false)

	p = ready()
	signal(t, p, unix.SIGINT)
	is(do(t, w.python, pid, nil), p, false)

	p = ready()
	signal(t, p, unix.SIGSTOP)
	is(do(t, w.python, pid, nil), p, true) // and is woken

	p = ready()
	site := strings.TrimSpace(do(t, w.python, "import site; print(site.getusersitepackages())", map[string]string{"TZ": "UTC"}))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	is(do(t, w.python, pid, nil), p, false)

	p = ready()
	if err := os.WriteFile(filepath.Join(site, "module.py"), []byte("word = 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	is(do(t, w.python, "import module, os; print(os.getpid())", nil), p, false)
}

// TestRandomStateIsNew checks the promise on which snapshots rest: whatever an
// interpreter has loaded while it waits, runs draw different numbers.
func TestRandomStateIsNew(t *testing.T) {
	w := newWorld(t)
	site := strings.TrimSpace(do(t, w.python, "import site; print(site.getusersitepackages())", nil))
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(site, "seed.pth"), []byte("import random; random.seed(1)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 {
		w.waitingInterpreter(t)
		seen[do(t, w.python, "import sys\nassert 'random' in sys.modules\nimport random; print(random.random())", nil)] = true
	}
	if len(seen) != 3 {
		t.Errorf("the runs drew %v", seen)
	}
}

// TestSubInterpretersBeginAsUsual checks that the launcher, which a sub-interpreter
// meets too, does not wait in it for another script.
func TestSubInterpretersBeginAsUsual(t *testing.T) {
	w := newWorld(t)
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
		if got := do(t, w.python, code, nil); got != "[] False\n''\n" {
			t.Errorf("got %q", got)
		}
		w.waitingInterpreter(t)
	}
}

// TestRunSurvivesTheDeathOfTheInterpreterThatWaited hands a run to a process
// that dies before it hears of it.
func TestRunSurvivesTheDeathOfTheInterpreterThatWaited(t *testing.T) {
	w := newWorld(t)
	for round := range 5 {
		pid := w.waitingInterpreter(t)
		if round == 4 { // somebody else writes to its output, and interrupts it
			if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/fd/1", []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			signal(t, pid, unix.SIGINT)
			// It may die before it is given the run, or after.
			if got := do(t, w.python, "print('ran')", nil); got != "ran\n" && got != "xran\n" {
				t.Errorf("got %q", got)
			}
			continue
		}
		// It is dead, and nobody has noticed: no reaper runs meanwhile.
		w.python.slot.held.WithLive(func(pid int) {
			signal(t, pid, unix.SIGKILL)
			if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
		})
		if got := do(t, w.python, "print('ran')", nil); got != "ran\n" {
			t.Errorf("got %q", got)
		}
	}
}

// TestRunTakesWhatIsStarting stops what will wait just after it was started: a run
// does not start another one, and lets it go on.
func TestRunTakesWhatIsStarting(t *testing.T) {
	w := newWorld(t)
	stopped := func(s starter, pid func() int) string {
		t.Helper()
		s.Refill(Run{})
		for end := time.Now().Add(10 * time.Second); pid() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing was started")
			}
		}
		signal(t, pid(), unix.SIGSTOP)
		return strconv.Itoa(pid()) + "\n"
	}
	starting := stopped(w.python, func() int { return heldPID(&w.python.slot) })
	if got := do(t, w.python, "import os; print(os.getpid())", nil); got != starting {
		t.Errorf("process %q ran the code, %q was starting", got, starting)
	}
	starting = stopped(w.bash, func() int { return heldPID(&w.bash.slot) })
	if got := do(t, w.bash, "echo $$", nil); got != starting {
		t.Errorf("process %q ran the script, %q was starting", got, starting)
	}
}

func TestWhatCannotStartSaysWhatToDo(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EAGAIN: "limit of processes", unix.ENOMEM: "no memory", unix.ENOSPC: "file system is full", unix.E2BIG: "environment",
	} {
		var f guest.Failure
		if err := notStarted("start", errno); !errors.As(err, &f) || f.Code != guest.FailNotStarted || !strings.Contains(f.Text, want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}
