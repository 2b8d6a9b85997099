package keys

import (
	"context"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	// writeUsesEvery is how exact a key's time of last use is: it is written at most
	// this often.
	writeUsesEvery = time.Minute
	// writeTimeout bounds the writing, whatever became of the request.
	writeTimeout = 30 * time.Second
)

// uses are times of last use that are not in the store yet, by key.
type uses struct {
	mu      sync.Mutex
	at      map[string]time.Time
	flushed time.Time
}

// use notes that a key is used now.
func (r *Registry) use(ctx context.Context, key agentsandbox.Key, now time.Time) {
	if now.Sub(key.LastUsedAt) < writeUsesEvery {
		return
	}
	u := &r.uses
	u.mu.Lock()
	u.at[key.ID] = now
	due := now.Sub(u.flushed) >= writeUsesEvery
	if due {
		u.flushed = now
	}
	u.mu.Unlock()
	if due {
		if err := r.flushUses(); err != nil {
			r.log.WarnContext(ctx, "the last use of keys could not be written", "error", err)
		}
	}
}

func (r *Registry) flushUses() error {
	u := &r.uses
	u.mu.Lock()
	used := u.at
	u.at = map[string]time.Time{}
	u.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return r.store.TouchKeys(ctx, used)
}
