package edge

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/agentsandbox/agentsandbox"
)

// Rates bound what one key may ask for. Zero is no bound.
type Rates struct {
	PerSecond  int // requests in the long run
	Burst      int // requests at once, after a quiet time; at least 1 with PerSecond
	Requests   int // requests under way, executions included
	Executions int // executions under way
}

// limiter counts what each key asks for: a bucket of tokens, which fills with
// time, and the requests and executions under way. What it costs does not depend
// on how many requests are refused.
type limiter struct {
	rates Rates
	now   func() time.Time

	mu    sync.Mutex
	keys  map[string]*account
	swept time.Time
}

// account is what is known of one key.
type account struct {
	bucket   *rate.Limiter
	underWay int // requests
	running  int // executions
}

// sweepEvery is how often keys are forgotten that have been quiet.
const sweepEvery = time.Minute

func newLimiter(r Rates) (*limiter, error) {
	if r.PerSecond < 0 || r.Burst < 0 || r.Requests < 0 || r.Executions < 0 || r.PerSecond > 0 && r.Burst == 0 {
		return nil, fmt.Errorf("edge: Options.Rates are %+v; none may be negative, and PerSecond needs a Burst", r)
	}
	return &limiter{rates: r, now: time.Now, keys: map[string]*account{}}, nil
}

func (l *limiter) accountLocked(key string, now time.Time) *account {
	if now.Sub(l.swept) >= sweepEvery {
		l.swept = now
		for id, a := range l.keys {
			if a.running == 0 && a.underWay == 0 && a.bucket.TokensAt(now) >= float64(l.rates.Burst) {
				delete(l.keys, id)
			}
		}
	}
	a := l.keys[key]
	if a == nil {
		a = &account{bucket: rate.NewLimiter(rate.Limit(l.rates.PerSecond), l.rates.Burst)}
		l.keys[key] = a
	}
	return a
}

// request counts a request of a key, sets the headers that say how many it has
// left, and refuses one too many.
func (l *limiter) request(key string, h http.Header) error {
	if l.rates.PerSecond == 0 {
		return nil
	}
	l.mu.Lock() // the headers tell of the bucket as this request left it
	now := l.now()
	bucket := l.accountLocked(key, now).bucket
	ok := bucket.AllowN(now, 1)
	tokens := bucket.TokensAt(now)
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

// enter counts a request of a key until the function returned is called, and
// refuses one too many.
func (l *limiter) enter(key string) (leave func(), err error) {
	return l.count(key, l.rates.Requests, func(a *account) *int { return &a.underWay }, "requests", "max_requests_per_key")
}

// execution counts an execution of a key until the function returned is called,
// and refuses one too many.
func (l *limiter) execution(key string) (done func(), err error) {
	return l.count(key, l.rates.Executions, func(a *account) *int { return &a.running }, "executions", "max_executions_per_key")
}

func (l *limiter) count(key string, most int, of func(*account) *int, what, setting string) (done func(), err error) {
	if most == 0 {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := of(l.accountLocked(key, l.now()))
	if *n >= most {
		return nil, &agentsandbox.Error{
			Code: agentsandbox.CodeRateLimited, RetryAfterSeconds: 1,
			Message: fmt.Sprintf("This key has %d %s under way, as many as it may: wait for one to end, or ask the operator for more (%s).", *n, what, setting),
		}
	}
	*n++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		*n--
	}, nil
}
