// Package edge is what every request to the server meets before and after its
// route: who asks and whether they may, how much they may ask for, the bodies that
// they send and the answers that they take, repeated requests, the audit log, the
// access log and the metrics.
//
// A [Surface] is an API on an edge: a list of routes, where its clients put their
// key, and the shape of its errors. Several surfaces can share an edge: what a key
// may ask for is counted over all of them. A route is its declaration and a few
// typed lines; [Answer] and [Stream] make one.
//
// The package knows no engine, no store and no routes, and asks functions who the
// caller is and who keeps what must be kept. It keeps nothing between requests but
// counters.
//
// It fails per request: an *agentsandbox.Error is answered with the status of
// its code, everything else, a panic included, is logged and answered as a 500
// that says nothing of the cause. Once the first byte of an answer is out, a
// failure can only cut the connection, and does, so that a client never takes
// half an answer for a whole one.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/input"
)

// Options are what an edge needs of its surroundings.
type Options struct {
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
	// Registry takes this package's metrics, and [Metrics] shows all that is in it.
	// Nil: one of its own.
	Registry *prometheus.Registry
	Limits   Limits
	// Rates bound what one key may ask for.
	Rates Rates
	// Logger takes the access log. Needed.
	Logger *slog.Logger
}

// Limits bound what one request may send. Zero means the default.
type Limits struct {
	BodyBytes   int64 // of a JSON body; 8 MiB
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
		{"UploadBytes", &l.UploadBytes, 1 << 30},
		{"MemoryBytes", &l.MemoryBytes, 512 << 20},
		{"BodyTimeout", (*int64)(&l.BodyTimeout), int64(30 * time.Second)},
		{"StallTimeout", (*int64)(&l.StallTimeout), int64(60 * time.Second)},
	} {
		if *n.value < 0 {
			return fmt.Errorf("edge: Limits.%s is %d; it must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	return nil
}

// Edge serves surfaces. It is made by New.
type Edge struct {
	authenticate func(ctx context.Context, value string) (agentsandbox.Principal, error)
	idempotency  Idempotency
	audit        func(ctx context.Context, entry agentsandbox.AuditEntry) error
	auditReady   func(ctx context.Context) error
	limits       Limits
	limiter      *limiter
	room         *room
	log          *slog.Logger
	registry     *prometheus.Registry
	metrics      *metrics
	surfaces     []*served
}

// served is a surface and its routes, ready to find one.
type served struct {
	Surface
	mux *http.ServeMux
}

// New returns the handler of surfaces. A request goes to the first that takes it;
// the last gets what no other takes.
func New(o Options, surfaces ...Surface) (*Edge, error) {
	switch {
	case o.Authenticate == nil:
		return nil, errors.New("edge: Options.Authenticate is needed")
	case o.Logger == nil:
		return nil, errors.New("edge: Options.Logger is needed")
	case len(surfaces) == 0:
		return nil, errors.New("edge: a surface is needed")
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
	e := &Edge{
		authenticate: o.Authenticate,
		idempotency:  o.Idempotency,
		audit:        o.Audit,
		auditReady:   o.AuditReady,
		limits:       o.Limits,
		limiter:      rates,
		room:         held,
		log:          o.Logger,
		registry:     o.Registry,
		metrics:      m,
	}
	for i, s := range surfaces {
		if s.Fail == nil || s.Takes == nil && i < len(surfaces)-1 {
			return nil, fmt.Errorf("edge: surface %d has no shape of errors, or takes everything before the last", i)
		}
		mux := http.NewServeMux()
		for _, rt := range s.Routes {
			if rt.Scope != "" && s.Key == nil {
				return nil, fmt.Errorf("edge: %s %s needs a key, and its surface reads none", rt.Method, rt.Path)
			}
			mux.HandleFunc(rt.Method+" "+rt.Path, rt.handle)
		}
		e.surfaces = append(e.surfaces, &served{s, mux})
	}
	return e, nil
}

// ServeHTTP gives every request an id, a line in the log and a place in the
// metrics, and then to its surface.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	aw := newAnswerWriter(w, e.limits.StallTimeout)
	c := &Call{edge: e, w: aw, started: time.Now(), route: unmatched}
	c.requestID = requestID(r.Header.Get("X-Request-Id"))
	c.r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	c.surface = e.surfaceOf(c.r)

	h := w.Header()
	h.Set("X-Request-Id", c.requestID)
	h.Set("X-Content-Type-Options", "nosniff")

	e.metrics.inFlight.Inc()
	defer c.finish()
	defer c.recoverPanic()
	if c.surface.Serve != nil {
		c.surface.Serve(c)
		return
	}
	c.dispatch()
}

func (e *Edge) surfaceOf(r *http.Request) *served {
	last := len(e.surfaces) - 1
	for _, s := range e.surfaces[:last] {
		if s.Takes(r) {
			return s
		}
	}
	return e.surfaces[last]
}

// dispatch finds the route. The answers of the mux itself (plain text, and
// redirects of paths that are not clean) are replaced by ours.
func (c *Call) dispatch() {
	if !cleanPath(c.r.URL.EscapedPath()) {
		c.Fail(c.RouteNotFound())
		return
	}
	refuse, pattern := c.surface.mux.Handler(c.r)
	if pattern != "" {
		c.surface.mux.ServeHTTP(c.w, c.r)
		return
	}
	probe := &headerProbe{header: http.Header{}}
	refuse.ServeHTTP(probe, c.r)
	if probe.status != http.StatusMethodNotAllowed {
		c.Fail(c.RouteNotFound())
		return
	}
	allow := probe.header.Get("Allow")
	c.w.Header().Set("Allow", allow)
	c.Fail(agentsandbox.Errorf(agentsandbox.CodeMethodNotAllowed, "%s does not take %s; use one of: %s.",
		input.Shown(c.r.URL.Path), input.Shown(c.r.Method), allow))
}

// headerProbe takes the status and header of an answer and drops its body.
type headerProbe struct {
	header http.Header
	status int
}

func (p *headerProbe) Header() http.Header         { return p.header }
func (p *headerProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *headerProbe) WriteHeader(status int)      { p.status = status }

// cleanPath tells whether an escaped path has no empty, "." or ".." parts: the
// mux would redirect such a one, which a client of an API has no use for.
func cleanPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(p[1:], "/"), "/") {
		if part == "" && p != "/" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
