package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	// tidyEvery is how often sessions are looked at, and so how late one expires.
	tidyEvery = time.Second
	// sweepEvery is how often old rows are looked for, if nothing is kept for
	// less than ten times as long.
	sweepEvery = time.Minute
	// sweepBatch bounds what one write removes, so that requests get their turn.
	sweepBatch = 100
)

// filePins are the files that running requests need, which do not expire.
type filePins struct {
	mu     sync.Mutex
	pinned map[string]int
}

// pin keeps files from expiring until the function that it returns is called.
func (p *filePins) pin(ids []string) (unpin func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		p.pinned[id]++
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, id := range ids {
			if p.pinned[id]--; p.pinned[id] == 0 {
				delete(p.pinned, id)
			}
		}
	})
}

// Start goes on with what Recover found, begins to end sessions that expire and
// to remove what is too old, and removes what an earlier process left in the
// middle of an upload. Close stops it.
func (e *Engine) Start() {
	e.resume()
	e.keeping.Go(func() { e.sweepContents(e.keepingCtx) })
	e.keeping.Go(func() {
		ticker := time.NewTicker(tidyEvery)
		defer ticker.Stop()
		var swept time.Time
		for {
			select {
			case <-e.keepingCtx.Done():
				return
			case <-ticker.C:
			}
			e.expireSessions(e.keepingCtx)
			e.endDueConns()
			e.saveUses(e.keepingCtx, false)
			e.hearWitnesses()
			if now := time.Now(); now.Sub(swept) >= e.sweepPeriod() {
				swept = now
				e.Sweep(e.keepingCtx)
			}
		}
	})
}

// sweepContents removes contents that no file names. It looks at every file there
// is, so no start waits for it; what is stored meanwhile is left alone.
func (e *Engine) sweepContents(ctx context.Context) {
	removed, err := e.blobs.Sweep(ctx, func(id string) (bool, error) { return e.store.HasFile(ctx, id) })
	if removed > 0 {
		e.log.Info("removed contents that no file names", "blobs", removed)
	}
	if err != nil && ctx.Err() == nil {
		e.log.Error("contents that no file names could not all be removed; the next start tries again", "error", err)
	}
}

func (e *Engine) sweepPeriod() time.Duration {
	period := sweepEvery
	for _, kept := range []time.Duration{e.lifetimes.Files, e.lifetimes.Records} {
		if kept > 0 {
			period = min(period, kept/10)
		}
	}
	return period
}

// stopKeeping ends what Start began.
func (e *Engine) stopKeeping() {
	e.stopKeepingNow()
	e.keeping.Wait()
}

// Sweep removes files, records of executions and of sessions, and kept answers
// that are too old, batch by batch, until none is left or ctx ends. What cannot
// be removed is logged, and tried again by the next sweep.
func (e *Engine) Sweep(ctx context.Context) {
	now := e.now()
	var files, executions, sessions int
	var errs []error
	if kept := e.lifetimes.Files; kept > 0 {
		n, err := e.sweepFiles(ctx, now.Add(-kept))
		files, errs = n, append(errs, err)
	}
	if kept := e.lifetimes.Records; kept > 0 {
		n, err := inBatches(ctx, now.Add(-kept), e.store.DeleteExecutions)
		executions, errs = n, append(errs, err)
		n, err = inBatches(ctx, now.Add(-kept), e.store.DeleteSessions)
		sessions, errs = n, append(errs, err)
	}
	_, err := inBatches(ctx, now.Add(-agentsandbox.IdempotencyPeriod), e.store.DropRequests)
	if err := errors.Join(append(errs, err)...); err != nil && ctx.Err() == nil {
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

// inBatches removes old rows until there are none. A batch need not be full: its
// rows may be large.
func inBatches(ctx context.Context, before time.Time, remove func(context.Context, time.Time, int) (int, error)) (int, error) {
	for total := 0; ; {
		n, err := remove(ctx, before, sweepBatch)
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
}

// sweepFiles removes files from before a time that nobody is using.
func (e *Engine) sweepFiles(ctx context.Context, before time.Time) (int, error) {
	for total := 0; ; {
		removed, more, err := e.sweepSomeFiles(ctx, before)
		for _, id := range removed {
			e.removeBlob(id)
		}
		total += len(removed)
		if err != nil || !more {
			return total, err
		}
	}
}

// sweepSomeFiles forgets one batch of files. While it does, no request can begin
// to use one: either it finds the file and keeps it, or does not find it.
func (e *Engine) sweepSomeFiles(ctx context.Context, before time.Time) (removed []string, more bool, err error) {
	e.pins.mu.Lock()
	defer e.pins.mu.Unlock()
	limit := sweepBatch + len(e.pins.pinned)
	ids, err := e.store.OldFiles(ctx, before, limit)
	if err != nil {
		return nil, false, err
	}
	for _, id := range ids {
		if e.pins.pinned[id] == 0 {
			removed = append(removed, id)
		}
	}
	if len(removed) == 0 {
		return nil, false, nil
	}
	if err := e.store.DeleteFiles(ctx, removed); err != nil {
		return nil, false, err
	}
	return removed, len(ids) == limit, nil
}
