package v1

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// limited puts a server under rates.
func limited(r edge.Rates) func(*setup) { return func(o *setup) { o.edge.Rates = r } }

func TestNoRates(t *testing.T) {
	s := newTestServer(t, edge.Limits{})
	for range 100 {
		w := s.do(t, "sandbox", "GET", "/v1/sessions", nil)
		if w.Code != http.StatusOK || w.Header().Get("RateLimit-Limit") != "" {
			t.Fatalf("%d, %v", w.Code, w.Header())
		}
	}
}

// TestRatesAreOnEveryRoute checks that no route forgets them.
func TestRatesAreOnEveryRoute(t *testing.T) {
	s := newTestServer(t, edge.Limits{}, limited(edge.Rates{PerSecond: 1, Burst: 1000}))
	for _, r := range requestsOfAllRoutes {
		if r.scope == "" {
			continue
		}
		if w := r.send(t, s, string(r.scope)); w.Header().Get("RateLimit-Remaining") == "" {
			t.Errorf("%s %s: no RateLimit-Remaining", r.method, r.target)
		}
	}
}

func TestExecutionsUnderWay(t *testing.T) {
	s := newTestServer(t, edge.Limits{}, limited(edge.Rates{Executions: 2}))
	started, end := make(chan struct{}), make(chan struct{})
	s.fake.onExecute = func(_ context.Context, req agentsandbox.ExecuteRequest) (*agentsandbox.Execution, error) {
		started <- struct{}{}
		<-end
		if req.Code == "panic" {
			panic("of the test")
		}
		return &agentsandbox.Execution{ID: "exe_1"}, nil
	}
	statuses := make(chan int)
	run := func(scope, code string) {
		go func() { statuses <- s.do(t, scope, "POST", "/v1/execute", map[string]string{"code": code}).Code }()
	}
	run("sandbox", "1")
	<-started
	run("sandbox", "panic")
	<-started
	w := s.do(t, "sandbox", "POST", "/v1/execute", map[string]string{"code": "1"})
	if f := failureOf(t, w, http.StatusTooManyRequests); !strings.Contains(f.Message, "2 executions under way") || w.Header().Get("Retry-After") == "" {
		t.Errorf("%+v, %v", f, w.Header())
	}
	run("admin", "1") // another key
	<-started
	close(end)
	got := map[int]int{}
	for range 3 {
		got[<-statuses]++
	}
	if got[200] != 2 || got[500] != 1 {
		t.Errorf("statuses %v", got)
	}
	run("sandbox", "1") // what has ended does not count, a panic included
	<-started
	if code := <-statuses; code != 200 {
		t.Errorf("status %d", code)
	}
}

// BenchmarkRefused is what a request costs that is one too many.
func BenchmarkRefused(b *testing.B) {
	s := newTestServer(b, edge.Limits{}, limited(edge.Rates{PerSecond: 1, Burst: 1}))
	for b.Loop() {
		s.do(b, "sandbox", "POST", "/v1/sessions", "{}")
	}
}
