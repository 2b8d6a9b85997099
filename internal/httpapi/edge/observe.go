package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox"
)

// unmatched stands for the route of a request that has none.
const unmatched = "unmatched"

// statusGone is what the log and the metrics say of a request whose client went
// away; nobody receives it.
const statusGone = 499

var requestIDForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// requestID takes the client's id if it is fit for a log, or makes one.
func requestID(given string) string {
	if requestIDForm.MatchString(given) {
		return given
	}
	return agentsandbox.NewID("req_")
}

// recoverPanic turns a panic into a 500, or into a cut connection when the
// answer has begun.
func (c *Call) recoverPanic() {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	c.edge.log.Error("panic while serving a request", "request_id", c.requestID,
		"method", c.r.Method, "route", c.route, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	// Fail itself panics with ErrAbortHandler when it is too late for an answer.
	c.Fail(fmt.Errorf("panic: %v", p))
}

// finish writes the line in the log and counts. Keys, bodies and values of
// environment variables are in neither.
func (c *Call) finish() {
	c.edge.metrics.inFlight.Dec()
	defer c.release()
	if c.w.status != http.StatusSwitchingProtocols && (c.opened == nil || !c.opened.armed) {
		// A body that nobody wanted is read before the answer leaves: not for ever.
		_ = c.w.control.SetReadDeadline(time.Now().Add(unwantedTime))
	}
	_ = c.settle(statusGone, nil) // of a request that ended without an answer
	status := c.w.status
	if c.gone || c.w.broken {
		status = statusGone
	} else if status == 0 {
		status = http.StatusOK
	}
	method := methodLabel(c.r.Method)
	elapsed := time.Since(c.started)
	c.edge.metrics.requests.WithLabelValues(c.route, method, strconv.Itoa(status)).Inc()
	c.edge.metrics.seconds.WithLabelValues(c.route, method).Observe(elapsed.Seconds())

	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("route", c.route),
		slog.Int("status", status),
		slog.Float64("duration_ms", float64(elapsed.Microseconds())/1000),
		slog.Int64("bytes", c.w.bytes),
		slog.String("request_id", c.requestID),
	}
	if c.keyID != "" {
		attrs = append(attrs, slog.String("key_id", c.keyID))
	}
	if c.code != "" {
		attrs = append(attrs, slog.String("code", string(c.code)))
	}
	if c.cause != nil && (status >= http.StatusInternalServerError || c.code == agentsandbox.CodeInternal) {
		level = slog.LevelError
		if c.code != agentsandbox.CodeInternal {
			level = slog.LevelWarn // a full disk or a busy server: known states, each with an answer of its own
		}
		attrs = append(attrs, slog.String("error", c.cause.Error()))
	}
	// A flood of requests must not become a flood of lines: the metric counts them.
	if (c.quiet || c.code == agentsandbox.CodeRateLimited) && level < slog.LevelError {
		level = slog.LevelDebug
	}
	c.edge.log.LogAttrs(c.Context(), level, "request", attrs...)
}

// unwantedTime is how long a body may take that no route reads.
const unwantedTime = 5 * time.Second

// methodLabel bounds the values of a metric's label.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions:
		return method
	}
	return "other"
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(registry *prometheus.Registry, held *room) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentsandbox_http_requests_total",
			Help: "Requests answered, by route, method and status; 499 for a client that went away.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "agentsandbox_http_request_duration_seconds",
			Help:    "Time from the request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 100, 300},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentsandbox_http_requests_in_flight",
			Help: "Requests that are being served.",
		}),
	}
	bytes := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "agentsandbox_http_memory_bytes",
		Help: "What bodies, records and answers under way hold of request_memory_mb.",
	}, func() float64 { return float64(held.inUse()) })
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.inFlight, bytes} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("edge: register metrics: %w", err)
		}
	}
	return m, nil
}
