package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// snapshots is manifests with nothing behind them: a fake sandbox is new each time.
type snapshots struct {
	known []string

	mu   sync.Mutex
	made map[string]runtime.Manifest
}

var _ runtime.Snapshots = (*snapshots)(nil)

// Snapshots returns what sandboxes pretend to start from.
func (r *Runtime) Snapshots() runtime.Snapshots { return &r.snapshots }

// Make implements runtime.Snapshots.
func (s *snapshots) Make(_ context.Context, name string, limits runtime.Limits, _ func(string)) (runtime.Manifest, error) {
	if len(s.known) > 0 && !slices.Contains(s.known, name) {
		return runtime.Manifest{}, fmt.Errorf("%w: %q", runtime.ErrNoSnapshot, name)
	}
	cpus := int(cmp.Or((limits.MilliCPUs+999)/1000, 1))
	id := fmt.Sprintf("%s-%d-%d", name, cpus, limits.DiskBytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.made[id]; ok {
		return m, nil
	}
	m := runtime.Manifest{
		ID: id, Kind: runtime.SnapshotTemplate, Image: "fake", CPUs: cpus, DiskBytes: limits.DiskBytes,
		Kernel: "fake", MadeAt: time.Now(), SizeBytes: 1,
	}
	s.made[id] = m
	return m, nil
}

// List implements runtime.Snapshots.
func (s *snapshots) List(context.Context) ([]runtime.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.made), func(a, b runtime.Manifest) int { return strings.Compare(a.ID, b.ID) }), nil
}

// Open implements runtime.Snapshots.
func (s *snapshots) Open(_ context.Context, id string) (runtime.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.made[id]
	if !ok {
		return runtime.Manifest{}, fmt.Errorf("%w: %q", runtime.ErrNoSnapshot, id)
	}
	return m, nil
}

// Remove implements runtime.Snapshots.
func (s *snapshots) Remove(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.made, id)
	return nil
}
