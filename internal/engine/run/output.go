package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// smallOutput is how much output nobody is refused for want of room in memory.
const smallOutput = 256 << 10

// commit puts what the sandbox has said into the file of the log, before the sandbox
// forgets it. Where that cannot be, on a full disk perhaps, the run goes on: its output
// is in memory, within a budget for all runs, and lost only if the server dies before
// it is written. Then the sandbox has not got it either, and the record says so.
func (r *Run) commit(p runtime.Progress) error {
	err := r.log.Commit(p)
	if err != nil && !r.unwritten {
		r.s.log.Error("the output of a run cannot be written: it is cut beyond what memory has room for, and lost if the server dies before it is",
			"execution", r.record.ID, "error", err)
	}
	r.unwritten = err != nil
	return nil
}

// countOutput ends the output of a run and notes in its record how much there was.
func (r *Run) countOutput(result *runtime.Result) {
	var stdout, stderr int64
	if result != nil {
		stdout, stderr = result.StdoutBytes, result.StderrBytes
	}
	if err := r.log.Finish(stdout, stderr); err != nil {
		r.s.log.Error("the output of a run is not as it was written, and ends before that", "execution", r.record.ID, "error", err)
	}
	r.output = r.log.Totals()
	out, rec := &r.output, &r.record
	rec.StdoutBytes, rec.StderrBytes = out.Stdout.Written, out.Stderr.Written
	rec.Truncated = out.Stdout.Kept < out.Stdout.Written || out.Stderr.Kept < out.Stderr.Written
}

// seal ends the log with the last lines of standard error, the files and the outcome.
func (r *Run) seal(lines []byte) (eventlog.Sealed, error) {
	var last []eventlog.Event
	if len(lines) > 0 {
		last = append(last, eventlog.Event{Kind: eventlog.Stderr, Data: lines})
	}
	for _, f := range r.record.Files {
		last = append(last, eventlog.Event{Kind: eventlog.File, Data: []byte(f.ID)})
	}
	sealed, err := r.log.Seal(append(last, eventlog.Event{Kind: eventlog.Ended, Data: []byte(r.record.Status)})...)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return sealed, &agentsandbox.Error{
			Code:    agentsandbox.CodeStorageFull,
			Message: "The server's data directory is full: delete files that are not needed, or have the operator make room.",
			Err:     err,
		}
	}
	return sealed, err
}

// publish shows the end of a log to its readers: the outcome is written.
func (r *Run) publish() {
	if err := r.log.Publish(); err != nil {
		r.s.log.Error("the file of an event log could not be removed; the next start does so", "execution", r.record.ID, "error", err)
	}
}

// removeLogs removes the files of logs that no row names.
func (s *Supervisor) removeLogs(ids ...string) {
	for _, id := range ids {
		if err := s.logs.Remove(id); err != nil {
			s.log.Error("an event log could not be removed; the next start does so", "execution", id, "error", err)
		}
	}
}

// answer is what Execute returns of a run that is over: its record with all of its
// output, when whoever takes it has room for that. Nobody else reads the log of a run
// whose output is not kept.
func (r *Run) answer(ctx context.Context) (*agentsandbox.Execution, error) {
	defer r.log.Close()
	if r.err != nil {
		return nil, r.err
	}
	rec := &r.record
	stdout, stderr := r.log.Output(eventlog.Stdout), r.log.Output(eventlog.Stderr)
	defer stdout.Close()
	defer stderr.Close()
	size := int(stdout.Size() + stderr.Size())
	if take := agentsandbox.OutputRoomFrom(ctx); take != nil && size > smallOutput {
		if err := take(ctx, size); err != nil {
			return nil, withExecution(err, rec.ID)
		}
	}
	if err := readOutput(rec, stdout, stderr); err != nil {
		return nil, withExecution(fmt.Errorf("the output of %s: %w", rec.ID, err), rec.ID)
	}
	return rec, nil
}

// readOutput takes all output into a record.
func readOutput(rec *agentsandbox.Execution, stdout, stderr *eventlog.Output) error {
	for _, stream := range []struct {
		to   *[]byte
		from *eventlog.Output
	}{{&rec.Stdout, stdout}, {&rec.Stderr, stderr}} {
		if stream.from.Size() == 0 {
			continue
		}
		*stream.to = make([]byte, stream.from.Size())
		if _, err := io.ReadFull(stream.from, *stream.to); err != nil {
			return err
		}
	}
	return nil
}

// loadOutput takes the output that a row has a log of into its record.
func (s *Supervisor) loadOutput(rec *agentsandbox.Execution, log eventlog.Sealed) error {
	if log.Size == 0 {
		return nil // it goes on, has lost its output, or has it in the record
	}
	stdout, err := s.logs.Output(rec.ID, log, eventlog.Stdout)
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := s.logs.Output(rec.ID, log, eventlog.Stderr)
	if err != nil {
		return err
	}
	defer stderr.Close()
	return readOutput(rec, stdout, stderr)
}

// gone tells whether a log was removed since its row was read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, eventlog.ErrRemoved)
}
