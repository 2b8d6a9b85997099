package run

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/cursor"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// Execution implements agentsandbox.ExecutionService.
func (s *Supervisor) Execution(ctx context.Context, id string) (*agentsandbox.Execution, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	var rec *agentsandbox.Execution
	err = s.readRow(ctx, p.Tenant, id, func(found *agentsandbox.Execution, log eventlog.Sealed) error {
		rec = found
		return s.loadOutput(found, log)
	})
	if err != nil {
		return nil, err
	}
	if rec.OutputDropped {
		rec.Stderr = notes(eventlog.Total{}, droppedNote(rec))
	}
	return rec, nil
}

// Output reads what was kept of a stream of a run, which stays where it is. held is how
// many bytes of it are in memory all the same. Codes: execution_not_found, conflict (it
// was dropped).
func (s *Supervisor) Output(ctx context.Context, id string, stream agentsandbox.Stream) (output io.ReadSeekCloser, held int, err error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, 0, err
	}
	err = s.readRow(ctx, p.Tenant, id, func(rec *agentsandbox.Execution, log eventlog.Sealed) (err error) {
		kind, inRow := eventlog.Stdout, rec.Stdout
		if stream == agentsandbox.Stderr {
			kind, inRow = eventlog.Stderr, rec.Stderr
		}
		switch {
		case rec.OutputDropped:
			return agentsandbox.OutputNotKept(id)
		case log.Size == 0:
			output, held = inMemory{bytes.NewReader(inRow)}, len(inRow)
			return nil
		}
		held = len(log.Inline)
		output, err = s.logs.Output(id, log, kind)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return output, held, nil
}

// inMemory is output of a run from before there were logs, or of one that goes on.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// readRow has the row of a run read, and its log: once more, with what the row says
// then, if the log was removed meanwhile.
func (s *Supervisor) readRow(ctx context.Context, tenant, id string, read func(*agentsandbox.Execution, eventlog.Sealed) error) error {
	for again := true; ; again = false {
		rec, log, err := s.store.Execution(ctx, tenant, id)
		if err != nil {
			return err
		}
		if err = read(&rec, log); !gone(err) || !again {
			return err
		}
	}
}

// Executions implements agentsandbox.ExecutionService.
func (s *Supervisor) Executions(ctx context.Context, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	cursors, err := cursor.ForList(s.vault, "executions", p.Tenant, filter.SessionID, filter.Status, filter.Metadata)
	if err != nil {
		return nil, err
	}
	page := filter.Page
	if filter.Page, err = cursors.Open(page); err != nil {
		return nil, err
	}
	list, err := s.store.Executions(ctx, p.Tenant, filter)
	list.Page, list.NextCursor = page, cursors.Seal(list.NextCursor)
	return &list, err
}

// sweepBatch bounds what one write removes, so that requests get their turn.
const sweepBatch = 100

// Sweep removes records of runs that ended before a time, and their logs, batch by
// batch, and returns how many. A batch need not be full: its rows may be large.
func (s *Supervisor) Sweep(ctx context.Context, before time.Time) (int, error) {
	for total := 0; ; {
		ids, err := s.store.DeleteExecutions(ctx, before, sweepBatch)
		s.removeLogs(ids...)
		total += len(ids)
		if err != nil || len(ids) == 0 {
			return total, err
		}
	}
}

// SweepLogs removes the files of logs that no row needs. What is written meanwhile is
// left alone.
func (s *Supervisor) SweepLogs(ctx context.Context) {
	removed, err := s.logs.Sweep(ctx, func(id string) (bool, error) { return s.store.NeedsLog(ctx, id) })
	if removed > 0 {
		s.log.Info("removed event logs that no run needs", "logs", removed)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Error("event logs that no run needs could not all be removed; the next start tries again", "error", err)
	}
}
