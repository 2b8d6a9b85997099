package egress

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const patience = 5 * time.Minute

// handlerFunc is a Handler made of functions.
type handlerFunc struct {
	tcp    func(context.Context, Conn)
	dns    func(query []byte, overTCP bool) []byte
	closed atomic.Bool
}

func (h *handlerFunc) TCP(ctx context.Context, c Conn) { h.tcp(ctx, c) }

func (h *handlerFunc) DNS(_ context.Context, query []byte, overTCP bool) []byte {
	if h.dns == nil {
		return nil
	}
	return h.dns(query, overTCP)
}

func (h *handlerFunc) Close() error { h.closed.Store(true); return nil }

// echo sends back what comes, until the sandbox has sent all.
func echo(_ context.Context, c Conn) {
	s, err := c.Accept()
	if err != nil {
		return
	}
	defer s.Close()
	_, _ = io.Copy(s, s)
	_ = s.(interface{ CloseWrite() error }).CloseWrite()
}

// connect makes a gateway with one link.
func connect(t testing.TB, h Handler) (*Gateway, *Link) {
	t.Helper()
	return connectWith(t, h, DefaultLimits)
}

func connectWith(t testing.TB, h Handler, limits Limits) (*Gateway, *Link) {
	t.Helper()
	g := New(Options{Handler: func(string) Handler { return h }, Limits: limits})
	t.Cleanup(func() { must(t, g.Close()) })
	l, err := g.Connect("sbx_1")
	must(t, err)
	return g, l.(*Link)
}

// sandboxStack is a sandbox's kernel, as far as the network goes: the same stack
// as gVisor's on the other end of the link.
func sandboxStack(t testing.TB, device *os.File) *stack.Stack {
	t.Helper()
	fd, err := unix.Dup(int(device.Fd()))
	must(t, err)
	device.Close()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: linkMTU, PacketDispatchMode: fdbased.RecvMMsg, TXChecksumOffload: true, RXChecksumOffload: true,
	})
	must(t, err)
	good(t, s.CreateNIC(nic, ep))
	for _, a := range linkInterface().Addresses {
		protocol := ipv4.ProtocolNumber
		if a.Addr().Is6() {
			protocol = ipv6.ProtocolNumber
		}
		good(t, s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(a.Addr()), PrefixLen: a.Bits()}}, stack.AddressProperties{}))
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	sack := tcpip.TCPSACKEnabled(true)
	good(t, s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	t.Cleanup(func() {
		s.Destroy()
		unix.Close(fd)
	})
	return s
}

func network(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(to netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: stackAddress(to.Addr()), Port: to.Port()}
}

// dialFrom opens a connection as code in the sandbox does.
func dialFrom(t testing.TB, s *stack.Stack, to string) (*gonet.TCPConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, s, full(address), network(address.Addr()))
}

func mustDial(t testing.TB, s *stack.Stack, to string) *gonet.TCPConn {
	t.Helper()
	c, err := dialFrom(t, s, to)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// listenIn is a server in the sandbox.
func listenIn(t testing.TB, s *stack.Stack, port uint16) net.Listener {
	t.Helper()
	l, err := gonet.ListenTCP(s, tcpip.FullAddress{Port: port}, ipv4.ProtocolNumber)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// eventually polls what something else brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%s did not happen\n%s", what, stacks[:goruntime.Stack(stacks, true)])
		}
	}
}

// within waits for something that must not take for ever.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s did not end\n%s", what, stacks[:goruntime.Stack(stacks, true)])
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func good(t testing.TB, err tcpip.Error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// endpoint is a connected socket of the sandbox.
func endpoint(t testing.TB, s *stack.Stack, protocol tcpip.TransportProtocolNumber, to netip.AddrPort) tcpip.Endpoint {
	t.Helper()
	ep, err := s.NewEndpoint(protocol, network(to.Addr()), &waiter.Queue{})
	good(t, err)
	t.Cleanup(ep.Close)
	good(t, ep.Connect(full(to)))
	return ep
}

// query is a header without a question, which any handler here can answer.
var query = []byte{0x12, 0x34, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// ask sends the query over UDP.
func ask(t testing.TB, s *stack.Stack, resolver string) []byte {
	t.Helper()
	address := netip.MustParseAddrPort(resolver)
	remote := full(address)
	c, err := gonet.DialUDP(s, nil, &remote, network(address.Addr()))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write(query)
	must(t, err)
	answer := make([]byte, 512)
	n, err := c.Read(answer)
	must(t, err)
	return answer[:n]
}

// collect gathers values that other goroutines send.
type collect[T any] struct {
	mu  sync.Mutex
	all []T
}

func (c *collect[T]) add(v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, v)
}

func (c *collect[T]) values() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]T(nil), c.all...)
}
