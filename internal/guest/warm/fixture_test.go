package warm

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/assets"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// world is a place below a temporary directory where runs of both languages have
// their processes started. It supervises them as an agent does, as far as it takes.
type world struct {
	root, workspace, scripts string
	python                   *Python
	bash                     *Bash
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	w := &world{root: root, workspace: filepath.Join(root, agentsandbox.Workspace), scripts: filepath.Join(root, guest.ScriptDir)}
	for _, dir := range []string{agentsandbox.Workspace, guest.Home, guest.LauncherDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range assets.Launchers() {
		if err := os.WriteFile(filepath.Join(root, f.Path), f.Data, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	scripts, err := script.Open(w.scripts)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	opts := Options{
		Processes: proc.New(proc.Options{Dir: w.workspace, Logger: log}), Scripts: scripts, Program: "/usr/bin/python3", Extension: ".py",
		LauncherDir: filepath.Join(root, guest.LauncherDir),
		Env:         []string{"PATH=/usr/bin:/bin", "HOME=" + filepath.Join(root, guest.Home), "LANG=C.UTF-8"},
		Workspace:   w.workspace, Logger: log,
	}
	if _, err := os.Stat(opts.Program); err != nil {
		if opts.Program, err = exec.LookPath("python3"); err != nil {
			t.Fatal(err)
		}
	}
	w.python = NewPython(opts, false)
	opts.Program, opts.Extension = "/bin/bash", ".sh"
	w.bash = NewBash(opts)
	t.Cleanup(func() {
		w.python.Close()
		w.bash.Close()
		opts.Processes.Close()
	})
	return w
}

type starter interface {
	Start(Run) (proc.Process, error)
	StartFresh(Run) (proc.Process, error)
	Refill(Run)
}

// do runs code to its end and returns what it printed. What dies before the code has
// begun is begun again.
func do(t *testing.T, s starter, code string, env map[string]string) string {
	t.Helper()
	run := Run{Code: []byte(code)}
	for name, value := range env {
		run.Env = append(run.Env, name+"="+value)
	}
	slices.Sort(run.Env)
	p, err := s.Start(run)
	for range 5 {
		if err != nil {
			t.Fatal(err)
		}
		out := output(t, p)
		begun := p.Begun()
		p.FreeShared()
		p.Release()
		if begun {
			s.Refill(run)
			return out
		}
		p, err = s.StartFresh(run)
	}
	t.Fatal("the run never begins")
	return ""
}

// output takes all that a process writes until it has ended.
func output(t *testing.T, p proc.Process) string {
	t.Helper()
	out := p.Output()
	defer out.Close()
	ctx := deadline(t)
	var b strings.Builder
	take := func() {
		for _, pipe := range []*proc.Pipe{out.Stdout, out.Stderr} {
			buf := make([]byte, 64<<10)
			for n := pipe.ReadNow(buf); n > 0; n = pipe.ReadNow(buf) {
				b.Write(buf[:n])
			}
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.Done():
			take()
			return b.String()
		case <-tick.C:
			take()
		case <-ctx.Done():
			p.Kill()
			t.Fatalf("the run does not end; it printed %q", b.String())
		}
	}
}

// waitingInterpreter waits until an interpreter waits, and returns its process id.
func (w *world) waitingInterpreter(t *testing.T) int {
	t.Helper()
	if err := w.python.Await(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return heldPID(&w.python.slot)
}

// waitingShell waits until a Bash waits, and returns its process id.
func (w *world) waitingShell(t *testing.T) int {
	t.Helper()
	if err := w.bash.Await(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return heldPID(&w.bash.slot)
}

// heldPID is the process that a slot holds; 0: none.
func heldPID[T waiter](s *slot[T]) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	if s.held == none {
		return 0
	}
	return s.held.base().PID()
}

// signal sends a process a signal.
func signal(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}
