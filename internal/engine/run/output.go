package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Spool keeps the output of runs that go on, so that the sandbox may forget it.
// It is needed only after the death of the process, and may be lost with the
// host, which takes the sandboxes too.
type Spool interface {
	// Append adds an entry to the spool of an execution; all of it is there when
	// Append returns without an error, and none of it counts otherwise.
	Append(id string, e SpoolEntry) error
	// Read returns what was appended, added up; nothing is an empty entry.
	Read(id string) (SpoolEntry, error)
	// Remove can be repeated.
	Remove(id string) error
	// Sweep removes the spools for which keep says false.
	Sweep(keep func(id string) bool) error
}

// SpoolEntry is output as it was taken, up to a point. It is an alias, so that a spool
// need not import this package.
type SpoolEntry = struct {
	Stdout, Stderr []byte
	Progress       runtime.Progress
}

// This file bounds the memory that the output of runs takes. Output that the
// spool has is forgotten, read back when the outcome is written, one run at a
// time, and once more for the answer, when whoever takes that has room.

const (
	// memoryOutput is how much output of a run under way stays in memory when the
	// spool has it too, so that what prints little is never read back.
	memoryOutput = 256 << 10
	// spoollessOutput is how much output of all runs stays in memory that the spool
	// cannot take, on a full disk perhaps. The rest is counted as cut.
	spoollessOutput = 128 << 20
	// outputLoads is how many runs have all of their output in memory at once while
	// their outcome is written. Writes have one turn at a time anyway.
	outputLoads = 1
)

// spooled is how much of each stream only the spool of a run has; what follows it
// is in the record.
type spooled struct {
	stdout, stderr int
	// broken says that the spool takes no more, and inMemory how much was kept since.
	broken   bool
	inMemory int64
}

func (s *spooled) bytes() int { return s.stdout + s.stderr }

// forget leaves to the spool what it has, if that is much.
func (s *spooled) forget(rec *agentsandbox.Execution) {
	if len(rec.Stdout)+len(rec.Stderr) < memoryOutput {
		return
	}
	s.stdout += len(rec.Stdout)
	s.stderr += len(rec.Stderr)
	rec.Stdout, rec.Stderr = nil, nil
}

// load reads back what only the spool has. Should that not be all there, the
// output ends where it is missing, and the record says that it was cut.
func (r *Run) load() error {
	rec, s := &r.record, &r.spooled
	if s.bytes() == 0 {
		return nil
	}
	kept, err := r.s.spool.Read(rec.ID)
	if err == nil && (len(kept.Stdout) < s.stdout || len(kept.Stderr) < s.stderr) {
		err = fmt.Errorf("%d and %d bytes of output were put aside, and %d and %d are there", s.stdout, s.stderr, len(kept.Stdout), len(kept.Stderr))
	}
	if err != nil {
		r.s.log.Error("output that was put aside cannot be read back", "execution", rec.ID, "error", err)
		rec.Stdout, rec.Stderr, rec.Truncated = kept.Stdout, kept.Stderr, true
		s.stdout, s.stderr = 0, 0
		return err
	}
	rec.Stdout = append(kept.Stdout[:s.stdout], rec.Stdout...)
	rec.Stderr = append(kept.Stderr[:s.stderr], rec.Stderr...)
	return nil
}

// loaded does work for which all output of a run is in its record, and takes what
// the spool has out of memory again.
func (r *Run) loaded(work func()) {
	if r.spooled.bytes() == 0 {
		work()
		return
	}
	r.s.loads <- struct{}{}
	defer func() { <-r.s.loads }()
	if r.load() != nil {
		work()
		return
	}
	work()
	// Copies, or the whole would stay in memory. Standard error has its last lines now.
	rec, s := &r.record, r.spooled
	rec.Stdout, rec.Stderr = append([]byte(nil), rec.Stdout[s.stdout:]...), append([]byte(nil), rec.Stderr[s.stderr:]...)
}

// answer is what Execute returns of a run that is over: its record with all of its
// output, when whoever takes it has room for that.
func (r *Run) answer(ctx context.Context) (*agentsandbox.Execution, error) {
	rec := &r.record
	if errors.Is(r.err, errLeftRunning) {
		return nil, r.err // its spool stays
	}
	if r.spooled.bytes() > 0 {
		defer r.removeSpool()
	}
	if r.err != nil {
		return nil, r.err
	}
	if take := agentsandbox.OutputRoomFrom(ctx); take != nil && r.spooled.bytes() > 0 {
		if err := take(ctx, r.spooled.bytes()); err != nil {
			return nil, withExecution(err, rec.ID)
		}
	}
	if err := r.load(); err != nil {
		return nil, withExecution(fmt.Errorf("the output of %s: %w", rec.ID, err), rec.ID)
	}
	return rec, nil
}

// room is how much of n more bytes may be kept of a stream, of which only the spool
// has some bytes and the record the others.
func (r *Run) room(n, spooled, inRecord int) int {
	if limit := r.bounds.Output; limit > 0 {
		n = int(max(0, min(int64(n), limit-int64(spooled+inRecord))))
	}
	if r.spooled.broken {
		if r.s.spoolless.Add(int64(n)) > spoollessOutput {
			r.s.spoolless.Add(int64(-n))
			return 0
		}
		r.spooled.inMemory += int64(n)
	}
	return n
}

func (r *Run) removeSpool() {
	if err := r.s.spool.Remove(r.record.ID); err != nil {
		r.s.log.Error("output that was put aside could not be removed; the next start does so", "execution", r.record.ID, "error", err)
	}
}

// keeper returns what puts output into the spool before the sandbox forgets it, and
// leaves it to the spool when it is much. It adds to what the record has now and
// changed files that were reported.
//
// Where it cannot, on a full disk perhaps, the run goes on: its output is in
// memory, within spoollessOutput, and lost only if the server dies before the run
// ends. Then the sandbox has not got what the spool lacks, and the record says so.
func (r *Run) keeper(changed int) func(runtime.Progress) error {
	rec := &r.record
	stdout, stderr := len(rec.Stdout), len(rec.Stderr)
	return func(p runtime.Progress) error {
		if r.spooled.broken {
			return nil
		}
		entry := SpoolEntry{Stdout: rec.Stdout[stdout:], Stderr: rec.Stderr[stderr:], Progress: p}
		entry.Progress.Changed = p.Changed[changed:]
		if err := r.s.spool.Append(rec.ID, entry); err != nil {
			r.spooled.broken = true
			r.s.log.Error("the output of a run cannot be put aside: it is cut beyond what memory has room for, and lost if the server dies before the run ends", "execution", rec.ID, "error", err)
			return nil
		}
		r.spooled.forget(rec)
		stdout, stderr, changed = len(rec.Stdout), len(rec.Stderr), len(p.Changed)
		return nil
	}
}

// forgetOutput frees what was kept of a run for the case that the server dies. Its
// outcome is written.
func (r *Run) forgetOutput() {
	if r.handle != nil {
		_ = r.handle.Close() // tells the sandbox, which may be gone
	}
	r.s.spoolless.Add(-r.spooled.inMemory)
	if r.spooled.bytes() == 0 {
		r.removeSpool() // else the answer needs it
	}
}
