package run

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const (
	signalBase = 128
	// returnCodeNotStarted is what a shell has for a command that it cannot
	// execute.
	returnCodeNotStarted = 126
	returnCodeKilled     = signalBase + 9
	// verdictGrace is how long after its time limit a run may take to report, for
	// example on a host with no CPU to spare. Past it the sandbox is destroyed.
	verdictGrace = 10 * time.Second
	// killGrace is how long a run that was killed may take to report.
	killGrace = 2 * time.Second
	// recordTimeout bounds the writing of an outcome whose caller is gone.
	recordTimeout = 30 * time.Second
)

// finish finds the outcome of a run, with its files, and writes it, also when the caller
// is gone. The error is for the caller: that of a failure of ours.
func (r *Run) finish(ctx context.Context, result *runtime.Result, err error) error {
	var cleared, ending string
	if r.resumed && result == nil {
		r.log.SkipLost() // what the sandbox did not come to repeat
	}
	r.countOutput(result)
	if result != nil {
		cleared = clearedNote(result, r.bounds)
		ending = judge(&r.record, result, r.bounds)
		err = r.collect(ctx, result)
	} else {
		ending, err = r.judgeError(ctx, err)
	}
	rec := &r.record
	rec.SessionStatus = r.sessionStatus()
	rec.EndedAt = r.s.now()
	rec.HTTPStatus = r.s.answerStatus(agentsandbox.CodeOf(err))
	ctx = context.WithoutCancel(ctx)
	// The last lines of standard error come when all of it is known.
	if failed := r.writeOutcome(ctx, func() []string { return remarks(rec, r.output, cleared, ending) }); failed != nil {
		r.writeBareOutcome(ctx, failed)
		return withExecution(fmt.Errorf("writing the outcome of %s: %w", rec.ID, failed), rec.ID)
	}
	return withExecution(err, rec.ID)
}

// writeOutcome seals the log and writes the outcome, with as much of the files and the
// output as the tenant has room for.
func (r *Run) writeOutcome(ctx context.Context, lastLines func() []string) error {
	rec := &r.record
	// Before the turn, which others wait for: a disk can be slow.
	if err := r.log.Sync(); err != nil {
		r.s.log.Warn("the output of a run is not on the disk yet", "execution", rec.ID, "error", err)
	}
	u, done, err := r.s.quotas.Count(ctx, rec.Tenant) // a wait for others is no failure
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	kept, omitted, full := r.s.quotas.FitFiles(rec.Files, &u)
	for _, f := range omitted {
		r.s.files.Remove(f.ID)
	}
	rec.Files = kept
	rec.Omit(agentsandbox.OmittedStorageFull, len(omitted))
	if full != nil && rec.Error == "" {
		rec.Error = "Not all files that the run made were kept. " + agentsandbox.MessageOf(full)
	}
	lines := notes(r.output.Stderr, lastLines()...)
	// First: what is dropped may be what the log needs room for.
	output := r.output.Stdout.Kept + r.output.Stderr.Kept + int64(len(lines))
	fits, err := r.s.quotas.MakeOutputRoom(ctx, rec.Tenant, u, int64(len(rec.Code)), output)
	if err != nil {
		return err
	}
	sealed, err := r.seal(lines)
	if err != nil {
		return err
	}
	rec.OutputDropped = !fits
	if _, err := r.s.store.FinishExecution(ctx, *rec, sealed); err != nil {
		return err
	}
	r.publish()
	if rec.OutputDropped {
		r.s.removeLogs(rec.ID)
	}
	return nil
}

// writeBareOutcome writes the outcome without its output and files, for which there is
// no room, so that the record does not say for ever that the run goes on.
func (r *Run) writeBareOutcome(ctx context.Context, cause error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	rec := r.record
	rec.Omit(agentsandbox.OmittedStorageFull, len(rec.Files))
	rec.Files = nil
	rec.Truncated, rec.OutputDropped = rec.StdoutBytes+rec.StderrBytes > 0, true
	rec.Error = "The output and files of this run could not be kept: " + agentsandbox.MessageOf(cause)
	rec.HTTPStatus = r.s.answerStatus(agentsandbox.CodeOf(cause))
	written, err := r.s.store.FinishExecution(ctx, rec, eventlog.Sealed{})
	if err != nil {
		// Log and sandbox keep what they have, for the next start: the row says that the
		// run goes on.
		r.unrecorded = true
		r.s.log.Error("the outcome of an execution could not be written", "execution", rec.ID, "error", err)
	}
	if !written {
		return // the row has an outcome, perhaps the whole one
	}
	r.publish()
	r.s.removeLogs(rec.ID)
	for _, f := range r.record.Files {
		r.s.files.Remove(f.ID) // no row names it
	}
}

// writePanic records a run in which the server itself failed.
func (r *Run) writePanic(ctx context.Context, reason any) {
	r.s.log.Error("a run made the server panic", "execution", r.record.ID, "panic", reason, "stack", string(debug.Stack()))
	r.err = withExecution(agentsandbox.Internal(fmt.Errorf("panic: %v", reason), "The server failed on this run. Try again; if it stays, give the id to the operator."), r.record.ID)
	r.record.Status, r.record.ReturnCode, r.record.EndedAt = agentsandbox.StatusFailed, 1, r.s.now()
	r.writeBareOutcome(context.WithoutCancel(ctx), r.err)
}

// withExecution says in an error's message which record tells of the run.
func withExecution(err error, id string) error {
	var e *agentsandbox.Error
	if !errors.As(err, &e) {
		return err
	}
	told := *e
	told.Message += " The run's record is " + id + "."
	return &told
}
