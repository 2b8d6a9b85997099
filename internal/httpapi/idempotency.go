package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotency-Replayed"
	// maxKeptBytes is how large an answer is kept whole; a larger one is made
	// again from the record of what the request made.
	maxKeptBytes = 1 << 20
	// pollEvery is how often a run of an earlier process is looked at.
	pollEvery = 100 * time.Millisecond
	// resumeWait bounds how long a repeated request waits for such a run.
	resumeWait = 2 * time.Minute
)

// claimKey claims the Idempotency-Key of a request, if it has one. It tells
// whether the request was answered already, in which case it is answered now.
// body is nil for one that is streamed.
func (c *call) claimKey(rt *route, body []byte) (answered bool, err error) {
	keys := c.r.Header.Values(keyHeader)
	switch {
	case len(keys) == 0:
		return false, nil
	case len(keys) > 1:
		return false, agentsandbox.Invalid(keyHeader, "must be given once, not %d times.", len(keys))
	case c.api.idempotency == nil:
		return false, agentsandbox.Invalid(keyHeader, "is not understood by this server.")
	}
	if err := agentsandbox.ValidateIdempotencyKey(keys[0]); err != nil {
		return false, err
	}
	req := idempotency.Request{Key: keys[0], Method: c.r.Method, Path: c.r.URL.EscapedPath()}
	if c.r.URL.RawQuery != "" {
		req.Path += "?" + c.r.URL.RawQuery
	}
	if rt.upload == nil {
		req.Digest = digestOf(body)
	}
	claim, err := c.api.idempotency.BeginRequest(c.Context(), req)
	if err != nil {
		return false, err
	}
	if claim.Answer == nil && claim.ObjectID == "" {
		c.hold(claim, req.Digest)
		return false, nil
	}
	answered, err = c.replay(rt, claim, req.Digest)
	if c.claim == nil && claim.Answer == nil {
		c.api.idempotency.ReleaseRequest(claim)
	}
	return answered, err
}

// hold makes the request the one that has the claim; settle gives it back.
func (c *call) hold(claim *idempotency.Claim, digest string) {
	c.claim, c.digest = claim, digest
	c.r = c.r.WithContext(idempotency.WithClaim(c.Context(), claim.Seq))
}

// replay answers a request as it was answered before, or, when it was answered
// with a failure or not at all, from what it had made by then. If nothing is left
// of that, the request is served anew where that is no second effect.
func (c *call) replay(rt *route, claim *idempotency.Claim, digest string) (answered bool, err error) {
	c.replayed = true
	c.object = claim.ObjectID
	if rt.upload != nil {
		if digest, err = rt.digest(c); err != nil {
			return false, err
		}
		if known := claim.Request.Digest; known != "" && known != digest {
			return false, agentsandbox.Invalid(keyHeader, "was used for another file in the last 24 hours. Use a new one for each upload.")
		}
	}
	if rt.secret && (claim.Answer == nil || claim.Answer.Status < 300) {
		return false, agentsandbox.Errorf(agentsandbox.CodeConflict,
			"An earlier request with this Idempotency-Key made %s, and its value was shown once. If it did not arrive, revoke it and make another with a new Idempotency-Key.", claim.ObjectID)
	}
	if a := claim.Answer; a != nil && (a.Body != nil || rt.resume == nil) {
		h := c.w.Header()
		for name, value := range a.Header {
			h.Set(name, value)
		}
		h.Set(replayedHeader, "true")
		return true, c.writeEncoded(a.Status, a.Body)
	}
	out, err := c.resume(rt, claim.ObjectID, digest)
	switch {
	case notFound(err) && claim.Answer == nil && rt.anew:
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
	c.w.Header().Set(replayedHeader, "true")
	if h, ok := out.(withHeaders); ok {
		h.setHeaders(c.w.Header())
	}
	return true, c.writeJSON(rt.status, out)
}

func (c *call) resume(rt *route, object, digest string) (any, error) {
	if rt.resume == nil {
		return nil, agentsandbox.Errorf(agentsandbox.CodeFileNotFound, "Nothing is known of %s.", object)
	}
	ctx, cancel := context.WithTimeout(c.Context(), resumeWait)
	defer cancel()
	return rt.resume(ctx, object, digest)
}

func notFound(err error) bool {
	return err != nil && Status(agentsandbox.CodeOf(err)) == http.StatusNotFound
}

// settle does, before an answer leaves, what must not be lost when the server
// dies after it: the answer is kept for a repeated request, and the audit log
// gets its row. It fails for a success whose row cannot be written: what was done
// stands, and whoever asked must hear that nobody wrote it down.
func (c *call) settle(status int, body []byte) error {
	if c.settled {
		return nil
	}
	c.settled = true
	if claim := c.claim; claim != nil {
		err := error(nil)
		if c.worthKeeping(status) {
			err = c.api.idempotency.KeepAnswer(c.Context(), claim, c.digest, c.keptAnswer(status, body))
		} else {
			err = c.api.idempotency.DropRequest(c.Context(), claim)
		}
		if err != nil {
			c.api.log.WarnContext(c.Context(), "the answer to a request with an Idempotency-Key could not be kept",
				"request_id", c.requestID, "error", err)
		}
	}
	err := c.audit(status)
	if err == nil || status >= http.StatusBadRequest {
		return nil
	}
	return agentsandbox.Internal(err, "The request was carried out, but its row in the audit log could not be written. Until that works again, nothing more is changed. Look at what it did before you repeat it.")
}

// worthKeeping tells an answer that a repeated request gets again from one after
// which it is tried again, if it has made nothing: a failure of ours, a state that
// passes, and an upload that did not arrive whole.
func (c *call) worthKeeping(status int) bool {
	if c.streamed && status >= 300 {
		return false
	}
	return status < 500 && !slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, statusGone,
	}, status)
}

func (c *call) keptAnswer(status int, body []byte) idempotency.Answer {
	a := idempotency.Answer{Status: status, Header: map[string]string{}}
	h := c.w.Header()
	for _, name := range []string{"Content-Type", "Cache-Control", "X-Execution-Id"} {
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

// audit writes a row about a request that was to change something, whoever has a
// key and sends it. One that was refused for its rate is not worth a row.
func (c *call) audit(status int) error {
	if c.api.audit == nil || c.keyID == "" || c.action == "" || status == http.StatusTooManyRequests {
		return nil
	}
	entry := agentsandbox.AuditEntry{
		Tenant: c.tenant, KeyID: c.keyID, RequestID: c.requestID, Remote: c.r.RemoteAddr,
		Action: c.action, ObjectID: c.object, Outcome: agentsandbox.AuditOK,
	}
	for _, name := range []string{"session_id", "file_id", "key_id"} {
		if entry.ObjectID == "" {
			entry.ObjectID = shown(c.r.PathValue(name))
		}
	}
	if status >= http.StatusBadRequest {
		entry.Outcome = cmp.Or(string(c.code), "cancelled")
	}
	if c.replayed {
		entry.Detail = "replayed"
	}
	return c.api.audit(c.Context(), entry)
}

// changes tells whether a route's requests are written to the audit log.
func (rt *route) changes() bool {
	return rt.scope != "" && rt.method != http.MethodGet && rt.method != http.MethodHead
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// uploadDigest tells one upload from another: the form around the file differs
// each time that it is sent.
func uploadDigest(name, sha256Hex string) string {
	return digestOf(fmt.Appendf(nil, "%d:%s%s", len(name), name, sha256Hex))
}
