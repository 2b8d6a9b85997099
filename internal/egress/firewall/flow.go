package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

var began = time.Now()

// elapsed is a time that goes on evenly when somebody sets the clock.
func elapsed() time.Duration { return time.Since(began) }

// flow is one connection of a sandbox, from its acceptance to its end.
type flow struct {
	gate   *Gate
	dst    netip.AddrPort
	local  net.Conn // the sandbox's side
	remote *meter   // the first connection outside

	ctx    context.Context
	cancel context.CancelFunc
	unhook func() bool  // from the end of the link
	active atomic.Int64 // when a byte passed last, as elapsed has it
	idle   *time.Timer
	in     atomic.Int64
	out    atomic.Int64

	mu      sync.Mutex
	closed  bool
	remotes []net.Conn // every connection outside
	kind    string     // tcp, tls or http
	// judged: names holds what the bytes were judged by (SNI, Host), or for other
	// protocols the allowed names of the address. Otherwise nothing was looked at,
	// and names holds all names of the address.
	judged bool
	names  []string
}

// open registers a flow, and judges it by the policy that is in force by then.
func (g *Gate) open(ctx context.Context, dst netip.AddrPort, local net.Conn, remote *net.TCPConn) (*flow, Verdict) {
	own, cancel := context.WithCancel(ctx)
	f := &flow{gate: g, dst: dst, local: local, ctx: own, cancel: cancel, kind: "tcp"}
	f.names = g.pins.names(dst.Addr(), time.Now())
	f.remote = f.adopt(remote)
	f.active.Store(int64(elapsed()))
	f.mu.Lock()
	f.idle = time.AfterFunc(g.limits.Idle, f.checkIdle)
	f.mu.Unlock()
	g.ledger.connections.Add(1)

	g.mu.Lock()
	g.flows[f] = struct{}{}
	closed := g.closed
	g.mu.Unlock()
	// The link's end ends its connections.
	f.unhook = context.AfterFunc(ctx, f.close)
	if closed {
		return f, refused(ReasonOff, "the sandbox is ending")
	}
	// From here on SetPolicy sees the flow; what it set before is seen here.
	return f, g.judgeAddress(dst)
}

// adopt makes a connection outside part of the flow.
func (f *flow) adopt(remote *net.TCPConn) *meter {
	m := &meter{Conn: remote, tcp: remote, flow: f}
	f.mu.Lock()
	f.remotes = append(f.remotes, remote)
	closed := f.closed
	f.mu.Unlock()
	if closed {
		remote.Close()
	}
	return m
}

// checkIdle cuts a flow that has been still for too long, or looks again when it
// could be.
func (f *flow) checkIdle() {
	still := elapsed() - time.Duration(f.active.Load())
	if left := f.gate.limits.Idle - still; left > 0 {
		f.mu.Lock()
		if !f.closed {
			f.idle.Reset(left)
		}
		f.mu.Unlock()
		return
	}
	f.cut(refused(ReasonLimit, "idle for %s", f.gate.limits.Idle))
}

// cut ends a flow for a reason that the log shall show.
func (f *flow) cut(v Verdict) { f.shut(v, nil) }

// cutWith ends a flow and lets the sandbox have some last words. Nothing else
// may write to it by now.
func (f *flow) cutWith(v Verdict, last []byte) { f.shut(v, last) }

func (f *flow) close() { f.shut(Verdict{}, nil) }

// shut closes all ends, once. The log has its entry first: whoever sees the end
// of a connection inside finds it told.
func (f *flow) shut(v Verdict, last []byte) {
	f.mu.Lock()
	first := !f.closed
	f.closed = true
	f.idle.Stop()
	e := entryFor(f.kind, f.nameLocked(), f.dst, v)
	remotes := slices.Clone(f.remotes)
	f.mu.Unlock()
	if !first {
		return
	}
	if v.Reason != "" {
		f.gate.count(e.cut())
	}
	for _, r := range remotes {
		r.Close()
	}
	if len(last) > 0 {
		part(f.ctx, f.local, last)
	}
	f.cancel()
	f.local.Close()
}

// end closes a flow, and counts what it was.
func (f *flow) end() {
	f.unhook()
	f.close()
	g := f.gate
	g.mu.Lock()
	delete(g.flows, f)
	g.mu.Unlock()
	if o := g.fw.config.Observer; o != nil {
		o.EgressBytes(f.in.Load(), f.out.Load())
	}
}

func (f *flow) nameLocked() string {
	if len(f.names) == 1 {
		return f.names[0]
	}
	return ""
}

// bear notes what a flow was recognised as, and the names that it may claim.
func (f *flow) bear(kind string, names ...string) {
	var held []string
	for _, name := range names {
		if f.knows(name) {
			held = append(held, name)
		}
	}
	f.mu.Lock()
	f.kind, f.judged, f.names = kind, true, held
	f.mu.Unlock()
}

// knows reports whether our resolver gave the flow's address for a name: lately,
// or when the flow was first judged by it.
func (f *flow) knows(name string) bool {
	if name == "" {
		return false
	}
	f.mu.Lock()
	known := f.judged && slices.Contains(f.names, name)
	f.mu.Unlock()
	return known || f.gate.pins.holds(name, f.dst.Addr(), time.Now())
}

// pass writes an entry for what was allowed.
func (f *flow) pass(v Verdict) {
	f.mu.Lock()
	e := entryFor(f.kind, f.nameLocked(), f.dst, v)
	f.mu.Unlock()
	f.gate.count(e)
}

// rejudge says whether a policy allows a flow as it is.
func (f *flow) rejudge(p *Policy) Verdict {
	f.mu.Lock()
	judged, names := f.judged, f.names
	f.mu.Unlock()
	k := f.gate.fw.kindOf(f.dst.Addr())
	for _, name := range names {
		if v := p.deny(name, f.dst); !v.Allowed {
			return v
		}
	}
	v := p.connect("", f.dst, k)
	if v.Allowed || !judged {
		return v
	}
	for _, name := range names {
		if v = p.connect(name, f.dst, k); v.Allowed {
			return v
		}
	}
	return v
}

// meter is a connection outside that counts its bytes, and holds them back when
// they come too fast.
type meter struct {
	net.Conn // without ReadFrom and WriteTo, which would pass the meter by
	tcp      *net.TCPConn
	flow     *flow
}

var errSpent = errors.New("the sandbox's bytes are used up")

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n > 0 {
		g := m.flow.gate
		if e := m.pay(n, &m.flow.in, &g.ledger.in, g.inRate); e != nil {
			return n, e
		}
	}
	return n, err
}

func (m *meter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		// One buffer at a time: a rate's burst holds that much.
		n, err := m.Conn.Write(b[:min(len(b), bigBuffer)])
		written += n
		b = b[n:]
		if n > 0 {
			g := m.flow.gate
			if e := m.pay(n, &m.flow.out, &g.ledger.out, g.outRate); e != nil {
				return written, e
			}
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (m *meter) pay(n int, flow, total *atomic.Int64, r *rate.Limiter) error {
	m.flow.active.Store(int64(elapsed()))
	flow.Add(int64(n))
	total.Add(int64(n))
	if m.flow.gate.spent() {
		m.flow.cut(refused(ReasonLimit, "more than %d bytes", m.flow.gate.limits.Bytes))
		return errSpent
	}
	for r != nil && n > 0 {
		part := min(n, r.Burst())
		if err := r.WaitN(m.flow.ctx, part); err != nil {
			return fmt.Errorf("waiting for bandwidth: %w", err)
		}
		n -= part
	}
	return nil
}

// Close closes the connection, of which the flow then knows no more.
func (m *meter) Close() error {
	m.flow.mu.Lock()
	m.flow.remotes = slices.DeleteFunc(m.flow.remotes, func(c net.Conn) bool { return c == m.Conn })
	m.flow.mu.Unlock()
	return m.Conn.Close()
}

// CloseWrite tells the other side that nothing more comes.
func (m *meter) CloseWrite() error { return m.tcp.CloseWrite() }
