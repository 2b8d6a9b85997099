package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// stumbling makes an agent whose Python and Bash first do something else, each as
// often as is said, and are themselves afterwards. It is not Bash that does so: that
// would read the launcher.
func stumbling(t *testing.T, times, what string) *Agent {
	t.Helper()
	return newAgent(t, func(o *Options) {
		dir := t.TempDir()
		for _, program := range []*string{&o.Python, &o.Bash} {
			path := filepath.Join(dir, filepath.Base(*program))
			script := "#!/bin/sh\necho x >>" + path + ".starts\n" +
				"if [ $(wc -l <" + path + ".starts) -le " + times + " ]; then " + what + "; fi\nexec " + *program + ` "$@"` + "\n"
			// A process that is forked meanwhile would hold the file open for writing,
			// and nobody could execute it.
			syscall.ForkLock.RLock()
			err := os.WriteFile(path, []byte(script), 0o755)
			syscall.ForkLock.RUnlock()
			if err != nil {
				t.Fatal(err)
			}
			*program = path
		}
	})
}

// TestRunsThatHaveNotBegunAreBegunAgain lets processes die, in every way, before
// they have come to the code of a run.
func TestRunsThatHaveNotBegunAreBegunAgain(t *testing.T) {
	for name, what := range map[string]string{
		"killed":             "kill -9 $$",
		"terminated":         "kill -TERM $$",
		"interrupted":        "kill -INT $$",
		"ended":              "exit 3",
		"printed and killed": "echo noise; echo noise >&2; kill -9 $$",
		"stopped":            "kill -STOP $$",
	} {
		t.Run(name, func(t *testing.T) {
			a := stumbling(t, "2", what)
			c := client(t, a)
			for range 3 { // in what is started, and in what may wait
				if got := python(t, c, "print('ran')", nil); got != "ran\n" {
					t.Errorf("Python: %q", got)
				}
				if got := do(t, c, agentsandbox.Bash, "echo ran", nil); got != "ran\n" {
					t.Errorf("Bash: %q", got)
				}
			}
		})
	}
}

// TestRunsBeginOnce lets code end its own process, which has begun by then.
func TestRunsBeginOnce(t *testing.T) {
	a := newAgent(t, nil)
	c := client(t, a)
	for range 3 {
		for language, code := range map[agentsandbox.Language]string{
			agentsandbox.Python: "import os\nopen('begun', 'a').write('x')\nos.kill(os.getpid(), 9)",
			agentsandbox.Bash:   "printf x >>begun\nkill -9 $$",
		} {
			o := outcome(t, c, runtime.Command{ID: a.nextName(), Language: language, Code: code})
			begun, err := os.ReadFile(filepath.Join(a.workspace, "begun"))
			if err != nil || string(begun) != "x" || o.Signal != 9 {
				t.Errorf("%s: begun %q, %v; %+v", language, begun, err, o)
			}
			os.Remove(filepath.Join(a.workspace, "begun"))
		}
	}
}

// TestRunsThatNeverBeginHaveTheirOutcome begins runs again and again in vain.
func TestRunsThatNeverBeginHaveTheirOutcome(t *testing.T) {
	for what, want := range map[string]struct {
		code, signal int
		output       int64
	}{
		"echo noise >&2; exit 7": {code: 7, output: 6},
		"kill -9 $$":             {signal: 9},
		"head -c 3000000 /dev/zero | tr '\\0' x >&2; sleep 0.1; exit 7": {code: 7, output: 3000000},
	} {
		a := stumbling(t, "100", what)
		c := client(t, a)
		for _, language := range []agentsandbox.Language{agentsandbox.Python, agentsandbox.Bash} {
			o := outcome(t, c, runtime.Command{ID: a.nextName(), Language: language, Code: "exit", Env: map[string]string{"LANG": "C"}})
			if o.ExitCode != want.code || o.Signal != want.signal || o.StderrBytes != want.output {
				t.Errorf("%s in %s: %+v", what, language, o)
			}
		}
	}
}

// TestRunsThatHaveNotBegunOutliveTheReliefOfMemory ends every run because the
// sandbox has used too much, one that has no part in that included.
func TestRunsThatHaveNotBegunOutliveTheReliefOfMemory(t *testing.T) {
	for _, language := range []agentsandbox.Language{agentsandbox.Python, agentsandbox.Bash} {
		a := stumbling(t, "1", "exec sleep 1000")
		r, err := a.startRun(&guest.RunRequest{ID: "r", Language: string(language)}, []byte("exit"))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the first process has started", func() bool {
			program := a.opts.Python
			if language == agentsandbox.Bash {
				program = a.opts.Bash
			}
			starts, _ := os.ReadFile(program + ".starts")
			return len(starts) > 0
		})
		a.relieve()
		select {
		case <-r.over:
		case <-deadline(t).Done():
			t.Fatalf("%s: the run is not over", language)
		}
		if end := r.ending(); end != (ending{}) || r.proc.Exit().Status.Signaled() {
			t.Errorf("%s: ended by %+v, %v", language, end, r.proc.Exit().Status)
		}
		a.forget(r)
	}
}

// TestDescriptorThatAnotherProcessHolds lets an interpreter die whose end of the
// launcher's socket lives on in a child.
func TestDescriptorThatAnotherProcessHolds(t *testing.T) {
	children := filepath.Join(t.TempDir(), "children")
	a := stumbling(t, "1", "sleep 1000 & echo $! >>"+children+"; kill -9 $$")
	t.Cleanup(func() {
		list, _ := os.ReadFile(children)
		for _, field := range strings.Fields(string(list)) {
			if pid, err := strconv.Atoi(field); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	if got := python(t, client(t, a), "print('ran')", nil); got != "ran\n" {
		t.Errorf("got %q", got)
	}
}

// outcome runs code to its end and returns how that was.
func outcome(t *testing.T, c *guest.Client, cmd runtime.Command) *runtime.Result {
	t.Helper()
	r, err := c.Run(deadline(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		e, err := r.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if e.Result != nil {
			return e.Result
		}
	}
}
