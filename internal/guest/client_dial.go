package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// closeWait bounds how long a connection that was closed may take to hand its
// last bytes to a server in the sandbox that does not read them.
const closeWait = 30 * time.Second

// DialLoopback opens a connection to a port on the sandbox's loopback interface,
// which the agent relays. The address is not the caller's to choose: what is
// reached is always in the sandbox.
func (c *Client) DialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	s, err := c.open(ctx, &Request{Method: MethodDial, Port: port})
	if err != nil {
		return nil, fmt.Errorf("dial port %d: %w", port, err)
	}
	var reply struct{}
	if err := RecvDocument(ctx, s, KindReply, MaxReply, &reply); err != nil {
		s.Reset(nil)
		return nil, fmt.Errorf("dial port %d: %w", port, c.explain(err))
	}
	conn := &loopbackConn{c: c, s: s, port: port, reading: make(chan struct{}, 1)}
	conn.ctx, conn.cancel = context.WithCancelCause(context.Background())
	return conn, nil
}

// loopbackConn is a connection that the agent relays. Read has one caller at a
// time, and Write too. It has no deadlines: Close ends what waits.
type loopbackConn struct {
	c      *Client
	s      *wire.Stream
	port   uint16
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	close  sync.Once
	buf    []byte // what came and was not read

	reading chan struct{} // has a token while Read reads, or drain after Close
}

func (l *loopbackConn) Read(p []byte) (int, error) {
	select {
	case l.reading <- struct{}{}:
	case <-l.ctx.Done():
		return 0, net.ErrClosed
	}
	defer func() { <-l.reading }()
	if l.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	for len(l.buf) == 0 {
		m, err := l.s.Recv(l.ctx)
		switch {
		case err == io.EOF:
			return 0, io.EOF
		case err == nil && m.Kind != KindConn:
			err = breach("a message of kind %d among the bytes of a connection", m.Kind)
			fallthrough
		case err != nil:
			return 0, l.failure("read", err)
		}
		l.buf = m.Payload
	}
	n := copy(p, l.buf)
	l.buf = l.buf[n:]
	return n, nil
}

func (l *loopbackConn) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, wire.MaxPayload)
		if err := l.s.Send(l.ctx, KindConn, p[sent:sent+n]); err != nil {
			return sent, l.failure("write", err)
		}
		sent += n
	}
	return sent, nil
}

func (l *loopbackConn) failure(op string, err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: l.RemoteAddr(), Err: l.c.explain(err)}
}

// CloseWrite says that nothing more will be written.
func (l *loopbackConn) CloseWrite() error {
	l.s.End()
	return nil
}

// Close sends what was written, then an end. It does not wait.
func (l *loopbackConn) Close() error {
	l.close.Do(func() {
		l.cancel(net.ErrClosed)
		l.s.End()
		go l.drain()
	})
	return nil
}

// drain takes what the server still sends, so that it gets to the end, and ends
// the stream.
func (l *loopbackConn) drain() {
	l.reading <- struct{}{} // a Read that waits has ended
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	for {
		if _, err := l.s.Recv(ctx); err != nil {
			l.s.Reset(nil)
			return
		}
	}
}

func (l *loopbackConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (l *loopbackConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(l.port)}
}
func (l *loopbackConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (l *loopbackConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (l *loopbackConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
