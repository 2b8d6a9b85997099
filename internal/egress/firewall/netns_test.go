package firewall

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/agentsandbox/agentsandbox"
)

// The egress suite: real sockets in two network namespaces that it makes itself.
// The test process runs again in the first one, the host; the second one is the
// outside.

const worldVariable = "AGENTSANDBOX_EGRESS_WORLD"

// TestEgress makes the namespaces, and runs the suite in them.
func TestEgress(t *testing.T) {
	if path := os.Getenv(worldVariable); path != "" {
		suite(t, path)
		return
	}
	if testing.Short() {
		t.Skip("it makes network namespaces, as root: make test")
	}
	if _, err := exec.LookPath("ip"); err != nil || os.Getuid() != 0 {
		t.Fatal("the suite makes network namespaces: run it as root, with ip (scripts/install-packages ip:iproute2)")
	}
	host, outside := fmt.Sprintf("asb-h%d", os.Getpid()), fmt.Sprintf("asb-w%d", os.Getpid())
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", host).Run()
		_ = exec.Command("ip", "netns", "del", outside).Run()
	})
	for _, line := range []string{
		"netns add " + host,
		"netns add " + outside,
		"link add outside netns " + host + " type veth peer name outside netns " + outside,
		"-n " + host + " link set lo up",
		"-n " + outside + " link set lo up",
		"-n " + host + " link set outside up",
		"-n " + outside + " link set outside up",
		"-n " + host + " addr add " + hostAddr + "/24 dev outside",
		"-n " + outside + " addr add " + worldAddr + "/24 dev outside",
		"-n " + host + " addr add 10.77.0.1/32 dev lo",
		"-n " + host + " -6 addr add " + hostAddr6 + "/64 dev outside nodad",
		"-n " + outside + " -6 addr add 2a0e:1::2/64 dev outside nodad",
		"-n " + host + " route add default via " + worldAddr,
		"-n " + host + " -6 route add default via 2a0e:1::2",
		// Every address is at home outside, except that one network has no way back.
		"-n " + outside + " route add local 0.0.0.0/0 dev lo table main",
		"-n " + outside + " -6 route add local ::/0 dev lo table main",
		"-n " + host + " route add unreachable 93.185.0.0/16",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	args := []string{"netns", "exec", host, "/proc/self/exe", "-test.run=^TestEgress$", "-test.timeout=5m"}
	self, err := os.Executable()
	must(t, err)
	args[3] = self
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command("ip", args...)
	cmd.Env = append(os.Environ(), worldVariable+"=/var/run/netns/"+outside)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		fmt.Printf("%s", out)
	}
}

func suite(t *testing.T, netns string) {
	w := newWorld(t, netns)
	loopback := &recorder{}
	must(t, loopback.listen("lo"))
	t.Cleanup(func() { loopback.file.Close() })
	canaries(t)
	t.Run("ranges", func(t *testing.T) { rangeCases(t, w) })
	t.Run("names", func(t *testing.T) { nameCases(t, w) })
	t.Run("tunnels", func(t *testing.T) { tunnelCases(t, w) })
	t.Run("upstream", func(t *testing.T) { upstreamCases(t, w) })
	t.Run("tls", func(t *testing.T) { tlsCases(t, w) })
	t.Run("second hello", func(t *testing.T) { retryCases(t, w) })
	t.Run("http", func(t *testing.T) { httpCases(t, w) })
	t.Run("foreign names in plain HTTP", func(t *testing.T) { smuggleCases(t, w) })
	t.Run("many names on one connection", func(t *testing.T) { coalescingCases(t, w) })
	t.Run("what else passes", func(t *testing.T) { lateCases(t, w) })
	t.Run("policy", func(t *testing.T) { policyCases(t, w) })
	t.Run("live", func(t *testing.T) { liveCases(t, w) })
	t.Run("caps", func(t *testing.T) { capCases(t, w) })
	t.Run("bytes", func(t *testing.T) { byteCases(t, w) })
	t.Run("secrets", func(t *testing.T) { secretCases(t, w) })
	t.Run("nothing else was heard", func(t *testing.T) {
		if found := w.recorder.surprises(); len(found) > 0 {
			t.Errorf("packets that should not have been sent: %q", found)
		}
		if found := loopback.surprises(); len(found) > 0 {
			t.Errorf("packets on the host's loopback: %q", found)
		}
		if len(w.recorder.heard) < 10 {
			t.Errorf("the recorder is deaf: it heard %d things", len(w.recorder.heard))
		}
	})
}

// canaries listen on the host's own addresses: whoever reaches them fails the
// suite, at once and by the recorder on the loopback.
func canaries(t *testing.T) {
	t.Helper()
	for _, address := range []string{"127.0.0.1:8000", "[::1]:8000", hostAddr + ":8000", "[" + hostAddr6 + "]:8000", "10.77.0.1:8000"} {
		l, err := net.Listen("tcp", address)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Errorf("a canary at %s was reached", address)
				c.Close()
			}
		}()
	}
}

// box is a sandbox for one case.
type box struct {
	inside
	gate *Gate
	t    *testing.T
	w    *world
}

type setup struct {
	mode              string
	open, deny, allow []string // the server's
	session           *agentsandbox.NetworkPolicy
	limits            Limits
	secrets           []Secret
	ca                *CA
	upstream          string
}

func (w *world) box(t *testing.T, s setup) *box {
	t.Helper()
	if s.mode == "" {
		s.mode = "public"
	}
	if s.upstream == "" {
		s.upstream = upstream
	}
	server, err := ParseServer(s.mode, s.allow, s.open, s.deny)
	must(t, err)
	policy, err := Narrow(server, s.session)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.cert)
	fw := New(Config{
		Limits: s.limits, Upstreams: []netip.AddrPort{netip.MustParseAddrPort(s.upstream)},
		CA: s.ca, Roots: roots, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	d := &direct{gate: fw.Gate("sandbox", policy, s.secrets), ctx: ctx}
	t.Cleanup(func() {
		d.gate.Close()
		cancel()
		d.wg.Wait()
		if open := d.gate.Stats().Open; open != 0 {
			t.Errorf("%d connections are left", open)
		}
	})
	return &box{d, d.gate, t, w}
}

// allowing is a sandbox whose session lists what it may reach.
func (w *world) allowing(t *testing.T, allow ...string) *box {
	t.Helper()
	return w.box(t, setup{session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: allow}})
}

func (b *box) refused(to string, why Reason) {
	b.t.Helper()
	conn, err := b.dial(to)
	if !errors.Is(err, errRefused) {
		b.t.Errorf("dialling %s: %v, want a refusal", to, err)
		if conn != nil {
			conn.Close()
		}
		return
	}
	b.logged(why)
}

// told reads what a connection is told before it ends.
func (b *box) told(conn net.Conn) string {
	b.t.Helper()
	said, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.t.Errorf("the connection goes on after %q", said)
	}
	return string(said)
}

// explained checks that a connection to port 80 goes nowhere, and is told why.
func (b *box) explained(to string, why Reason, words string) {
	b.t.Helper()
	conn := b.connect(to)
	b.logged(why)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"); err != nil {
		b.t.Fatal(err)
	}
	said := b.told(conn)
	if !strings.HasPrefix(said, "HTTP/1.1 403 ") || !strings.Contains(said, "agentsandbox: refused by the network policy") || !strings.Contains(said, words) {
		b.t.Errorf("%s: %q, want 403 and %q", to, said, words)
	}
}

// logged checks the last entry that is no allowed one.
func (b *box) logged(why Reason) {
	b.t.Helper()
	b.wait(func() bool {
		entries, _ := b.gate.Log()
		for i := len(entries) - 1; i >= 0; i-- {
			if entries[i].Verdict != VerdictAllowed {
				return entries[i].Reason == why
			}
		}
		return false
	}, func() string { e, _ := b.gate.Log(); return fmt.Sprintf("no refusal for %s in %+v", why, e) })
}

func (b *box) wait(done func() bool, what func() string) {
	b.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !done(); {
		if time.Now().After(deadline) {
			b.t.Fatal(what())
		}
		<-time.After(time.Millisecond)
	}
}

func (b *box) connect(to string) net.Conn {
	b.t.Helper()
	conn, err := b.dial(to)
	if err != nil {
		e, _ := b.gate.Log()
		b.t.Fatalf("dialling %s: %v; %+v", to, err, e)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

// ended checks that a connection is over without another byte.
func (b *box) ended(conn net.Conn) {
	b.t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		b.t.Errorf("the connection goes on: %d bytes, %v", n, err)
	}
}

func at(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }

func packed(t *testing.T, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	q, err := packQuery(4242, question{name, typ})
	must(t, err)
	return q
}

// resolve asks for a name as a sandbox does.
func (b *box) resolve(name string, typ dnsmessage.Type) (dnsmessage.RCode, []netip.Addr) {
	b.t.Helper()
	return b.unpack(b.query(packed(b.t, name, typ), false), typ)
}

func (b *box) unpack(answer []byte, typ dnsmessage.Type) (dnsmessage.RCode, []netip.Addr) {
	b.t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		b.t.Fatalf("answer %x: %v", answer, err)
	}
	var addrs []netip.Addr
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			addrs = append(addrs, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			addrs = append(addrs, netip.AddrFrom16(body.AAAA))
		default:
			b.t.Errorf("an answer to %s has a %T", typ, body)
		}
	}
	return m.RCode, addrs
}

// pin puts a name with an address into the zone, and resolves it.
func (b *box) pin(name string, a netip.Addr) {
	b.t.Helper()
	b.w.name(name, a.String())
	typ := dnsmessage.TypeA
	if a.Is6() {
		typ = dnsmessage.TypeAAAA
	}
	if rcode, addrs := b.resolve(name, typ); rcode != dnsmessage.RCodeSuccess || len(addrs) != 1 || addrs[0] != a {
		e, _ := b.gate.Log()
		b.t.Fatalf("%s: %s %s, want %s; %+v", name, rcode, addrs, a, e)
	}
}

func (b *box) unresolved(name string, why Reason) {
	b.t.Helper()
	for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if rcode, addrs := b.resolve(name, typ); len(addrs) > 0 {
			b.t.Errorf("%s %s: %s %s, want no address", name, typ, rcode, addrs)
		}
	}
	b.logged(why)
}

// tls shakes hands over a connection.
func (b *box) tls(conn net.Conn, sni string, ca *CA, protocols ...string) (*tls.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c := tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: roots, InsecureSkipVerify: sni == "", NextProtos: protocols})
	return c, c.Handshake()
}

// request sends a request as it stands, and reads one answer: its status, and
// what the server echoed.
func request(t *testing.T, conn net.Conn, r *bufio.Reader, text string) (int, echoed) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer to %q: %v", text, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e echoed
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
	} else if !bytes.Contains(body, []byte("agentsandbox")) && resp.StatusCode == http.StatusForbidden {
		t.Errorf("the refusal does not say whose it is: %s", body)
	}
	return resp.StatusCode, e
}
