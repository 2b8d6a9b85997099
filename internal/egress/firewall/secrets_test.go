package firewall

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func secretCases(t *testing.T, w *world) {
	const value = "s3cr3t-value"
	secret := func(t *testing.T, header string, hosts ...string) Secret {
		t.Helper()
		s, err := NewSecret(agentsandbox.Secret{Name: "TOKEN", Value: agentsandbox.NewSecretValue(value), Hosts: hosts, Header: header}, "")
		must(t, err)
		return s
	}
	certPEM, keyPEM, err := NewCA()
	must(t, err)
	edge, err := LoadCA(certPEM, keyPEM)
	must(t, err)
	get := func(t *testing.T, conn net.Conn, host, headers string) echoed {
		t.Helper()
		_, e := request(t, conn, bufio.NewReader(conn), "GET /p HTTP/1.1\r\nHost: "+host+"\r\n"+headers+"\r\n")
		return e
	}
	t.Run("in a header to the bound host", func(t *testing.T) {
		s := secret(t, "", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("api.example", a)
		e := get(t, b.connect(at(a, 80)), "api.example", "Authorization: Bearer "+s.Placeholder+"\r\nX-Other: a "+s.Placeholder+"\r\n")
		if e.Header.Get("Authorization") != "Bearer "+value || e.Header.Get("X-Other") != "a "+value {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("in Basic credentials", func(t *testing.T) {
		s := secret(t, "", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("api.example", a)
		basic := base64.StdEncoding.EncodeToString([]byte("me:" + s.Placeholder))
		e := get(t, b.connect(at(a, 80)), "api.example", "Authorization: Basic "+basic+"\r\n")
		if e.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:"+value)) {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("in its own header, unasked", func(t *testing.T) {
		s := secret(t, "Authorization: Bearer", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("api.example", a)
		if e := get(t, b.connect(at(a, 80)), "api.example", ""); e.Header.Get("Authorization") != "Bearer "+value {
			t.Errorf("%v", e.Header)
		}
		e := get(t, b.connect(at(a, 80)), "api.example", "Authorization: Bearer mine\r\nX-Other: "+s.Placeholder+"\r\n")
		if e.Header.Get("Authorization") != "Bearer mine" || e.Header.Get("X-Other") != s.Placeholder {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("not in path, query or body", func(t *testing.T) {
		s := secret(t, "", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("api.example", a)
		conn := b.connect(at(a, 80))
		_, e := request(t, conn, bufio.NewReader(conn), fmt.Sprintf("POST /%[1]s?q=%[1]s HTTP/1.1\r\nHost: api.example\r\nContent-Length: %[2]d\r\n\r\n%[1]s", s.Placeholder, len(s.Placeholder)))
		if strings.Contains(e.Target+e.Body, value) || e.Body != s.Placeholder {
			t.Errorf("%+v", e)
		}
	})
	t.Run("not to another host", func(t *testing.T) {
		s := secret(t, "Authorization: Bearer", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("other.example", a)
		e := get(t, b.connect(at(a, 80)), "other.example", "Authorization: Bearer "+s.Placeholder+"\r\n")
		if e.Header.Get("Authorization") != "Bearer "+s.Placeholder {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("not to an address that only claims the name", func(t *testing.T) {
		s := secret(t, "Authorization: Bearer", "api.example")
		b, a, real := w.box(t, setup{secrets: []Secret{s}, deny: []string{"denied.example"}}), w.address(80), w.address()
		b.pin("api.example", real)
		e := get(t, b.connect(at(a, 80)), "api.example", "X-Token: "+s.Placeholder+"\r\n")
		if e.Header.Get("X-Token") != s.Placeholder || e.Header.Get("Authorization") != "" {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("not at another port", func(t *testing.T) {
		s := secret(t, "", "api.example:80")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(8080)
		b.pin("api.example", a)
		if e := get(t, b.connect(at(a, 8080)), "api.example:8080", "X-Token: "+s.Placeholder+"\r\n"); e.Header.Get("X-Token") != s.Placeholder {
			t.Errorf("%v", e.Header)
		}
	})
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run("through TLS, "+protocol, func(t *testing.T) {
			s := secret(t, "", "api.example")
			b, a := w.box(t, setup{secrets: []Secret{s}, ca: edge}), w.address(443)
			b.pin("api.example", a)
			conn, err := b.tls(b.connect(at(a, 443)), "api.example", edge, protocol)
			must(t, err)
			used := false
			transport := &http.Transport{ForceAttemptHTTP2: protocol == "h2"}
			transport.Protocols = &http.Protocols{}
			transport.Protocols.SetHTTP1(protocol != "h2")
			transport.Protocols.SetHTTP2(protocol == "h2")
			transport.DialTLSContext = once(conn, &used)
			defer transport.CloseIdleConnections()
			req, err := http.NewRequest("POST", "https://api.example/x?y", strings.NewReader("body"))
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+s.Placeholder)
			resp, err := transport.RoundTrip(req)
			must(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			must(t, err)
			if !strings.Contains(string(body), "Bearer "+value) || !strings.Contains(string(body), `"Body":"body"`) || !strings.Contains(string(body), `"Proto":"HTTP/2.0"`) {
				t.Errorf("%s", body)
			}
		})
	}
	t.Run("TLS is opened for bound hosts alone", func(t *testing.T) {
		s := secret(t, "", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}, ca: edge}), w.address(443)
		b.pin("api.example", a)
		b.pin("other.example", a)
		if _, err := b.tls(b.connect(at(a, 443)), "other.example", w.ca); err != nil {
			t.Error(err)
		}
	})
	t.Run("TLS is not opened without a CA", func(t *testing.T) {
		s := secret(t, "Authorization: Bearer", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(443)
		b.pin("api.example", a)
		conn, err := b.tls(b.connect(at(a, 443)), "api.example", w.ca, "http/1.1")
		must(t, err)
		if e := get(t, conn, "api.example", "X-Token: "+s.Placeholder+"\r\n"); e.Header.Get("X-Token") != s.Placeholder || e.Header.Get("Authorization") != "" {
			t.Errorf("%v", e.Header)
		}
	})
	t.Run("a server that is not trusted gets nothing", func(t *testing.T) {
		s := secret(t, "", "untrusted.example")
		b, a := w.box(t, setup{secrets: []Secret{s}, ca: edge}), w.address(443)
		b.pin("untrusted.example", a)
		conn, err := b.tls(b.connect(at(a, 443)), "untrusted.example", edge, "http/1.1")
		must(t, err)
		status, _ := request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: untrusted.example\r\nX-Token: "+s.Placeholder+"\r\n\r\n")
		if status != 502 {
			t.Errorf("answered %d", status)
		}
		b.logged(ReasonName)
	})
	t.Run("another Host inside TLS", func(t *testing.T) {
		s := secret(t, "", "*.api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}, ca: edge}), w.address(443)
		b.pin("a.api.example", a)
		b.pin("b.api.example", a)
		conn, err := b.tls(b.connect(at(a, 443)), "a.api.example", edge, "http/1.1")
		must(t, err)
		if status, _ := request(t, conn, bufio.NewReader(conn), "GET / HTTP/1.1\r\nHost: b.api.example\r\n\r\n"); status != 403 {
			t.Errorf("answered %d", status)
		}
	})
	t.Run("never in the log", func(t *testing.T) {
		s := secret(t, "", "api.example")
		b, a := w.box(t, setup{secrets: []Secret{s}}), w.address(80)
		b.pin("api.example", a)
		get(t, b.connect(at(a, 80)), "api.example", "X: "+s.Placeholder+"\r\n")
		entries, _ := b.gate.Log()
		if text := fmt.Sprintf("%+v %+v %#v", entries, s, s); strings.Contains(text, value) {
			t.Error(text)
		}
	})
}

// once dials a connection that is there already.
func once(conn net.Conn, used *bool) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		if *used {
			return nil, net.ErrClosed
		}
		*used = true
		return conn, nil
	}
}
