package firewall

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The outside of the suite: a network namespace in which every address is local,
// so that a connection to any address at all would succeed if the firewall let
// it out, and a recorder of every packet that arrives there.

const (
	hostAddr  = "45.90.0.1"
	worldAddr = "45.90.0.2"
	hostAddr6 = "2a0e:1::1"
	upstream  = worldAddr + ":53"
)

// world serves in the other namespace.
type world struct {
	t        *testing.T
	netns    string
	ca       *CA // signs every name, for the servers there
	recorder recorder

	mu      sync.Mutex
	zone    map[string][]string // name to addresses, or "CNAME target"
	asked   []string
	raw     []byte                                     // what arrived at port 8444
	tamper  func(answer []byte, overTCP bool) [][]byte // of the DNS server
	fresh   int
	closers []io.Closer
}

// inNamespace runs f on a thread of its own in a network namespace; sockets made
// there stay there.
func inNamespace(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			ns, err := os.Open(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

func newWorld(t *testing.T, netns string) *world {
	t.Helper()
	w := &world{t: t, netns: netns, zone: map[string][]string{}}
	certPEM, keyPEM, err := NewCA()
	must(t, err)
	w.ca, err = LoadCA(certPEM, keyPEM)
	must(t, err)
	must(t, inNamespace(netns, func() error {
		w.recorder.expected = map[string]bool{"udp " + upstream: true, "tcp " + upstream: true}
		if err := w.recorder.listen("outside"); err != nil {
			return err
		}
		w.closers = append(w.closers, w.recorder.file)
		packets, err := net.ListenPacket("udp", "[::]:53")
		if err != nil {
			return err
		}
		w.closers = append(w.closers, packets)
		go w.dnsPackets(packets)
		for port, serve := range map[int]func(net.Listener){
			53: w.dnsStreams, 80: w.http, 8080: w.http, 443: w.https, 8443: w.https, 8444: w.retrying,
			7: each(echo), 22: each(banner), 9: each(source), 8081: each(w.lax),
		} {
			l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				return err
			}
			w.closers = append(w.closers, l)
			go serve(l)
		}
		return nil
	}))
	t.Cleanup(func() {
		for _, c := range w.closers {
			c.Close()
		}
	})
	return w
}

// address returns a public address that no other case uses, and that may be
// reached at the given ports only.
func (w *world) address(ports ...int) netip.Addr {
	w.mu.Lock()
	w.fresh++
	a := netip.AddrFrom4([4]byte{93, 184, byte(w.fresh >> 8), byte(w.fresh)})
	w.mu.Unlock()
	w.expect(a, ports...)
	return a
}

func (w *world) expect(a netip.Addr, ports ...int) {
	w.recorder.mu.Lock()
	defer w.recorder.mu.Unlock()
	for _, p := range ports {
		w.recorder.expected["tcp "+netip.AddrPortFrom(a, uint16(p)).String()] = true
	}
}

// name puts a name into the zone.
func (w *world) name(name string, records ...string) {
	w.mu.Lock()
	w.zone[name] = records
	w.mu.Unlock()
}

func (w *world) wasAsked(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.asked, name)
}

// count returns how many questions were asked outside.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

func (w *world) setTamper(f func([]byte, bool) [][]byte) {
	w.mu.Lock()
	w.tamper = f
	w.mu.Unlock()
}

// answers returns what the DNS server sends for a query, which may be more than
// one message.
func (w *world) answers(query []byte, overTCP bool) [][]byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, name)
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if _, found := w.zone[name]; !found {
		m.RCode = dnsmessage.RCodeNameError
	}
	for hops := 0; hops < 10; hops++ {
		next := ""
		for _, r := range w.zone[name] {
			h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name + "."), Class: dnsmessage.ClassINET, TTL: 60}
			if target, alias := strings.CutPrefix(r, "CNAME "); alias {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(target + ".")}})
				next = target
				continue
			}
			a := netip.MustParseAddr(r)
			if a.Is4() && q.Type == dnsmessage.TypeA {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
			}
			if !a.Is4() && q.Type == dnsmessage.TypeAAAA {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	if w.tamper != nil {
		return w.tamper(b, overTCP)
	}
	return [][]byte{b}
}

func (w *world) dnsPackets(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		for _, a := range w.answers(slices.Clone(buf[:n]), false) {
			_, _ = c.WriteTo(a, from)
		}
	}
}

func (w *world) dnsStreams(l net.Listener) {
	each(func(c net.Conn) {
		var size [2]byte
		for {
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			buf := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			for _, a := range w.answers(buf, true) {
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
		}
	})(l)
}

// echoed is what the HTTP servers answer.
type echoed struct {
	Host, Target, Address, Proto, Body string
	Header                             http.Header
}

func (w *world) handler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("redirect"); to != "" {
			http.Redirect(rw, r, to, http.StatusFound)
			return
		}
		if r.Header.Get("Upgrade") == "websocket" {
			conn, buffered, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			_, _ = io.Copy(conn, buffered)
			return
		}
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("close") != "" {
			rw.Header().Set("Connection", "close")
		}
		_ = json.NewEncoder(rw).Encode(echoed{
			Host: r.Host, Target: r.RequestURI, Proto: r.Proto, Body: string(body), Header: r.Header,
			Address: r.Context().Value(http.LocalAddrContextKey).(net.Addr).String(),
		})
	})
}

func (w *world) http(l net.Listener) {
	_ = (&http.Server{Handler: w.handler(), ErrorLog: quiet}).Serve(l)
}

func (w *world) https(l net.Listener) {
	s := &http.Server{Handler: w.handler(), ErrorLog: quiet, TLSConfig: &tls.Config{
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.ServerName == "" {
				return w.ca.leaf("no.name.given")
			}
			if h.ServerName == "untrusted.example" {
				return untrustedLeaf(h.ServerName)
			}
			return w.ca.leaf(h.ServerName)
		},
	}}
	_ = s.ServeTLS(l, "", "")
}

// retrying is a server that wants another hello of clients whose first key share
// is not for P-384.
func (w *world) retrying(l net.Listener) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP384},
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return w.ca.leaf(h.ServerName) },
	}
	each(func(c net.Conn) { echo(tls.Server(&overheard{c, w}, config)) })(l)
}

// overheard notes what arrives.
type overheard struct {
	net.Conn
	w *world
}

func (c *overheard) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.mu.Lock()
	c.w.raw = append(c.w.raw, b[:n]...)
	c.w.mu.Unlock()
	return n, err
}

// arrived tells whether a text came to port 8444 or 8081 in clear.
func (w *world) arrived(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(string(w.raw), text)
}

func untrustedLeaf(name string) (*tls.Certificate, error) {
	certPEM, keyPEM, err := NewCA()
	if err != nil {
		return nil, err
	}
	ca, err := LoadCA(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return ca.leaf(name)
}

// each serves every connection of a listener until it closes.
func each(serve func(net.Conn)) func(net.Listener) {
	return func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// lax is a server of HTTP that passes over lines which make no sense to it.
func (w *world) lax(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		w.mu.Lock()
		w.raw = append(w.raw, line...)
		w.mu.Unlock()
		if strings.Contains(line, "/answer") || strings.HasPrefix(strings.ToUpper(line), "HOST:") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
}

func banner(c net.Conn) {
	_, _ = io.WriteString(c, "SSH-2.0-world\r\n")
	_, _ = io.Copy(c, c)
}

// source sends as many bytes as eight bytes ask for.
func source(c net.Conn) {
	var n [8]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return
	}
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i)
	}
	for left := int64(binary.BigEndian.Uint64(n[:])); left > 0; {
		k, err := c.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			return
		}
		left -= int64(k)
	}
}

// recorder hears every TCP and UDP packet on an interface, whatever its address.
type recorder struct {
	file *os.File

	mu       sync.Mutex
	expected map[string]bool
	heard    map[string]int // opening packets, by protocol and destination
}

func (r *recorder) listen(device string) error {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	all := int(binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff}))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: i.Index}); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	r.heard = map[string]int{}
	r.file = os.NewFile(uintptr(fd), device)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := r.file.Read(buf)
			if err != nil {
				return
			}
			if what, opening := opens(buf[:n]); opening {
				r.mu.Lock()
				r.heard[what]++
				r.mu.Unlock()
			}
		}
	}()
	return nil
}

// opens returns the destination of a packet that starts something: a TCP segment
// with SYN and no ACK, or a datagram to a low port.
func opens(p []byte) (string, bool) {
	var dst netip.Addr
	var protocol byte
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		header := int(p[0]&15) * 4
		if len(p) < header {
			return "", false
		}
		dst, protocol, rest = netip.AddrFrom4([4]byte(p[16:20])), p[9], p[header:]
	case len(p) >= 40 && p[0]>>4 == 6:
		dst, protocol, rest = netip.AddrFrom16([16]byte(p[24:40])), p[6], p[40:]
	default:
		return "", false
	}
	if len(rest) < 8 {
		return "", false
	}
	to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:]))
	switch {
	case protocol == unix.IPPROTO_TCP && len(rest) >= 14 && rest[13]&0x12 == 0x02:
		return "tcp " + to.String(), true
	case protocol == unix.IPPROTO_UDP && binary.BigEndian.Uint16(rest) != 53:
		return "udp " + to.String(), true
	}
	return "", false
}

// surprises returns what was heard without being expected.
func (r *recorder) surprises() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for what := range r.heard {
		if !r.expected[what] {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	return found
}

// inside is what the suite needs of a sandbox. Here it is a gate that is called
// directly; a real sandbox can stand in for it.
type inside interface {
	// dial connects; errRefused when the connection was reset.
	dial(to string) (net.Conn, error)
	// query sends a DNS query and returns the answer; nil for none.
	query(q []byte, overTCP bool) []byte
}

var errRefused = errors.New("connection refused")

// direct drives a Gate through connections of its own making.
type direct struct {
	gate *Gate
	ctx  context.Context
	wg   sync.WaitGroup
}

// asked is an egress.Conn over a pair of sockets.
type asked struct {
	to      netip.AddrPort
	decided chan net.Conn // the sandbox's end; nil: refused
	once    sync.Once
}

func (c *asked) Destination() netip.AddrPort { return c.to }
func (c *asked) Source() netip.AddrPort      { return netip.MustParseAddrPort("10.0.0.2:40000") }

func (c *asked) Accept() (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	err = errors.New("decided before")
	c.once.Do(func() {
		err = nil
		c.decided <- theirs
	})
	return ours, err
}

func (c *asked) Refuse() { c.once.Do(func() { c.decided <- nil }) }

func socketPair() (a, b net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

func (d *direct) dial(to string) (net.Conn, error) {
	c := &asked{to: netip.MustParseAddrPort(to), decided: make(chan net.Conn, 1)}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		d.gate.TCP(d.ctx, c)
		c.Refuse()
	}()
	conn := <-c.decided
	if conn == nil {
		return nil, errRefused
	}
	return conn, conn.SetDeadline(time.Now().Add(5 * time.Minute))
}

func (d *direct) query(q []byte, overTCP bool) []byte { return d.gate.DNS(d.ctx, q, overTCP) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
