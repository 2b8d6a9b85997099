package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// Body reads a request's body within a limit of bytes and of time, and
// remembers why it failed, so that the answer is about the body even when a
// service wraps or replaces the error.
type Body struct {
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
	below *Body

	mu          sync.Mutex // guards deadlines against Interrupt, and the next
	interrupted bool
}

var _ agentsandbox.Interrupter = (*Body)(nil)

// errInterrupted is what a body ends with that nobody wants any more. The answer
// is about that, not about the body.
var errInterrupted = fmt.Errorf("nobody waits for this body any more: %w", context.Canceled)

// Interrupt implements agentsandbox.Interrupter.
func (b *Body) Interrupt() {
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

func (b *Body) wasInterrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interrupted
}

// Read returns *agentsandbox.Error values and io.EOF.
func (b *Body) Read(p []byte) (int, error) {
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
func (b *Body) arm() {
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

// Failure is why the body could not be read to its end; nil if it could, or if
// nobody wanted that.
func (b *Body) Failure() error {
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

// Body opens the request's body. A length that is announced and too large is
// refused before a byte is read.
func (c *Call) Body(what string, limit, around int64) (*Body, error) {
	if e := c.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, agentsandbox.Invalid("Content-Encoding", "must be left out, not %q: send the body as it is.", input.Clip(e))
	}
	if c.r.ContentLength > limit+around {
		return nil, tooLarge(what, limit)
	}
	c.opened = &Body{
		src: c.r.Body, control: c.w.control, limit: limit, around: around, what: what, stall: c.edge.limits.StallTimeout,
	}
	return c.opened, nil
}

// Part reads one part of a body, such as a file in a form, within a limit of its
// own. The deadlines are those of the body.
func (b *Body) Part(src io.Reader, what string, limit int64) *Body {
	return &Body{src: src, limit: limit, what: what, below: b}
}

// Unbounded is a body that a surface passes on: of any length, but not for ever
// without a byte.
func (c *Call) Unbounded(what string) *Body {
	return &Body{src: c.r.Body, control: c.w.control, limit: 1 << 62, what: what, stall: c.edge.limits.StallTimeout}
}

// bodyOf reads the body of a route that reads it whole: nil for one that reads
// none, or that reads it as it arrives.
func (c *Call) bodyOf(rt *Route, s *input.Shape) ([]byte, error) {
	switch {
	case rt.bodyType != nil:
		return c.readBody()
	case rt.Upload == nil:
		return nil, c.readNoBody(s)
	}
	return nil, nil
}

// readBody reads a JSON body, whole.
func (c *Call) readBody() ([]byte, error) {
	body, err := c.Body("The body", c.edge.limits.BodyBytes, 0)
	if err != nil {
		return nil, err
	}
	body.until = time.Now().Add(c.edge.limits.BodyTimeout)
	// Not sized by the announced length, which costs the sender nothing. What has
	// arrived is counted twice: it is there as bytes, and decoded.
	var buf bytes.Buffer
	for {
		n, err := buf.ReadFrom(io.LimitReader(body, bodyStep))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buf.Bytes(), nil
		}
		if err := c.Occupy(2 * int(n)); err != nil {
			c.w.Header().Set("Connection", "close") // or the answer would wait for the rest
			return nil, err
		}
	}
}

// bodyStep is how much of a body is read before it is counted.
const bodyStep = 64 << 10

// maxNoBody is how much of a body is looked at where none belongs.
const maxNoBody = 4 << 10

// readNoBody reads the body of a request that has none to say: nothing, or an
// empty object, which some clients send with everything.
func (c *Call) readNoBody(s *input.Shape) error {
	if c.r.Body == nil || c.r.Body == http.NoBody {
		return nil
	}
	body, err := c.Body("The body", maxNoBody, 0)
	if err == nil {
		var buf bytes.Buffer
		body.until = time.Now().Add(c.edge.limits.BodyTimeout)
		if _, err = buf.ReadFrom(body); err == nil {
			return input.JSON(buf.Bytes(), &Nothing{}, s, true)
		}
	}
	if agentsandbox.CodeOf(err) == agentsandbox.CodeTooLarge {
		return input.InvalidBody("must be left out: nothing of it would be used.")
	}
	return err
}
