package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// limit puts a server under rates, with a clock that the test turns.
func (s *server) limit(t testing.TB, r Rates) (turn func(time.Duration)) {
	t.Helper()
	l, err := newLimiter(r)
	if err != nil {
		t.Fatal(err)
	}
	now := fakeTime
	l.now = func() time.Time { return now }
	s.limiter = l
	return func(d time.Duration) { now = now.Add(d) }
}

// wantRate checks the three headers.
func wantRate(t *testing.T, h http.Header, limit, remaining, reset int) {
	t.Helper()
	for name, want := range map[string]int{"RateLimit-Limit": limit, "RateLimit-Remaining": remaining, "RateLimit-Reset": reset} {
		if got := h.Get(name); got != strconv.Itoa(want) {
			t.Errorf("%s is %q, want %d", name, got, want)
		}
	}
}

func TestRatesOfRequests(t *testing.T) {
	s := newTestServer(t, Limits{})
	turn := s.limit(t, Rates{PerSecond: 2, Burst: 4})
	for left := 3; left >= 0; left-- {
		w := s.do(t, "sandbox", "GET", "/v1/sessions", nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		wantRate(t, w.Header(), 4, left, (5-left)/2)
	}
	w := s.do(t, "sandbox", "POST", "/v1/execute", map[string]string{"code": "1"})
	if f := failureOf(t, w, http.StatusTooManyRequests); f.Code != agentsandbox.CodeRateLimited || !strings.Contains(f.Message, "2 requests a second") {
		t.Errorf("%+v", f)
	}
	wantRate(t, w.Header(), 4, 0, 2)
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	if len(s.fake.requests) != 0 {
		t.Error("a refused request was served")
	}
	if strings.Contains(s.logged.String(), `"level":"INFO","msg":"request","method":"POST"`) {
		t.Error("refused requests fill the log")
	}
	// Another key has a bucket of its own; failures have the headers, too.
	w = s.do(t, "read", "DELETE", "/v1/sessions/ses_x", nil)
	failureOf(t, w, http.StatusForbidden)
	wantRate(t, w.Header(), 4, 3, 1)

	turn(500 * time.Millisecond)
	w = s.do(t, "sandbox", "GET", "/v1/sessions/ses_x", nil)
	failureOf(t, w, http.StatusNotFound)
	wantRate(t, w.Header(), 4, 0, 2)
	turn(time.Hour)
	wantRate(t, s.do(t, "sandbox", "GET", "/v1/sessions", nil).Header(), 4, 3, 1)
	if n := len(s.limiter.keys); n != 1 {
		t.Errorf("%d keys are remembered; those that are quiet should be forgotten", n)
	}
}

func TestNoRates(t *testing.T) {
	s := newTestServer(t, Limits{})
	for range 100 {
		w := s.do(t, "sandbox", "GET", "/v1/sessions", nil)
		if w.Code != http.StatusOK || w.Header().Get("RateLimit-Limit") != "" {
			t.Fatalf("%d, %v", w.Code, w.Header())
		}
	}
}

// TestRatesAreOnEveryRoute checks that no route forgets them.
func TestRatesAreOnEveryRoute(t *testing.T) {
	s := newTestServer(t, Limits{})
	s.limit(t, Rates{PerSecond: 1, Burst: 1000})
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
	s := newTestServer(t, Limits{})
	s.limit(t, Rates{Executions: 2})
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

func TestRatesAreChecked(t *testing.T) {
	for _, r := range []Rates{{PerSecond: -1}, {PerSecond: 1}, {Executions: -1}, {Burst: -1}} {
		if _, err := newLimiter(r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

// BenchmarkRefused is what a request costs that is one too many.
func BenchmarkRefused(b *testing.B) {
	s := newTestServer(b, Limits{})
	s.limit(b, Rates{PerSecond: 1, Burst: 1})
	for b.Loop() {
		s.do(b, "sandbox", "POST", "/v1/sessions", "{}")
	}
}

// BenchmarkManyKeys is what counting costs with many keys known.
func BenchmarkManyKeys(b *testing.B) {
	l, err := newLimiter(Rates{PerSecond: 1, Burst: 2})
	if err != nil {
		b.Fatal(err)
	}
	h := http.Header{}
	for i := 0; b.Loop(); i++ {
		_ = l.request(fmt.Sprint("key_", i%10_000), h)
	}
}
