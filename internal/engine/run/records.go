package run

import (
	"context"
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
	rec, log, err := s.store.Execution(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	if err = s.loadOutput(&rec, log); gone(err) { // it was dropped, or the record deleted, since
		if rec, log, err = s.store.Execution(ctx, p.Tenant, id); err == nil {
			err = s.loadOutput(&rec, log)
		}
	}
	if err != nil {
		return nil, err
	}
	if rec.OutputDropped {
		rec.Stderr = notes(eventlog.Total{}, droppedNote(&rec))
	}
	return &rec, nil
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
