package engine

import (
	"context"
	"time"
)

// Resume is the part of Start that goes on with what Recover found.
func (e *Engine) Resume() { e.resume() }

// ExpireSessions is one round of what Start does every second.
func (e *Engine) ExpireSessions(ctx context.Context) { e.expireSessions(ctx) }

// EndDueConns is one round of what Start does every second.
func (e *Engine) EndDueConns() { e.endDueConns() }

// SaveUses writes when sessions were last used, where the store is far behind.
func (e *Engine) SaveUses(ctx context.Context) { e.saveUses(ctx, false) }

// ExpectVerdictsWithin sets how long after its time limit a run may take to report.
func (e *Engine) ExpectVerdictsWithin(d time.Duration) { e.verdictGrace = d }
