package audit

// FlushNew is what Start does every second.
func (e *Egress) FlushNew() { e.flushNew() }
