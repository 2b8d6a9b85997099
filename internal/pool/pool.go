// Package pool decides which sandboxes exist. It keeps warm ones, ready to be
// claimed, one stock per snapshot and limits. A sandbox is handed out
// once and never comes back: whoever claims it destroys it. What a sandbox shows
// of its limits, such as its number of processors, is settled when it is made, so
// a claim with other limits than the warm ones have waits for a sandbox of its
// own, and the stock follows what is claimed (demand.go).
//
// Every sandbox holds a reservation of memory, smaller than its limit, and the
// reservations never exceed the budget. Claims beyond it wait in a bounded line
// that is fair between owners (line.go) and then are refused. Should the
// sandboxes use more than they reserved, the pool stops admitting, and then ends
// the one furthest over its reservation (pressure.go).
//
// Building happens in a bounded number of goroutines that the pool owns and that
// hold no lock while they build (build.go). A build that fails backs off, and a
// caller that waited for it gets the failure, so that nobody waits for a host
// that cannot make sandboxes.
//
// The package knows no gVisor, no templates, no sessions and no tenants: a snapshot
// is a name, and an owner is two.
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
	// Stocks are the snapshots of which sandboxes are kept warm. The first is what
	// most claims ask for, and what Ready is about.
	Stocks []Stock
	// Builders is how many sandboxes are built at once; at least 1.
	Builders int
	// Max bounds the sandboxes that exist at once, those that were claimed and
	// not destroyed yet included; 0: no bound.
	Max int
	// Wait bounds how long a claim waits before it is refused; 0: no bound.
	Wait time.Duration
	// Waiting bounds how many claims wait at once; 0: no bound.
	Waiting int
	// Network says that sandboxes have a network device.
	Network bool
	// Limits are what the warm sandboxes are built with.
	Limits runtime.Limits

	// Budget bounds the sum of the reservations of all sandboxes, in bytes; 0: no
	// bound. A sandbox reserves ReservePercent of its memory limit, at least
	// ReserveMin bytes.
	Budget         int64
	ReservePercent int
	ReserveMin     int64
	// StockMemory bounds what warm sandboxes beyond the sizes of Stocks may reserve,
	// in bytes. With 0 there are none: the stock does not follow demand.
	StockMemory int64
	// MemoryUse reads how much memory all sandboxes use that the kernel cannot
	// take back. Below enough, it may be more than that. Nil: nobody looks.
	MemoryUse func(enough int64) (int64, error)

	Logger *slog.Logger
}

// Stock says how many sandboxes of a snapshot are kept warm, and what is special
// about them.
type Stock struct {
	Snapshot string
	// Size is how many are kept warm whatever is claimed; with 0 each claim builds
	// its own, until demand has added some.
	Size int
	// Reserve is the least that a sandbox reserves, in bytes, where that is more
	// than ReserveMin.
	Reserve int64
	// Instead is the snapshot that a claim gets if a sandbox of this one cannot be
	// made; empty: the claim fails.
	Instead string
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// refillDelay is how long after a claim the warm stock is refilled: a run that
	// prints a line is over by then and had the processors to itself.
	refillDelay = 30 * time.Millisecond
	// destroyTimeout bounds the destruction of a sandbox that nobody used.
	destroyTimeout = 30 * time.Second
	// retryAfter is how many seconds a refused caller should wait.
	retryAfter = 2
)

var errBusy = errors.New("none came free in time, and the server has as many as it can have or make now")

// ErrClosed says that the pool does not hand out sandboxes any more.
var ErrClosed = errors.New("the pool is closed")

// Pool hands out sandboxes. Start begins to fill it, Close empties it.
type Pool struct {
	opts   Options
	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	owned  sync.WaitGroup // builders

	mu      sync.Mutex
	queues  map[kind]*queue
	line    line
	members map[*member]struct{}
	live    int // sandboxes that exist or are being built
	// reserved is what they reserve, in bytes. Of them, leavingCount with leaving
	// bytes are idle ones that are being destroyed.
	reserved     int64
	leaving      int64
	leavingCount int
	pressed      bool      // the sandboxes use more than the budget: nothing is admitted
	cooled       time.Time // when the stock was last looked over
	evictions    int64
	refusals     int64
	wake         chan struct{} // closed and replaced when there may be work for a builder
	closed       bool
}

// kind is what makes sandboxes alike.
type kind struct {
	snapshot string
	limits   runtime.Limits
	isolated bool // without a network device, where others have one
}

// queue is the warm sandboxes of one kind, and what is known of those who want one.
type queue struct {
	kind
	reserve  int64 // of one sandbox, in bytes
	size     int   // kept warm whatever is claimed
	extra    int   // what demand adds to that, if there is memory
	goal     int   // kept warm now
	ready    []*member
	least    int // fewest that were ready since the stock was last looked over
	waiting  int // claims in the line
	granted  []*waiter
	building int       // for those granted, and beyond them for the stock
	failures int       // builds that failed since the last that succeeded
	lastErr  error     // of the last failure; nil after a success
	retryAt  time.Time // no build for the warm stock before then
	claimed  time.Time // when one was last asked for
	served   bool      // a sandbox was built at least once
}

// waiter is a claim that waits: in the line, or granted, for a build.
type waiter struct {
	owner  Owner
	queue  *queue       // in which it waits now
	result chan outcome // buffered: a delivery never blocks
	seq    uint64       // its place in the line
	passed int          // how many others passed it in the line
}

type outcome struct {
	sandbox runtime.Sandbox
	err     error
}

// New makes a pool that builds nothing before Start.
func New(opts Options) *Pool {
	opts.Builders = max(opts.Builders, 1)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{
		opts: opts, ctx: ctx, cancel: cancel, queues: map[kind]*queue{}, line: newLine(opts.Waiting),
		members: map[*member]struct{}{}, cooled: time.Now(), wake: make(chan struct{}),
	}
	for _, s := range opts.Stocks {
		p.queueLocked(kind{snapshot: s.Snapshot, limits: opts.Limits}).size = s.Size
	}
	p.planLocked()
	return p
}

// warm is the kind that most claims ask for.
func (p *Pool) warm() kind { return kind{snapshot: p.opts.Stocks[0].Snapshot, limits: p.opts.Limits} }

// stock returns what is special about sandboxes of a snapshot.
func (p *Pool) stock(snapshot string) Stock {
	for _, s := range p.opts.Stocks {
		if s.Snapshot == snapshot {
			return s
		}
	}
	return Stock{}
}

// Start begins to build.
func (p *Pool) Start() {
	for range p.opts.Builders {
		p.owned.Go(p.build)
	}
	if p.opts.MemoryUse != nil && p.opts.Budget > 0 {
		p.owned.Go(p.watch)
	}
}

// Claim returns a sandbox that nobody used before, of that snapshot and with those
// limits in force. The caller destroys it. Claims that wait are served in turn
// between groups, in them between owners, and of one in order.
func (p *Pool) Claim(ctx context.Context, owner Owner, snapshot string, limits runtime.Limits) (runtime.Sandbox, error) {
	return p.claim(ctx, owner, kind{snapshot: snapshot, limits: limits})
}

// ClaimIsolated is Claim of a sandbox without a network device.
func (p *Pool) ClaimIsolated(ctx context.Context, owner Owner, snapshot string, limits runtime.Limits) (runtime.Sandbox, error) {
	return p.claim(ctx, owner, kind{snapshot: snapshot, limits: limits, isolated: p.opts.Network})
}

func (p *Pool) claim(ctx context.Context, owner Owner, k kind) (runtime.Sandbox, error) {
	waitCtx := ctx
	if p.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeoutCause(ctx, p.opts.Wait, errBusy)
		defer cancel()
	}
	sb, err := p.take(waitCtx, owner, k)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(waitCtx), errBusy) {
		p.countRefusal()
		err = unavailable(errBusy.Error(), nil)
	}
	return sb, err
}

func (p *Pool) take(ctx context.Context, owner Owner, k kind) (runtime.Sandbox, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, unavailable("the server is shutting down", ErrClosed)
	}
	if r := p.reserve(k); p.opts.Budget > 0 && r > p.opts.Budget {
		p.mu.Unlock()
		return nil, agentsandbox.Invalid("memory_mb",
			"needs %d MiB set aside, and this server has %d MiB for all sandboxes (host_memory_mb); ask for less.", r>>20, p.opts.Budget>>20)
	}
	found, dead, w := p.askLocked(owner, k, time.Now())
	p.wakeLocked()
	p.mu.Unlock()
	for _, m := range dead {
		p.opts.Logger.Warn("a warm sandbox died before it was used", "sandbox", m.ID())
		p.discard(m)
	}
	if found != nil {
		return found, nil
	}
	return p.await(ctx, w)
}

// askLocked takes a warm sandbox of a kind, or a place in the line. It returns
// those that died on the stock, too.
func (p *Pool) askLocked(owner Owner, k kind, now time.Time) (found *member, dead []*member, w *waiter) {
	q := p.queueLocked(k)
	q.claimed = now
	w = &waiter{owner: owner, queue: q, result: make(chan outcome, 1)}
	if !p.pressed && q.waiting == 0 {
		found, dead = q.pop()
	}
	q.least = min(q.least, len(q.ready))
	if found != nil {
		found.claimed = true
		if now.After(q.retryAt) {
			q.retryAt = now.Add(refillDelay)
		}
		return found, dead, nil
	}
	p.missedLocked(q)
	if refused := p.line.add(w); refused != nil {
		p.refusals++
		refused.result <- outcome{err: unavailable("as many requests wait for one as may", nil)}
		p.dropLocked(refused.queue)
	}
	return nil, dead, w
}

// pop takes the oldest warm sandbox that lives, and those before it that do not.
func (q *queue) pop() (found *member, dead []*member) {
	for found == nil && len(q.ready) > 0 {
		m := q.ready[0]
		q.ready = q.ready[1:]
		select {
		case <-m.Done():
			dead = append(dead, m)
		default:
			found = m
		}
	}
	return found, dead
}

func (p *Pool) queueLocked(k kind) *queue {
	q := p.queues[k]
	if q == nil {
		q = &queue{kind: k, reserve: p.reserve(k)}
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
	if !p.line.remove(w) {
		w.queue.granted = slices.DeleteFunc(w.queue.granted, func(other *waiter) bool { return other == w })
	}
	p.dropLocked(w.queue)
	p.wakeLocked() // it may have blocked others
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

// Ready tells whether a sandbox of the first stock can be claimed; nil if so.
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

// Stats is a look at the pool. Memory is in bytes.
type Stats struct {
	Ready    int // warm sandboxes that can be claimed
	Building int
	Waiting  int // claims
	Goal     int // warm sandboxes that the pool tries to keep
	Reserved int64
	Budget   int64
	// Evictions are sandboxes that the pool ended because memory ran out, and
	// Refusals claims that were answered with unavailable, since the start.
	Evictions, Refusals int64
}

// Stats adds up all queues.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := Stats{Reserved: p.reserved, Budget: p.opts.Budget, Evictions: p.evictions, Refusals: p.refusals}
	for _, q := range p.queues {
		all.Ready += len(q.ready)
		all.Building += q.building
		all.Waiting += q.waiting + len(q.granted)
		all.Goal += q.goal
	}
	return all
}

func (p *Pool) countRefusal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals++
}

// Close stops building, fails those who wait, and destroys the warm sandboxes.
// It returns when all of that is done, and can be called again.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var idle []*member
	waiting := p.line.drain()
	for _, q := range p.queues {
		idle = append(idle, q.ready...)
		waiting = append(waiting, q.granted...)
		q.ready, q.granted = nil, nil
	}
	for _, w := range waiting {
		w.result <- outcome{err: unavailable("the server is shutting down", ErrClosed)}
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

func (p *Pool) discard(sb runtime.Sandbox) {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := sb.Destroy(ctx); err != nil {
		p.opts.Logger.Error("a sandbox could not be destroyed", "sandbox", sb.ID(), "error", err)
	}
}

func unavailable(why string, err error) error {
	return &agentsandbox.Error{
		Code:              agentsandbox.CodeUnavailable,
		Message:           "No sandbox can be had now: " + why + ". Try again in a moment.",
		RetryAfterSeconds: retryAfter,
		Err:               err,
	}
}
