package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// This file is what lets a run outlive the server that started it: where it is
// at work is in its record, output that the sandbox may forget is in the spool,
// and the sandbox keeps the rest until the outcome is written.

// command is what the sandbox is told to run.
func (e *Engine) command(x *execution) runtime.Command {
	rec := &x.record
	collect := e.limits.Collect
	collect.Ignored = x.bounds.ignored
	return runtime.Command{
		ID: rec.ID, Language: rec.Language, Code: rec.Code, Env: x.env, Timeout: x.bounds.timeout,
		Modules:     e.modulesFor(x),
		OutputLimit: x.bounds.output, Limits: x.bounds.run, Final: x.final,
		CollectDirs: []string{agentsandbox.Workspace, agentsandbox.OutputDir}, Collect: collect,
	}
}

// modulesFor returns what the code of a run has use of, as far as its template says.
func (e *Engine) modulesFor(x *execution) []string {
	name := e.template
	if x.session != nil {
		name = x.session.info.Template
	}
	template, err := e.templates.Template(name)
	if err != nil {
		return nil // a session of an earlier server lives on without its template
	}
	return template.preloadFor(x.record.Language, x.record.Code).Modules
}

// plan is what a later server needs to follow a run.
type plan struct {
	runtime.Command
	// Network is what a sandbox of the run's own may reach.
	Network *agentsandbox.NetworkPolicy `json:",omitempty"`
}

// place notes in a record where the run is at work, and the limits under which
// it is followed. Code and variables, which may hold secrets, are not needed.
func place(rec *agentsandbox.Execution, sb runtime.Sandbox, p plan) error {
	p.Code, p.Env = "", nil
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("plan of %s: %w", rec.ID, err)
	}
	rec.Sandbox, rec.Plan = sb.ID(), text
	return nil
}

// startOrFollow starts the code, or goes on where an earlier server was.
func (e *Engine) startOrFollow(ctx context.Context, x *execution) (runtime.Run, error) {
	if x.resume == nil {
		x.command.Keep = e.keeper(x, 0)
		return x.sandbox.Run(ctx, x.command)
	}
	x.command.Keep = e.keeper(x, len(x.resume.Changed))
	return x.sandbox.Attach(ctx, x.command, *x.resume)
}

// keeper returns what puts output into the spool before the sandbox forgets it, and
// leaves it to the spool when it is much. It adds to what the record has now and
// changed files that were reported.
//
// Where it cannot, on a full disk perhaps, the run goes on: its output is in
// memory, within spoollessOutput, and lost only if the server dies before the run
// ends. Then the sandbox has not got what the spool lacks, and the record says so.
func (e *Engine) keeper(x *execution, changed int) func(runtime.Progress) error {
	rec := &x.record
	stdout, stderr := len(rec.Stdout), len(rec.Stderr)
	return func(p runtime.Progress) error {
		if x.spooled.broken {
			return nil
		}
		entry := SpoolEntry{Stdout: rec.Stdout[stdout:], Stderr: rec.Stderr[stderr:], Progress: p}
		entry.Progress.Changed = p.Changed[changed:]
		if err := e.spool.Append(rec.ID, entry); err != nil {
			x.spooled.broken = true
			e.log.Error("the output of a run cannot be put aside: it is cut beyond what memory has room for, and lost if the server dies before the run ends", "execution", rec.ID, "error", err)
			return nil
		}
		x.spooled.forget(rec)
		stdout, stderr, changed = len(rec.Stdout), len(rec.Stderr), len(p.Changed)
		return nil
	}
}

// letGo frees what was kept of a run for the case that the server dies. Its
// outcome is written.
func (e *Engine) letGo(x *execution) {
	if x.handle != nil {
		_ = x.handle.Close() // tells the sandbox, which may be gone
	}
	e.spoolless.Add(-x.spooled.inMemory)
	if x.spooled.bytes() == 0 {
		e.removeSpool(x.record.ID) // else the answer needs it
	}
}

// KeepSessions has Close leave the sessions to a later server whatever the
// options say: a server that ends because it failed was not asked to end them.
func (e *Engine) KeepSessions() { e.keepSessions.Store(true) }

// endOfWork is the reason for which Close ends what still runs.
func (e *Engine) endOfWork() error {
	if e.keepSessions.Load() {
		return work.ErrLeaving
	}
	return work.ErrShutdown
}

// goesOn tells whether a run that has begun is left to the next server: one in a
// session, and one that is followed already, so that no request waits for it.
func (x *execution) goesOn(ctx context.Context) bool {
	return (!x.final && x.handle != nil || x.resume != nil) && errors.Is(x.endCause(ctx), work.ErrLeaving)
}

// errLeftRunning says that the run of a request is left to the next server.
var errLeftRunning = errors.New("the run goes on")

func leftRunning(id string) error {
	return &agentsandbox.Error{
		Code:              agentsandbox.CodeUnavailable,
		Err:               errLeftRunning,
		Message:           "The server is restarting. The run goes on in its session, and is not to be repeated: its record " + id + " gets the outcome.",
		RetryAfterSeconds: 5,
	}
}

// leaveSessions lets go of every live session, whose sandbox stays as it is. Work
// has ended and none begins any more.
func (e *Engine) leaveSessions() {
	e.mu.Lock()
	all := make([]*session, 0, len(e.sessions))
	for _, s := range e.sessions {
		all = append(all, s)
	}
	e.mu.Unlock()
	all = slices.DeleteFunc(all, func(s *session) bool { return !e.remove(s) })
	var leaving sync.WaitGroup
	for _, s := range all {
		leaving.Go(func() {
			e.endUse(s, work.ErrLeaving)
			e.awaitVisits(s)
			e.supply.Release(s.sandbox)
		})
	}
	leaving.Wait()
	e.watchers.Wait()
	if len(all) > 0 {
		e.log.Info("sessions stay alive for the next start of the server", "sessions", len(all))
	}
}
