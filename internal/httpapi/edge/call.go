package edge

import (
	"context"
	"net/http"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/idempotency"
)

// Call is one request on its way.
type Call struct {
	edge      *Edge
	surface   *served
	w         *answerWriter
	r         *http.Request
	requestID string
	started   time.Time

	// What the request holds of the server's room, and its place among those of
	// its key.
	held  int64
	leave func()
	// The body, once somebody reads it.
	opened *Body

	// For the log and the metrics.
	route string
	quiet bool
	keyID string
	// For the audit log; the object may be named by a parameter of the path.
	tenant, action, object, objectParam string
	// For a request with an Idempotency-Key: the claim, while it is held, and
	// what settle has to know.
	claim                               *idempotency.Claim
	digest                              string
	keptHeaders                         []string
	streamed, secret, replayed, settled bool

	code  agentsandbox.Code // of an error answer
	cause error             // of an internal one
	gone  bool              // the client went away before its answer
}

type callKey struct{}

func callOf(r *http.Request) *Call {
	c, ok := r.Context().Value(callKey{}).(*Call)
	if !ok {
		panic("edge: a route was reached without its call")
	}
	c.r = r
	return c
}

// Context acts for the caller and ends when the client goes away.
func (c *Call) Context() context.Context { return c.r.Context() }

// Request is the request as it came.
func (c *Call) Request() *http.Request { return c.r }

// RequestID names the request in logs, rows and answers.
func (c *Call) RequestID() string { return c.requestID }

// Route is the pattern that the request matched, for the log and the metrics.
func (c *Call) Route() string { return c.route }

// SetRoute names the route of a request that a surface serves itself.
func (c *Call) SetRoute(pattern string) { c.route = pattern }

// SetDigest says which upload it was, once its body has been read.
func (c *Call) SetDigest(digest string) { c.digest = digest }

// Limits are those of the edge.
func (c *Call) Limits() Limits { return c.edge.limits }

// Writer takes an answer that a route writes itself.
func (c *Call) Writer() http.ResponseWriter { return c.w }

// Flush sends what was written, within the time that a client has.
func (c *Call) Flush() { c.w.flush() }
