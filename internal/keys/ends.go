package keys

import (
	"context"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// ends are when keys stopped, or stop, being valid, as far as that is known: of those
// that were revoked, and of those in use that expire.
type ends struct {
	mu sync.Mutex
	at map[string]time.Time
}

// note remembers when a key stops being valid, if it does.
func (e *ends) note(key agentsandbox.Key) {
	end := key.ExpiresAt
	if !key.RevokedAt.IsZero() {
		end = key.RevokedAt
	}
	if end.IsZero() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// Whoever read the key before it was revoked must not undo that.
	if known, ok := e.at[key.ID]; !ok || end.Before(known) {
		e.at[key.ID] = end
	}
}

// End returns when a key stops, or stopped, being valid; false if that is not known.
// It is known of every key that was used or revoked since LoadEnds, and stops at all.
func (r *Registry) End(id string) (end time.Time, known bool) {
	r.ends.mu.Lock()
	defer r.ends.mu.Unlock()
	end, known = r.ends.at[id]
	return end, known
}

// LoadEnds learns from the store when keys end. A server needs it that takes over what
// keys have opened: the process before it may have died between revoking a key and
// closing that.
func (r *Registry) LoadEnds(ctx context.Context) error {
	for page := (agentsandbox.Page{Limit: agentsandbox.MaxPageLimit}); ; page.Offset += page.Limit {
		list, err := r.store.Keys(ctx, "", page)
		if err != nil {
			return err
		}
		for _, k := range list.Keys {
			r.ends.note(k)
		}
		if len(list.Keys) < page.Limit {
			return nil
		}
	}
}
