package firewall

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A connection holds smallBuffer in each direction, and bigBuffer while it is
	// busy: a thousand idle connections must not cost hundreds of megabytes.
	smallBuffer = 8 << 10
	bigBuffer   = 128 << 10
	// calm is how many short reads give the big buffer back.
	calm = 32
)

var bigBuffers = sync.Pool{New: func() any { return new([bigBuffer]byte) }}

// relay moves bytes until both sides are done. What the other side sends flows at
// once, so that servers which speak first are served; what the sandbox sends
// first is held until it is judged.
func (f *flow) relay() {
	down := f.pumpDown()
	defer down.wait()
	strict := f.gate.strict(f.dst)
	first, err := f.sniff(strict)
	if err != nil {
		f.close()
		return
	}
	v := f.judge(first, strict)
	if !v.Allowed {
		if last := lastWords(first, v); last != nil && down.stop() {
			f.cutWith(v, last)
		} else {
			f.cut(v)
		}
		return
	}
	if strict && first.kind == "http" {
		if !down.stop() {
			return
		}
		f.serve(replay(f.local, first.raw), "")
		return
	}
	if first.kind == "tls" && f.intercepts(first.name) {
		if down.stop() {
			f.pass(v)
			f.serve(replay(f.local, first.raw), first.name)
		}
		return
	}
	f.pass(v)
	var rest io.Reader = f.local
	if strict && first.kind == "tls" && first.fault == "" {
		guarded, err := f.hold(&first, down.answer)
		if err != nil {
			f.cut(refused(ReasonProtocol, "%s", err))
			return
		}
		rest = guarded
	}
	if strict && first.kind == "tcp" && down.answer.listen() {
		rest = &lines{Reader: io.MultiReader(bytes.NewReader(first.raw), f.local), answer: down.answer}
		first.raw = nil
	}
	if _, err := f.remote.Write(first.raw); err != nil {
		f.close()
		return
	}
	first.raw = nil
	err = copyStream(f.remote, rest)
	switch {
	case errors.Is(err, errOtherName):
		f.cut(refused(ReasonName, "%s", err))
	case errors.Is(err, errUnasked), errors.Is(err, errUnread), errors.Is(err, errLateRequest):
		f.cut(refused(ReasonProtocol, "%s", err))
	}
	f.finish(f.remote, err)
}

// judge decides on a connection by the first bytes of it.
func (f *flow) judge(s sniffed, strict bool) Verdict {
	g := f.gate
	if !strict {
		// Any address will do; the name is for the log, and for later policies.
		if s.kind == "tls" && s.name != "" {
			f.bear("tls", s.name)
		}
		return g.judgeAddress(f.dst)
	}
	switch {
	case s.kind == "http":
		return allowed("each request is judged")
	case s.fault != "":
		return refused(ReasonProtocol, "%s", s.fault)
	case s.kind == "tls":
		v := f.judgeName(s.name)
		f.bear("tls", s.name)
		return v
	}
	p, k := g.Policy(), g.fw.kindOf(f.dst.Addr())
	var names []string
	for _, name := range g.pins.names(f.dst.Addr(), time.Now()) {
		if p.connect(name, f.dst, k).Allowed {
			names = append(names, name)
		}
	}
	port := f.dst.Port()
	if byAddress := p.connect("", f.dst, k); !byAddress.Allowed && len(s.raw) > 0 && (port == 80 || port == 443) {
		return refused(ReasonProtocol, "neither TLS nor HTTP on port %d, so no name to judge", port)
	}
	f.bear("tcp", names...)
	return g.judgeAddress(f.dst)
}

// strict says whether the names in a connection must be looked at: its address
// is allowed for a name's sake, a name is denied, or a secret may be needed.
func (g *Gate) strict(dst netip.AddrPort) bool {
	p := g.Policy()
	if p.deniesNames || !p.connect("", dst, g.fw.kindOf(dst.Addr())).Allowed {
		return true
	}
	if len(*g.secrets.Load()) > 0 {
		for _, name := range g.pins.names(dst.Addr(), time.Now()) {
			if len(g.secretsFor(name, dst.Port())) > 0 {
				return true
			}
		}
	}
	return false
}

// pump copies from the other side to the sandbox until it is stopped.
type pump struct {
	flow     *flow
	answer   *answer
	done     chan struct{}
	stopping atomic.Bool
	stopped  bool
}

func (f *flow) pumpDown() *pump {
	p := &pump{flow: f, answer: &answer{Reader: f.remote}, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := copyStream(f.local, p.answer)
		if p.stopping.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			p.stopped = true
			return
		}
		if errors.Is(err, errUnjudgedAnswer) {
			f.cut(refused(ReasonProtocol, "%s", err))
			return
		}
		f.finish(f.local, err)
	}()
	return p
}

func (p *pump) wait() { <-p.done }

// stop ends the pump without losing a byte, and reports whether the connection
// can be used in another way now.
func (p *pump) stop() bool {
	p.stopping.Store(true)
	if err := p.flow.remote.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return false
	}
	<-p.done
	return p.stopped && p.flow.remote.SetReadDeadline(time.Time{}) == nil
}

// finish passes a stream's end on: a half-close, or the end of everything.
func (f *flow) finish(dst net.Conn, err error) {
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	f.close()
}

// copyStream copies until the end of src, which is no error.
func copyStream(dst io.Writer, src io.Reader) error {
	small := make([]byte, smallBuffer)
	var big *[bigBuffer]byte
	giveBack := func() {
		if big != nil {
			bigBuffers.Put(big)
			big = nil
		}
	}
	defer giveBack()
	short := 0
	for {
		buf := small
		if big != nil {
			buf = big[:]
		}
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case n >= smallBuffer:
			short = 0
			if big == nil {
				big = bigBuffers.Get().(*[bigBuffer]byte)
			}
		case big != nil:
			if short++; short > calm {
				giveBack()
				short = 0
			}
		}
	}
}

// replayed is a connection whose first bytes were read already.
type replayed struct {
	net.Conn
	first []byte
}

func replay(c net.Conn, first []byte) net.Conn { return &replayed{c, first} }

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(b, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}
