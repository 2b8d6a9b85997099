package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/egress"
)

// TCP implements egress.Handler: judge, dial, accept, relay. The sandbox's
// connection is accepted when the other side has accepted, so that what is
// refused or unreachable out there is so inside, too. What is counted is counted
// before the sandbox hears of it: a run may end at once.
func (g *Gate) TCP(ctx context.Context, c egress.Conn) {
	dst := netip.AddrPortFrom(c.Destination().Addr().Unmap(), c.Destination().Port())
	refuse := func(v Verdict) {
		g.count(entryFor("tcp", g.onlyName(dst), dst, v))
		c.Refuse()
	}
	if v := g.judgeAddress(dst); !v.Allowed {
		if explains(dst, v) && g.admit().Allowed {
			defer g.release()
			g.count(entryFor("tcp", g.onlyName(dst), dst, v))
			g.explain(ctx, c, v)
			return
		}
		refuse(v)
		return
	}
	if v := g.admit(); !v.Allowed {
		refuse(v)
		return
	}
	defer g.release()
	remote, err := g.dial(ctx, dst)
	if err != nil {
		v := refused(ReasonUpstream, "%s", cause(err))
		var changed *refusal
		if errors.As(err, &changed) {
			v = changed.verdict
		}
		refuse(v)
		return
	}
	local, err := c.Accept()
	if err != nil {
		remote.Close()
		return
	}
	f, v := g.open(ctx, dst, local, remote)
	defer f.end()
	if !v.Allowed {
		f.cut(v)
		return
	}
	f.relay()
}

// refusal is a Verdict as an error.
type refusal struct{ verdict Verdict }

func (r *refusal) Error() string { return r.verdict.Rule }

// judgeAddress says whether an address may be dialled: as an address, or under a
// name that is pinned to it.
func (g *Gate) judgeAddress(dst netip.AddrPort) Verdict {
	p, k := g.Policy(), g.fw.kindOf(dst.Addr())
	v := p.connect("", dst, k)
	if v.Allowed {
		return v
	}
	names := g.pins.names(dst.Addr(), time.Now())
	for _, name := range names {
		w := p.connect(name, dst, k)
		if w.Allowed {
			return w
		}
		v = w
	}
	if len(names) == 0 && v.Reason == ReasonNotAllowed {
		v.Rule += ", and no name was resolved to this address"
	}
	return v
}

// judgeName says whether a connection may bear a name. A name that our resolver
// did not give its address counts for nothing, but a deny entry holds all the
// same.
func (f *flow) judgeName(name string) Verdict {
	g, dst := f.gate, f.dst
	p, k := g.Policy(), g.fw.kindOf(dst.Addr())
	if v := p.deny(name, dst); !v.Allowed {
		return v
	}
	v := p.connect("", dst, k)
	if v.Allowed {
		return v
	}
	switch {
	case name == "":
		return refused(ReasonName, "no name given, and the address is not allowed as one: %s", v.Rule)
	case !f.knows(name):
		return refused(ReasonName, "%s was not resolved to this address", name)
	}
	return p.connect(name, dst, k)
}

// onlyName returns the name pinned to an address when there is just one.
func (g *Gate) onlyName(dst netip.AddrPort) string {
	if names := g.pins.names(dst.Addr(), time.Now()); len(names) == 1 {
		return names[0]
	}
	return ""
}

// dial connects to an address. It is judged again when the socket is about to
// connect: what is dialled is what was judged.
func (g *Gate) dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout: g.limits.Dial,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			actual, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if actual != dst {
				return fmt.Errorf("dialling %s instead of %s", actual, dst)
			}
			if v := g.judgeAddress(dst); !v.Allowed {
				return &refusal{v}
			}
			return nil
		},
	}
	conn, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// cause says in few words why a dial failed.
func cause(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused by the other side"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "unreachable from the host"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	}
	// Not the whole error: it may name addresses of the host.
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return "cannot be dialled"
}
