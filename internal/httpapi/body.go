package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// bodyReader reads a request's body within a limit of bytes and of time, and
// remembers why it failed, so that the answer is about the body even when a
// service wraps or replaces the error.
type bodyReader struct {
	src     io.Reader
	control *http.ResponseController // of the connection; nil: no deadlines
	limit   int64
	around  int64 // bytes allowed beyond the limit, for what is not the file
	read    int64
	what    string        // for messages: "The body", "The file"
	stall   time.Duration // between two reads
	until   time.Time     // for the whole; zero: no bound
	armed   bool          // the connection has a deadline for reading
	err     error         // why it ended, io.EOF included
	// below is the body that src reads from, if it is another one of these.
	below *bodyReader

	mu          sync.Mutex // guards deadlines against Interrupt, and the next
	interrupted bool
}

var _ agentsandbox.Interrupter = (*bodyReader)(nil)

// errInterrupted is what a body ends with that nobody wants any more. The answer
// is about that, not about the body.
var errInterrupted = fmt.Errorf("nobody waits for this body any more: %w", context.Canceled)

// Interrupt implements agentsandbox.Interrupter.
func (b *bodyReader) Interrupt() {
	b.mu.Lock()
	b.interrupted = true
	if b.control != nil {
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
	b.mu.Unlock()
	if b.below != nil {
		b.below.Interrupt()
	}
}

func (b *bodyReader) wasInterrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interrupted
}

// Read returns *agentsandbox.Error values and io.EOF.
func (b *bodyReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.arm()
	n, err := b.src.Read(p)
	b.read += int64(n)
	if over := b.read - b.limit - b.around; over > 0 {
		n -= int(over)
		b.err = tooLarge(b.what, b.limit)
		return n, b.err
	}
	switch {
	case err == io.EOF:
		b.err = err
	case b.wasInterrupted():
		b.err = errInterrupted
	case err != nil:
		b.err = bodyError(b.what, err)
	}
	return n, b.err
}

// arm sets the deadline of the next read. At the end of the body net/http takes
// it away and watches the connection for a client that leaves; a deadline that
// is set after that would look like one.
func (b *bodyReader) arm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.control == nil || b.interrupted {
		return
	}
	deadline := time.Now().Add(b.stall)
	if !b.until.IsZero() && b.until.Before(deadline) {
		deadline = b.until
	}
	b.armed = true
	_ = b.control.SetReadDeadline(deadline) // a test's recorder has none
}

// failure is why the body could not be read to its end; nil if it could, or if
// nobody wanted that.
func (b *bodyReader) failure() error {
	if b.err == nil || b.err == io.EOF || b.err == errInterrupted {
		return nil
	}
	return b.err
}

func bodyError(what string, err error) error {
	var ours *agentsandbox.Error
	var network net.Error
	switch {
	case err == io.EOF:
		return io.EOF
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &network) && network.Timeout():
		return &agentsandbox.Error{
			Code:    agentsandbox.CodeInvalidRequest,
			Message: what + " did not arrive in time; send it again.",
			Details: []agentsandbox.Detail{{Field: "body", Message: "did not arrive in time."}},
			Err:     err,
		}
	}
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeInvalidRequest,
		Message: what + " ended early; send it again.",
		Details: []agentsandbox.Detail{{Field: "body", Message: "ended early."}},
		Err:     err,
	}
}

func tooLarge(what string, limit int64) error {
	return &agentsandbox.Error{
		Code:    agentsandbox.CodeTooLarge,
		Message: fmt.Sprintf("%s is larger than this server accepts; the limit is %d bytes.", what, limit),
		Details: []agentsandbox.Detail{{Field: "body", Message: fmt.Sprintf("must be at most %d bytes.", limit)}},
	}
}

// body opens the request's body. A length that is announced and too large is
// refused before a byte is read.
func (c *call) body(what string, limit, around int64) (*bodyReader, error) {
	if e := c.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, agentsandbox.Invalid("Content-Encoding", "must be left out, not %q: send the body as it is.", clip(e))
	}
	if c.r.ContentLength > limit+around {
		return nil, tooLarge(what, limit)
	}
	c.opened = &bodyReader{
		src: c.r.Body, control: c.w.control, limit: limit, around: around, what: what, stall: c.api.limits.StallTimeout,
	}
	return c.opened, nil
}
