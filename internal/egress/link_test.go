package egress

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

func TestConnectionsBothWays(t *testing.T) {
	t.Parallel()
	var seen collect[[2]netip.AddrPort]
	_, l := connect(t, &handlerFunc{tcp: func(ctx context.Context, c Conn) {
		seen.add([2]netip.AddrPort{c.Destination(), c.Source()})
		echo(ctx, c)
	}})
	s := sandboxStack(t, l.Device())
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	for _, to := range []string{"203.0.113.9:4711", "[2001:db8::1]:4711", "169.254.169.254:80", "10.0.0.1:1"} {
		c := mustDial(t, s, to)
		var writing sync.WaitGroup
		writing.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		got, err := io.ReadAll(c)
		must(t, err)
		writing.Wait()
		if !bytes.Equal(got, sent) {
			t.Errorf("%s: %d bytes came back of %d, or others", to, len(got), len(sent))
		}
		last := seen.values()[len(seen.values())-1]
		if last[0].String() != to || last[1].Addr() != sandbox4 && last[1].Addr() != sandbox6 || last[1].Port() == 0 {
			t.Errorf("%s: the handler saw %v", to, last)
		}
	}
	server := listenIn(t, s, 8080)
	go func() {
		c, err := server.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := l.Dial(t.Context(), 8080)
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	must(t, err)
	must(t, c.(interface{ CloseWrite() error }).CloseWrite())
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("a server in the sandbox answers %q, %v", got, err)
	}
	eventually(t, "the end of all connections", func() bool { c.Close(); return l.Stats().Active == 0 })
	st := l.Stats()
	if st.Connections != 4 || st.Accepted != 4 || st.Refused != 0 || st.Dialled != 1 || st.BytesFromSandbox < 12<<20 || st.BytesToSandbox < 12<<20 {
		t.Errorf("counted %+v", st)
	}
	if st.Malformed+st.Spoofed > 0 {
		t.Errorf("frames of an honest sandbox were dropped: %+v", st)
	}
}

func TestRefusalsAreImmediate(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	s := sandboxStack(t, l.Device())
	for _, to := range []string{"203.0.113.9:80", "[2001:db8::1]:443", "192.0.0.1:22", "[fd5b:97d1:ac3e::1]:8000"} {
		if c, err := dialFrom(t, s, to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, %v; want a refusal", to, c, err)
		}
	}
	for _, to := range []string{"203.0.113.9:123", "[2001:db8::1]:443", "192.0.0.1:54", "8.8.8.8:53"} {
		address := netip.MustParseAddrPort(to)
		ep := endpoint(t, s, udp.ProtocolNumber, address)
		_, err := ep.Write(strings.NewReader("hello"), tcpip.WriteOptions{})
		good(t, err)
		eventually(t, "the refusal of UDP to "+to, func() bool {
			_, refused := ep.LastError().(*tcpip.ErrConnectionRefused)
			return refused
		})
	}
	for _, to := range []string{"224.0.0.1:80", "239.255.255.250:1900", "255.255.255.255:80", "192.0.0.7:80", "[ff0e::1]:80"} {
		if c, err := dialFrom(t, s, to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, %v; want a refusal", to, c, err)
		}
	}
	if st := l.Stats(); st.Datagrams != 4 || st.Accepted != 0 || st.Refused < 4 {
		t.Errorf("counted %+v", st)
	}
	if _, err := l.Dial(t.Context(), 9); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dialling a port without a server: %v", err)
	}
}

func TestPortScanOfTheGateway(t *testing.T) {
	t.Parallel()
	var asked collect[netip.AddrPort]
	_, l := connect(t, &handlerFunc{tcp: func(_ context.Context, c Conn) { asked.add(c.Destination()); c.Refuse() }})
	s := sandboxStack(t, l.Device())
	ports := make(chan uint16)
	var scanning sync.WaitGroup
	for range 64 {
		scanning.Go(func() {
			for port := range ports {
				c, err := dialFrom(t, s, netip.AddrPortFrom(gateway4, port).String())
				if open := err == nil; open != (port == dnsPort) {
					t.Errorf("port %d: %v", port, err)
				}
				if err == nil {
					c.Close()
				}
			}
		})
	}
	within(t, "the scan", func() {
		for port := range uint16(4096) {
			ports <- port + 1
		}
		close(ports)
		scanning.Wait()
	})
	if all := asked.values(); len(all) > 0 {
		t.Errorf("the handler was asked about the gateway: %v", all)
	}
}

func TestDNS(t *testing.T) {
	t.Parallel()
	var asked collect[bool]
	_, l := connect(t, &handlerFunc{tcp: echo, dns: func(q []byte, overTCP bool) []byte {
		asked.add(overTCP)
		if len(q) < 2 {
			return nil
		}
		return append(append([]byte{}, q...), "answered"...)
	}})
	s := sandboxStack(t, l.Device())
	for _, resolver := range []string{"192.0.0.1:53", "[fd5b:97d1:ac3e::1]:53"} {
		if got := ask(t, s, resolver); !bytes.Equal(got, append(append([]byte{}, query...), "answered"...)) {
			t.Errorf("%s answers %q", resolver, got)
		}
		c := mustDial(t, s, resolver)
		for range 3 { // on one connection
			_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...))
			must(t, err)
			got := make([]byte, 2+len(query)+len("answered"))
			_, err = io.ReadFull(c, got)
			must(t, err)
			if int(binary.BigEndian.Uint16(got)) != len(got)-2 || string(got[len(got)-8:]) != "answered" {
				t.Errorf("%s answers %q over TCP", resolver, got)
			}
		}
	}
	if st := l.Stats(); st.Queries != 8 || len(asked.values()) != 8 {
		t.Errorf("counted %+v, asked %v", st, asked.values())
	}
	c := mustDial(t, s, "192.0.0.1:53")
	_, err := c.Write([]byte{0, 0})
	must(t, err)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a query without an answer ends with %v", err)
	}
}

func TestRefuseAllAnswersQueries(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	s := sandboxStack(t, l.Device())
	want := []byte{0x12, 0x34, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0}
	if got := ask(t, s, "192.0.0.1:53"); !bytes.Equal(got, want) {
		t.Errorf("answered %x, want %x", got, want)
	}
	for _, bad := range [][]byte{nil, query[:11], want} {
		if got := (RefuseAll{}).DNS(t.Context(), bad, false); got != nil {
			t.Errorf("%x is answered %x", bad, got)
		}
	}
}

func TestOnlyTheGatewayAnswersPings(t *testing.T) {
	t.Parallel()
	_, l := connect(t, RefuseAll{})
	s := sandboxStack(t, l.Device())
	ping := func(to string) tcpip.Endpoint {
		address, protocol, first := netip.MustParseAddr(to), icmp.ProtocolNumber4, byte(echoRequest4)
		if address.Is6() {
			protocol, first = icmp.ProtocolNumber6, echoRequest6
		}
		ep := endpoint(t, s, protocol, netip.AddrPortFrom(address, 0))
		_, err := ep.Write(bytes.NewReader(append([]byte{first}, make([]byte, 15)...)), tcpip.WriteOptions{})
		good(t, err)
		return ep
	}
	for _, to := range []string{"192.0.0.1", "fd5b:97d1:ac3e::1"} {
		ep := ping(to)
		eventually(t, "an answer of "+to, func() bool { return ep.Readiness(waiter.ReadableEvents) != 0 })
	}
	for i, to := range []string{"8.8.8.8", "2001:db8::1"} {
		sent := l.Stats().FramesToSandbox
		ping(to)
		eventually(t, "the dropping of a frame", func() bool { return l.Stats().Unsupported == int64(i)+1 })
		if l.Stats().FramesToSandbox != sent {
			t.Errorf("a ping of %s is answered", to)
		}
	}
}

func TestHalfCloseAndReset(t *testing.T) {
	t.Parallel()
	type ending struct{ read, write error }
	endings := make(chan ending, 1)
	start := make(chan string, 1)
	_, l := connect(t, &handlerFunc{tcp: func(_ context.Context, c Conn) {
		s, err := c.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		switch <-start {
		case "half": // the sandbox ends first and still reads
			_, err := io.ReadAll(s)
			_, werr := s.Write([]byte("after the end"))
			endings <- ending{err, werr}
		case "abort":
			s.(interface{ Abort() }).Abort()
		case "reset":
			_, _ = s.Write([]byte("x"))
			_, err := io.ReadAll(s)
			endings <- ending{read: err}
		case "left open":
		}
	}})
	s := sandboxStack(t, l.Device())

	start <- "half"
	c := mustDial(t, s, "203.0.113.9:80")
	must(t, c.CloseWrite())
	if got, err := io.ReadAll(c); err != nil || string(got) != "after the end" {
		t.Errorf("after half a close came %q, %v", got, err)
	}
	if e := <-endings; e.read != nil || e.write != nil {
		t.Errorf("the handler saw %+v", e)
	}

	start <- "abort"
	c = mustDial(t, s, "203.0.113.9:80")
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("an aborted connection ends with %v", err)
	}

	start <- "reset"
	c, err := dialFrom(t, s, "203.0.113.9:80")
	must(t, err)
	_, err = c.Read(make([]byte, 1)) // the handler has it now
	must(t, err)
	for _, e := range s.RegisteredEndpoints() {
		e.Abort()
	}
	if e := <-endings; e.read == nil || !strings.Contains(e.read.Error(), "reset") {
		t.Errorf("the handler sees a reset as %v", e.read)
	}
	c.Close()

	start <- "left open"
	c = mustDial(t, s, "203.0.113.9:80")
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("a connection that the handler left ends with %q, %v", got, err)
	}
	eventually(t, "the end of all connections", func() bool { return l.Stats().Active == 0 })
}

func TestADecisionIsMadeOnce(t *testing.T) {
	t.Parallel()
	checked := make(chan struct{}, 3)
	_, l := connect(t, &handlerFunc{tcp: func(_ context.Context, c Conn) {
		defer func() { checked <- struct{}{} }()
		switch c.Destination().Port() {
		case 1: // neither
		case 2:
			c.Refuse()
			c.Refuse()
			if _, err := c.Accept(); err == nil {
				t.Error("a refused connection was accepted")
			}
		case 3:
			s, err := c.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			c.Refuse()
			if _, err := c.Accept(); err == nil {
				t.Error("an accepted connection was accepted")
			}
			_, _ = s.Write([]byte("still here"))
			s.Close()
			s.Close()
		}
	}})
	s := sandboxStack(t, l.Device())
	for _, to := range []string{"203.0.113.9:1", "203.0.113.9:2"} {
		if _, err := dialFrom(t, s, to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", to, err)
		}
		<-checked
	}
	if got, err := io.ReadAll(mustDial(t, s, "203.0.113.9:3")); err != nil || string(got) != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
	<-checked
	eventually(t, "the end of all connections", func() bool { return l.Stats().Active == 0 })
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 2)
	accepted := make(chan struct{})
	pending := make(chan struct{})
	h := &handlerFunc{tcp: func(ctx context.Context, c Conn) {
		if c.Destination().Port() == 81 { // never decides by itself
			close(pending)
			<-ctx.Done()
			ended <- nil
			return
		}
		s, err := c.Accept()
		if err != nil {
			ended <- err
			return
		}
		close(accepted)
		_, err = s.Read(make([]byte, 1)) // ends with the link
		if err == nil {
			err = errors.New("a byte came")
		} else {
			err = nil
		}
		ended <- err
	}}
	g, l := connect(t, h)
	s := sandboxStack(t, l.Device())
	c := mustDial(t, s, "203.0.113.9:80")
	<-accepted
	dialled := make(chan error, 1)
	go func() {
		_, err := dialFrom(t, s, "203.0.113.9:81")
		dialled <- err
	}()
	<-pending
	if g.Link("sbx_1") != l {
		t.Error("the gateway does not know its link")
	}
	within(t, "closing", func() { must(t, l.Close()) })
	for range 2 {
		select {
		case err := <-ended:
			must(t, err)
		default:
			t.Error("a handler is at work after Close")
		}
	}
	if !h.closed.Load() {
		t.Error("the handler was not closed")
	}
	if g.Link("sbx_1") != nil {
		t.Error("the gateway knows a link that is closed")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the sandbox sees %v", err)
	}
	if err := <-dialled; err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the sandbox's undecided connection ends with %v", err)
	}
	if _, err := l.Dial(t.Context(), 80); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dialling through a closed link: %v", err)
	}
	must(t, l.Close())
}

func TestCloseWhileASandboxIsSilent(t *testing.T) {
	t.Parallel()
	accepting := make(chan struct{})
	result := make(chan error, 1)
	_, l := connect(t, &handlerFunc{tcp: func(_ context.Context, c Conn) {
		close(accepting)
		_, err := c.Accept()
		result <- err
	}})
	device := l.Device()
	defer device.Close()
	_, err := device.Write(frame4(protocolTCP, sandbox4, netip.MustParseAddr("203.0.113.9"), tcpSegment(1024, 80, flagSYN, nil)))
	must(t, err)
	<-accepting // the handshake is never completed
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan error, 1)
	go func() {
		_, err := l.Dial(ctx, 80)
		dialled <- err
	}()
	eventually(t, "a handshake in both directions", func() bool { return l.Stats().FramesToSandbox >= 2 })
	cancel()
	if err := <-dialled; !errors.Is(err, context.Canceled) {
		t.Errorf("dialling a silent sandbox: %v", err)
	}
	within(t, "closing", func() { must(t, l.Close()) })
	if err := <-result; err == nil {
		t.Error("a connection with a silent sandbox was accepted")
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	g := New(Options{Handler: func(string) Handler { return RefuseAll{} }})
	first, err := g.Connect("a")
	must(t, err)
	if _, err := g.Connect("a"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second link of a sandbox: %v", err)
	}
	if _, err := g.Connect("b"); err != nil {
		t.Error(err)
	}
	if first.Device() == nil || first.Device() != nil {
		t.Error("the device is not handed over once")
	}
	file, err := os.Open(os.DevNull)
	must(t, err)
	if _, err := g.Adopt("c", file); err == nil {
		t.Error("a file that is no link was adopted")
	}
	if file.Fd() != ^uintptr(0) {
		t.Error("the file was not closed")
	}
	must(t, first.Close())
	if _, err := g.Connect("a"); err != nil {
		t.Errorf("after the first link was closed: %v", err)
	}
	must(t, g.Close())
	must(t, g.Close())
	if _, err := g.Connect("d"); !errors.Is(err, errClosed) {
		t.Errorf("a link of a closed gateway: %v", err)
	}
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	old, l := connect(t, &handlerFunc{tcp: echo})
	sandbox := sandboxStack(t, l.Device())
	open := mustDial(t, sandbox, "203.0.113.9:80")
	_, err := open.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadFull(open, make([]byte, 1))
	must(t, err)
	duplicate, err := l.Duplicate()
	must(t, err)
	must(t, old.Close()) // the daemon is gone; the duplicate is not
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived its daemon")
	}
	g := New(Options{Handler: func(string) Handler { return &handlerFunc{tcp: echo} }})
	t.Cleanup(func() { must(t, g.Close()) })
	again, err := g.Adopt("sbx_1", duplicate)
	must(t, err)
	if again.Device() != nil {
		t.Error("an adopted link has a device")
	}
	c := mustDial(t, sandbox, "203.0.113.9:80")
	_, err = c.Write([]byte("still here"))
	must(t, err)
	must(t, c.CloseWrite())
	if got, err := io.ReadAll(c); err != nil || string(got) != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
	if st := again.(*Link).Stats(); st.Accepted != 1 {
		t.Errorf("counted %+v", st)
	}
}
