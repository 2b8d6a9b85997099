package pool

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// build is the life of one builder.
func (p *Pool) build() {
	for {
		job, wake, wait := p.next()
		if job != nil {
			job()
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

// next picks what a builder does: first what lets a claim go on, then what keeps
// the stock. Those who wait do not wait for a back-off to end. Without work it
// returns what to wait for.
func (p *Pool) next() (job func(), wake <-chan struct{}, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, p.wake, 0
	}
	now := time.Now()
	wait = p.coolLocked(now)
	p.planLocked()
	if m := p.surplusLocked(); m != nil {
		return func() { p.discard(m) }, nil, 0
	}
	if p.pressed {
		return nil, p.wake, wait
	}
	if job := p.serveLocked(); job != nil {
		return job, nil, 0
	}
	if p.line.count > 0 {
		// They wait for room, which the stock must not take.
		return nil, p.wake, wait
	}
	q, retry := p.fillLocked(now)
	if q != nil {
		return p.startLocked(q), nil, 0
	}
	if retry > 0 && (wait == 0 || retry < wait) {
		wait = retry
	}
	return nil, p.wake, wait
}

// serveLocked gives claims in the line what is there, and returns what has to be
// done for the next of them: a build, or the end of an idle sandbox that is in
// its way.
func (p *Pool) serveLocked() func() {
	for _, q := range p.queues {
		if q.waiting > 0 {
			p.handOutLocked(q)
		}
	}
	for {
		w := p.line.next(p.fitsLocked)
		if w == nil {
			break
		}
		q := w.queue
		q.granted = append(q.granted, w)
		if len(q.granted) > q.building {
			return p.startLocked(q)
		} // else a build for the stock is under way, and serves
	}
	if m := p.inTheWayLocked(); m != nil {
		return func() { p.discard(m) }
	}
	return nil
}

// handOutLocked gives warm sandboxes to those in the line who want such.
func (p *Pool) handOutLocked(q *queue) {
	for q.waiting > 0 && len(q.ready) > 0 {
		m, dead := q.pop()
		for _, d := range dead {
			p.leaveLocked(d)
			p.owned.Go(func() { p.discard(d) })
		}
		if m == nil {
			return
		}
		m.claimed = true
		p.line.first(func(w *waiter) bool { return w.queue == q }).result <- outcome{sandbox: m}
	}
}

// fitsLocked tells whether a claim can go on now.
func (p *Pool) fitsLocked(w *waiter) bool {
	return w.queue.building > len(w.queue.granted) || p.roomLocked(w.queue.reserve, 0, 0)
}

// roomLocked tells whether there is room for one more sandbox once count others,
// which reserve bytes, are gone.
func (p *Pool) roomLocked(reserve int64, count int, bytes int64) bool {
	return (p.opts.Max == 0 || p.live-count < p.opts.Max) &&
		(p.opts.Budget == 0 || p.reserved-bytes+reserve <= p.opts.Budget)
}

// inTheWayLocked takes off the stock one idle sandbox whose end brings a claim in
// the line closer to room. It takes none while those that are being destroyed
// will be enough, or if all of the stock would not be.
func (p *Pool) inTheWayLocked() *member {
	var idle []*queue
	count, bytes := p.leavingCount, p.leaving
	for _, q := range p.queues {
		if len(q.ready) > 0 {
			idle = append(idle, q)
			count += len(q.ready)
			bytes += int64(len(q.ready)) * q.reserve
		}
	}
	// What demand has added goes first, and of that what was not claimed for
	// longest.
	slices.SortFunc(idle, func(a, b *queue) int {
		return cmp.Or(cmp.Compare(min(a.size, 1), min(b.size, 1)), a.claimed.Compare(b.claimed))
	})
	for _, w := range p.line.heads() {
		if p.roomLocked(w.queue.reserve, p.leavingCount, p.leaving) {
			return nil
		}
		if len(idle) > 0 && p.roomLocked(w.queue.reserve, count, bytes) {
			return p.unstockLocked(idle[0])
		}
		if w.passed >= maxPassed {
			return nil
		}
	}
	return nil
}

// unstockLocked takes the newest sandbox of a stock, to be destroyed.
func (p *Pool) unstockLocked(q *queue) *member {
	last := len(q.ready) - 1
	m := q.ready[last]
	q.ready = q.ready[:last]
	p.leaveLocked(m)
	p.dropLocked(q)
	return m
}

func (p *Pool) leaveLocked(m *member) {
	m.leaving = true
	p.leaving += m.reserve
	p.leavingCount++
}

// fillLocked picks the stock to which a sandbox should be added, if any; if one
// is to be filled later, it returns in how long.
func (p *Pool) fillLocked(now time.Time) (next *queue, wait time.Duration) {
	for _, q := range p.queues {
		stock := len(q.ready) + q.building - len(q.granted)
		if stock >= q.goal || !p.roomLocked(q.reserve, 0, 0) {
			continue
		}
		if d := q.retryAt.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		// What is kept whatever is claimed comes first, then the latest claimed.
		if next == nil || q.before(next) {
			next = q
		}
	}
	return next, wait
}

// before tells which of two stocks is filled first.
func (q *queue) before(other *queue) bool {
	short := func(q *queue) bool { return len(q.ready)+q.building-len(q.granted) < q.size }
	if short(q) != short(other) {
		return short(q)
	}
	return q.claimed.After(other.claimed)
}

// startLocked takes the room for a sandbox and returns the making of it.
func (p *Pool) startLocked(q *queue) func() {
	q.building++
	p.live++
	p.reserved += q.reserve
	return func() { p.buildOne(q) }
}

func (p *Pool) buildOne(q *queue) {
	made, err := p.opts.Runtime.Start(p.ctx, runtime.Spec{
		ID: p.opts.NewID(), Snapshot: q.snapshot, Limits: q.limits, Network: p.opts.Network && !q.isolated,
	})
	p.mu.Lock()
	q.building--
	var surplus *member
	if err != nil {
		p.live--
		p.reserved -= q.reserve
		q.failures++
		q.lastErr = err
		q.retryAt = time.Now().Add(backoff(q.failures))
		p.refuseLocked(q, err)
		p.wakeLocked() // there is room again
	} else {
		m := p.newMember(made, q.limits, q.reserve)
		p.members[m] = struct{}{}
		surplus = p.deliverLocked(q, m)
	}
	failures, closed := q.failures, p.closed
	p.dropLocked(q)
	p.mu.Unlock()
	if err != nil && !closed {
		p.opts.Logger.Error("a sandbox could not be made", "snapshot", q.snapshot, "failures", failures, "error", err)
	}
	if surplus != nil {
		p.discard(surplus)
	}
}

// deliverLocked gives a new sandbox to who waits for it, or to the stock. It
// returns one that nobody needs any more.
func (p *Pool) deliverLocked(q *queue, m *member) (surplus *member) {
	if p.closed {
		return m
	}
	q.failures, q.lastErr, q.retryAt, q.served = 0, nil, time.Time{}, true
	if len(q.granted) > 0 {
		m.claimed = true
		q.granted[0].result <- outcome{sandbox: m}
		q.granted = q.granted[1:]
		return nil
	}
	q.ready = append(q.ready, m)
	if !p.pressed {
		p.handOutLocked(q)
	}
	if len(q.ready) > q.goal { // whoever waited for it has gone
		return p.unstockLocked(q)
	}
	return nil
}

// refuseLocked answers who waited for a build that failed. Where another snapshot
// serves instead, who waited waits for that one.
func (p *Pool) refuseLocked(q *queue, err error) {
	if len(q.granted) == 0 {
		return
	}
	w := q.granted[0]
	q.granted = q.granted[1:]
	instead := p.stock(q.snapshot).Instead
	if instead == "" || p.closed {
		w.result <- outcome{err: refusal(q.snapshot, err)}
		return
	}
	k := q.kind
	k.snapshot = instead
	w.queue = p.queueLocked(k)
	p.line.putBack(w)
}

// refusal is what one is told whose sandbox could not be made. A state that the
// runtime knows and that passes is told as it is.
func refusal(snapshot string, err error) error {
	var known *agentsandbox.Error
	if errors.As(err, &known) && known.Code == agentsandbox.CodeUnavailable {
		return known
	}
	return unavailable("a sandbox could not be made", fmt.Errorf("%s: %w", snapshot, err))
}

// dropLocked forgets a queue that nobody needs.
func (p *Pool) dropLocked(q *queue) {
	if q.size == 0 && q.extra == 0 && len(q.ready) == 0 && q.building == 0 && len(q.granted) == 0 && q.waiting == 0 && q.kind != p.warm() {
		delete(p.queues, q.kind)
	}
}

func backoff(failures int) time.Duration {
	d := firstBackoff
	for i := 1; i < failures && d < lastBackoff; i++ {
		d *= 2
	}
	return min(d, lastBackoff)
}
