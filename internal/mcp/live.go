package mcp

import (
	"context"
	"net/http"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// Bounds of the conversations over HTTP.
const (
	idleConversation = time.Hour
	maxConversations = 1000
	// retrySeconds is when a client that was refused may try again.
	retrySeconds = "10"
)

// liveConversation is one of HTTP. The lock of the handler guards its fields.
type liveConversation struct {
	*conversation
	user    string
	session *sdk.ServerSession
	calls   int       // requests under way
	last    time.Time // when a request last began or ended
	leaving bool
}

// opening is a place for a conversation that is about to begin. The lock of the
// handler guards it.
type opening struct {
	user  string
	taken bool
}

type openingKey struct{}

// admit finds a place for another conversation of a user. Where the user has all
// that one may have, the one that is idle for longest ends. It returns false when
// there is no place.
func (h *Handler) admit(user string) (*opening, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.live)+len(h.opening) >= maxConversations {
		return nil, false
	}
	if limit := h.opts.ConversationsPerKey; limit > 0 {
		count := 0
		for o := range h.opening {
			if o.user == user {
				count++
			}
		}
		var idlest *liveConversation
		for _, c := range h.live {
			if c.user != user || c.leaving {
				continue
			}
			count++
			if c.calls == 0 && (idlest == nil || c.last.Before(idlest.last)) {
				idlest = c
			}
		}
		if count >= limit {
			if idlest == nil {
				return nil, false
			}
			h.leave(idlest)
		}
	}
	o := &opening{user: user}
	h.opening[o] = true
	return o, true
}

// release gives back a place that no conversation has taken.
func (h *Handler) release(o *opening) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.opening, o)
}

// leave ends a conversation, with what runs for it. The lock is held; watch does
// the rest.
func (h *Handler) leave(c *liveConversation) {
	if c.leaving {
		return
	}
	c.leaving = true
	c.stop()
	// It waits for calls under way, which stop has ended.
	h.watchers.Go(func() { _ = c.session.Close() })
}

// admission takes conversations in, and notes when they are used.
func (h *Handler) admission(next http.Handler, userOf func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(sessionHeader)
		switch {
		case id == "" && r.Method == http.MethodPost:
			o, ok := h.admit(userOf(r))
			if !ok {
				w.Header().Set("Retry-After", retrySeconds)
				http.Error(w, "There are too many conversations, and none of this key is idle. End one, or try again later.", http.StatusServiceUnavailable)
				return
			}
			defer h.release(o)
			r = r.WithContext(context.WithValue(r.Context(), openingKey{}, o))
		case r.Method == http.MethodDelete:
			h.stop(id, userOf(r))
		case r.Method == http.MethodPost:
			h.use(id, userOf(r), 1)
			defer h.use(id, userOf(r), -1)
		}
		next.ServeHTTP(w, r)
	})
}

// use notes that a request of a conversation begins (1) or ends (-1).
func (h *Handler) use(id, user string, calls int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.live[id]; c != nil && c.user == user {
		c.calls += calls
		c.last = time.Now()
	}
}

// stop ends what runs for a conversation that its user ends: the protocol's own
// end waits for it.
func (h *Handler) stop(id, user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.live[id]; c != nil && c.user == user {
		c.stop()
	}
}

// watch keeps a conversation, and ends its sandbox after it.
func (h *Handler) watch(id string, c *liveConversation, o *opening) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		c.stop() // its calls end at once, and it gets no sandbox
		return
	}
	if o != nil && !o.taken {
		o.taken = true
		delete(h.opening, o)
	}
	h.live[id] = c
	c.last = time.Now()
	c.revoked = sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.closed {
			h.opts.Logger.Warn("a conversation ends: its API key is no longer valid")
			h.leave(c)
		}
	})
	h.watchers.Go(func() { c.keepOn(h.opts.Lease) })
	h.watchers.Go(func() {
		_ = c.session.Wait()
		c.end(h.opts.Logger)
		h.mu.Lock()
		delete(h.live, id)
		h.mu.Unlock()
	})
}

// keepOn renews the lease of the sandbox until the conversation ends. Whoever
// revokes the API key ends the conversation by it: the key cannot delete the
// sandbox any more, which then ends with its lease.
func (c *conversation) keepOn(lease time.Duration) {
	ticker := time.NewTicker(lease / 4)
	defer ticker.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(c.ctx, endPeriod)
		err := c.keep(ctx)
		cancel()
		if agentsandbox.CodeOf(err) == agentsandbox.CodeUnauthorized {
			c.revoked()
			return
		}
	}
}

// keep uses the sandbox, so that it does not expire, or ends it when no tool has
// used it for the idle time that it was to have. Without a sandbox it asks the
// server whether the API key is still valid. A read is a use, too, and the audit
// log has no rows of reads.
func (c *conversation) keep(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return nil //nolint:nilerr // a tool is making the sandbox
	}
	own := c.own
	idle := time.Duration(c.opts.Sandbox.IdleTimeoutMS) * time.Millisecond
	unused := idle > 0 && c.active == 0 && time.Since(c.used) > idle
	if unused {
		c.own = ""
	}
	c.give()
	switch {
	case own == "":
		_, err := c.service.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 1}})
		return err
	case unused:
		return c.service.DeleteSession(ctx, own)
	}
	_, err := c.service.StatPath(ctx, own, agentsandbox.Workspace)
	return err
}
