// Package idempotency has requests that are sent twice served once. It owns the claims
// on Idempotency-Keys, the wait of a repeated request for the answer to the first, and
// the answers that are kept.
//
// It knows neither HTTP nor what a request does: the store notes, with a new row,
// which request made it (WithClaim), so that a request whose server died is not served
// again. A request that is not served is an *agentsandbox.Error; an answer that cannot
// be kept is an error for the log, and the request may be repeated all the same.
package idempotency

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Period is how long a request with an Idempotency-Key is remembered.
const Period = 24 * time.Hour

const (
	// repeatWait is how long a repeated request waits for the first one's answer.
	repeatWait = 2 * time.Minute
	// writeTimeout bounds the writing of an answer whose caller is gone.
	writeTimeout = 30 * time.Second
	// sweepEvery is how often requests are looked for that are too old, and
	// sweepBatch how many one write removes, so that requests get their turn.
	sweepEvery = time.Minute
	sweepBatch = 100
)

// Store keeps requests with an Idempotency-Key. Inserting an object with a context
// that has a claim (WithClaim) notes in the same transaction that the request made it.
type Store interface {
	// ClaimRequest stores a request, or returns the one with the same key that is
	// stored already, and tells whether there was one. One from before oldest is
	// replaced.
	ClaimRequest(ctx context.Context, r Claim, oldest time.Time) (claim Claim, found bool, err error)
	KeepAnswer(ctx context.Context, seq int64, digest string, answer Answer) error
	// DropRequest forgets a request that has made nothing.
	DropRequest(ctx context.Context, seq int64) error
	// DropRequests forgets at most limit requests from before a time.
	DropRequests(ctx context.Context, before time.Time, limit int) (int, error)
}

// Quotas bound what is kept of a tenant's answers.
type Quotas interface {
	// AddAnswer makes room for so many bytes of an answer, and has it inserted. fits
	// is false where there is no room for it even alone.
	AddAnswer(ctx context.Context, tenant string, bytes int64, insert func(ctx context.Context, fits bool) error) error
}

// Options configure Requests.
type Options struct {
	Store  Store
	Quotas Quotas
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Requests are those with an Idempotency-Key. Make them with New. Start removes what is
// too old until Stop, which also ends all waits.
type Requests struct {
	store  Store
	quotas Quotas
	log    *slog.Logger
	clock  func() time.Time

	stopping context.Context
	stop     context.CancelFunc
	sweeping sync.WaitGroup

	mu sync.Mutex
	// serving are those that this process is serving.
	serving map[requestKey]*served
}

type requestKey struct{ tenant, keyID, key string }

type served struct {
	request Request
	ended   chan struct{}
}

// New makes the requests of a server.
func New(opts Options) *Requests {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	stopping, stop := context.WithCancel(context.Background())
	return &Requests{
		store: opts.Store, quotas: opts.Quotas, log: opts.Logger, clock: opts.Now,
		stopping: stopping, stop: stop, serving: map[requestKey]*served{},
	}
}

// now is the time that rows carry: UTC, to the microsecond that stores keep.
func (r *Requests) now() time.Time { return r.clock().UTC().Truncate(time.Microsecond) }

// Start begins to remove requests that are too old.
func (r *Requests) Start() {
	r.sweeping.Go(func() {
		ticker := time.NewTicker(sweepEvery)
		defer ticker.Stop()
		for {
			r.Sweep(r.stopping)
			select {
			case <-r.stopping.Done():
				return
			case <-ticker.C:
			}
		}
	})
}

// Stop ends what Start began, and tells those who wait for the answer to another
// request that the server ends. It can be called again.
func (r *Requests) Stop() {
	r.stop()
	r.sweeping.Wait()
}

// Sweep removes requests that are too old, batch by batch, until none is left or ctx
// ends. What cannot be removed is logged, and tried again by the next sweep.
func (r *Requests) Sweep(ctx context.Context) {
	before := r.now().Add(-Period)
	for {
		n, err := r.store.DropRequests(ctx, before, sweepBatch)
		if err != nil && ctx.Err() == nil {
			r.log.Error("what is too old could not be removed", "error", err)
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// BeginRequest claims an Idempotency-Key for whom ctx acts. Of equal requests at
// once one gets the claim, and the others wait for its answer. A claim with an
// Answer needs nothing more; any other is served, with a context of [WithClaim], and
// then given to KeepAnswer, DropRequest or ReleaseRequest.
//
// Codes: invalid_request (the key was used for another request), conflict (the
// first one takes too long), unavailable (the server ends), storage_full.
func (r *Requests) BeginRequest(ctx context.Context, req Request) (*Claim, error) {
	p, err := agentsandbox.PrincipalFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := agentsandbox.ValidateIdempotencyKey(req.Key); err != nil {
		return nil, err
	}
	key := requestKey{p.Tenant, p.KeyID, req.Key}
	if err := r.enter(ctx, key, req); err != nil {
		return nil, err
	}
	now := r.now()
	claim, found, err := r.store.ClaimRequest(ctx, Claim{Tenant: p.Tenant, KeyID: p.KeyID, Request: req, CreatedAt: now}, now.Add(-Period))
	if err == nil && found && !claim.Request.Same(req) {
		err = otherRequest()
	}
	if err != nil || claim.Answer != nil {
		r.leave(key)
	}
	if err != nil {
		return nil, err
	}
	return &claim, nil
}

// enter waits until nobody else serves the key.
func (r *Requests) enter(ctx context.Context, key requestKey, req Request) error {
	timeout := time.NewTimer(repeatWait)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		other := r.serving[key]
		if other == nil {
			r.serving[key] = &served{request: req, ended: make(chan struct{})}
		}
		r.mu.Unlock()
		switch {
		case other == nil:
			return nil
		case !other.request.Same(req):
			return otherRequest()
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.stopping.Done():
			return &agentsandbox.Error{
				Code: agentsandbox.CodeUnavailable, Message: "The server is shutting down. Try again in a moment.", RetryAfterSeconds: 5,
			}
		case <-timeout.C:
			return agentsandbox.Errorf(agentsandbox.CodeConflict,
				"The first request with this Idempotency-Key is still being served. Ask again for its answer.")
		}
	}
}

func (r *Requests) leave(key requestKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if served := r.serving[key]; served != nil {
		delete(r.serving, key)
		close(served.ended)
	}
}

func otherRequest() error {
	return agentsandbox.Invalid("Idempotency-Key", "was used for another request in the last 24 hours. "+
		"Use a new one for each request, and the same one only to repeat it.")
}

// KeepAnswer keeps the answer to a claimed request, whose body has that digest, and
// ends the waits of those who repeated it. Room is made for the answer as for output.
func (r *Requests) KeepAnswer(ctx context.Context, c *Claim, digest string, a Answer) error {
	defer r.ReleaseRequest(c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return r.quotas.AddAnswer(ctx, c.Tenant, int64(len(a.Body)), func(ctx context.Context, fits bool) error {
		if !fits {
			// Without an object it is forgotten, and the request is served anew.
			if err := r.store.DropRequest(ctx, c.Seq); err != nil {
				return err
			}
			if a.Status < 300 {
				a.Body = nil // made again from the object
			}
		}
		return r.store.KeepAnswer(ctx, c.Seq, digest, a)
	})
}

// ReleaseRequest leaves a claimed request as it is, for the next one.
func (r *Requests) ReleaseRequest(c *Claim) {
	r.leave(requestKey{c.Tenant, c.KeyID, c.Request.Key})
}

// DropRequest forgets a claimed request, so that repeating it tries again. One
// that has made an object stays claimed: repeating it asks what became of that.
func (r *Requests) DropRequest(ctx context.Context, c *Claim) error {
	defer r.ReleaseRequest(c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return r.store.DropRequest(ctx, c.Seq)
}
