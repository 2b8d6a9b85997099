package pool

import (
	"sync"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Adopt counts a sandbox of an earlier process among those that exist, until it
// is destroyed, and returns it.
func (p *Pool) Adopt(sb runtime.Sandbox) runtime.Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live++
	return &counted{Sandbox: sb, gone: sync.OnceFunc(p.gone)}
}
