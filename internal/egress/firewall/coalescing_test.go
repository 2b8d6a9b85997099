package firewall

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// asks sends a request for a host over a connection of TLS, by HTTP/1.1 or HTTP/2.
func asks(t *testing.T, conn net.Conn, protocol, host string) (int, echoed) {
	t.Helper()
	used := false
	transport := &http.Transport{ForceAttemptHTTP2: protocol == "h2", Protocols: &http.Protocols{}, DialTLSContext: once(conn, &used)}
	transport.Protocols.SetHTTP1(protocol != "h2")
	transport.Protocols.SetHTTP2(protocol == "h2")
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", "https://mine.example/", nil)
	must(t, err)
	req.Host = host // the :authority of HTTP/2
	resp, err := transport.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	var e echoed
	if resp.StatusCode == http.StatusOK {
		must(t, json.Unmarshal(body, &e))
	}
	return resp.StatusCode, e
}

// coalescingCases hold what docs/network.md promises of many names behind one
// connection of TLS: the name of the hello and the address are those that are
// allowed, and what is asked for inside is seen only where TLS is opened.
func coalescingCases(t *testing.T, w *world) {
	edge, err := LoadCA(mustCA(t))
	must(t, err)
	bound, err := NewSecret(agentsandbox.Secret{Name: "API_TOKEN", Value: agentsandbox.NewSecretValue("value"), Hosts: []string{"mine.example"}}, "")
	must(t, err)
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run("inside TLS, "+protocol, func(t *testing.T) {
			b, a := w.named(t, "mine.example", 443)
			other := w.address()
			b.w.name("other.example", other.String())
			conn, err := b.tls(b.connect(at(a, 443)), "mine.example", w.ca, protocol)
			must(t, err)
			// Nobody sees this: the server that was allowed may serve another name.
			status, e := asks(t, conn, protocol, "other.example")
			if host, _, _ := net.SplitHostPort(e.Address); status != 200 || e.Host != "other.example" || host != a.String() {
				t.Errorf("%d %+v", status, e)
			}
			// But it is that server, by that name.
			entries, _ := b.gate.Log()
			if slices.ContainsFunc(entries, func(e Entry) bool { return e.Name == "other.example" || e.Kind == "tls" && e.Name != "mine.example" }) {
				t.Errorf("%+v", entries)
			}
			if _, err := b.tls(b.connect(at(a, 443)), "other.example", w.ca, protocol); err == nil {
				t.Error("a connection of its own was made for the other name")
			}
			b.unresolved("other.example", ReasonNotAllowed)
			b.refused(at(other, 443), ReasonNotAllowed)
		})
		t.Run("where TLS is opened, "+protocol, func(t *testing.T) {
			b, a := w.box(t, setup{secrets: []Secret{bound}, ca: edge}), w.address(443)
			b.pin("mine.example", a)
			b.pin("other.example", a)
			conn, err := b.tls(b.connect(at(a, 443)), "mine.example", edge, protocol)
			must(t, err)
			if status, e := asks(t, conn, protocol, "other.example"); status != 403 {
				t.Errorf("%d %+v", status, e)
			}
			b.logged(ReasonName)
		})
	}
	t.Run("the idle timer has a clock of its own", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		echoes(t, b.connect(at(a, 7)))
		b.gate.mu.Lock()
		defer b.gate.mu.Unlock()
		for f := range b.gate.flows {
			if active := time.Duration(f.active.Load()); active <= 0 || active > elapsed() {
				t.Errorf("active at %s of %s: that is no time since the start of the process", active, elapsed())
			}
		}
	})
}

func mustCA(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	certPEM, keyPEM, err := NewCA()
	must(t, err)
	return certPEM, keyPEM
}
