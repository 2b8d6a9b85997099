package clienttest

import (
	"context"
	"sync"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// Keys remembers requests with an Idempotency-Key, for an HTTP layer in front of
// a [Service]. It knows no tenants, and lets requests at once both begin. The
// zero value is empty and ready.
type Keys struct {
	mu     sync.Mutex
	claims map[string]idempotency.Claim
}

// BeginRequest claims a key, or returns the claim with the answer.
func (k *Keys) BeginRequest(_ context.Context, r idempotency.Request) (*idempotency.Claim, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	claim, known := k.claims[r.Key]
	if known && !claim.Request.Same(r) {
		return nil, agentsandbox.Invalid("Idempotency-Key", "was used for another request.")
	}
	if !known {
		claim = idempotency.Claim{Seq: int64(len(k.claims) + 1), Request: r, CreatedAt: Epoch}
		if k.claims == nil {
			k.claims = make(map[string]idempotency.Claim)
		}
		k.claims[r.Key] = claim
	}
	return &claim, nil
}

// KeepAnswer keeps the answer to a request.
func (k *Keys) KeepAnswer(_ context.Context, c *idempotency.Claim, digest string, a idempotency.Answer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept := *c
	kept.Request.Digest, kept.Answer = digest, &a
	k.claims[c.Request.Key] = kept
	return nil
}

// DropRequest forgets a request.
func (k *Keys) DropRequest(_ context.Context, c *idempotency.Claim) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.claims, c.Request.Key)
	return nil
}

// ReleaseRequest leaves a request as it is.
func (k *Keys) ReleaseRequest(*idempotency.Claim) {}
