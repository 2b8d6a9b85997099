package firewall

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

const (
	maxHeader  = 64 << 10 // bytes of a request's head
	maxOutside = 8        // connections that one intercepted one may need outside
)

// serve speaks HTTP with the sandbox over local, judges each request by its
// host, and passes it on. Requests are parsed and written anew, so that what was
// judged is what the server sees. sni is the name of an intercepted TLS
// connection, "" for plain HTTP.
func (f *flow) serve(local net.Conn, sni string) {
	once := newOneConn(local)
	transport := f.transport(sni)
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { f.rewrite(r, sni) },
		Transport:     transport,
		FlushInterval: -1, // as it comes
		ErrorLog:      quiet,
		ErrorHandler:  f.failed,
	}
	var handlers sync.WaitGroup
	ended := make(chan struct{})
	var requests atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			requests.Add(1)
			if v := f.judgeRequest(r, sni); !v.Allowed {
				w.Header().Set("Connection", "close")
				http.Error(w, explanation(v), http.StatusForbidden)
				return
			}
			proxy.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: f.gate.limits.Hello,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          quiet,
		BaseContext:       func(net.Listener) context.Context { return f.ctx },
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				close(ended)
			}
		},
	}
	if sni != "" {
		server.TLSConfig = f.gate.fw.config.CA.serverConfig(sni)
		_ = server.ServeTLS(once, "", "")
	} else {
		_ = server.Serve(once)
	}
	_ = server.Close()
	f.close()
	// No handler starts once its connection has ended.
	<-ended
	handlers.Wait()
	if requests.Load() == 0 {
		f.gate.count(entryFor("http", "", f.dst, refused(ReasonProtocol, "no request that can be read")))
	}
}

var quiet = stdlog.New(io.Discard, "", 0)

// judgeRequest judges one request by its host.
func (f *flow) judgeRequest(r *http.Request, sni string) Verdict {
	v, name := f.judgeHost(r, sni)
	kind := "http"
	e := entryFor(kind, name, f.dst, v)
	if v.Allowed {
		f.bear(kind, name)
	}
	f.gate.count(e)
	return v
}

func (f *flow) judgeHost(r *http.Request, sni string) (Verdict, string) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if r.Method == http.MethodConnect {
		return refused(ReasonProtocol, "CONNECT goes to a proxy, which policy cannot follow"), ""
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Unmap() != f.dst.Addr() || sni != "" {
			return refused(ReasonName, "the request is for the host %s, the connection is not", a), ""
		}
		return f.judgeName(""), ""
	}
	if host == "" {
		return f.judgeName(""), ""
	}
	name, err := agentsandbox.NormalName(host)
	if err != nil {
		return refused(ReasonName, "the request's host %s", err), ""
	}
	if sni != "" && name != sni {
		return refused(ReasonName, "the request is for the host %s, the connection is for %s", name, sni), name
	}
	return f.judgeName(name), name
}

// rewrite makes the request that goes outside.
func (f *flow) rewrite(r *httputil.ProxyRequest, sni string) {
	in, out := r.In, r.Out
	out.Host = in.Host
	out.URL.Host = f.dst.String()
	out.URL.Scheme = "http"
	if sni != "" {
		out.URL.Scheme = "https"
	}
	out.URL.RawQuery = in.URL.RawQuery
	keepPath(out.URL, in.RequestURI)
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, found := in.Header[h]; found {
			out.Header[h] = v
		}
	}
	if upgrade := out.Header.Get("Upgrade"); upgrade != "" && !strings.EqualFold(upgrade, "websocket") {
		// What follows (h2c, TLS) would be requests and names that nobody judges.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
		out.Header.Del("Http2-Settings")
	}
	if name, err := agentsandbox.NormalName(hostOnly(in.Host)); err == nil && f.knows(name) {
		for _, secret := range fill(out.Header, f.gate.secretsFor(name, f.dst.Port())) {
			f.gate.notes.use(secret, entryFor("http", name, f.dst, allowed("secret %s", secret)))
		}
	}
}

// keepPath keeps the path as the sandbox wrote it: signatures depend on it.
func keepPath(u *url.URL, target string) {
	path, _, _ := strings.Cut(target, "?")
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
}

func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

func (f *flow) failed(w http.ResponseWriter, r *http.Request, err error) {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		v := refused(ReasonName, "the server's certificate is not trusted")
		f.gate.count(entryFor("tls", hostOnly(r.Host), f.dst, v))
		http.Error(w, explanation(v), http.StatusBadGateway)
		return
	}
	http.Error(w, "agentsandbox: the server did not answer", http.StatusBadGateway)
}

// transport dials nothing but the flow's address: the connection that there is,
// and others after it when the server closes that.
func (f *flow) transport(sni string) *http.Transport {
	var first atomic.Pointer[meter]
	first.Store(f.remote)
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if m := first.Swap(nil); m != nil {
				return m, nil
			}
			conn, err := f.gate.dial(ctx, f.dst)
			if err != nil {
				return nil, err
			}
			return f.adopt(conn), nil
		},
		DisableCompression: true, // nothing is changed on the way
		MaxConnsPerHost:    maxOutside,

		MaxResponseHeaderBytes: 1 << 20,
		MaxIdleConnsPerHost:    maxOutside,
		ExpectContinueTimeout:  time.Second,
		TLSHandshakeTimeout:    f.gate.limits.Hello,
	}
	if sni != "" {
		t.ForceAttemptHTTP2 = true
		t.TLSClientConfig = &tls.Config{ServerName: sni, RootCAs: f.gate.fw.config.Roots, MinVersion: tls.VersionTLS12}
	}
	return t
}

// oneConn is a listener of one connection. It closes with it.
type oneConn struct {
	conns chan net.Conn
	done  chan struct{}
	addr  net.Addr
	once  sync.Once
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conns: make(chan net.Conn, 1), done: make(chan struct{}), addr: c.LocalAddr()}
	l.conns <- &onlyConn{c, l}
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

type onlyConn struct {
	net.Conn
	listener *oneConn
}

func (c *onlyConn) Close() error {
	defer c.listener.Close()
	return c.Conn.Close()
}

// CloseWrite is used by net/http when it ends a connection early.
func (c *onlyConn) CloseWrite() error {
	for inner := c.Conn; ; {
		switch conn := inner.(type) {
		case interface{ CloseWrite() error }:
			return conn.CloseWrite()
		case *replayed:
			inner = conn.Conn
		default:
			return fmt.Errorf("%T has no half-close", inner)
		}
	}
}
