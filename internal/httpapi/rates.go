package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// Rates bound what one key may ask for. Zero is no bound.
type Rates struct {
	PerSecond  int // requests in the long run
	Burst      int // requests at once, after a quiet time; at least 1 with PerSecond
	Executions int // executions under way
}

// limiter counts what each key asks for: a bucket of tokens, which fills with
// time, and the executions under way. What it costs does not depend on how many
// requests are refused.
type limiter struct {
	rates Rates
	now   func() time.Time

	mu    sync.Mutex
	keys  map[string]*account
	swept time.Time
}

// account is what is known of one key.
type account struct {
	tokens  float64
	at      time.Time // when tokens were counted
	running int
}

// sweepEvery is how often keys are forgotten that have been quiet.
const sweepEvery = time.Minute

func newLimiter(r Rates) (*limiter, error) {
	if r.PerSecond < 0 || r.Burst < 0 || r.Executions < 0 || r.PerSecond > 0 && r.Burst == 0 {
		return nil, fmt.Errorf("httpapi: Options.Rates are %+v; none may be negative, and PerSecond needs a Burst", r)
	}
	return &limiter{rates: r, now: time.Now, keys: map[string]*account{}}, nil
}

func (l *limiter) accountLocked(key string, now time.Time) *account {
	if now.Sub(l.swept) >= sweepEvery {
		l.swept = now
		for id, a := range l.keys {
			if l.fill(a, now); a.running == 0 && a.tokens >= float64(l.rates.Burst) {
				delete(l.keys, id)
			}
		}
	}
	a := l.keys[key]
	if a == nil {
		a = &account{tokens: float64(l.rates.Burst), at: now}
		l.keys[key] = a
	}
	return a
}

func (l *limiter) fill(a *account, now time.Time) {
	if d := now.Sub(a.at); d > 0 {
		a.tokens = min(a.tokens+d.Seconds()*float64(l.rates.PerSecond), float64(l.rates.Burst))
		a.at = now
	}
}

// request counts a request of a key, sets the headers that say how many it has
// left, and refuses one too many.
func (l *limiter) request(key string, h http.Header) error {
	if l.rates.PerSecond == 0 {
		return nil
	}
	l.mu.Lock()
	now := l.now()
	a := l.accountLocked(key, now)
	l.fill(a, now)
	ok := a.tokens >= 1
	if ok {
		a.tokens--
	}
	tokens := a.tokens
	l.mu.Unlock()

	per := float64(l.rates.PerSecond)
	h.Set("RateLimit-Limit", strconv.Itoa(l.rates.Burst))
	h.Set("RateLimit-Remaining", strconv.Itoa(int(tokens)))
	h.Set("RateLimit-Reset", strconv.Itoa(int(math.Ceil((float64(l.rates.Burst)-tokens)/per))))
	if ok {
		return nil
	}
	return &agentsandbox.Error{
		Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: int(math.Ceil((1 - tokens) / per)),
		Message: fmt.Sprintf("This key sends more than %d requests a second, with bursts of %d: wait as Retry-After says, or ask the operator for more (rate_per_second).",
			l.rates.PerSecond, l.rates.Burst),
	}
}

// execution counts an execution of a key until the function returned is called,
// and refuses one too many.
func (l *limiter) execution(key string) (done func(), err error) {
	if l.rates.Executions == 0 {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accountLocked(key, l.now())
	if a.running >= l.rates.Executions {
		return nil, &agentsandbox.Error{
			Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: 1,
			Message: fmt.Sprintf("This key has %d executions under way, as many as it may: wait for one to end, or ask the operator for more (max_executions_per_key).", a.running),
		}
	}
	a.running++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.running--
	}, nil
}
