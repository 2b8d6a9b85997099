package edge

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// clock is the time of a limiter in a test.
type clock struct{ time.Duration }

func turnable(c *clock) func() time.Time {
	start := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	return func() time.Time { return start.Add(c.Duration) }
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
	e := newTestEdge(t, Limits{}, Rates{PerSecond: 2, Burst: 4})
	now := new(clock)
	e.limiter.now = turnable(now)
	for left := 3; left >= 0; left-- {
		w := e.do("sandbox", "GET", "/things", "")
		if w.Code != http.StatusOK {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		wantRate(t, w.Header(), 4, left, (5-left)/2)
	}
	w := e.do("sandbox", "POST", "/things", `{"name":"a"}`)
	if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), "2 requests a second") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantRate(t, w.Header(), 4, 0, 2)
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	if len(e.made)+len(e.rows) != 0 {
		t.Error("a refused request was served, or has a row")
	}
	if strings.Contains(e.logged.String(), `"level":"INFO","msg":"request","method":"POST"`) {
		t.Error("refused requests fill the log")
	}
	// Another key has a bucket of its own; failures have the headers, too.
	w = e.do("read", "DELETE", "/things/x", "")
	if w.Code != http.StatusForbidden {
		t.Errorf("%d", w.Code)
	}
	wantRate(t, w.Header(), 4, 3, 1)

	now.Duration += 500 * time.Millisecond
	w = e.do("sandbox", "DELETE", "/things/x", "")
	if w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
	wantRate(t, w.Header(), 4, 0, 2)
	now.Duration += time.Hour
	wantRate(t, e.do("sandbox", "GET", "/things", "").Header(), 4, 3, 1)
	if n := len(e.limiter.keys); n != 1 {
		t.Errorf("%d keys are remembered; those that are quiet should be forgotten", n)
	}
}

func TestRatesAreChecked(t *testing.T) {
	for _, r := range []Rates{{PerSecond: -1}, {PerSecond: 1}, {Executions: -1}, {Burst: -1}} {
		if _, err := newLimiter(r); err == nil {
			t.Errorf("%+v is taken", r)
		}
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
