package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// Idempotency remembers requests with an Idempotency-Key and their answers. Each
// acts for the principal of its context.
type Idempotency interface {
	// BeginRequest claims a key. A claim without an Answer is then given to one
	// of the others.
	BeginRequest(ctx context.Context, r idempotency.Request) (*idempotency.Claim, error)
	// KeepAnswer keeps the answer to a request whose body has that digest.
	KeepAnswer(ctx context.Context, c *idempotency.Claim, digest string, a idempotency.Answer) error
	// DropRequest forgets the request, so that it can be made anew, unless it has
	// made an object.
	DropRequest(ctx context.Context, c *idempotency.Claim) error
	// ReleaseRequest leaves the request as it is.
	ReleaseRequest(c *idempotency.Claim)
}

const (
	// KeyHeader is the header by which a client says that a request is one that it
	// sent before, and ReplayedHeader the one that marks an answer as given before.
	KeyHeader      = "Idempotency-Key"
	ReplayedHeader = "Idempotency-Replayed"
	// maxKeptBytes is how large an answer is kept whole; a larger one is made
	// again from the record of what the request made.
	maxKeptBytes = 1 << 20
	// resumeWait bounds how long a repeated request waits for such a run.
	resumeWait = 2 * time.Minute
)

// claimKey claims the Idempotency-Key of a request, if it has one. It tells
// whether the request was answered already, in which case it is answered now.
// body is nil for one that is streamed.
func (c *Call) claimKey(rt *Route, body []byte) (answered bool, err error) {
	keys := c.r.Header.Values(KeyHeader)
	switch {
	case len(keys) == 0:
		return false, nil
	case len(keys) > 1:
		return false, agentsandbox.Invalid(KeyHeader, "must be given once, not %d times.", len(keys))
	case c.edge.idempotency == nil:
		return false, agentsandbox.Invalid(KeyHeader, "is not understood by this server.")
	}
	if err := agentsandbox.ValidateIdempotencyKey(keys[0]); err != nil {
		return false, err
	}
	req := idempotency.Request{Key: keys[0], Method: c.r.Method, Path: c.r.URL.EscapedPath()}
	if c.r.URL.RawQuery != "" {
		req.Path += "?" + c.r.URL.RawQuery
	}
	if rt.Upload == nil {
		req.Digest = digestOf(body)
	}
	claim, err := c.edge.idempotency.BeginRequest(c.Context(), req)
	if err != nil {
		return false, err
	}
	if claim.Answer == nil && claim.ObjectID == "" {
		c.hold(claim, req.Digest)
		return false, nil
	}
	answered, err = c.replay(rt, claim, req.Digest)
	if c.claim == nil && claim.Answer == nil {
		c.edge.idempotency.ReleaseRequest(claim)
	}
	return answered, err
}

// hold makes the request the one that has the claim; settle gives it back.
func (c *Call) hold(claim *idempotency.Claim, digest string) {
	c.claim, c.digest = claim, digest
	c.r = c.r.WithContext(idempotency.WithClaim(c.Context(), claim.Seq))
}

// replay answers a request as it was answered before, or, when it was answered
// with a failure or not at all, from what it had made by then. If nothing is left
// of that, the request is served anew where that is no second effect.
func (c *Call) replay(rt *Route, claim *idempotency.Claim, digest string) (answered bool, err error) {
	c.replayed = true
	c.object = claim.ObjectID
	if rt.Upload != nil {
		if digest, err = rt.Digest(c); err != nil {
			return false, err
		}
		if known := claim.Request.Digest; known != "" && known != digest {
			return false, agentsandbox.Invalid(KeyHeader, "was used for another file in the last 24 hours. Use a new one for each upload.")
		}
	}
	if rt.Secret && (claim.Answer == nil || claim.Answer.Status < 300) {
		return false, agentsandbox.Errorf(agentsandbox.CodeConflict,
			"An earlier request with this Idempotency-Key made %s, and its value was shown once. If it did not arrive, revoke it and make another with a new Idempotency-Key.", claim.ObjectID)
	}
	if a := claim.Answer; a != nil && (a.Body != nil || rt.Resume == nil) {
		h := c.w.Header()
		for name, value := range a.Header {
			h.Set(name, value)
		}
		h.Set(ReplayedHeader, "true")
		return true, c.writeEncoded(a.Status, a.Body)
	}
	out, err := c.resume(rt, claim.ObjectID, digest)
	switch {
	case notFound(err) && claim.Answer == nil && rt.Anew:
		c.replayed = false
		c.hold(claim, digest)
		return false, nil
	case notFound(err):
		return false, agentsandbox.Errorf(agentsandbox.CodeConflict,
			"The answer to the earlier request with this Idempotency-Key is gone with %s. Use a new Idempotency-Key.", claim.ObjectID)
	case err != nil:
		return false, err
	}
	if claim.Answer == nil {
		c.hold(claim, digest)
	}
	c.w.Header().Set(ReplayedHeader, "true")
	if h, ok := out.(WithHeaders); ok {
		h.SetHeaders(c.w.Header())
	}
	return true, c.WriteJSON(rt.Status, out)
}

func (c *Call) resume(rt *Route, object, digest string) (any, error) {
	if rt.Resume == nil {
		return nil, agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "Nothing is known of %s.", object)
	}
	request := c.r
	defer func() { c.r = request }()
	ctx, cancel := context.WithTimeout(c.Context(), resumeWait)
	defer cancel()
	c.r = request.WithContext(ctx)
	return rt.Resume(c, object, digest)
}

func notFound(err error) bool {
	return err != nil && Status(agentsandbox.CodeOf(err)) == http.StatusNotFound
}

// worthKeeping tells an answer that a repeated request gets again from one after
// which it is tried again, if it has made nothing: a failure of ours, a state that
// passes, and an upload that did not arrive whole.
func (c *Call) worthKeeping(status int) bool {
	if c.streamed && status >= 300 {
		return false
	}
	return status < 500 && !slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, statusGone,
	}, status)
}

func (c *Call) keptAnswer(status int, body []byte) idempotency.Answer {
	a := idempotency.Answer{Status: status, Header: map[string]string{}}
	h := c.w.Header()
	for _, name := range append([]string{"Content-Type", "Cache-Control"}, c.keptHeaders...) {
		if v := h.Get(name); v != "" {
			a.Header[name] = v
		}
	}
	if c.secret && status < 300 || len(body) > maxKeptBytes && c.object != "" {
		return a
	}
	a.Body = slices.Clone(body)
	return a
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
