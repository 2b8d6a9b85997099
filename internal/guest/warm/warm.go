// Package warm gives the runs of a language their processes, and keeps some of them
// waiting, fully started, for the runs that come.
//
// It owns what waits: an interpreter of Python, in a session also one that has modules
// loaded ahead, and a Bash. Code cannot tell a process that has waited from one that
// was started for it, but by its speed; docs/preloading.md lists the exceptions.
// Whatever waits is used for one run, and only if it is as good as a process that is
// started now: if not, the run gets one of those.
//
// It must not know how runs are supervised, or which modules are worth loading: a run
// names them. It trusts nothing that waits: another run of the user may have stopped
// it, killed it, or written to its files.
//
// It fails with a [guest.Failure] that says what could not be started, and what to do
// about it. That nothing waits is no failure; it is logged.
package warm

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/script"
)

// Run is what a process has to know of its run.
type Run struct {
	Code   []byte
	Env    []string // NAME=value, besides those of Options
	Limits proc.Limits
	// Modules are what it imports of those that are worth loading ahead for the next
	// runs of the sandbox: one run is much like the next.
	Modules []string
}

// Options say how processes are started.
type Options struct {
	Processes *proc.Table
	Scripts   *script.Dir
	// Program is the path of the interpreter.
	Program string
	// Extension is that of the files of scripts.
	Extension string
	// LauncherDir holds the launchers, which let interpreters wait.
	LauncherDir string
	// Env is the environment that every run begins with, NAME=value.
	Env []string
	// Workspace is the directory with which Python's search for modules begins.
	Workspace string
	Logger    *slog.Logger
}

// handoverTime bounds the handing over of a run to a process that waits.
const handoverTime = 2 * time.Second

// process is what a run runs as. It implements [proc.Process].
type process struct {
	*proc.Child
	out        proc.Output
	started    time.Time     // when it was given its run
	usedBefore time.Duration // CPU
	begun      func() bool
	preceded   bool
	freeShared func() // nil: there is nothing to free
	release    func()
}

var _ proc.Process = (*process)(nil)

func (p *process) Output() proc.Output { return p.out }

func (p *process) Begun() bool { return p.begun() }

func (p *process) Preceded() bool { return p.preceded }

func (p *process) Exit() proc.Exit { return p.Child.Exit(p.started, p.usedBefore) }

func (p *process) CPU() time.Duration { return p.Child.CPU() - p.usedBefore }

func (p *process) FreeShared() {
	if p.freeShared != nil {
		p.freeShared()
	}
}

func (p *process) Release() { p.release() }

// notStarted says why a process could not be started, with what to do about it.
func notStarted(what string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EAGAIN):
		hint = ": the sandbox's limit of processes is reached; end some of them"
	case errors.Is(err, unix.ENOMEM):
		hint = ": the sandbox has no memory left"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		hint = ": the sandbox's file system is full; remove files"
	case errors.Is(err, unix.E2BIG):
		hint = ": the environment variables are larger than the system takes"
	}
	return guest.Failure{Code: guest.FailNotStarted, Text: fmt.Sprintf("%s: %v%s", what, err, hint)}
}
