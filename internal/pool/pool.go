// Package pool keeps warm sandboxes, ready to be claimed, one queue per template,
// variant and limits. A sandbox is handed out once and never comes back: whoever claims
// it destroys it. What a sandbox shows of its limits, such as its number of
// processors, is settled when it is made, so a claim with other limits than the
// warm ones have waits for a sandbox of its own.
//
// Building happens in a bounded number of goroutines that the pool owns and that
// hold no lock while they build. Claims are served in the order in which they
// came. A build that fails backs off, and the caller that has waited longest gets
// the failure, so that nobody waits for a host that cannot make sandboxes.
//
// The package knows no gVisor, no sessions and no tenants.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Options configure a Pool.
type Options struct {
	Runtime runtime.Runtime
	// NewID names each sandbox.
	NewID func() string
	// Template is the default one, for which sandboxes are kept warm.
	Template string
	// Templates lists the names that can be claimed; Template is one of them.
	Templates []string
	// Size is how many sandboxes of the default template are kept warm; with 0
	// each claim builds its own.
	Size int
	// Data says that sandboxes are made with the data libraries loaded, for the
	// claims that ask for them, and DataSize how many are kept warm.
	Data     bool
	DataSize int
	// Builders is how many sandboxes are built at once; at least 1.
	Builders int
	// Max bounds the sandboxes that exist at once, those that were claimed and
	// not destroyed yet included; 0: no bound.
	Max int
	// Wait bounds how long a claim waits before it is refused; 0: no bound.
	Wait time.Duration
	// Network says that sandboxes have a network device.
	Network bool
	// Limits are what the warm sandboxes are built with.
	Limits runtime.Limits
	Logger *slog.Logger
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// refillDelay is how long after a claim the warm stock is refilled: a run that
	// prints a line is over by then and had the processors to itself.
	refillDelay = 30 * time.Millisecond
	// destroyTimeout bounds the destruction of a sandbox that nobody used.
	destroyTimeout = 30 * time.Second
)

var errBusy = errors.New("the server has as many sandboxes as it may")

// ErrClosed says that the pool does not hand out sandboxes any more.
var ErrClosed = errors.New("the pool is closed")

// Pool hands out sandboxes. Start begins to fill it, Close empties it.
type Pool struct {
	opts   Options
	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	owned  sync.WaitGroup // builders

	mu     sync.Mutex
	queues map[kind]*queue
	live   int           // sandboxes that exist or are being built
	wake   chan struct{} // closed and replaced when there may be work for a builder
	closed bool
}

// dataMemory is the least memory limit with which a sandbox is made with the
// data libraries loaded, in bytes: a quarter of it is taken then.
const dataMemory = 256 << 20

// kind is what makes sandboxes alike.
type kind struct {
	template string
	variant  runtime.Variant
	limits   runtime.Limits
}

// queue is the warm sandboxes of one kind and those who wait for one.
type queue struct {
	kind
	size     int
	ready    []runtime.Sandbox
	waiting  []*waiter
	building int
	failures int       // builds that failed since the last that succeeded
	lastErr  error     // of the last failure; nil after a success
	retryAt  time.Time // no build for the warm stock before then
	served   bool      // a sandbox was built at least once
}

type waiter struct {
	queue  *queue       // in which it waits now
	result chan outcome // buffered: a delivery never blocks
}

type outcome struct {
	sandbox runtime.Sandbox
	err     error
}

// New makes a pool that builds nothing before Start.
func New(opts Options) *Pool {
	opts.Builders = max(opts.Builders, 1)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{opts: opts, ctx: ctx, cancel: cancel, queues: map[kind]*queue{}, wake: make(chan struct{})}
	warm := p.warm()
	p.queues[warm] = &queue{kind: warm, size: opts.Size}
	if data := warm; opts.Data {
		data.variant = runtime.DataLibraries
		p.queues[data] = &queue{kind: data, size: opts.DataSize}
	}
	return p
}

// warm is the kind that most claims ask for.
func (p *Pool) warm() kind { return kind{p.opts.Template, runtime.Bare, p.opts.Limits} }

// Start begins to build.
func (p *Pool) Start() {
	for range p.opts.Builders {
		p.owned.Go(p.build)
	}
}

// Claim returns a sandbox that nobody used before, of that variant of a template
// and with those limits in force. The caller destroys it.
func (p *Pool) Claim(ctx context.Context, template string, variant runtime.Variant, limits runtime.Limits) (runtime.Sandbox, error) {
	if template == "" {
		template = p.opts.Template
	}
	waitCtx := ctx
	if p.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeoutCause(ctx, p.opts.Wait, errBusy)
		defer cancel()
	}
	sb, err := p.take(waitCtx, kind{template, variant, limits})
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(waitCtx), errBusy) {
		err = unavailable(errBusy.Error(), nil)
	}
	return sb, err
}

func (p *Pool) take(ctx context.Context, k kind) (runtime.Sandbox, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, unavailable("the server is shutting down", ErrClosed)
	}
	if !slices.Contains(p.opts.Templates, k.template) {
		p.mu.Unlock()
		return nil, agentsandbox.Invalid("template", "%q is not a template of this server.", k.template)
	}
	k = p.settle(k)
	q := p.queueLocked(k)
	var dead []runtime.Sandbox
	var found runtime.Sandbox
	for found == nil && len(q.ready) > 0 {
		found, q.ready = q.ready[0], q.ready[1:]
		select {
		case <-found.Done():
			dead = append(dead, found)
			found = nil
		default:
		}
	}
	if now := time.Now(); found != nil && now.After(q.retryAt) {
		q.retryAt = now.Add(refillDelay)
	}
	w := &waiter{queue: q, result: make(chan outcome, 1)}
	if found == nil {
		q.waiting = append(q.waiting, w)
	}
	p.wakeLocked()
	p.mu.Unlock()
	for _, sb := range dead {
		p.opts.Logger.Warn("a warm sandbox died before it was used", "sandbox", sb.ID())
		p.discard(sb)
	}
	if found != nil {
		return found, nil
	}
	return p.await(ctx, w)
}

// settle replaces a variant that is not made: one that is switched off, that
// has no room in the memory limit, or that shows another number of processors
// than the stock, for which a snapshot would have to be made first.
func (p *Pool) settle(k kind) kind {
	if !p.opts.Data || k.limits.MilliCPUs != p.opts.Limits.MilliCPUs ||
		k.limits.MemoryBytes > 0 && k.limits.MemoryBytes < dataMemory {
		k.variant = runtime.Bare
	}
	return k
}

func (p *Pool) queueLocked(k kind) *queue {
	q := p.queues[k]
	if q == nil {
		q = &queue{kind: k}
		p.queues[k] = q
	}
	return q
}

func (p *Pool) await(ctx context.Context, w *waiter) (runtime.Sandbox, error) {
	select {
	case o := <-w.result:
		return o.sandbox, o.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	q := w.queue
	for i, other := range q.waiting {
		if other == w {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	p.dropLocked(q)
	p.mu.Unlock()
	// A builder may have delivered in the meantime.
	select {
	case o := <-w.result:
		if o.sandbox != nil {
			p.discard(o.sandbox)
		}
	default:
	}
	return nil, ctx.Err()
}

// Ready tells whether a sandbox of the default template can be claimed; nil if
// so.
func (p *Pool) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queues[p.warm()]
	switch {
	case p.closed:
		return ErrClosed
	case len(q.ready) > 0:
		return nil
	case q.lastErr != nil:
		return fmt.Errorf("the last sandbox could not be made: %w", q.lastErr)
	case !q.served && q.size > 0:
		return errors.New("the first sandbox is still being made")
	}
	return nil
}

// Live returns how many sandboxes exist or are being built.
func (p *Pool) Live() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live
}

// Stats is a look at the pool: warm sandboxes that can be claimed, sandboxes
// that are being built, and claims that wait.
type Stats struct {
	Ready, Building, Waiting int
}

// Stats adds up all queues.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all Stats
	for _, q := range p.queues {
		all.Ready += len(q.ready)
		all.Building += q.building
		all.Waiting += len(q.waiting)
	}
	return all
}

// Close stops building, fails those who wait, and destroys the warm sandboxes.
// It returns when all of that is done, and can be called again.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var idle []runtime.Sandbox
	for _, q := range p.queues {
		idle = append(idle, q.ready...)
		q.ready = nil
		for _, w := range q.waiting {
			w.result <- outcome{err: unavailable("the server is shutting down", ErrClosed)}
		}
		q.waiting = nil
	}
	p.mu.Unlock()
	p.cancel()
	p.owned.Wait()
	var destroying sync.WaitGroup
	for _, sb := range idle {
		destroying.Go(func() { p.discard(sb) })
	}
	destroying.Wait()
}

// build is the life of one builder.
func (p *Pool) build() {
	for {
		q, wake, wait := p.next()
		if q != nil {
			p.buildOne(q)
			continue
		}
		var retry <-chan time.Time
		if wait > 0 {
			retry = time.After(wait)
		}
		select {
		case <-p.ctx.Done():
			return
		case <-wake:
		case <-retry:
		}
	}
}

// next picks a queue that needs a sandbox and counts the build. Those who wait
// come before the warm stock, and do not wait for a back-off to end. Without a
// queue it returns what to wait for.
func (p *Pool) next() (q *queue, wake <-chan struct{}, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || (p.opts.Max > 0 && p.live >= p.opts.Max) {
		return nil, p.wake, 0
	}
	for _, q := range p.queues {
		if len(q.waiting) > q.building {
			q.building++
			p.live++
			return q, nil, 0
		}
	}
	for _, q := range p.queues {
		if len(q.ready)+q.building >= q.size+len(q.waiting) {
			continue
		}
		if d := time.Until(q.retryAt); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		q.building++
		p.live++
		return q, nil, 0
	}
	return nil, p.wake, wait
}

func (p *Pool) buildOne(q *queue) {
	made, err := p.opts.Runtime.Start(p.ctx, runtime.Spec{ID: p.opts.NewID(), Template: q.template, Variant: q.variant, Limits: q.limits, Network: p.opts.Network})
	var sb runtime.Sandbox
	if err == nil {
		sb = &counted{Sandbox: made, gone: sync.OnceFunc(p.gone)}
	}
	p.mu.Lock()
	q.building--
	var surplus runtime.Sandbox
	switch {
	case err != nil:
		p.live--
		q.failures++
		q.lastErr = err
		q.retryAt = time.Now().Add(backoff(q.failures))
		p.refuseLocked(q, err)
	case p.closed:
		surplus = sb
	default:
		q.failures, q.lastErr, q.retryAt, q.served = 0, nil, time.Time{}, true
		if len(q.waiting) > 0 {
			q.waiting[0].result <- outcome{sandbox: sb}
			q.waiting = q.waiting[1:]
		} else if len(q.ready) < q.size {
			q.ready = append(q.ready, sb)
		} else {
			surplus = sb // whoever waited for it has gone
		}
	}
	failures, closed := q.failures, p.closed
	p.dropLocked(q)
	p.mu.Unlock()
	if err != nil && !closed {
		p.opts.Logger.Error("a sandbox could not be made", "template", q.template, "variant", q.variant, "failures", failures, "error", err)
	}
	if surplus != nil {
		p.discard(surplus)
	}
}

// refuseLocked answers who has waited longest, after a build that failed. Who
// waits for more than the bare variant waits for that one instead.
func (p *Pool) refuseLocked(q *queue, err error) {
	if len(q.waiting) == 0 {
		return
	}
	w := q.waiting[0]
	q.waiting = q.waiting[1:]
	if q.variant == runtime.Bare || p.closed {
		w.result <- outcome{err: unavailable("a sandbox could not be made", err)}
		return
	}
	k := q.kind
	k.variant = runtime.Bare
	w.queue = p.queueLocked(k)
	w.queue.waiting = append(w.queue.waiting, w)
	p.wakeLocked()
}

// dropLocked forgets a queue that nobody needs.
func (p *Pool) dropLocked(q *queue) {
	if q.size == 0 && q.building == 0 && len(q.waiting) == 0 && q.kind != p.warm() {
		delete(p.queues, q.kind)
	}
}

// counted is a sandbox that says when it is gone.
type counted struct {
	runtime.Sandbox
	gone func()
}

func (c *counted) Destroy(ctx context.Context) error {
	err := c.Sandbox.Destroy(ctx)
	if err == nil {
		c.gone()
	}
	return err
}

// gone makes room for another sandbox.
func (p *Pool) gone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live--
	p.wakeLocked()
}

// wakeLocked tells the builders that there may be work.
func (p *Pool) wakeLocked() {
	close(p.wake)
	p.wake = make(chan struct{})
}

func (p *Pool) discard(sb runtime.Sandbox) {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := sb.Destroy(ctx); err != nil {
		p.opts.Logger.Error("a sandbox could not be destroyed", "sandbox", sb.ID(), "error", err)
	}
}

func backoff(failures int) time.Duration {
	d := firstBackoff
	for i := 1; i < failures && d < lastBackoff; i++ {
		d *= 2
	}
	return min(d, lastBackoff)
}

func unavailable(why string, err error) error {
	return &agentsandbox.Error{
		Code:              agentsandbox.CodeUnavailable,
		Message:           "No sandbox can be had now: " + why + ". Try again in a moment.",
		RetryAfterSeconds: 1,
		Err:               err,
	}
}
