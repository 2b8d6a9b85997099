package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// tunnelProtocol is what a client upgrades to for a bare connection to a port.
const tunnelProtocol = "agentsandbox-tcp"

// portPrefix starts the paths of open ports; the token follows.
const (
	portPrefix = "/p/"
	portRoute  = "/p/{token}"
)

// portSandbox is added to every page of an open port. Such pages come from code
// that nobody has read, on the API's own origin: they get an origin of nobody.
const portSandbox = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"

// ownCookies starts the names of cookies that are none of a sandbox's business.
const ownCookies = "agentsandbox"

// keptFromPorts are headers of requests that never reach a sandbox, and
// keptFromClients headers of answers that would speak for the whole server.
var (
	keptFromPorts   = []string{"Authorization", "X-Api-Key", "Idempotency-Key"}
	keptFromClients = []string{"Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "X-Request-Id", "X-Content-Type-Options", "Referrer-Policy"}
)

// newPortProxy returns what serves open ports. Each request dials anew, so that a
// port that was closed is closed.
func (a *api) newPortProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        rewriteForPort,
		ModifyResponse: rewriteFromPort,
		FlushInterval:  -1, // what streams, streams
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				token, _ := ctx.Value(portTokenKey{}).(string)
				return a.dialToken(ctx, token)
			},
		},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			var known *agentsandbox.Error
			if !errors.As(err, &known) {
				err = &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "The server in the sandbox did not answer in HTTP.", Err: err}
			}
			callOf(r).fail(err)
		},
	}
}

type portTokenKey struct{}

// servePort serves /p/TOKEN/….
func (a *api) servePort(c *call) {
	c.route = portRoute
	if a.dialToken == nil {
		c.fail(routeNotFound(c.r))
		return
	}
	token, rest, slash := strings.Cut(strings.TrimPrefix(c.r.URL.EscapedPath(), portPrefix), "/")
	if !slash {
		// Relative addresses in the page need the slash.
		to := portPrefix + token + "/"
		if c.r.URL.RawQuery != "" {
			to += "?" + c.r.URL.RawQuery
		}
		c.w.Header().Set("Location", to)
		c.w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	plain, err := url.PathUnescape("/" + rest)
	if err != nil {
		c.fail(routeNotFound(c.r))
		return
	}
	r := c.r.WithContext(context.WithValue(c.Context(), portTokenKey{}, token))
	r.URL = &url.URL{Path: plain, RawPath: "/" + rest, RawQuery: c.r.URL.RawQuery}
	c.w.Header().Del("X-Content-Type-Options") // set again with the answer
	a.ports.ServeHTTP(c.w, r)
}

func portPrefixOf(r *http.Request) string {
	token, _ := r.Context().Value(portTokenKey{}).(string)
	return portPrefix + token
}

func rewriteForPort(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme, p.Out.URL.Host = "http", "sandbox"
	p.Out.Host = p.In.Host
	for _, name := range keptFromPorts {
		p.Out.Header.Del(name)
	}
	cookies := p.Out.Cookies()
	p.Out.Header.Del("Cookie")
	for _, cookie := range cookies {
		if !strings.HasPrefix(strings.ToLower(cookie.Name), ownCookies) {
			p.Out.AddCookie(cookie)
		}
	}
	p.SetXForwarded()
	p.Out.Header.Set("X-Forwarded-Prefix", portPrefixOf(p.In))
}

func rewriteFromPort(r *http.Response) error {
	prefix := portPrefixOf(r.Request)
	for _, name := range keptFromClients {
		r.Header.Del(name)
	}
	if to := r.Header.Get("Location"); strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "//") {
		r.Header.Set("Location", prefix+to)
	}
	cookies := r.Cookies()
	r.Header.Del("Set-Cookie")
	for _, cookie := range cookies {
		if strings.HasPrefix(strings.ToLower(cookie.Name), ownCookies) {
			continue
		}
		// Those of one port are not for another, nor for the API.
		cookie.Domain, cookie.Path = "", prefix+"/"
		r.Header.Add("Set-Cookie", cookie.String())
	}
	r.Header.Add("Content-Security-Policy", portSandbox)
	r.Header.Set("Referrer-Policy", "no-referrer") // the address is the key
	r.Header.Set("X-Content-Type-Options", "nosniff")
	return nil
}

// tunnel joins the connection of a request to one of a port of a session.
func (a *api) tunnel(c *call, session string, port uint16) error {
	if !strings.EqualFold(c.r.Header.Get("Upgrade"), tunnelProtocol) {
		if _, err := a.service.Session(c.Context(), session); err != nil {
			return err
		}
		return agentsandbox.Invalid("Upgrade", "must be %s, with Connection: Upgrade.", tunnelProtocol)
	}
	inside, err := a.service.DialPort(c.Context(), session, port)
	if err != nil {
		return err
	}
	defer inside.Close()
	conn, buffered, err := c.w.control.Hijack()
	if err != nil {
		return &agentsandbox.Error{Code: agentsandbox.CodeInvalidRequest, Message: "A connection to a port needs HTTP/1.1.", Err: err}
	}
	defer conn.Close()
	c.w.status = http.StatusSwitchingProtocols
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+tunnelProtocol+
		"\r\nX-Request-Id: "+c.requestID+"\r\n\r\n"); err != nil {
		return nil // the client is gone
	}
	join(conn, buffered.Reader, inside)
	return nil
}

// join copies in both directions until both have ended, or one has failed.
func join(outside net.Conn, from *bufio.Reader, inside net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(outside, inside, outside, inside)
	}()
	copyHalf(inside, from, outside, inside)
	<-done
}

// copyHalf copies one direction and passes its end on; a failure ends both.
func copyHalf(to net.Conn, from io.Reader, ends ...net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		for _, end := range ends {
			_ = end.Close()
		}
	}
}
