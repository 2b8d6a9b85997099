package fake

import (
	"context"
	"slices"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Recover takes over the sandboxes of keep that were released, and destroys all
// others: the same Runtime stands for the machine on which one process follows
// the other.
func (r *Runtime) Recover(ctx context.Context, keep []string) (runtime.Recovered, error) {
	r.mu.Lock()
	var left []*Sandbox
	for _, sb := range r.live {
		left = append(left, sb)
	}
	r.mu.Unlock()
	var found runtime.Recovered
	for _, old := range left {
		old.Release()
		sb := newSandbox(r, old.machine)
		r.mu.Lock()
		r.live[sb.ID()] = sb
		r.mu.Unlock()
		if !slices.Contains(keep, sb.ID()) || sb.converse(ctx) != nil {
			found.Destroyed = append(found.Destroyed, sb.ID())
			if err := sb.Destroy(ctx); err != nil {
				return found, err
			}
			continue
		}
		found.Adopted = append(found.Adopted, sb)
	}
	slices.Sort(found.Destroyed)
	return found, nil
}

// Crash releases every sandbox, as the death of the process that holds them does.
func (r *Runtime) Crash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sb := range r.live {
		sb.Release()
	}
}

// Release ends the conversation and leaves the agent as it is.
func (s *Sandbox) Release() {
	s.relMu.Lock()
	defer s.relMu.Unlock()
	if s.released || s.gone() {
		return
	}
	s.released = true
	s.removed.Store(true)
	s.client.Close()
	s.dead.Do(func() { close(s.done) })
}
