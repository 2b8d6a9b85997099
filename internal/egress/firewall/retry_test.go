package firewall

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// rewriting changes what a TLS client says after its first message.
type rewriting struct {
	net.Conn
	change func(later []byte) []byte
	first  bool
}

func (c *rewriting) Write(b []byte) (int, error) {
	out := b
	if c.first {
		out = c.change(bytes.Clone(b))
	}
	c.first = true
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// retry shakes hands with a server that wants another hello.
func (b *box) retry(conn net.Conn, sni string) (*tls.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(b.w.ca.cert)
	c := tls.Client(conn, &tls.Config{ServerName: sni, RootCAs: roots, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP384}})
	return c, c.Handshake()
}

// firstHello is what a client would say to a server first.
func firstHello(t *testing.T, sni string) []byte {
	t.Helper()
	var said recording
	_ = tls.Client(&said, &tls.Config{ServerName: sni, MinVersion: tls.VersionTLS13}).Handshake()
	if len(said.Bytes()) == 0 {
		t.Fatal("no hello")
	}
	return said.Bytes()
}

// recording takes what is written, and has nothing to read.
type recording struct {
	helloConn
	bytes.Buffer
}

func (r *recording) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recording) Write(b []byte) (int, error)      { return r.Buffer.Write(b) }
func (r *recording) Close() error                     { return nil }
func (r *recording) SetDeadline(time.Time) error      { return nil }
func (r *recording) SetWriteDeadline(time.Time) error { return nil }

func retryCases(t *testing.T, w *world) {
	t.Run("of the same name", func(t *testing.T) {
		b, a := w.named(t, "again1.example", 8444)
		c, err := b.retry(b.connect(at(a, 8444)), "again1.example")
		must(t, err)
		if c.ConnectionState().CurveID != tls.CurveP384 {
			t.Error("the server did not ask for another hello")
		}
		echoes(t, c)
	})
	t.Run("of the same name, byte by byte", func(t *testing.T) {
		b, a := w.named(t, "again2.example", 8444)
		c, err := b.retry(dripping{b.connect(at(a, 8444))}, "again2.example")
		must(t, err)
		echoes(t, c)
	})
	t.Run("of another name", func(t *testing.T) {
		b, a := w.named(t, "again3.example", 8444)
		conn := &rewriting{Conn: b.connect(at(a, 8444)), change: func(later []byte) []byte {
			return bytes.ReplaceAll(later, []byte("again3.example"), []byte("evil33.example"))
		}}
		if _, err := b.retry(conn, "again3.example"); err == nil {
			t.Error("the handshake went through")
		}
		b.logged(ReasonName)
		if !w.arrived("again3.example") || w.arrived("evil33.example") {
			t.Error("the second hello arrived outside")
		}
	})
	t.Run("that nobody asked for", func(t *testing.T) {
		b, a := w.named(t, "again4.example", 8444)
		conn := b.connect(at(a, 8444))
		_, err := conn.Write(append(firstHello(t, "again4.example"), firstHello(t, "evil44.example")...))
		must(t, err)
		// The server may have asked for one by the time that it is looked at: then
		// its name is wrong.
		_, _ = io.Copy(io.Discard, conn)
		b.wait(func() bool { s := b.gate.Stats(); return s.Refusals[ReasonProtocol]+s.Refusals[ReasonName] == 1 },
			func() string { return "the connection was not cut" })
		if w.arrived("evil44.example") {
			t.Error("the second hello arrived outside")
		}
	})
	t.Run("in the record of the first", func(t *testing.T) {
		b, a := w.named(t, "again5.example", 8444)
		conn := b.connect(at(a, 8444))
		both := firstHello(t, "again5.example")
		second := firstHello(t, "evil55.example")[recordHeader:]
		both = append(both, second...)
		length := len(both) - recordHeader
		both[3], both[4] = byte(length>>8), byte(length)
		_, err := conn.Write(both)
		must(t, err)
		b.ended(conn)
		b.logged(ReasonProtocol)
		if w.arrived("evil55.example") {
			t.Error("the second hello arrived outside")
		}
	})
	t.Run("that does not end", func(t *testing.T) {
		b := w.box(t, setup{limits: Limits{Hello: 50 * time.Millisecond}, session: &agentsandbox.NetworkPolicy{Mode: "allowlist", Allow: []string{"again6.example"}}})
		a := w.address(8444)
		b.pin("again6.example", a)
		conn := &rewriting{Conn: b.connect(at(a, 8444)), change: func(later []byte) []byte {
			if at := bytes.Index(later, []byte("again6.example")); at >= 0 {
				return later[:at]
			}
			return later
		}}
		if _, err := b.retry(conn, "again6.example"); err == nil {
			t.Error("the handshake went through")
		}
		b.logged(ReasonProtocol)
	})
	t.Run("records that are cut", func(t *testing.T) {
		for _, raw := range [][]byte{nil, {22}, {22, 3, 1, 0, 1}, {22, 3, 1, 0, 1, 1}, {23, 3, 3, 0, 0}, bytes.Repeat([]byte{22, 3, 1, 0, 0}, 3)} {
			if end, ok := helloEnd(raw); ok {
				t.Errorf("%x ends at %d", raw, end)
			}
		}
	})
}
