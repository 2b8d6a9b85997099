package agent

import (
	"context"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/guest/warm"
)

// language is one that the agent runs code in. All that differs between languages
// stands here.
type language struct {
	name    agentsandbox.Language
	starter starter
	// extension is that of the files of scripts.
	extension string
	// rehearsal is code that prints "ready".
	rehearsal string
	// interrupted says that a run whose time is over is interrupted before it is
	// killed. Then it may say where it was.
	interrupted bool
	// customize makes a template ready for the language; nil: that takes nothing.
	customize func(context.Context) error
	// preload has what waits load modules ahead until stop is called; nil: it cannot.
	// use is code that uses them, and prints "ready".
	preload func(modules []string) (use string, stop func())
}

// starter gives the runs of a language their processes. A run does not care whether
// its process has waited, was forked or was started.
type starter interface {
	// Start gives a run a process, the soonest there is.
	Start(warm.Run) (proc.Process, error)
	// StartFresh gives a run a process that no other run can have touched before.
	StartFresh(warm.Run) (proc.Process, error)
	// Refill has a process wait in place of the one that a run may have used. It does
	// not wait for that.
	Refill(warm.Run)
	// Await makes sure that a process waits, fully started.
	Await(context.Context) error
	// Rehearse has what waits touch the memory that a run will need.
	Rehearse()
	// Close ends what waits. No run may be under way.
	Close()
}

// newLanguages lists the languages, in the order in which they are rehearsed.
func (a *Agent) newLanguages() []*language {
	opts := func(program, extension string) warm.Options {
		return warm.Options{
			Processes: a.processes, Scripts: a.scripts, Program: program, Extension: extension,
			LauncherDir: a.opts.LauncherDir, Env: a.opts.Env, Workspace: a.workspace, Logger: a.log,
		}
	}
	const py, sh = ".py", ".sh"
	python := warm.NewPython(opts(a.opts.Python, py), a.opts.Init && a.opts.User != nil)
	return []*language{
		{
			name: agentsandbox.Bash, extension: sh, rehearsal: "echo ready",
			// Bash is not interrupted: it might go on to the next command.
			starter: warm.NewBash(opts(a.opts.Bash, sh)),
		},
		{
			name: agentsandbox.Python, extension: py, rehearsal: "print('ready')",
			starter: python, interrupted: true, customize: a.customizePython,
			preload: func(modules []string) (string, func()) { return importAll(modules), python.Preload(modules) },
		},
	}
}

// extensions are those of the scripts of all languages.
func (a *Agent) extensions() []string {
	var all []string
	for _, l := range a.languages {
		all = append(all, l.extension)
	}
	return all
}

// language finds a language by its name; nil: the agent runs no such code.
func (a *Agent) language(name string) *language {
	for _, l := range a.languages {
		if string(l.name) == name {
			return l
		}
	}
	return nil
}
