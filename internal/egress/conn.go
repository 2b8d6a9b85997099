package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// handshakeWait bounds how long Accept waits for a sandbox that asked for a
// connection and then says nothing.
const handshakeWait = 10 * time.Second

// orphanWait bounds how long a connection that was closed may take to send its
// last bytes to a sandbox that does not read them.
const orphanWait = 30 * time.Second

var errDecided = errors.New("the connection was accepted or refused before")

// request is a connection that a sandbox asks for; it implements [Conn].
type request struct {
	link     *Link
	dst, src netip.AddrPort

	mu       sync.Mutex
	asked    *tcp.ForwarderRequest // nil once decided
	accepted *conn
}

// forward is called by the stack, in a goroutine of its own, for each connection
// that the sandbox opens.
func (l *Link) forward(asked *tcp.ForwarderRequest) {
	l.counts.connections.Add(1)
	if !l.begin() {
		asked.Complete(true)
		return
	}
	defer l.owned.Done()
	id := asked.ID()
	r := &request{
		link: l, asked: asked,
		dst: addrPort(id.LocalAddress, id.LocalPort), src: addrPort(id.RemoteAddress, id.RemotePort),
	}
	if !l.take() {
		l.counts.overLimit.Add(1)
		r.Refuse()
		return
	}
	defer r.end()
	switch {
	case r.dst.Addr() != gateway4 && r.dst.Addr() != gateway6:
		l.handler.TCP(l.ctx, r)
	case r.dst.Port() == dnsPort:
		l.serveStream(r)
	default:
		r.Refuse() // the gateway is no host
	}
}

// end is called when nobody has an interest in the connection any more.
func (r *request) end() {
	r.Refuse()
	r.mu.Lock()
	c := r.accepted
	r.mu.Unlock()
	if c != nil {
		c.Close()
		return
	}
	r.link.give()
}

// Destination implements [Conn].
func (r *request) Destination() netip.AddrPort { return r.dst }

// Source implements [Conn].
func (r *request) Source() netip.AddrPort { return r.src }

// Refuse implements [Conn].
func (r *request) Refuse() {
	if asked := r.decide(); asked != nil {
		r.link.counts.refused.Add(1)
		asked.Complete(true)
	}
}

// decide returns the request once, and then nil.
func (r *request) decide() *tcp.ForwarderRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// Accept implements [Conn].
func (r *request) Accept() (net.Conn, error) {
	asked := r.decide()
	if asked == nil {
		return nil, errDecided
	}
	l := r.link
	ctx, cancel := context.WithTimeout(l.ctx, handshakeWait)
	defer cancel()
	queue := &waiter.Queue{}
	returned := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { wakeUntil(queue, returned) })
	ep, err := asked.CreateEndpoint(queue)
	close(returned)
	stop()
	if err != nil {
		l.counts.refused.Add(1)
		asked.Complete(true)
		return nil, fmt.Errorf("connection of sandbox %s to %s: %s", l.id, r.dst, err)
	}
	asked.Complete(false)
	l.counts.accepted.Add(1)
	c := l.newConn(queue, ep)
	r.mu.Lock()
	r.accepted = c
	r.mu.Unlock()
	return c, nil
}

// wakeUntil wakes whoever waits for a handshake, who then finds that there is no
// connection and gives up; over and over, because the wait may be about to begin.
func wakeUntil(queue *waiter.Queue, returned <-chan struct{}) {
	const again = 10 * time.Millisecond
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		queue.Notify(waiter.WritableEvents)
		select {
		case <-returned:
			return
		case <-tick.C:
		}
	}
}

// dial opens a connection into the sandbox. The caller has counted it.
func (l *Link) dial(ctx context.Context, port uint16) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	queue := &waiter.Queue{}
	ep, err := l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, queue)
	if err != nil {
		return nil, errors.New(err.String())
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	err = ep.Bind(tcpip.FullAddress{NIC: nic, Addr: stackAddress(gateway4)})
	if err == nil {
		err = ep.Connect(tcpip.FullAddress{NIC: nic, Addr: stackAddress(sandbox4), Port: port})
	}
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		ep.Close()
		if _, refused := err.(*tcpip.ErrConnectionRefused); refused {
			return nil, runtime.ErrRefused
		}
		return nil, errors.New(err.String())
	}
	return l.newConn(queue, ep), nil
}

// conn is a connection with a sandbox. Beside the methods of net.Conn it has
// CloseWrite, CloseRead and Abort.
type conn struct {
	*gonet.TCPConn
	ep    tcpip.Endpoint
	close func()
}

// newConn takes over an endpoint of a connection that was counted, and gives it
// memory.
func (l *Link) newConn(queue *waiter.Queue, ep tcpip.Endpoint) *conn {
	share := l.memory.take()
	// The stack takes half of the room for a window, the rest for what packets cost
	// beside their bytes.
	ep.SocketOptions().SetReceiveBufferSize(2*share, true)
	ep.SocketOptions().SetSendBufferSize(share, true)
	free := sync.OnceFunc(func() { l.memory.put(share) })
	return &conn{TCPConn: gonet.NewTCPConn(queue, ep), ep: ep, close: sync.OnceFunc(func() {
		defer l.give()
		// The memory is free when the last byte is gone, which is up to the sandbox,
		// but not for ever.
		abort := time.AfterFunc(orphanWait, func() {
			ep.Abort()
			free()
		})
		gone := waiter.NewFunctionEntry(waiter.EventHUp, func(waiter.EventMask) {
			abort.Stop()
			free()
		})
		queue.EventRegister(&gone)
		ep.Close()
		if ep.Readiness(waiter.EventHUp) != 0 {
			abort.Stop()
			free()
		}
	})}
}

// Close sends what was written, then an end. What the sandbox sent and nobody
// read turns the end into a reset.
func (c *conn) Close() error {
	c.close()
	return nil
}

// Abort ends the connection with a reset, at once.
func (c *conn) Abort() {
	c.ep.Abort()
	c.close()
}

// budget is the memory that the connections of a link may buffer.
type budget struct {
	mu   sync.Mutex
	free int64 // below zero when all have the smallest share
}

// A share of a budget, in bytes: what a connection may hold for sending. It may
// hold twice as much that it has received.
const (
	smallestShare = 16 << 10
	largestShare  = 1 << 20
	shareBuffers  = 3 // of the size of the share, in all
)

// take returns the share of one more connection. The more there are, the less
// each new one gets: a single download has all it can use, and a thousand
// connections still work.
func (b *budget) take() int64 {
	const portion = 16 // of what is left
	b.mu.Lock()
	defer b.mu.Unlock()
	share := min(max(b.free/portion/shareBuffers, smallestShare), largestShare)
	b.free -= share * shareBuffers
	return share
}

func (b *budget) put(share int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += share * shareBuffers
}
