package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// maxPortHeader bounds the header of an answer from a sandbox, in bytes.
const maxPortHeader = 64 << 10

// portRequest is a request to an open port on its way.
type portRequest struct {
	conn   net.Conn // into the sandbox
	origin portOrigin
}

type portRequestKey struct{}

// newPortTransport speaks HTTP with the servers in sandboxes. Each request has the
// connection that was opened for it.
func newPortTransport() http.RoundTripper {
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

// servePort serves /p/TOKEN/…. Each request dials anew, so that a port that was
// closed is closed.
func (a *api) servePort(c *call) {
	c.route = portRoute
	if a.dialToken == nil {
		c.fail(routeNotFound(c.r))
		return
	}
	target := c.r.RequestURI // as it was sent: what follows the token is the sandbox's
	if !strings.HasPrefix(target, "/") {
		target = c.r.URL.RequestURI()
	}
	path, query, asks := strings.Cut(target, "?")
	token, rest, slash := strings.Cut(strings.TrimPrefix(path, portPrefix), "/")
	if !slash {
		// Relative addresses in the page need the slash.
		to := portPrefix + token + "/"
		if asks {
			to += "?" + query
		}
		c.w.Header().Set("Location", to)
		c.w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	conn, port, err := a.dialToken(c.Context(), token)
	if err != nil {
		c.fail(err)
		return
	}
	defer conn.Close()
	p := &portRequest{conn: conn, origin: portOrigin{
		prefix: portPrefix + token, port: port, hosts: []string{c.r.Host, a.publicAuthority(c.r)},
	}}
	out, err := c.requestForPort(p, "/"+rest)
	if err != nil {
		c.fail(routeNotFound(c.r))
		return
	}
	out.URL.RawQuery, out.URL.ForceQuery = query, asks
	if err := c.passThrough(p, out); err != nil {
		c.fail(err)
	}
}

// requestForPort is the request as the server in the sandbox sees it: without what
// is the API's, and without the token.
func (c *call) requestForPort(p *portRequest, path string) (*http.Request, error) {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	out := c.r.Clone(context.WithValue(c.Context(), portRequestKey{}, p))
	out.URL = &url.URL{Scheme: "http", Host: "sandbox", Path: plain, RawPath: path}
	if out.URL.EscapedPath() != path && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path // to be sent as it is
	}
	out.RequestURI, out.Close, out.Trailer = "", false, nil
	out.Header = headerForPort(c.r.Header, p.origin.prefix)
	if client, _, err := net.SplitHostPort(c.r.RemoteAddr); err == nil {
		out.Header.Set("X-Forwarded-For", client)
	}
	out.Header.Set("X-Forwarded-Host", c.r.Host)
	out.Header.Set("X-Forwarded-Proto", c.scheme())
	out.Body = nil
	if c.r.ContentLength != 0 {
		out.Body = io.NopCloser(&bodyReader{src: c.r.Body, control: c.w.control, limit: 1 << 62, what: "The body", stall: c.api.limits.StallTimeout})
	}
	return out, nil
}

// passThrough sends the request and passes on the answer. An error after the first
// byte of an answer cuts the connection.
func (c *call) passThrough(p *portRequest, out *http.Request) error {
	_ = c.w.control.EnableFullDuplex() // an answer may begin before the request ends
	res, err := c.api.portTransport.RoundTrip(out)
	if err != nil {
		return badPortAnswer(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if asked := upgradeOf(out.Header); asked == "" || !strings.EqualFold(asked, upgradeOf(res.Header)) {
			return badPortAnswer(fmt.Errorf("it switches to the protocol %q, and %q was asked for", upgradeOf(res.Header), asked))
		}
		return c.switchProtocols(p, res)
	case res.StatusCode < 200 || res.StatusCode > 999:
		return badPortAnswer(fmt.Errorf("it answers with the status %03d", res.StatusCode))
	}
	p.origin.passHeader(c.w.Header(), res.Header)
	c.w.WriteHeader(res.StatusCode)
	c.w.flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				return err
			}
			c.w.flush() // what streams, streams
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
func (c *call) switchProtocols(p *portRequest, res *http.Response) error {
	header := http.Header{}
	p.origin.passHeader(header, res.Header)
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", upgradeOf(res.Header))
	header.Set("X-Request-Id", c.requestID)
	return c.join(header, p.conn, res.Body)
}

// join answers with 101 and joins the client's connection to one into a sandbox,
// whose bytes come from a reader.
func (c *call) join(header http.Header, inside net.Conn, from io.Reader) error {
	conn, buffered, err := c.w.control.Hijack()
	if err != nil {
		return &agentsandbox.Error{Code: agentsandbox.CodeInvalidRequest, Message: "Another protocol needs HTTP/1.1.", Err: err}
	}
	defer conn.Close()
	c.w.status = http.StatusSwitchingProtocols
	_ = conn.SetDeadline(time.Now().Add(c.api.limits.StallTimeout))
	head := &strings.Builder{}
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(head) // a Builder takes everything
	if _, err := io.WriteString(conn, head.String()+"\r\n"); err != nil {
		return nil // the client is gone
	}
	_ = conn.SetDeadline(time.Time{})
	if ended, ok := inside.(interface{ Done() <-chan struct{} }); ok {
		over := make(chan struct{})
		defer close(over)
		go func() { // a client that takes nothing must not hold what has ended
			select {
			case <-ended.Done():
				_ = conn.SetDeadline(time.Now().Add(lastBytes))
			case <-over:
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(conn, from, conn, inside)
	}()
	copyHalf(inside, buffered.Reader, conn, inside)
	<-done
	return nil
}

// lastBytes bounds how long a client may take for the last bytes of a connection
// whose other end has ended.
const lastBytes = 5 * time.Second

// copyHalf copies one direction and passes its end on; a failure ends both.
func copyHalf(to net.Conn, from io.Reader, ends ...net.Conn) {
	_, err := io.Copy(struct{ io.Writer }{to}, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		for _, end := range ends {
			_ = end.Close()
		}
	}
}
