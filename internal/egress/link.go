package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Link is one sandbox's network as the daemon sees it: the end of its cable, and
// the stack in which its packets end. It implements [runtime.Link].
type Link struct {
	id      string
	limits  Limits
	log     *slog.Logger
	handler Handler
	device  *device
	stack   *stack.Stack
	counts  counters
	memory  budget
	forget  func() // tells the gateway that the link is closed

	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	close  func() error // Close, once

	mu      sync.Mutex
	sandbox *os.File // the sandbox's end; nil when it was handed over
	closed  bool
	owned   sync.WaitGroup // goroutines of connections and queries
}

var _ runtime.Link = (*Link)(nil)

// nic is the number of the only interface of a link's stack.
const nic tcpip.NICID = 1

// What the stack does with connections. A link loses a packet only when one of
// its ends has no room, and has no delay, so it is sure of a loss early.
const (
	minRTO = 50 * time.Millisecond
	// maxRTO also bounds a handshake: it is given up when the next wait would be
	// longer, after 15 s.
	maxRTO = 8 * time.Second
	// Connections that were closed are gone soon: no packet is late here.
	timeWait = 2 * time.Second
	finWait  = 10 * time.Second
)

// newLink makes a link of the daemon's end of a socket pair, which it takes over.
func newLink(id string, fd int, handler Handler, limits Limits, log *slog.Logger) (*Link, error) {
	l := &Link{id: id, limits: limits, log: log, handler: handler, memory: budget{free: limits.BufferBytes}, forget: func() {}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.close = sync.OnceValue(l.shutDown)
	var err error
	if l.device, err = newDevice(fd, &l.counts); err != nil {
		l.cancel()
		l.closeHandler()
		return nil, fmt.Errorf("link of sandbox %s: %w", id, err)
	}
	l.device.broken = func(err error) {
		log.Warn("the network of a sandbox has broken: it reaches nothing any more", "sandbox", id, "error", err)
	}
	err = l.makeStack()
	go l.device.run() // shutDown waits for it
	if err != nil {
		return nil, errors.Join(fmt.Errorf("link of sandbox %s: %w", id, err), l.shutDown())
	}
	return l, nil
}

// makeStack makes the stack, with the device as its only interface. It accepts
// packets for every address, because each is the gateway's until the handler
// says otherwise.
func (l *Link) makeStack() error {
	l.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := l.tuneTCP(); err != nil {
		return err
	}
	if err := l.stack.CreateNIC(nic, l.device); err != nil {
		return errors.New(err.String())
	}
	for _, a := range []tcpip.ProtocolAddress{
		{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(gateway4), PrefixLen: prefix4}},
		{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(gateway6), PrefixLen: prefix6}},
	} {
		if err := l.stack.AddProtocolAddress(nic, a, stack.AddressProperties{}); err != nil {
			return errors.New(err.String())
		}
	}
	l.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	if err := l.stack.SetPromiscuousMode(nic, true); err != nil {
		return errors.New(err.String())
	}
	if err := l.stack.SetSpoofing(nic, true); err != nil {
		return errors.New(err.String())
	}
	forwarder := tcp.NewForwarder(l.stack, int(smallestShare), l.limits.Pending, l.forward)
	l.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	l.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(stack.TransportEndpointID, *stack.PacketBuffer) bool {
		l.counts.datagrams.Add(1)
		return false // the stack says that nobody is there
	})
	return l.serveDNS()
}

func (l *Link) tuneTCP() error {
	var (
		sack      = tcpip.TCPSACKEnabled(true)
		moderate  = tcpip.TCPModerateReceiveBufferOption(true) // or windows would not scale; each connection turns it off
		receive   = tcpip.TCPReceiveBufferSizeRangeOption{Min: int(smallestShare), Default: 2 * int(smallestShare), Max: 2 * int(largestShare)}
		send      = tcpip.TCPSendBufferSizeRangeOption{Min: int(smallestShare), Default: int(smallestShare), Max: int(largestShare)}
		shortest  = tcpip.TCPMinRTOOption(minRTO)
		longest   = tcpip.TCPMaxRTOOption(maxRTO)
		afterward = tcpip.TCPTimeWaitTimeoutOption(timeWait)
		linger    = tcpip.TCPLingerTimeoutOption(finWait)
	)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send, &shortest, &longest, &afterward, &linger} {
		if err := l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("setting %T of the stack: %s", option, err)
		}
	}
	return nil
}

// ID is the sandbox's.
func (l *Link) ID() string { return l.id }

// Stats returns what went over the link so far.
func (l *Link) Stats() Stats { return l.counts.stats() }

// Device implements [runtime.Link].
func (l *Link) Device() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.sandbox
	l.sandbox = nil
	return f
}

// Duplicate implements [runtime.Link].
func (l *Link) Duplicate() (*os.File, error) {
	var (
		fd  int
		err error
	)
	closed := l.device.raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(closed, err); err != nil {
		return nil, fmt.Errorf("link of sandbox %s: %w", l.id, err)
	}
	return os.NewFile(uintptr(fd), "link"), nil
}

// Interface implements [runtime.Link].
func (l *Link) Interface() runtime.Interface { return linkInterface() }

// Dial opens a connection to a port of the sandbox, on its own address: a server
// that listens on the sandbox's loopback interface only is not reached. Nobody
// listening is [runtime.ErrRefused]. The connection is what [Conn.Accept] returns
// too.
func (l *Link) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if !l.begin() {
		return nil, fmt.Errorf("link of sandbox %s: %w", l.id, net.ErrClosed)
	}
	defer l.owned.Done()
	if !l.take() {
		return nil, fmt.Errorf("link of sandbox %s: there are %d connections, which is its limit", l.id, l.limits.Connections)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	c, err := l.dial(ctx, port)
	if err != nil {
		l.give()
		return nil, fmt.Errorf("port %d of sandbox %s: %w", port, l.id, err)
	}
	l.counts.dialled.Add(1)
	return c, nil
}

// Close implements [runtime.Link].
func (l *Link) Close() error { return l.close() }

func (l *Link) shutDown() error {
	l.mu.Lock()
	l.closed = true
	sandbox := l.sandbox
	l.sandbox = nil
	l.mu.Unlock()
	l.cancel()
	l.device.end()  // nothing new comes in,
	l.stack.Close() // connections are reset,
	l.owned.Wait()  // and those who had them end
	l.stack.Close() // also what was accepted meanwhile
	l.stack.Wait()
	if sandbox != nil {
		sandbox.Close()
	}
	l.closeHandler()
	l.forget()
	if err := l.device.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("link of sandbox %s: %w", l.id, err)
	}
	return nil
}

func (l *Link) closeHandler() {
	c, ok := l.handler.(io.Closer)
	if !ok {
		return
	}
	if err := c.Close(); err != nil {
		l.log.Warn("closing the network policy of a sandbox", "sandbox", l.id, "error", err)
	}
}

// begin counts a goroutine that Close waits for, and reports whether there may
// still be one; then owned.Done must follow.
func (l *Link) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.owned.Add(1)
	return true
}

// take counts a connection, if there may be one more; then give must follow.
func (l *Link) take() bool {
	if l.counts.active.Add(1) > int64(l.limits.Connections) {
		l.counts.active.Add(-1)
		return false
	}
	return true
}

func (l *Link) give() { l.counts.active.Add(-1) }
