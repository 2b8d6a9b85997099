package pool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// member is a sandbox that counts: it holds a reservation until it is destroyed.
type member struct {
	runtime.Sandbox
	limits  runtime.Limits
	reserve int64
	gone    func() // gives the reservation back; may be called again
	reap    func() // sees to it that Destroy is tried again

	// Guarded by the pool's lock.
	reaping bool // Destroy is being tried again
	claimed bool // handed out
	leaving bool // taken off the stock, to be destroyed

	mu      sync.Mutex
	evicted string        // why the pool ended it; "" if it did not
	usage   runtime.Usage // read before the pool ended it
}

// Destroy implements [runtime.Sandbox]. Should it fail, the pool goes on trying: the
// reservation is held until the sandbox is gone, and not for longer.
func (m *member) Destroy(ctx context.Context) error {
	err := m.Sandbox.Destroy(ctx)
	if err != nil {
		m.reap()
		return err
	}
	m.gone()
	return nil
}

// reapEvery is how long the first pause is before Destroy is tried again, and
// reapAtMost the longest.
const reapEvery, reapAtMost = 50 * time.Millisecond, 30 * time.Second

// reap destroys a sandbox that could not be destroyed, however long that takes.
func (p *Pool) reap(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || m.reaping {
		return
	}
	m.reaping = true
	p.owned.Go(func() {
		for pause := reapEvery; ; pause = min(2*pause, reapAtMost) {
			select {
			case <-p.ctx.Done():
				return // the next start finds it
			case <-time.After(pause):
			}
			ctx, cancel := context.WithTimeout(p.ctx, destroyTimeout)
			err := m.Sandbox.Destroy(ctx)
			cancel()
			if err == nil {
				m.gone()
				return
			}
		}
	})
}

// Usage implements [runtime.Sandbox]. That of a sandbox that the pool ended is
// what it was then.
func (m *member) Usage() (runtime.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.evicted != "" {
		return m.usage, nil
	}
	return m.Sandbox.Usage()
}

// Evicted says, in sentences for people, that the sandbox was ended because all
// sandboxes together used up the host's memory; "" if it was not.
func (m *member) Evicted() string {
	if why := m.endedFor(); why != "" {
		return why
	}
	// The kernel came first. It counts its kills with the victim, whichever limit
	// was the reason; a sandbox that never reached its own was no reason.
	u, err := m.Sandbox.Usage()
	if err != nil || u.OOMKills == 0 || m.limits.MemoryBytes == 0 || u.MemoryPeakBytes >= m.limits.MemoryBytes-pageSlack {
		return ""
	}
	return fmt.Sprintf("The sandbox was ended to keep the server alive: all sandboxes together used up the memory that the server gives them. "+
		"This one had used up to %d MiB, within its own limit of %d MiB. Run it again in a while.",
		u.MemoryPeakBytes>>20, m.limits.MemoryBytes>>20)
}

// endedFor is why the pool ended the sandbox, "" if it did not.
func (m *member) endedFor() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.evicted
}

// pageSlack is how far below its limit a sandbox can be when the kernel finds no
// room for the next pages, which it takes in batches.
const pageSlack = 1 << 20

// end marks the member as ended by the pool, and why.
func (m *member) end(why string, usage runtime.Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.evicted, m.usage = why, usage
}

// newMember counts a sandbox that has just been made, or was found. Its
// reservation and place are taken already.
func (p *Pool) newMember(sb runtime.Sandbox, limits runtime.Limits, reserve int64) *member {
	m := &member{Sandbox: sb, limits: limits, reserve: reserve}
	m.gone = sync.OnceFunc(func() { p.gone(m) })
	m.reap = func() { p.reap(m) }
	return m
}

// Adopt counts a sandbox that lives already, as those that outlived an earlier
// server do. It takes its reservation even beyond the budget; work that comes
// waits until there is room again. The caller uses and destroys the sandbox that
// is returned in place of the one given.
func (p *Pool) Adopt(sb runtime.Sandbox) runtime.Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	limits := sb.Limits()
	m := p.newMember(sb, limits, p.reserve(kind{limits: limits}))
	m.claimed = true
	p.live++
	p.reserved += m.reserve
	p.members[m] = struct{}{}
	return m
}

// gone gives back what a sandbox held.
func (p *Pool) gone(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live--
	p.reserved -= m.reserve
	if m.leaving {
		p.leaving -= m.reserve
		p.leavingCount--
	}
	delete(p.members, m)
	p.wakeLocked()
}

// wakeLocked tells the builders that there may be work.
func (p *Pool) wakeLocked() {
	close(p.wake)
	p.wake = make(chan struct{})
}
