package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	// keepEvery is how often there is something to do.
	keepEvery = time.Second
	// sweepEvery is how often old rows are looked for, if nothing is kept for
	// less than ten times as long.
	sweepEvery = time.Minute
	// sweepBatch bounds what one write removes, so that requests get their turn.
	sweepBatch = 100
)

// resume goes on with what Recover found: it follows runs, watches sessions, and destroys
// the sandboxes that nobody needs.
func (e *Engine) resume() {
	e.Supervisor.Resume()
	e.Registry.Resume()
	for _, sb := range e.unneeded {
		e.supply.DestroyLater(sb)
	}
	e.unneeded = nil
}

// Start goes on with what Recover found, begins to end sessions that expire and
// to remove what is too old, and removes what an earlier process left in the
// middle of an upload or of an outcome. Close stops it.
func (e *Engine) Start() {
	e.resume()
	e.Registry.Start()
	e.keeping.Go(func() { e.SweepContents(e.keepingCtx) })
	e.keeping.Go(func() { e.SweepLogs(e.keepingCtx) })
	e.keeping.Go(func() {
		ticker := time.NewTicker(keepEvery)
		defer ticker.Stop()
		var swept time.Time
		for {
			select {
			case <-e.keepingCtx.Done():
				return
			case <-ticker.C:
			}
			if now := time.Now(); now.Sub(swept) >= e.sweepPeriod() {
				swept = now
				e.Sweep(e.keepingCtx)
			}
		}
	})
}

func (e *Engine) sweepPeriod() time.Duration {
	period := sweepEvery
	for _, kept := range []time.Duration{e.kept.Files, e.kept.Records} {
		if kept > 0 {
			period = min(period, kept/10)
		}
	}
	return period
}

// stopKeeping ends what Start began.
func (e *Engine) stopKeeping() {
	e.StopKeeping()
	e.stopKeepingNow()
	e.keeping.Wait()
}

// Sweep removes files, and records of executions and of sessions, that are too old,
// batch by batch, until none is left or ctx ends. What cannot
// be removed is logged, and tried again by the next sweep.
func (e *Engine) Sweep(ctx context.Context) {
	now := e.now()
	var files, executions, sessions int
	var errs []error
	if kept := e.kept.Files; kept > 0 {
		n, err := e.Library.Sweep(ctx, now.Add(-kept))
		files, errs = n, append(errs, err)
	}
	if kept := e.kept.Records; kept > 0 {
		n, err := e.Supervisor.Sweep(ctx, now.Add(-kept))
		executions, errs = n, append(errs, err)
		n, err = e.deleteSessions(ctx, now.Add(-kept))
		sessions, errs = n, append(errs, err)
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		e.log.Error("what is too old could not be removed", "error", err)
	}
	if files+executions+sessions > 0 {
		e.log.Info("removed what was too old", "files", files, "executions", executions, "sessions", sessions)
		_ = e.audit.Append(ctx, agentsandbox.AuditEntry{
			Tenant: "", Action: "sweep", Outcome: agentsandbox.AuditOK,
			Detail: fmt.Sprintf("%d files, %d executions, %d sessions", files, executions, sessions),
		})
	}
}

// deleteSessions removes rows of sessions that ended before a time, batch by batch.
func (e *Engine) deleteSessions(ctx context.Context, before time.Time) (int, error) {
	for total := 0; ; {
		n, err := e.store.DeleteSessions(ctx, before, sweepBatch)
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
}
