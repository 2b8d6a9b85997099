package httpapi

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

// occupy counts bytes for the rest of the request.
func (c *call) occupy(n int) error {
	err := c.api.room.take(c.tenant, c.keyID, c.held, int64(n), false)
	if err == nil {
		c.held += int64(n)
	}
	return err
}

// roomWait is how long the outcome of a run waits for room. Other answers leave
// meanwhile, or are given up because nobody takes them.
const roomWait = time.Minute

// awaitRoom is occupy, and waits for room.
func (c *call) awaitRoom(ctx context.Context, n int) error {
	timeout := time.NewTimer(roomWait)
	defer timeout.Stop()
	for {
		given := c.api.room.change()
		err := c.occupy(n)
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

// occupyMade counts what exists already and must not be lost: the outcome of a run.
func (c *call) occupyMade(n int) {
	_ = c.api.room.take(c.tenant, c.keyID, c.held, int64(n), true) // forced: no error
	c.held += int64(n)
}

// release gives back all that the request held.
func (c *call) release() {
	c.api.room.give(c.tenant, c.keyID, c.held)
	c.held = 0
	if c.leave != nil {
		c.leave()
	}
}

// record reads a record with its output, and counts it.
func (c *call) record(id string) (*agentsandbox.Execution, error) {
	return c.read(c.Context(), id, func(*agentsandbox.Execution) bool { return true })
}

// read reads a record with its output, and counts what is to stay. As many at a time
// are read before they are counted as there are places, so that what is not counted
// is bounded too.
func (c *call) read(ctx context.Context, id string, stays func(*agentsandbox.Execution) bool) (*agentsandbox.Execution, error) {
	select {
	case c.api.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.api.readers }()
	e, err := c.api.service.Execution(ctx, id)
	if err != nil || !stays(e) {
		return e, err
	}
	return e, c.occupy(len(e.Stdout) + len(e.Stderr) + len(e.Code) + nameBytes(e.Files))
}

// records is record for a list.
func (c *call) records(filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	select {
	case c.api.readers <- struct{}{}:
	case <-c.Context().Done():
		return nil, c.Context().Err()
	}
	defer func() { <-c.api.readers }()
	page, err := c.api.service.Executions(c.Context(), filter)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range page.Executions {
		n += nameBytes(page.Executions[i].Files)
	}
	return page, c.occupyAnswer(n)
}

func nameBytes(files []agentsandbox.File) (n int) {
	for i := range files {
		n += textBytes(files[i].Filename) + textBytes(files[i].Path)
	}
	return n
}

// textBytes is about what a text holds until it is sent: itself, and its JSON, in
// which a control character takes six bytes.
func textBytes(s string) int {
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

// occupyAnswer counts an answer, as it was read or is encoded. A large one that
// tells of no effect is refused where there is no room: it can be asked for again.
func (c *call) occupyAnswer(n int) error {
	if n > smallAnswer && (c.r.Method == http.MethodGet || c.r.Method == http.MethodHead) {
		return c.occupy(n)
	}
	c.occupyMade(n)
	return nil
}

// maxReaders is how many records are read at once.
const maxReaders = 4
