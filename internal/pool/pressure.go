package pool

import (
	"context"
	"fmt"
	"time"
)

// The wall over all sandboxes is above the budget, because the kernel, when they
// run into it, ends whichever process it likes. Between the two the pool acts:
// from the budget on it admits nothing, and half way to the wall it ends the
// sandbox that is furthest over its reservation. Reservations add up to the budget
// at most, so there is one.

// wallMargin is how far above a budget the wall is: a tenth, but enough for the
// pool to act before a program has filled it.
const wallMargin = 256 << 20

// Wall is the limit for all sandboxes together that goes with a budget, in bytes.
func Wall(budget int64) int64 { return budget + max(budget/10, wallMargin) }

// evictMark is the use from which sandboxes are ended, in bytes.
func evictMark(budget int64) int64 { return budget + (Wall(budget)-budget)/2 }

// How often the use is read: a program can fill a gigabyte in a second.
const (
	watchEvery     = 200 * time.Millisecond
	watchEveryFull = 50 * time.Millisecond // when half of the budget is used
)

// watch acts on the use of memory until the pool is closed.
func (p *Pool) watch() {
	failing, stuck := false, false
	for {
		use, err := p.opts.MemoryUse(p.opts.Budget)
		if err != nil && !failing {
			p.opts.Logger.Error("the memory that the sandboxes use cannot be read; only the kernel watches it now", "error", err)
		}
		failing = err != nil
		p.press(!failing && use >= p.opts.Budget, use)
		every := watchEvery
		if use >= p.opts.Budget/2 {
			every = watchEveryFull
		}
		if !failing && use >= evictMark(p.opts.Budget) {
			evicted := p.evict(use)
			if !evicted && !stuck {
				p.opts.Logger.Warn("the sandboxes use more memory than they may, but each is within its reservation", "use_bytes", use)
			}
			stuck = !evicted
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// press stops or resumes the admission of claims.
func (p *Pool) press(on bool, use int64) {
	p.mu.Lock()
	changed := p.pressed != on
	p.pressed = on
	if changed {
		p.wakeLocked()
	}
	p.mu.Unlock()
	if changed && on {
		p.opts.Logger.Warn("the sandboxes use all the memory that they may: no more are started", "use_bytes", use, "budget_bytes", p.opts.Budget)
	} else if changed {
		p.opts.Logger.Info("sandboxes are started again", "use_bytes", use)
	}
}

// evict ends the claimed sandbox that is furthest over its reservation and
// returns when it is gone. It tells whether there was one.
func (p *Pool) evict(use int64) bool {
	p.mu.Lock()
	candidates := make([]*member, 0, len(p.members))
	for m := range p.members {
		if m.claimed && m.endedFor() == "" {
			candidates = append(candidates, m)
		}
	}
	p.mu.Unlock()
	var worst *member
	var worstUse int64
	for _, m := range candidates {
		u, err := m.WorkingSet()
		if err != nil {
			continue // it ends by itself
		}
		if u > m.reserve && (worst == nil || u-m.reserve > worstUse-worst.reserve) {
			worst, worstUse = m, u
		}
	}
	if worst == nil {
		return false
	}
	usage, err := worst.Usage()
	if err != nil {
		return true
	}
	worst.end(fmt.Sprintf("The sandbox was ended to keep the server alive: all sandboxes together used %d MiB, and the server has %d MiB for them. "+
		"This one used %d MiB, furthest over the %d MiB set aside for it. Run it again in a while, or with less data in memory.",
		use>>20, p.opts.Budget>>20, worstUse>>20, worst.reserve>>20), usage)
	p.mu.Lock()
	p.evictions++
	p.mu.Unlock()
	p.opts.Logger.Warn("ended the sandbox furthest over its reservation", "sandbox", worst.ID(),
		"sandbox_bytes", worstUse, "reserved_bytes", worst.reserve, "use_bytes", use, "budget_bytes", p.opts.Budget)
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := worst.Destroy(ctx); err != nil {
		p.opts.Logger.Error("a sandbox could not be destroyed", "sandbox", worst.ID(), "error", err)
	}
	return true
}
