package guest

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// ReadFile opens a regular file. Reading ends with ctx.
func (c *Client) ReadFile(ctx context.Context, p string) (agentsandbox.PathInfo, io.ReadCloser, error) {
	p, err := cleanPath(p)
	if err != nil {
		return agentsandbox.PathInfo{}, nil, err
	}
	s, err := c.open(ctx, &Request{Method: MethodRead, Path: []byte(p)})
	if err != nil {
		return agentsandbox.PathInfo{}, nil, fmt.Errorf("read %q: %w", p, err)
	}
	s.End()
	var e Entry
	if err := RecvDocument(ctx, s, KindReply, MaxReply, &e); err != nil {
		s.Reset(nil)
		return agentsandbox.PathInfo{}, nil, fmt.Errorf("read %q: %w", p, c.explain(err))
	}
	info, err := e.pathInfo(p)
	if err == nil && info.Kind != agentsandbox.PathFile {
		err = breach("%q was opened and is not a regular file", p)
	}
	if err != nil {
		s.Reset(nil)
		return agentsandbox.PathInfo{}, nil, c.explain(err)
	}
	return info, &fileReader{c: c, ctx: ctx, s: s, path: p, left: info.SizeBytes}, nil
}

// fileReader reads what the agent sends of a file.
type fileReader struct {
	c    *Client
	ctx  context.Context // of the request: an io.Reader has no other way to end
	s    *wire.Stream
	path string
	left int64  // what the agent may still send
	buf  []byte // what came and was not read
	err  error
}

func (r *fileReader) Read(b []byte) (int, error) {
	for len(r.buf) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.buf, r.err = r.next()
	}
	n := copy(b, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *fileReader) next() ([]byte, error) {
	m, err := r.s.Recv(r.ctx)
	switch {
	case err == io.EOF:
		return nil, io.EOF
	case err != nil:
	case m.Kind != KindData:
		err = breach("a message of kind %d among the bytes of a file", m.Kind)
	case int64(len(m.Payload)) > r.left:
		err = breach("more bytes than %q has", r.path)
	default:
		r.left -= int64(len(m.Payload))
		return m.Payload, nil
	}
	r.s.Reset(nil)
	return nil, fmt.Errorf("read %q: %w", r.path, r.c.explain(err))
}

// errReaderClosed is what reading after Close returns.
var errReaderClosed = errors.New("the file was closed")

func (r *fileReader) Close() error {
	r.s.Reset(nil)
	r.buf, r.err = nil, errReaderClosed
	return nil
}

// WriteFile writes body to a file, through a temporary name beside it. While it
// waits for body it does not notice that ctx is done.
func (c *Client) WriteFile(ctx context.Context, p string, body io.Reader) (agentsandbox.PathInfo, error) {
	p, err := cleanPath(p)
	if err != nil {
		return agentsandbox.PathInfo{}, err
	}
	s, err := c.open(ctx, &Request{Method: MethodWrite, Path: []byte(p)})
	if err != nil {
		return agentsandbox.PathInfo{}, fmt.Errorf("write %q: %w", p, err)
	}
	bodyErr, err := sendBody(ctx, s, body)
	if err == nil && bodyErr != nil {
		err = s.Send(ctx, KindAbort, nil)
	}
	var e Entry
	if err == nil {
		s.End()
		err = RecvDocument(ctx, s, KindReply, MaxReply, &e)
	}
	if bodyErr != nil {
		// The reply says that nothing was left; if there was none, the sandbox
		// is lost or the caller in a hurry, and the first error still holds.
		s.Reset(nil)
		return agentsandbox.PathInfo{}, fmt.Errorf("write %q: read the body: %w", p, bodyErr)
	}
	if err == nil {
		err = recvEnd(ctx, s)
	}
	if err != nil {
		s.Reset(nil)
		return agentsandbox.PathInfo{}, fmt.Errorf("write %q: %w", p, c.explain(err))
	}
	info, err := e.pathInfo(p)
	return info, c.explain(err)
}

// sendBody sends body to its end. It returns apart what went wrong with the
// body and what with the stream.
func sendBody(ctx context.Context, s *wire.Stream, body io.Reader) (bodyErr, err error) {
	buf := make([]byte, wire.MaxPayload)
	for {
		n, bodyErr := body.Read(buf)
		if n > 0 {
			if err := s.Send(ctx, KindData, buf[:n]); err != nil {
				return nil, err
			}
		}
		if bodyErr == io.EOF {
			return nil, nil
		}
		if bodyErr != nil {
			return bodyErr, nil
		}
	}
}
