package work

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Tracker counts work under way by its name, so that a wait for its end can have
// a bound and can say what is overdue. The zero value is ready.
type Tracker struct {
	mu    sync.Mutex
	names map[string]int
	empty chan struct{} // made by whoever waits, closed when nothing is under way
}

// Add registers a piece of work and returns what ends it, which can be repeated.
func (t *Tracker) Add(name string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names == nil {
		t.names = map[string]int{}
	}
	t.names[name]++
	return sync.OnceFunc(func() { t.end(name) })
}

func (t *Tracker) end(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names[name]--; t.names[name] == 0 {
		delete(t.names, name)
	}
	if len(t.names) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

// Wait waits until nothing is under way, or ctx ends: then it returns what is.
func (t *Tracker) Wait(ctx context.Context) (overdue string) {
	t.mu.Lock()
	if len(t.names) == 0 {
		t.mu.Unlock()
		return ""
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	t.mu.Unlock()
	select {
	case <-empty:
		return ""
	case <-ctx.Done():
		return t.text()
	}
}

// text lists the work under way, such as "readPath, writePath (3)".
func (t *Tracker) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(t.names)) {
		if n := t.names[name]; n > 1 {
			name = fmt.Sprintf("%s (%d)", name, n)
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, ", ")
}
