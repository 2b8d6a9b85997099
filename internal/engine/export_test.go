package engine

import "context"

// Resume is the part of Start that goes on with what Recover found.
func (e *Engine) Resume() { e.resume() }

// ExpireSessions is one round of what Start does every second.
func (e *Engine) ExpireSessions(ctx context.Context) { e.expireSessions(ctx) }

// EndIdleConns is one round of what Start does every second.
func (e *Engine) EndIdleConns() { e.endIdleConns() }

// LoadRevoked is what Recover does where an earlier process left ports.
func (e *Engine) LoadRevoked(ctx context.Context) error { return e.loadRevoked(ctx) }

// SaveUses writes when sessions were last used, where the store is far behind.
func (e *Engine) SaveUses(ctx context.Context) { e.saveUses(ctx, false) }

// HearWitnesses is what Start does every second.
func (e *Engine) HearWitnesses() { e.hearWitnesses() }
