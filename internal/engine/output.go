package engine

import (
	"context"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
)

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
func (e *Engine) load(x *execution) error {
	rec, s := &x.record, &x.spooled
	if s.bytes() == 0 {
		return nil
	}
	kept, err := e.spool.Read(rec.ID)
	if err == nil && (len(kept.Stdout) < s.stdout || len(kept.Stderr) < s.stderr) {
		err = fmt.Errorf("%d and %d bytes of output were put aside, and %d and %d are there", s.stdout, s.stderr, len(kept.Stdout), len(kept.Stderr))
	}
	if err != nil {
		e.log.Error("output that was put aside cannot be read back", "execution", rec.ID, "error", err)
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
func (e *Engine) loaded(x *execution, work func()) {
	if x.spooled.bytes() == 0 {
		work()
		return
	}
	e.loads <- struct{}{}
	defer func() { <-e.loads }()
	if e.load(x) != nil {
		work()
		return
	}
	work()
	// Copies, or the whole would stay in memory. Standard error has its last lines now.
	rec, s := &x.record, x.spooled
	rec.Stdout, rec.Stderr = append([]byte(nil), rec.Stdout[s.stdout:]...), append([]byte(nil), rec.Stderr[s.stderr:]...)
}

// answer is what Execute returns of a run that perform has taken to its end: its
// record with all of its output, when whoever takes it has room for that.
func (e *Engine) answer(ctx context.Context, x *execution, rec *agentsandbox.Execution, err error) (*agentsandbox.Execution, error) {
	if x.spooled.bytes() == 0 || !x.record.Status.Terminal() {
		return rec, err // the spool of a run that goes on stays
	}
	defer e.removeSpool(x.record.ID)
	if err != nil {
		return nil, err
	}
	if take := agentsandbox.OutputRoomFrom(ctx); take != nil {
		if err := take(ctx, x.spooled.bytes()); err != nil {
			return nil, withExecution(err, rec.ID)
		}
	}
	if err := e.load(x); err != nil {
		return nil, withExecution(fmt.Errorf("the output of %s: %w", rec.ID, err), rec.ID)
	}
	return &x.record, nil
}

// room is how much of n more bytes may be kept of a stream, of which only the spool
// has some bytes and the record the others.
func (e *Engine) room(x *execution, n, spooled, inRecord int) int {
	if limit := x.bounds.output; limit > 0 {
		n = int(max(0, min(int64(n), limit-int64(spooled+inRecord))))
	}
	if x.spooled.broken {
		if e.spoolless.Add(int64(n)) > spoollessOutput {
			e.spoolless.Add(int64(-n))
			return 0
		}
		x.spooled.inMemory += int64(n)
	}
	return n
}

func (e *Engine) removeSpool(id string) {
	if err := e.spool.Remove(id); err != nil {
		e.log.Error("output that was put aside could not be removed; the next start does so", "execution", id, "error", err)
	}
}
