package engine

import (
	"context"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// repeatWait is how long a repeated request waits for the first one's answer.
const repeatWait = 2 * time.Minute

// requests are those with an Idempotency-Key that this process is serving.
type requests struct {
	mu      sync.Mutex
	serving map[requestKey]*servedRequest
}

type requestKey struct{ tenant, keyID, key string }

type servedRequest struct {
	request agentsandbox.IdempotentRequest
	ended   chan struct{}
}

// BeginRequest claims an Idempotency-Key for whom ctx acts. Of equal requests at
// once one gets the claim, and the others wait for its answer. A claim with an
// Answer needs nothing more; any other is served, with a context of
// [agentsandbox.WithClaim], and then given to KeepAnswer or DropRequest.
//
// Codes: invalid_request (the key was used for another request), conflict (the
// first one takes too long), storage_full.
func (e *Engine) BeginRequest(ctx context.Context, r agentsandbox.IdempotentRequest) (*agentsandbox.RequestClaim, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := agentsandbox.ValidateIdempotencyKey(r.Key); err != nil {
		return nil, err
	}
	key := requestKey{p.Tenant, p.KeyID, r.Key}
	if err := e.enterRequest(ctx, key, r); err != nil {
		return nil, err
	}
	now := e.now()
	claim, found, err := e.store.ClaimRequest(ctx, agentsandbox.RequestClaim{
		Tenant: p.Tenant, KeyID: p.KeyID, Request: r, CreatedAt: now,
	}, now.Add(-agentsandbox.IdempotencyPeriod))
	if err == nil && found && !claim.Request.Same(r) {
		err = otherRequest()
	}
	if err != nil || claim.Answer != nil {
		e.leaveRequest(key)
	}
	if err != nil {
		return nil, err
	}
	return &claim, nil
}

// enterRequest waits until nobody else serves the key.
func (e *Engine) enterRequest(ctx context.Context, key requestKey, r agentsandbox.IdempotentRequest) error {
	timeout := time.NewTimer(repeatWait)
	defer timeout.Stop()
	for {
		e.requests.mu.Lock()
		other := e.requests.serving[key]
		if other == nil {
			e.requests.serving[key] = &servedRequest{request: r, ended: make(chan struct{})}
		}
		e.requests.mu.Unlock()
		switch {
		case other == nil:
			return nil
		case !other.request.Same(r):
			return otherRequest()
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.work.Context().Done():
			return &agentsandbox.Error{
				Code: agentsandbox.CodeUnavailable, Message: "The server is shutting down. Try again in a moment.", RetryAfterSeconds: 5,
			}
		case <-timeout.C:
			return agentsandbox.Errorf(agentsandbox.CodeConflict,
				"The first request with this Idempotency-Key is still being served. Ask again for its answer.")
		}
	}
}

func (e *Engine) leaveRequest(key requestKey) {
	e.requests.mu.Lock()
	defer e.requests.mu.Unlock()
	if served := e.requests.serving[key]; served != nil {
		delete(e.requests.serving, key)
		close(served.ended)
	}
}

func otherRequest() error {
	return agentsandbox.Invalid("Idempotency-Key", "was used for another request in the last 24 hours. Use a new one for each request, and the same one only to repeat it.")
}

// KeepAnswer keeps the answer to a claimed request, whose body has that digest,
// and lets those go on that wait for it. It makes room for it as for output.
func (e *Engine) KeepAnswer(ctx context.Context, c *agentsandbox.RequestClaim, digest string, a agentsandbox.KeptAnswer) error {
	defer e.leaveRequest(requestKey{c.Tenant, c.KeyID, c.Request.Key})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	u, done, err := e.quotas.Count(ctx, c.Tenant)
	if err != nil {
		return err
	}
	defer done()
	fits, err := e.quotas.MakeOutputRoom(ctx, c.Tenant, u, 0, int64(len(a.Body)))
	if err != nil {
		return err
	}
	if !fits {
		// Without an object it is forgotten, and the request is served anew.
		if err := e.store.DropRequest(ctx, c.Seq); err != nil {
			return err
		}
		if a.Status < 300 {
			a.Body = nil // made again from the object
		}
	}
	return e.store.KeepAnswer(ctx, c.Seq, digest, a)
}

// ReleaseRequest leaves a claimed request as it is, for the next one.
func (e *Engine) ReleaseRequest(c *agentsandbox.RequestClaim) {
	e.leaveRequest(requestKey{c.Tenant, c.KeyID, c.Request.Key})
}

// DropRequest forgets a claimed request, so that repeating it tries again. One
// that has made an object stays claimed: repeating it asks what became of that.
func (e *Engine) DropRequest(ctx context.Context, c *agentsandbox.RequestClaim) error {
	defer e.leaveRequest(requestKey{c.Tenant, c.KeyID, c.Request.Key})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return e.store.DropRequest(ctx, c.Seq)
}
