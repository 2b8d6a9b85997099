package httpserver

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func newListener(t *testing.T, most int) *Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, _ := l.(*net.TCPListener)
	c := NewListener(tcp, most, false, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestIdleConnectionsMakeRoom: the longest idle is closed for a new one, whoever
// is served is left alone, and when all are served a new one is told to wait.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	l := newListener(t, 4)
	entered, goOn := make(chan struct{}), make(chan struct{})
	server := New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			MarkKnown(r.Context())
		}
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-goOn
		}
		_, _ = io.WriteString(w, "served")
	}), slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn, path string) {
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
	}
	status := func(c net.Conn) int {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0
		}
		defer func() { _ = r.Body.Close() }()
		_, _ = io.Copy(io.Discard, r.Body)
		return r.StatusCode
	}
	slow := dial()
	ask(slow, "/slow")
	<-entered
	idle := make([]net.Conn, 3)
	for i := range idle {
		idle[i] = dial()
		ask(idle[i], []string{"/known", "/", "/known"}[i])
		if status(idle[i]) != http.StatusOK {
			t.Fatal("not served")
		}
	}
	fifth := dial()
	ask(fifth, "/slow")
	<-entered
	if status(idle[1]) != 0 {
		t.Error("the idle connection without a key was not closed")
	}
	sixth := dial()
	ask(sixth, "/slow")
	<-entered
	if status(idle[0]) != 0 {
		t.Error("the longest idle connection was not closed")
	}
	for _, c := range idle[2:] {
		ask(c, "/slow")
		<-entered
	}
	refused := dial()
	ask(refused, "/")
	if got := status(refused); got != http.StatusServiceUnavailable {
		t.Errorf("one more than may be served: %d", got)
	}
	close(goOn)
	for _, c := range []net.Conn{slow, fifth, sixth, idle[2]} {
		if got := status(c); got != http.StatusOK {
			t.Errorf("one that was being served: %d", got)
		}
	}
	again := dial()
	ask(again, "/")
	if got := status(again); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
}

// TestAnAddressHasItsShare: of those that wait. Loopback, where proxies are, has
// no share of its own.
func TestAnAddressHasItsShare(t *testing.T) {
	l := newListener(t, 40)
	add := func(addr string) *connection {
		outside, inside := tcpPair(t)
		t.Cleanup(func() { _ = outside.Close() })
		c := &connection{TCPConn: inside, all: l, addr: netip.MustParseAddr(addr)}
		if !l.admit(c) {
			t.Fatalf("%s is refused", addr)
		}
		return c
	}
	first := add("192.0.2.1")
	busy := add("192.0.2.1")
	busy.serving(true)
	other := add("192.0.2.2")
	for range 9 {
		add("192.0.2.1")
	}
	if !l.open[first] || l.waiting[first.addr] != 10 {
		t.Fatalf("closed within the share: %v", l.waiting)
	}
	add("192.0.2.1")
	if l.open[first] || !l.open[busy] || !l.open[other] || l.waiting[first.addr] != 10 {
		t.Errorf("beyond the share: first %v, busy %v, other %v, %v", l.open[first], l.open[busy], l.open[other], l.waiting)
	}
	for range 20 {
		add("127.0.0.1")
	}
	if n := l.waiting[netip.MustParseAddr("127.0.0.1")]; n != 20 {
		t.Errorf("%d from loopback", n)
	}
	busy.serving(false)
	for c := range l.open {
		_ = c.Close()
	}
	if len(l.open) != 0 || l.keyless.Len()+l.known.Len() != 0 || len(l.waiting) != 0 {
		t.Errorf("left: %d, %d, %v", len(l.open), l.keyless.Len()+l.known.Len(), l.waiting)
	}
}

// TestFewDescriptorsMakeRoomToo: the reserve is kept, whoever holds the rest.
func TestFewDescriptorsMakeRoomToo(t *testing.T) {
	l := newListener(t, 40)
	few := false
	l.full = func() bool { return few }
	_, first := tcpPair(t)
	a := &connection{TCPConn: first, all: l, addr: netip.MustParseAddr("127.0.0.1")}
	if !l.admit(a) {
		t.Fatal("refused")
	}
	few = true
	_, second := tcpPair(t)
	b := &connection{TCPConn: second, all: l, addr: a.addr}
	if !l.admit(b) || l.open[a] {
		t.Error("the idle one did not make room")
	}
	b.serving(true)
	if l.admit(&connection{TCPConn: second, all: l, addr: a.addr}) {
		t.Error("one more was taken out of the reserve")
	}
	if fewDescriptors(1<<20)() || !fewDescriptors(16)() {
		t.Error("descriptors are miscounted")
	}
}

func TestSlowAndIdleClientsAreCutAndLongAnswersAreNot(t *testing.T) {
	s := New(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if s.ReadHeaderTimeout == 0 || s.IdleTimeout == 0 || s.WriteTimeout != 0 || s.ReadTimeout != 0 {
		t.Errorf("timeouts: header %v, idle %v, read %v, write %v", s.ReadHeaderTimeout, s.IdleTimeout, s.ReadTimeout, s.WriteTimeout)
	}
}

func tcpPair(t *testing.T) (outside, inside *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	outside, _ = out.(*net.TCPConn)
	inside, _ = in.(*net.TCPConn)
	return outside, inside
}
