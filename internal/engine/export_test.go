package engine

// Resume is the part of Start that goes on with what Recover found.
func (e *Engine) Resume() { e.resume() }
