// Package client is the Go SDK of Agent Sandbox: [Client] implements
// [agentsandbox.Service] over HTTP, so that a program does not care whether it
// holds the engine itself or a server somewhere.
//
// It depends on the root package and the standard library, and knows nothing of
// the daemon's insides. A refusal of the server comes back as the
// *agentsandbox.Error that the server made, code, details and request id
// included. A server that cannot be reached is an error of code unavailable,
// one whose answer is cut short or makes no sense is of code internal, and the
// end of the caller's context is the context's own error.
//
// A call is tried again after a failure that may pass, where that does nothing
// twice: when the server was not reached or refuses for now, when the call only
// reads, and when it makes or runs something under an Idempotency-Key. The client
// makes such a key for every call but uploads; [WithIdempotencyKey] gives one that
// outlives the call. What is read from an io.Reader is sent once.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

var _ agentsandbox.Service = (*Client)(nil)

// DefaultBaseURL is where a server on the same machine listens.
const DefaultBaseURL = "http://127.0.0.1:8000"

// maxAnswerBytes bounds a JSON answer: output is limited on the server, but a
// server that is none must not fill the memory of its caller.
const maxAnswerBytes = 1 << 30

// Client speaks to one server with one key. It is safe for concurrent use.
type Client struct {
	base      string // without a slash at the end
	key       string
	userAgent string
	http      *http.Client
	attempts  int
	pause     func(ctx context.Context, attempt int, hint time.Duration) error
}

// Option changes a Client.
type Option func(*Client)

// WithTransport sets what carries the requests; http.DefaultTransport's
// settings otherwise.
func WithTransport(t http.RoundTripper) Option {
	return func(c *Client) { c.http.Transport = t }
}

// WithUserAgent names the calling program to the server.
func WithUserAgent(name string) Option { return func(c *Client) { c.userAgent = name } }

// WithAttempts sets how often a request that may be repeated is sent at most;
// 1: never again. The default is 3.
func WithAttempts(n int) Option { return func(c *Client) { c.attempts = max(n, 1) } }

// New makes a client of the server at baseURL, such as http://127.0.0.1:8000.
// It sends nothing yet.
func New(baseURL, key string, opts ...Option) (*Client, error) {
	u, err := url.Parse(baseURL)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("base URL %q must start with http:// or https:// and name a host, such as %s", baseURL, DefaultBaseURL)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("base URL %q must have no user, query or fragment", u.Redacted())
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return nil, errors.New("the API key has characters that cannot be in a key; is it cut off or pasted with its line end?")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64  // one host is all that there is
	transport.DisableCompression = true // lengths then speak of the bytes themselves
	c := &Client{
		base:      strings.TrimRight(u.String(), "/"),
		key:       key,
		userAgent: defaultUserAgent(),
		attempts:  3,
		pause:     pause,
		http: &http.Client{
			Transport: transport,
			// The key must not follow a redirect to wherever it points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	for _, opt := range opts {
		opt(c)
	}
	return c, nil
}

// BaseURL returns the address of the server, without a slash at the end.
func (c *Client) BaseURL() string { return c.base }

// call is one request to make.
type call struct {
	method, path string
	query        url.Values
	contentType  string
	// body is sent once, as it is read; nil for none.
	body io.Reader
	// json is encoded as the body, and can be sent again; nil for none.
	json any
	// upgrade is the protocol to switch to; "" for none.
	upgrade string
	key     string // the Idempotency-Key; set by send
}

// segments joins a path of the API, each segment escaped: ids come from
// outside, and one such as "../x" must not lead to another route.
func segments(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, part := range parts {
		b.WriteByte('/')
		switch part {
		case ".", "..":
			b.WriteString(strings.ReplaceAll(part, ".", "%2E"))
		default:
			b.WriteString(url.PathEscape(part))
		}
	}
	return b.String()
}

// idempotencyKeyOf returns the key of a call: the caller's, or a fresh one for
// what may be repeated; empty for none.
func (c *Client) idempotencyKeyOf(ctx context.Context, call call) string {
	if call.method != http.MethodPost {
		return ""
	}
	if key, ok := ctx.Value(idempotencyKey{}).(string); ok {
		return key
	}
	if call.body != nil || c.attempts == 1 {
		return ""
	}
	return agentsandbox.NewID("go_")
}

// send makes the request, repeats it where that is allowed, and returns an
// answer with a status below 300, whose body the caller closes.
func (c *Client) send(ctx context.Context, call call) (*http.Response, error) {
	var encoded []byte
	if call.json != nil {
		var err error
		if encoded, err = json.Marshal(call.json); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		call.contentType = "application/json"
	}
	call.key = c.idempotencyKeyOf(ctx, call)
	stream := &onceReader{r: call.body}
	defer stream.finished.Store(true)
	for attempt := 1; ; attempt++ {
		var body io.Reader
		switch {
		case call.json != nil:
			body = bytes.NewReader(encoded)
		case call.body != nil:
			body = stream
		}
		resp, err := c.once(ctx, call, body)
		if err == nil && resp.StatusCode < 300 {
			return resp, nil
		}
		failure := c.failure(ctx, call, resp, err)
		if attempt >= c.attempts || ctx.Err() != nil || !mayRepeat(call, resp, err) {
			return nil, failure
		}
		if c.pause(ctx, attempt, retryAfter(failure)) != nil {
			return nil, failure
		}
	}
}

func (c *Client) once(ctx context.Context, call call, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, c.base+call.path, body)
	if err != nil {
		return nil, err
	}
	if len(call.query) > 0 {
		req.URL.RawQuery = call.query.Encode()
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if call.upgrade != "" {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", call.upgrade)
	}
	if call.contentType != "" {
		req.Header.Set("Content-Type", call.contentType)
	}
	req.Header.Set("User-Agent", c.userAgent)
	if call.key != "" {
		req.Header.Set("Idempotency-Key", call.key)
	}
	if call.body != nil {
		// A refusal then arrives before gigabytes were sent for nothing.
		req.Header.Set("Expect", "100-continue")
	}
	return c.http.Do(req)
}

// exchange sends a call and decodes its JSON answer into out; nil for an answer
// that is of no interest.
func (c *Client) exchange(ctx context.Context, call call, out any) error {
	resp, err := c.send(ctx, call)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		// What is left is read, within reason, so that the connection lives on.
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
		return nil
	}
	limited := &io.LimitedReader{R: resp.Body, N: maxAnswerBytes}
	if err := json.NewDecoder(limited).Decode(out); err != nil {
		return c.badAnswer(ctx, call, resp, err)
	}
	return nil
}

// onceReader is a body that cannot be read again. Nothing more is read of it
// once the call has returned: the transport may still be at it when the server
// answered early.
type onceReader struct {
	r        io.Reader
	finished atomic.Bool
}

func (o *onceReader) Read(p []byte) (int, error) {
	if o.finished.Load() {
		return 0, errors.New("the request is over")
	}
	return o.r.Read(p)
}

type idempotencyKey struct{}

// WithIdempotencyKey returns a context for one call that runs or makes something.
// However often the call is made with that key within 24 hours, by this process
// or another, it has one effect and one answer. The key is 1 to 255 printable ASCII
// characters, such as a UUID, and a new one for each call.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

// metadataQuery adds the pairs that a list is narrowed to.
func metadataQuery(query url.Values, metadata map[string]string) {
	for name, value := range metadata {
		query.Set("metadata["+name+"]", value)
	}
}

func pageQuery(p agentsandbox.Page) url.Values {
	query := url.Values{}
	if p.Limit != 0 {
		query.Set("limit", fmt.Sprint(p.Limit))
	}
	if p.Offset != 0 {
		query.Set("offset", fmt.Sprint(p.Offset))
	}
	if p.Cursor != "" {
		query.Set("cursor", p.Cursor)
	}
	return query
}
