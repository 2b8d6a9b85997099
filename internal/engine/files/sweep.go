package files

import (
	"context"
	"time"
)

// sweepBatch bounds what one write removes, so that requests get their turn.
const sweepBatch = 100

// SweepContents removes contents that no file names. It looks at every file there
// is, so no start waits for it; what is stored meanwhile is left alone.
func (l *Library) SweepContents(ctx context.Context) {
	removed, err := l.blobs.Sweep(ctx, func(id string) (bool, error) { return l.store.HasFile(ctx, id) })
	if removed > 0 {
		l.log.Info("removed contents that no file names", "blobs", removed)
	}
	if err != nil && ctx.Err() == nil {
		l.log.Error("contents that no file names could not all be removed; the next start tries again", "error", err)
	}
}

// Sweep removes files from before a time that nobody is using.
func (l *Library) Sweep(ctx context.Context, before time.Time) (int, error) {
	for total := 0; ; {
		removed, more, err := l.sweepSome(ctx, before)
		for _, id := range removed {
			l.Remove(id)
		}
		total += len(removed)
		if err != nil || !more {
			return total, err
		}
	}
}

// sweepSome forgets one batch of files. While it does, no request can begin
// to use one: either it finds the file and keeps it, or does not find it.
func (l *Library) sweepSome(ctx context.Context, before time.Time) (removed []string, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := sweepBatch + len(l.pinned)
	ids, err := l.store.OldFiles(ctx, before, limit)
	if err != nil {
		return nil, false, err
	}
	for _, id := range ids {
		if l.pinned[id] == 0 {
			removed = append(removed, id)
		}
	}
	if len(removed) == 0 {
		return nil, false, nil
	}
	if err := l.store.DeleteFiles(ctx, removed); err != nil {
		return nil, false, err
	}
	return removed, len(ids) == limit, nil
}
