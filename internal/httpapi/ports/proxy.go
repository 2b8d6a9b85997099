// Package ports is the surface of open ports: it passes requests for /p/TOKEN/… on
// to the servers in sandboxes that the tokens are for, and what those answer back.
//
// It knows no sandboxes: a function dials a token. Whoever has the URL of a port
// may use it, so it asks for no key. What is in sandboxes is hostile: it decides
// which headers pass in either direction, so that a page from a sandbox has an
// origin of nobody and the keys of the API never reach one.
//
// It fails per request, as the surface beside it does.
package ports

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// route is the pattern of all requests, for the log and the metrics.
const route = Prefix + "{token}"

// Options are what the surface needs of its surroundings.
type Options struct {
	// Dial opens a connection to the port that the token of a URL is for, and says
	// which port that is; nil: no port has a URL. A connection may have a Done, like
	// a context's: it is closed when the other side has ended it.
	Dial func(ctx context.Context, token string) (conn net.Conn, port uint16, err error)
	// Host is the host name that the URLs of ports have, with a port of its own if it
	// is not the scheme's: it serves ports alone, and no other name does. "": that of
	// the request that asked for the URL.
	Host string
	// PublicURL is the scheme and authority under which clients reach this server;
	// "": as each request came.
	PublicURL string
	// Manner is how errors of this server are shown.
	Manner edge.Manner
}

// Ports is the surface, and the addresses of its ports.
type Ports struct {
	proxy  proxy
	manner edge.Manner
}

// proxy passes requests on.
type proxy struct {
	address
	dial func(ctx context.Context, token string) (net.Conn, uint16, error)
	// transport speaks HTTP with servers in sandboxes.
	transport http.RoundTripper
}

// New makes the surface.
func New(o Options) (*Ports, error) {
	p := &Ports{proxy: proxy{dial: o.Dial, transport: newTransport()}, manner: o.Manner}
	p.proxy.host = o.Host
	if o.PublicURL != "" {
		public, err := url.Parse(o.PublicURL)
		if err != nil {
			return nil, fmt.Errorf("ports: Options.PublicURL: %w", err)
		}
		p.proxy.public = public
	}
	return p, nil
}

// Surface stands before the surfaces that have paths of their own.
func (p *Ports) Surface() edge.Surface {
	return edge.Surface{Manner: p.manner, Takes: p.proxy.takes, Serve: p.proxy.serve}
}

// URL is the URL of the path of an open port, for whoever sent a request.
func (p *Ports) URL(r *http.Request, path string) string { return p.proxy.url(r, path) }

// maxPortHeader bounds the header of an answer from a sandbox, in bytes.
const maxPortHeader = 64 << 10

// portRequest is a request to an open port on its way.
type portRequest struct {
	conn   net.Conn // into the sandbox
	origin portOrigin
}

type portRequestKey struct{}

// newTransport speaks HTTP with the servers in sandboxes. Each request has the
// connection that was opened for it.
func newTransport() http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxPortHeader,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			p, ok := ctx.Value(portRequestKey{}).(*portRequest)
			if !ok {
				return nil, errors.New("a request to a port without a connection")
			}
			return p.conn, nil
		},
	}
}

// serve serves /p/TOKEN/…. Each request dials anew, so that a port that was
// closed is closed.
func (p *proxy) serve(c *edge.Call) {
	r := c.Request()
	if !strings.HasPrefix(r.URL.Path, Prefix) { // on the host name of open ports
		c.Fail(c.RouteNotFound())
		return
	}
	c.SetRoute(route)
	if p.dial == nil {
		c.Fail(c.RouteNotFound())
		return
	}
	target := r.RequestURI // as it was sent: what follows the token is the sandbox's
	if !strings.HasPrefix(target, "/") {
		target = r.URL.RequestURI()
	}
	path, query, asks := strings.Cut(target, "?")
	token, rest, slash := strings.Cut(strings.TrimPrefix(path, Prefix), "/")
	if !slash {
		// Relative addresses in the page need the slash.
		to := Prefix + token + "/"
		if asks {
			to += "?" + query
		}
		c.Writer().Header().Set("Location", to)
		c.Writer().WriteHeader(http.StatusPermanentRedirect)
		return
	}
	conn, port, err := p.dial(c.Context(), token)
	if err != nil {
		c.Fail(err)
		return
	}
	defer conn.Close()
	pr := &portRequest{conn: conn, origin: portOrigin{
		prefix: Prefix + token, port: port, hosts: []string{r.Host, p.authority(r)},
	}}
	out, err := p.request(c, pr, "/"+rest)
	if err != nil {
		c.Fail(c.RouteNotFound())
		return
	}
	out.URL.RawQuery, out.URL.ForceQuery = query, asks
	if err := p.pass(c, pr, out); err != nil {
		c.Fail(err)
	}
}

// request is the request as the server in the sandbox sees it: without what
// is the API's, and without the token.
func (p *proxy) request(c *edge.Call, pr *portRequest, path string) (*http.Request, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	r := c.Request()
	out := r.Clone(context.WithValue(c.Context(), portRequestKey{}, pr))
	out.URL = &url.URL{Scheme: "http", Host: "sandbox", Path: plain, RawPath: path}
	if out.URL.EscapedPath() != path && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path // to be sent as it is
	}
	out.RequestURI, out.Close, out.Trailer = "", false, nil
	out.Header = headerForPort(r.Header, pr.origin.prefix)
	if client, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		out.Header.Set("X-Forwarded-For", client)
	}
	out.Header.Set("X-Forwarded-Host", r.Host)
	out.Header.Set("X-Forwarded-Proto", p.scheme(r))
	out.Body = nil
	if r.ContentLength != 0 {
		out.Body = io.NopCloser(c.Unbounded("The body"))
	}
	return out, nil
}

// pass sends the request and passes on the answer. An error after the first
// byte of an answer cuts the connection.
func (p *proxy) pass(c *edge.Call, pr *portRequest, out *http.Request) error {
	_ = http.NewResponseController(c.Writer()).EnableFullDuplex() // an answer may begin before the request ends
	res, err := p.transport.RoundTrip(out)
	if err != nil {
		return badPortAnswer(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if asked := upgradeOf(out.Header); asked == "" || !strings.EqualFold(asked, upgradeOf(res.Header)) {
			return badPortAnswer(fmt.Errorf("it switches to the protocol %q, and %q was asked for", upgradeOf(res.Header), asked))
		}
		return switchProtocols(c, pr, res)
	case res.StatusCode < 200 || res.StatusCode > 999:
		return badPortAnswer(fmt.Errorf("it answers with the status %03d", res.StatusCode))
	}
	pr.origin.passHeader(c.Writer().Header(), res.Header)
	c.Writer().WriteHeader(res.StatusCode)
	c.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := c.Writer().Write(buf[:n]); err != nil {
				return err
			}
			c.Flush() // what streams, streams
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return badPortAnswer(err)
		}
	}
}

// badPortAnswer is the answer when the server in the sandbox does not answer as it
// should; what the service says of a connection that it ended comes first.
func badPortAnswer(err error) error {
	var known *agentsandbox.Error
	if errors.As(err, &known) {
		return known
	}
	if errors.Is(err, context.Canceled) {
		return err // the client has gone
	}
	return &agentsandbox.Error{Code: agentsandbox.CodePortNotReached, Message: "The server in the sandbox did not answer in HTTP.", Err: err}
}

// switchProtocols passes on the 101 that was asked for, and joins the connections.
func switchProtocols(c *edge.Call, pr *portRequest, res *http.Response) error {
	header := http.Header{}
	pr.origin.passHeader(header, res.Header)
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", upgradeOf(res.Header))
	header.Set("X-Request-Id", c.RequestID())
	return c.Join(header, pr.conn, res.Body)
}
