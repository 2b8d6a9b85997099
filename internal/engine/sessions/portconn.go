package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// PortLimits bound the connections to ports of sessions; 0: no bound.
type PortLimits struct {
	// PerSession, PerKey and PerURL are how many may be open at once. Those through
	// a URL count for the key that made it.
	PerSession, PerKey, PerURL int
	// Idle ends a connection on which no byte has passed for so long.
	Idle time.Duration
}

// idleGivesWay is how long a connection has been idle that is ended in favour of a
// new one, where there are as many as there may be.
const idleGivesWay = time.Minute

var (
	errPortIdle    = errors.New("no byte passed for too long")
	errPortCrowded = errors.New("it was idle, and another connection needed its place")
	errNetworkOff  = errors.New("the network of the session was switched off")
	errKeyRevoked  = errors.New("the key was revoked")
	errKeyExpired  = errors.New("the key has expired")
)

// portUse is what a connection to a port counts for.
type portUse struct {
	port uint16
	key  string // who dialled, or made the URL
	url  string // the opening; empty for a tunnel
}

// portConn is a connection into a session. It ends with the session, when it is
// idle, and when its key or the network is taken away, whoever holds it then: what
// it held is free. Beside the methods of net.Conn it has CloseWrite, if the inner
// connection has, and Done.
type portConn struct {
	visit  *Visit
	use    portUse
	touch  func()
	last   atomic.Int64 // when a byte passed last; in nanoseconds since 1970
	ended  chan struct{}
	remove func() // takes it off the registry's list

	mu    sync.Mutex
	conn  net.Conn // nil while it is dialled
	cause error    // why it ended; nil: it has not
}

// dialPort opens a connection to a port of a session, which is a use of the
// session until it is closed.
func (r *Registry) dialPort(ctx context.Context, tenant, id string, use portUse) (net.Conn, error) {
	ctx, done, err := r.work.Begin(ctx, "dialPort")
	if err != nil {
		return nil, err
	}
	// An open connection is a use of the session, but no work to wait for.
	defer done()
	ctx, v, err := r.Visit(ctx, tenant, id, "port connection")
	if err != nil {
		return nil, err
	}
	if !r.network.HasDevice(v.sandbox.ID()) {
		v.Leave()
		return nil, noDevice(v.session)
	}
	c, err := r.admitConn(v, use)
	if err != nil {
		v.Leave()
		return nil, err
	}
	inside, err := r.dialInside(ctx, v.sandbox, use.port)
	if err == nil {
		err = c.begin(inside)
	}
	if err == nil {
		return c, nil
	}
	over := context.Cause(ctx) // before the end of the visit is the cause
	switch ended := c.end(err); {
	case ended == nil && over != nil:
		return nil, supply.Explain(v.Explain(over), "") // the client has gone, or the server ends
	case ended != nil && v.ended.Err() != nil:
		return nil, supply.Explain(v.Explain(context.Cause(v.ended)), "")
	case ended != nil:
		return nil, &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "The connection was given up: " + ended.Error() + ".", Err: err}
	}
	return nil, &agentsandbox.Error{
		Code:    agentsandbox.CodePortNotReached,
		Message: fmt.Sprintf("Nobody listens on port %d of the session %s: start a server there.", use.port, id),
		Err:     err,
	}
}

// dialInside dials the sandbox's own address, and where nobody listens there, its
// loopback interface.
func (r *Registry) dialInside(ctx context.Context, sb runtime.Sandbox, port uint16) (net.Conn, error) {
	conn, err := r.network.Dial(ctx, sb.ID(), port)
	if errors.Is(err, runtime.ErrRefused) {
		return sb.DialLoopback(ctx, port)
	}
	return conn, err
}

// admitConn counts a connection that is about to be dialled, if there may be one
// more; then end must follow.
func (r *Registry) admitConn(v *Visit, use portUse) (*portConn, error) {
	r.mu.Lock()
	gone, err := r.makeRoom(v.session, use)
	if err == nil {
		err = supply.Explain(v.Explain(context.Cause(v.ended)), "") // it ended a moment ago
	}
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	c := &portConn{visit: v, use: use, ended: make(chan struct{})}
	c.touch = func() { c.last.Store(r.clock().UnixNano()) }
	c.touch()
	c.remove = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, c)
	}
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	if gone != nil {
		_ = gone.end(errPortCrowded)
	}
	return c, nil
}

// makeRoom tells whether there may be one more connection, and which one has to
// end for it; the registry's lock is held.
func (r *Registry) makeRoom(s *session, use portUse) (gone *portConn, err error) {
	if err := r.checkNetworkOn(s); err != nil {
		return nil, err
	}
	if r.keyEnded(use.key) {
		return nil, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "The API key is not valid: it is unknown, revoked or expired.")
	}
	for _, bound := range []struct {
		most    int
		of      string
		setting string
		same    func(c *portConn) bool
	}{
		{r.ports.PerURL, "through this URL", "port_max_connections_per_url", func(c *portConn) bool { return use.url != "" && c.use.url == use.url }},
		{r.ports.PerSession, "to ports of this session", "port_max_connections", func(c *portConn) bool { return c.visit.session == s }},
		{r.ports.PerKey, "to ports with this key and its URLs", "port_max_connections_per_key", func(c *portConn) bool { return use.key != "" && c.use.key == use.key }},
	} {
		n := 0
		var idlest *portConn
		for c := range r.conns {
			if c != gone && bound.same(c) {
				n++
				if idlest == nil || c.last.Load() < idlest.last.Load() {
					idlest = c
				}
			}
		}
		if bound.most == 0 || n < bound.most {
			continue
		}
		if gone != nil || r.clock().Sub(time.Unix(0, idlest.last.Load())) < idleGivesWay {
			return nil, &agentsandbox.Error{
				Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: 1,
				Message: fmt.Sprintf("There are %d connections %s, which is the most (%s). Close one, or try again.", n, bound.of, bound.setting),
			}
		}
		gone = idlest
	}
	return gone, nil
}

// endConns ends the connections that pick chooses; it is called with the engine's
// lock held.
func (r *Registry) endConns(cause error, pick func(c *portConn) bool) {
	r.mu.Lock()
	picked := slices.DeleteFunc(slices.Collect(maps.Keys(r.conns)), func(c *portConn) bool { return !pick(c) })
	r.mu.Unlock()
	for _, c := range picked {
		_ = c.end(cause)
	}
}

// endDueConns ends the connections on which nothing has passed for too long, and
// those of keys that have expired.
func (r *Registry) endDueConns() {
	r.endConns(errKeyExpired, func(c *portConn) bool { return r.keyEnded(c.use.key) })
	if r.ports.Idle == 0 {
		return
	}
	before := r.clock().Add(-r.ports.Idle).UnixNano()
	r.endConns(errPortIdle, func(c *portConn) bool { return c.last.Load() <= before })
}

// begin gives the connection its bytes, unless it has ended meanwhile.
func (c *portConn) begin(conn net.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		conn.Close()
		return c.cause
	}
	c.conn = conn
	c.touch()
	return nil
}

// end ends the connection for a reason, and frees what it holds. The first reason
// stays: if there was one, it is returned.
func (c *portConn) end(cause error) (earlier error) {
	c.mu.Lock()
	if c.cause != nil {
		defer c.mu.Unlock()
		return c.cause
	}
	c.cause = cause
	conn := c.conn
	c.mu.Unlock()
	close(c.ended)
	if conn != nil {
		conn.Close()
	}
	c.remove()
	c.visit.Leave() // also ends dialling
	return nil
}

// Done is closed when the connection has ended. Whoever copies from it to a slow
// client stops then.
func (c *portConn) Done() <-chan struct{} { return c.ended }

// Read implements net.Conn.
func (c *portConn) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	return n, c.passed(n, err)
}

// Write implements net.Conn.
func (c *portConn) Write(p []byte) (int, error) {
	n, err := c.conn.Write(p)
	return n, c.passed(n, err)
}

// passed notes that bytes passed, and says why the connection was ended.
func (c *portConn) passed(n int, err error) error {
	if n > 0 {
		c.touch()
	}
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil || errors.Is(c.cause, net.ErrClosed) {
		return err
	}
	return &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "The connection to the port was ended: " + c.cause.Error() + ".", Err: err}
}

// Close implements net.Conn.
func (c *portConn) Close() error {
	_ = c.end(net.ErrClosed)
	return nil
}

// CloseWrite says that nothing more will be written.
func (c *portConn) CloseWrite() error {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this connection cannot be closed in one direction")
	}
	return half.CloseWrite()
}

func (c *portConn) LocalAddr() net.Addr                { return c.conn.LocalAddr() }
func (c *portConn) RemoteAddr() net.Addr               { return c.conn.RemoteAddr() }
func (c *portConn) SetDeadline(t time.Time) error      { return c.conn.SetDeadline(t) }
func (c *portConn) SetReadDeadline(t time.Time) error  { return c.conn.SetReadDeadline(t) }
func (c *portConn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }
