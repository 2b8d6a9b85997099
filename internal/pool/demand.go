package pool

import (
	"slices"
	"time"
)

// The stock follows demand by one rule, for every kind alike. A claim that finds
// no warm sandbox of its kind adds one to what is kept of that kind; every
// coolEvery, half of those goes that were never needed in that time. The sizes of
// Stocks are always kept, what is beyond them only within StockMemory, for the
// kinds that were claimed last.

// coolEvery is how often the stock is looked over.
const coolEvery = 5 * time.Minute

// reserve is how much memory a sandbox of a kind holds, in bytes.
func (p *Pool) reserve(k kind) int64 {
	least := max(p.opts.ReserveMin, p.stock(k.snapshot).Reserve)
	r := max(k.limits.MemoryBytes/100*int64(p.opts.ReservePercent), least)
	if k.limits.MemoryBytes > 0 {
		r = min(r, k.limits.MemoryBytes)
	}
	return r
}

// missedLocked notes a claim that found no warm sandbox.
func (p *Pool) missedLocked(q *queue) {
	q.least = 0
	if p.opts.StockMemory < max(q.reserve, 1) || q.size > 0 && !q.served {
		return // switched off, or not even filled once
	}
	q.extra++
	if q.reserve > 0 {
		q.extra = int(min(int64(q.extra), p.opts.StockMemory/q.reserve))
	}
}

// coolLocked takes back what demand added and nobody needed, when it is time to,
// and returns when it will be; 0 if there is nothing.
func (p *Pool) coolLocked(now time.Time) time.Duration {
	if now.Sub(p.cooled) >= coolEvery {
		p.cooled = now
		for _, q := range p.queues {
			q.extra -= (min(q.least, q.extra) + 1) / 2
			q.least = len(q.ready)
		}
	}
	for _, q := range p.queues {
		if q.extra > 0 {
			return p.cooled.Add(coolEvery).Sub(now)
		}
	}
	return 0
}

// planLocked settles how many are kept of each kind.
func (p *Pool) planLocked() {
	all := make([]*queue, 0, len(p.queues))
	for _, q := range p.queues {
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b *queue) int { return b.claimed.Compare(a.claimed) })
	left := p.opts.StockMemory
	if p.pressed {
		left = 0
	}
	for _, q := range all {
		// What finds no memory is forgotten, which bounds how many kinds are known.
		q.extra = int(min(int64(q.extra), left/max(q.reserve, 1)))
		q.goal = q.size + q.extra
		left -= int64(q.extra) * q.reserve
		p.dropLocked(q)
	}
}

// surplusLocked takes one sandbox off a stock that has more than it should.
func (p *Pool) surplusLocked() *member {
	for _, q := range p.queues {
		if len(q.ready) > q.goal {
			return p.unstockLocked(q)
		}
	}
	return nil
}
