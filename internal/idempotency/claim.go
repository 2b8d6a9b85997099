package idempotency

import (
	"context"
	"time"
)

// Request is a request that its sender may repeat: however often it arrives, it has
// one effect and one answer.
type Request struct {
	// Key is the Idempotency-Key that the sender chose.
	Key string
	// Method, Path (with its query) and Digest (of the body, in hex) say which
	// request it is. Digest is empty while the body has not been read.
	Method, Path, Digest string
}

// Same tells whether two requests are one that was repeated. A digest that is
// not known yet is no difference.
func (r Request) Same(other Request) bool {
	return r.Method == other.Method && r.Path == other.Path &&
		(r.Digest == other.Digest || r.Digest == "" || other.Digest == "")
}

// Answer is the answer to a request, to be given again.
type Answer struct {
	Status int
	Header map[string]string
	// Body is nil when it was not kept and is made again from the object.
	Body []byte
}

// Claim is a hold on an Idempotency-Key: whoever has it serves the request, or gives
// its Answer again.
type Claim struct {
	// Seq is the store's number of the request.
	Seq       int64
	Tenant    string
	KeyID     string // the API key that sent it
	Request   Request
	CreatedAt time.Time
	// ObjectID is what the request made; empty for nothing.
	ObjectID string
	// Answer is nil while the request has none. With an ObjectID, the process
	// that served it died before it could answer.
	Answer *Answer
}

type claimKey struct{}

// WithClaim returns a context whose first new row is written together with the
// note that this request made it.
func WithClaim(ctx context.Context, seq int64) context.Context {
	return context.WithValue(ctx, claimKey{}, seq)
}

// ClaimFrom returns the request that a context serves; false for one without an
// Idempotency-Key.
func ClaimFrom(ctx context.Context) (seq int64, ok bool) {
	seq, ok = ctx.Value(claimKey{}).(int64)
	return seq, ok
}
