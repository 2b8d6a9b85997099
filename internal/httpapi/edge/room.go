package edge

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// room counts the bytes that requests hold in the memory of the server: bodies
// that arrive, records that are shown, answers that nobody takes yet. Of the
// whole, a tenant may hold half and a key a quarter, so that nobody can make all
// the others wait. What holds nothing else always gets what it asks for, however
// large that is, or a record larger than its share could never be shown.
type room struct {
	most int64 // 0: no bound

	mu            sync.Mutex
	used          int64
	tenants, keys map[string]int64
	given         chan struct{} // closed when bytes are given back; nil while nobody waits
}

func newRoom(most int64) *room {
	return &room{most: most, tenants: map[string]int64{}, keys: map[string]int64{}}
}

// take counts n bytes more for a request that holds own already, or refuses them.
// Those that exist already are forced: they are counted in any case.
func (r *room) take(tenant, key string, own, n int64, forced bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !forced && r.most > 0 {
		for _, share := range []struct {
			whose      string
			used, most int64
		}{
			{"this key", r.keys[key], r.most / 4},
			{"this tenant", r.tenants[tenant], r.most / 2},
			{"all keys", r.used, r.most},
		} {
			if share.used > own && share.used+n > share.most {
				return &agentsandbox.Error{
					Code: agentsandbox.CodeUnavailable, RetryAfterSeconds: 1,
					Message: fmt.Sprintf("The requests and answers under way of %s fill %d MiB, as much as they may: try again when some have ended, and read answers without pausing (request_memory_mb).",
						share.whose, share.most>>20),
				}
			}
		}
	}
	r.used += n
	r.tenants[tenant] += n
	r.keys[key] += n
	return nil
}

func (r *room) give(tenant, key string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	if r.given != nil && n > 0 {
		close(r.given)
		r.given = nil
	}
	for _, m := range []struct {
		held map[string]int64
		name string
	}{{r.tenants, tenant}, {r.keys, key}} {
		if m.held[m.name] -= n; m.held[m.name] == 0 {
			delete(m.held, m.name)
		}
	}
}

// change returns a channel that is closed when bytes are given back.
func (r *room) change() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.given == nil {
		r.given = make(chan struct{})
	}
	return r.given
}

func (r *room) inUse() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// Occupy counts bytes for the rest of the request.
func (c *Call) Occupy(n int) error {
	err := c.edge.room.take(c.tenant, c.keyID, c.held, int64(n), false)
	if err == nil {
		c.held += int64(n)
	}
	return err
}

// roomWait is how long the outcome of a run waits for room. Other answers leave
// meanwhile, or are given up because nobody takes them.
const roomWait = time.Minute

// AwaitRoom is Occupy, and waits for room.
func (c *Call) AwaitRoom(ctx context.Context, n int) error {
	timeout := time.NewTimer(roomWait)
	defer timeout.Stop()
	for {
		given := c.edge.room.change()
		err := c.Occupy(n)
		if err == nil {
			return nil
		}
		select {
		case <-given:
		case <-timeout.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// OccupyMade counts what exists already and must not be lost: the outcome of a run.
func (c *Call) OccupyMade(n int) {
	_ = c.edge.room.take(c.tenant, c.keyID, c.held, int64(n), true) // forced: no error
	c.held += int64(n)
}

// BeginExecution counts an execution of the caller's key until the function
// returned is called, and refuses one too many.
func (c *Call) BeginExecution() (done func(), err error) { return c.edge.limiter.execution(c.keyID) }

// release gives back all that the request held.
func (c *Call) release() {
	c.edge.room.give(c.tenant, c.keyID, c.held)
	c.held = 0
	if c.leave != nil {
		c.leave()
	}
}

// TextBytes is about what a text holds until it is sent: itself, and its JSON, in
// which a control character takes six bytes.
func TextBytes(s string) int {
	n := 2 * len(s)
	for i := range len(s) {
		if s[i] < ' ' {
			n += 5
		}
	}
	return n
}

// smallAnswer is how large an answer is that nobody is refused.
const smallAnswer = 64 << 10

// OccupyAnswer counts an answer, as it was read or is encoded. A large one that
// tells of no effect is refused where there is no room: it can be asked for again.
func (c *Call) OccupyAnswer(n int) error {
	if n > smallAnswer && (c.r.Method == http.MethodGet || c.r.Method == http.MethodHead) {
		return c.Occupy(n)
	}
	c.OccupyMade(n)
	return nil
}
