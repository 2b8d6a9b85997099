package firewall

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// named is a sandbox that may reach one name, which is pinned to an address that
// serves the given ports.
func (w *world) named(t *testing.T, name string, ports ...int) (*box, netip.Addr) {
	t.Helper()
	b, a := w.allowing(t, name), w.address(ports...)
	b.pin(name, a)
	return b, a
}

func tlsCases(t *testing.T, w *world) {
	t.Run("SNI matches", func(t *testing.T) {
		b, a := w.named(t, "tls1.example", 443)
		if _, err := b.tls(b.connect(at(a, 443)), "tls1.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	t.Run("SNI in capitals", func(t *testing.T) {
		b, a := w.named(t, "tls2.example", 443)
		if _, err := b.tls(b.connect(at(a, 443)), "TLS2.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	t.Run("SNI matches on another port", func(t *testing.T) {
		b, a := w.named(t, "tls3.example", 8443)
		if _, err := b.tls(b.connect(at(a, 8443)), "tls3.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	t.Run("a hello byte by byte", func(t *testing.T) {
		b, a := w.named(t, "tls4.example", 443)
		if _, err := b.tls(dripping{b.connect(at(a, 443))}, "tls4.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	mismatch := func(name, sni string, port int) {
		t.Run(name, func(t *testing.T) {
			b, a := w.named(t, "mine.example", port)
			conn := b.connect(at(a, port))
			if _, err := b.tls(conn, sni, w.ca); err == nil || !strings.Contains(err.Error(), "access denied") {
				t.Errorf("the handshake: %v", err)
			}
			b.logged(ReasonName)
		})
	}
	mismatch("SNI of another name", "other.example", 443)
	mismatch("SNI of another name on another port", "other.example", 8443)
	mismatch("no SNI", "", 443)
	mismatch("SNI below the name", "x.mine.example", 443)
	t.Run("SNI of an allowed name of another address", func(t *testing.T) {
		b := w.allowing(t, "*.two.example")
		a, other := w.address(443), w.address()
		b.pin("a.two.example", a)
		b.pin("b.two.example", other)
		if _, err := b.tls(b.connect(at(a, 443)), "b.two.example", w.ca); err == nil {
			t.Error("the handshake went through")
		}
	})
	t.Run("SNI of a denied name", func(t *testing.T) {
		b := w.box(t, setup{deny: []string{"denied.example"}})
		a := w.address(443)
		if _, err := b.tls(b.connect(at(a, 443)), "denied.example", w.ca); err == nil {
			t.Error("the handshake went through")
		}
		b.logged(ReasonDenied)
		if _, err := b.tls(b.connect(at(a, 443)), "fine.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	t.Run("an address that is allowed as one needs no SNI", func(t *testing.T) {
		a := w.address(443)
		b := w.allowing(t, a.String())
		if _, err := b.tls(b.connect(at(a, 443)), "", w.ca); err != nil {
			t.Error(err)
		}
	})
	for name, first := range map[string]string{
		"a hello that makes no sense":  "\x16\x03\x01\x00\x04\x01\x00\x00\x00",
		"a hello cut by the end":       "\x16\x03\x01\x02\x00\x01",
		"an old hello on port 443":     "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
		"something else on port 443":   "\x00\x01\x02\x03 hello",
		"a line on port 443":           "EHLO me\r\n",
		"a record of another type":     "\x17\x03\x03\x00\x05hello",
		"HTTP/2 without TLS":           "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a hello of a whole megabyte":  "\x16\x03\x01\x40\x00\x01\x0f\xff\xff" + strings.Repeat("x", 100<<10),
		"an alert":                     "\x15\x03\x01\x00\x02\x02\x28",
		"a hello in a newer major one": "\x16\x09\x09\x00\x01\x01",
	} {
		t.Run(name, func(t *testing.T) {
			b, a := w.named(t, "bytes.example", 443)
			conn := b.connect(at(a, 443))
			_, _ = io.WriteString(conn, first)
			_ = conn.(*net.UnixConn).CloseWrite()
			switch said := b.told(conn); {
			case first[0] == recordHandshake && said != string(alertDenied):
				t.Errorf("was told %q, want an alert", said)
			case strings.HasPrefix(first, "PRI") && !strings.HasPrefix(said, "HTTP/1.1 403 "):
				t.Errorf("was told %q, want a 403", said)
			case first[0] != recordHandshake && !strings.HasPrefix(first, "PRI") && said != "":
				t.Errorf("was told %q", said)
			}
			b.logged(ReasonProtocol)
		})
	}
	t.Run("a hello that never ends", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{Hello: 50 * time.Millisecond}, session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"slow.example"}}})
		a := w.address(443)
		b.pin("slow.example", a)
		conn := b.connect(at(a, 443))
		_, _ = io.WriteString(conn, "\x16\x03\x01")
		if said := b.told(conn); said != string(alertDenied) {
			t.Errorf("was told %q, want an alert", said)
		}
		b.logged(ReasonProtocol)
	})
}

// dripping writes one byte at a time.
type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func httpCases(t *testing.T, w *world) {
	t.Run("Host matches, request after request", func(t *testing.T) {
		b, a := w.named(t, "web1.example", 80)
		conn := b.connect(at(a, 80))
		r := bufio.NewReader(conn)
		for _, target := range []string{"/a?b=c;d", "/%41%2fb/..//c", "/a%20b?x=%zz"} {
			status, e := request(t, conn, r, "GET "+target+" HTTP/1.1\r\nHost: web1.example\r\nX-Forwarded-For: me\r\n\r\n")
			if status != 200 || e.Host != "web1.example" || e.Target != target || e.Header.Get("X-Forwarded-For") != "me" || e.Header.Get("User-Agent") != "" {
				t.Errorf("%s: %d %+v", target, status, e)
			}
		}
	})
	t.Run("servers that close after each answer", func(t *testing.T) {
		b, a := w.named(t, "web9.example", 80)
		conn := b.connect(at(a, 80))
		r := bufio.NewReader(conn)
		for range 5 {
			if status, _ := request(t, conn, r, "GET /?close=1 HTTP/1.1\r\nHost: web9.example\r\n\r\n"); status != 200 {
				t.Errorf("answered %d", status)
			}
		}
		b.gate.mu.Lock()
		defer b.gate.mu.Unlock()
		for f := range b.gate.flows {
			f.mu.Lock()
			if len(f.remotes) > 1 {
				t.Errorf("%d connections outside are kept", len(f.remotes))
			}
			f.mu.Unlock()
		}
	})
	t.Run("a body of unknown length", func(t *testing.T) {
		b, a := w.named(t, "web2.example", 8080)
		conn := b.connect(at(a, 8080))
		_, e := request(t, conn, bufio.NewReader(conn), "POST / HTTP/1.1\r\nHost: web2.example:8080\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
		if e.Body != "hello" || e.Host != "web2.example:8080" {
			t.Errorf("%+v", e)
		}
	})
	for name, text := range map[string]string{
		"Host of another name":          "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"absolute form of another name": "GET http://other.example/ HTTP/1.1\r\nHost: web.example\r\n\r\n",
		"no Host in HTTP/1.0":           "GET / HTTP/1.0\r\n\r\n",
		"another address as Host":       "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
		"CONNECT":                       "CONNECT web.example:443 HTTP/1.1\r\nHost: web.example:443\r\n\r\n",
		"a method of its own":           "STEAL / HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"Host with a port":              "GET / HTTP/1.1\r\nHost: other.example:80\r\n\r\n",
		"user info as Host":             "GET http://web.example@other.example/ HTTP/1.1\r\nHost: web.example\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b, a := w.named(t, "web.example", 80)
			conn := b.connect(at(a, 80))
			if status, _ := request(t, conn, bufio.NewReader(conn), text); status != 403 {
				t.Errorf("answered %d", status)
			}
			b.ended(conn)
			b.logged(map[bool]Reason{true: ReasonProtocol, false: ReasonName}[name == "CONNECT"])
		})
	}
	for name, text := range map[string]string{
		"an empty line first":      "\r\nGET / HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"two Hosts":                "GET / HTTP/1.1\r\nHost: web.example\r\nHost: other.example\r\n\r\n",
		"no Host in HTTP/1.1":      "GET / HTTP/1.1\r\n\r\n",
		"HTTP/0.9":                 "GET /\r\n",
		"tabs":                     "GET\t/\tHTTP/1.1\r\nHost: other.example\r\n\r\n",
		"a small version":          "get / http/1.1\r\nHost: other.example\r\n\r\n",
		"a space before the colon": "GET / HTTP/1.1\r\nHost : other.example\r\n\r\n",
		"two lengths":              "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"an odd encoding":          "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: xchunked\r\n\r\n",
	} {
		t.Run("malformed: "+name, func(t *testing.T) {
			b, a := w.named(t, "web.example", 80)
			conn := b.connect(at(a, 80))
			status, _ := request(t, conn, bufio.NewReader(conn), text)
			if status < 400 || status > 501 {
				t.Errorf("answered %d", status)
			}
			b.ended(conn)
			b.logged(ReasonProtocol)
		})
	}
	t.Run("Host of another name in the second request", func(t *testing.T) {
		b, a := w.named(t, "web3.example", 80)
		conn := b.connect(at(a, 80))
		r := bufio.NewReader(conn)
		request(t, conn, r, "GET / HTTP/1.1\r\nHost: web3.example\r\n\r\n")
		if status, _ := request(t, conn, r, "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"); status != 403 {
			t.Errorf("answered %d", status)
		}
		b.ended(conn)
	})
	t.Run("a request smuggled in a body", func(t *testing.T) {
		b, a := w.named(t, "web4.example", 80)
		conn := b.connect(at(a, 80))
		inner := "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"
		r := bufio.NewReader(conn)
		// By its length the second request is a body; by its encoding it is not.
		_, e := request(t, conn, r, fmt.Sprintf("POST / HTTP/1.1\r\nHost: web4.example\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", len(inner)+5, inner))
		if e.Body != "" {
			t.Errorf("body %q", e.Body)
		}
		if line, err := r.ReadString('\n'); err == nil && !strings.Contains(line, " 403 ") && !strings.Contains(line, " 400 ") {
			t.Errorf("the second request was answered with %s", line)
		}
	})
	t.Run("redirect into a private range", func(t *testing.T) {
		b, a := w.named(t, "web5.example", 80)
		conn := b.connect(at(a, 80))
		status, _ := request(t, conn, bufio.NewReader(conn), "GET /?redirect=http://169.254.169.254/latest/ HTTP/1.1\r\nHost: web5.example\r\n\r\n")
		if status != 302 {
			t.Errorf("answered %d", status)
		}
		b.refused("169.254.169.254:80", ReasonRange)
	})
	t.Run("an upgrade to HTTP/2 is not made", func(t *testing.T) {
		b, a := w.named(t, "web6.example", 80)
		conn := b.connect(at(a, 80))
		status, e := request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: web6.example\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		if status != 200 || e.Header.Get("Upgrade") != "" {
			t.Errorf("%d %+v", status, e)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		b, a := w.named(t, "web7.example", 80)
		conn := b.connect(at(a, 80))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web7.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%v %v", resp, err)
		}
		resp.Body.Close()
		_, _ = io.WriteString(conn, "ping")
		got := make([]byte, 4)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "ping" {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("something else on port 80", func(t *testing.T) {
		b, a := w.named(t, "web8.example", 80)
		conn := b.connect(at(a, 80))
		_, _ = io.WriteString(conn, "\x00\x01\x02")
		b.ended(conn)
		b.logged(ReasonProtocol)
	})
	t.Run("a denied Host at an allowed address", func(t *testing.T) {
		b := w.box(t, setup{deny: []string{"denied.example"}})
		a := w.address(80)
		conn := b.connect(at(a, 80))
		if status, _ := request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: denied.example\r\n\r\n"); status != 403 {
			t.Errorf("answered %d", status)
		}
		conn = b.connect(at(a, 80))
		if status, _ := request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: fine.example\r\n\r\n"); status != 200 {
			t.Errorf("answered %d", status)
		}
	})
}

func liveCases(t *testing.T, w *world) {
	policy := func(t *testing.T, r *agentsandbox.NetworkPolicy) *Policy {
		t.Helper()
		p, err := Narrow(Server{Mode: "public"}, r)
		must(t, err)
		return p
	}
	t.Run("a connection that is no longer allowed is cut", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conn := b.connect(at(a, 7))
		echoes(t, conn)
		b.gate.SetPolicy(policy(t, &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"example.org"}}))
		b.ended(conn)
		b.logged(ReasonNotAllowed)
		b.refused(at(a, 7), ReasonNotAllowed)
	})
	t.Run("one that is still allowed goes on", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conn := b.connect(at(a, 7))
		echoes(t, conn)
		b.gate.SetPolicy(policy(t, &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{a.String()}}))
		echoes(t, conn)
	})
	t.Run("TLS goes on under its own name alone", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(443)
		b.pin("kept.example", a)
		b.pin("dropped.example", a)
		kept, err := b.tls(b.connect(at(a, 443)), "kept.example", w.ca)
		must(t, err)
		dropped, err := b.tls(b.connect(at(a, 443)), "dropped.example", w.ca)
		must(t, err)
		b.gate.SetPolicy(policy(t, &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"kept.example"}}))
		b.ended(dropped)
		if status, _ := request(t, kept, bufio.NewReader(kept), "GET / HTTP/1.1\r\nHost: kept.example\r\n\r\n"); status != 200 {
			t.Errorf("answered %d", status)
		}
	})
	t.Run("off cuts everything", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conns := []net.Conn{b.connect(at(a, 7)), b.connect(at(a, 7)), b.connect(at(a, 7))}
		b.gate.SetPolicy(policy(t, &agentsandbox.NetworkPolicy{Mode: "off"}))
		for _, c := range conns {
			b.ended(c)
		}
	})
	t.Run("an HTTP connection is cut between requests", func(t *testing.T) {
		b, a := w.named(t, "live1.example", 80)
		conn := b.connect(at(a, 80))
		request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: live1.example\r\n\r\n")
		b.gate.SetPolicy(policy(t, &agentsandbox.NetworkPolicy{Mode: "public", Deny: []string{"live1.example"}}))
		b.ended(conn)
		b.logged(ReasonDenied)
	})
	t.Run("a wider policy opens", func(t *testing.T) {
		b, a := w.allowing(t), w.address(7)
		b.refused(at(a, 7), ReasonNotAllowed)
		b.gate.SetPolicy(policy(t, nil))
		echoes(t, b.connect(at(a, 7)))
	})
	t.Run("the end of the link ends connections", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conn := b.connect(at(a, 7))
		b.gate.Close()
		b.ended(conn)
		b.refused(at(a, 7), ReasonOff)
	})
}

// echoes checks that a connection to port 7 works.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	got := make([]byte, 5)
	if _, err := io.WriteString(conn, "\x01abcd"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x01abcd" {
		t.Fatalf("echo: %q %v", got, err)
	}
}
