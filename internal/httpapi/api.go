// Package httpapi puts agentsandbox.Service on HTTP: routes, authentication,
// scopes, size limits, the one error shape, request ids, the access log, metrics
// and the OpenAPI document.
//
// What is common to all routes happens in one place, the endpoint of
// endpoint.go; a route is its declaration and a few typed lines. The document is
// made from the same declarations and types that serve the requests.
//
// The package knows no engine, no store and no runtime: it holds a Service and
// asks a function who the caller is. It keeps nothing between requests but
// counters.
//
// It fails per request: an *agentsandbox.Error is answered with the status of
// its code, everything else, a panic included, is logged and answered as a 500
// that says nothing of the cause. Once the first byte of an answer is out, a
// failure can only cut the connection, and does, so that a client never takes
// half an answer for a whole one.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox"
)

// Options are what the API needs of its surroundings.
type Options struct {
	// Service does the work. Needed.
	Service agentsandbox.Service
	// Authenticate says who a key value belongs to. A value that opens nothing
	// is an *agentsandbox.Error of code unauthorized. Needed.
	Authenticate func(ctx context.Context, value string) (agentsandbox.Principal, error)
	// Idempotency remembers requests with an Idempotency-Key; nil: they are refused.
	Idempotency Idempotency
	// Audit gets a row about each request that was to change something, before
	// it is answered; nil: nobody does.
	Audit func(ctx context.Context, entry agentsandbox.AuditEntry) error
	// AuditReady is asked before anything is changed; its error refuses the request.
	AuditReady func(ctx context.Context) error
	// Ready is nil when a sandbox can be claimed now, otherwise why not. The
	// message of an *agentsandbox.Error is shown to everyone. Needed.
	Ready func() error
	// Registry takes this package's metrics, and /metrics shows all that is in
	// it. Nil: one of its own.
	Registry *prometheus.Registry
	Limits   Limits
	// Rates bound what one key may ask for.
	Rates Rates
	// DialToken opens a connection to the port that the token of a URL is for, and
	// says which port that is; nil: no port has a URL. A connection may have a Done,
	// like a context's: it is closed when the other side has ended it.
	DialToken func(ctx context.Context, token string) (conn net.Conn, port uint16, err error)
	// PortsHost is the host name that the URLs of ports have, with a port of its own
	// if it is not the scheme's: it serves ports alone, and no other name does. "":
	// that of the request that asked for the URL.
	PortsHost string
	// PublicURL is the scheme and authority under which clients reach this server,
	// for the URLs of ports; "": as each request came.
	PublicURL string
	// Logger takes the access log. Needed.
	Logger *slog.Logger
	// Version is the program's, shown by /healthz.
	Version string
}

// Limits bound what one request may send. Zero means the default.
type Limits struct {
	BodyBytes   int64 // of a JSON body; 8 MiB
	CodeBytes   int64 // of the code of an execution; 1 MiB
	UploadBytes int64 // of an uploaded file; 1 GiB
	// MemoryBytes is what bodies, records and answers of all requests may hold at
	// once; 512 MiB.
	MemoryBytes int64
	// BodyTimeout is how long a JSON body may take to arrive; 30 s.
	BodyTimeout time.Duration
	// StallTimeout is how long an upload may send nothing, or the reader of an
	// answer take nothing; 60 s.
	StallTimeout time.Duration
}

func (l *Limits) fill() error {
	for _, n := range []struct {
		name  string
		value *int64
		def   int64
	}{
		{"BodyBytes", &l.BodyBytes, 8 << 20},
		{"CodeBytes", &l.CodeBytes, 1 << 20},
		{"UploadBytes", &l.UploadBytes, 1 << 30},
		{"MemoryBytes", &l.MemoryBytes, 512 << 20},
		{"BodyTimeout", (*int64)(&l.BodyTimeout), int64(30 * time.Second)},
		{"StallTimeout", (*int64)(&l.StallTimeout), int64(60 * time.Second)},
	} {
		if *n.value < 0 {
			return fmt.Errorf("httpapi: Limits.%s is %d; it must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	return nil
}

// api is the handler that New returns.
type api struct {
	service      agentsandbox.Service
	authenticate func(ctx context.Context, value string) (agentsandbox.Principal, error)
	ready        func() error
	idempotency  Idempotency
	audit        func(ctx context.Context, entry agentsandbox.AuditEntry) error
	auditReady   func(ctx context.Context) error
	dialToken    func(ctx context.Context, token string) (net.Conn, uint16, error)
	// portTransport speaks HTTP with servers in sandboxes.
	portTransport http.RoundTripper
	portsHost     portsHost
	publicURL     *url.URL // nil: as each request came
	limits        Limits
	limiter       *limiter
	room          *room
	readers       chan struct{} // a place for each record that is being read
	log           *slog.Logger
	version       string
	metrics       *metrics
	mux           *http.ServeMux
	document      *huma.OpenAPI
}

// New returns the handler of all routes.
func New(o Options) (http.Handler, error) {
	a, err := build(o)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func build(o Options) (*api, error) {
	switch {
	case o.Service == nil:
		return nil, errors.New("httpapi: Options.Service is needed")
	case o.Authenticate == nil:
		return nil, errors.New("httpapi: Options.Authenticate is needed")
	case o.Ready == nil:
		return nil, errors.New("httpapi: Options.Ready is needed")
	case o.Logger == nil:
		return nil, errors.New("httpapi: Options.Logger is needed")
	}
	if err := o.Limits.fill(); err != nil {
		return nil, err
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	held := newRoom(o.Limits.MemoryBytes)
	m, err := newMetrics(o.Registry, held)
	if err != nil {
		return nil, err
	}
	rates, err := newLimiter(o.Rates)
	if err != nil {
		return nil, err
	}
	a := &api{
		service:      o.Service,
		authenticate: o.Authenticate,
		ready:        o.Ready,
		idempotency:  o.Idempotency,
		audit:        o.Audit,
		auditReady:   o.AuditReady,
		dialToken:    o.DialToken,
		portsHost:    portsHost(o.PortsHost), portTransport: newPortTransport(),
		limits:   o.Limits,
		limiter:  rates,
		room:     held,
		readers:  make(chan struct{}, maxReaders),
		log:      o.Logger,
		version:  o.Version,
		metrics:  m,
		mux:      http.NewServeMux(),
		document: newDocument(),
	}
	if a.publicURL, err = parsePublicURL(o.PublicURL); err != nil {
		return nil, fmt.Errorf("httpapi: Options.PublicURL: %w", err)
	}
	a.executionRoutes()
	a.sessionRoutes()
	a.fileRoutes()
	a.workspaceRoutes()
	a.networkRoutes()
	a.keyRoutes()
	a.auditRoutes()
	a.healthRoutes()
	a.metricsRoute(o.Registry)
	if err := a.documentRoutes(); err != nil {
		return nil, err
	}
	return a, nil
}

// ServeHTTP gives every request an id, a line in the log and a place in the
// metrics, and then to its route.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	aw := newAnswerWriter(w, a.limits.StallTimeout)
	c := &call{api: a, w: aw, started: time.Now(), route: unmatched}
	c.requestID = requestID(r.Header.Get("X-Request-Id"))
	c.r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))

	h := w.Header()
	h.Set("X-Request-Id", c.requestID)
	h.Set("X-Content-Type-Options", "nosniff")

	a.metrics.inFlight.Inc()
	defer c.finish()
	defer c.recoverPanic()
	ports, rest := a.portsHost.serves(c.r)
	switch isPort := strings.HasPrefix(c.r.URL.Path, portPrefix); {
	case isPort && ports:
		a.servePort(c) // what is not clean in its path is the sandbox's business
	case !isPort && rest:
		a.dispatch(c)
	default:
		c.fail(routeNotFound(c.r))
	}
}

// dispatch finds the route. The answers of the mux itself (plain text, and
// redirects of paths that are not clean) are replaced by ours.
func (a *api) dispatch(c *call) {
	if !cleanPath(c.r.URL.EscapedPath()) {
		c.fail(routeNotFound(c.r))
		return
	}
	refuse, pattern := a.mux.Handler(c.r)
	if pattern != "" {
		a.mux.ServeHTTP(c.w, c.r)
		return
	}
	probe := &headerProbe{header: http.Header{}}
	refuse.ServeHTTP(probe, c.r)
	if probe.status != http.StatusMethodNotAllowed {
		c.fail(routeNotFound(c.r))
		return
	}
	allow := probe.header.Get("Allow")
	c.w.Header().Set("Allow", allow)
	c.fail(agentsandbox.Errorf(agentsandbox.CodeMethodNotAllowed, "%s does not take %s; use one of: %s.",
		shown(c.r.URL.Path), shown(c.r.Method), allow))
}

// headerProbe takes the status and header of an answer and drops its body.
type headerProbe struct {
	header http.Header
	status int
}

func (p *headerProbe) Header() http.Header         { return p.header }
func (p *headerProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *headerProbe) WriteHeader(status int)      { p.status = status }
