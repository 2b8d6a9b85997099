package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// sandbox implements [runtime.Sandbox].
type sandbox struct {
	runtime.Guest
	r      *Runtime
	m      *machine
	client *guest.Client
	done   chan struct{}
	memory memoryWatch

	mu       sync.Mutex
	teardown *teardown
	released chan struct{} // closed when the sandbox was let go of alive
}

// teardown is one attempt to remove a sandbox from the host.
type teardown struct {
	finished chan struct{}
	err      error // valid when finished is closed
}

// newSandbox takes over a machine whose agent has answered, and watches it.
func newSandbox(r *Runtime, m *machine, client *guest.Client, limits runtime.Limits) *sandbox {
	s := &sandbox{Guest: client, r: r, m: m, client: client, done: make(chan struct{}), released: make(chan struct{})}
	s.memory.limit.Store(limits.MemoryBytes)
	r.owned.Go(func() {
		defer close(s.done)
		select {
		case <-m.process.ended:
			return
		case <-s.released:
			return
		case <-client.Done():
		}
		if s.isReleased() {
			return // which ended the conversation
		}
		// A sandbox that does not speak with us any more is of no use.
		if err := m.process.kill(); err != nil {
			r.log.Error("a sandbox without a conversation goes on", "sandbox", m.id, "error", err)
		}
	})
	return s
}

// ID implements [runtime.Sandbox].
func (s *sandbox) ID() string { return s.m.id }

// Done implements [runtime.Sandbox].
func (s *sandbox) Done() <-chan struct{} { return s.done }

// SetLimits implements [runtime.Sandbox].
func (s *sandbox) SetLimits(_ context.Context, limits runtime.Limits) error {
	select {
	case <-s.done:
		return fmt.Errorf("sandbox %s: %w", s.m.id, runtime.ErrSandboxLost)
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.m.group.SetLimits(walled(limits)); err != nil {
		return fmt.Errorf("sandbox %s: %w", s.m.id, err)
	}
	s.memory.limit.Store(limits.MemoryBytes)
	s.m.record.Limits = limits
	return s.r.records.write(s.m.record) // for the process that takes it over
}

// Limits implements [runtime.Sandbox].
func (s *sandbox) Limits() runtime.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.record.Limits
}

// Usage implements [runtime.Sandbox]. The counters of a sandbox that died can be
// read until it is destroyed: they say whether the memory limit killed it.
func (s *sandbox) Usage() (runtime.Usage, error) {
	if s.isReleased() {
		return runtime.Usage{}, fmt.Errorf("sandbox %s: %w", s.m.id, runtime.ErrSandboxLost)
	}
	u, err := s.m.group.Usage()
	if errors.Is(err, fs.ErrNotExist) {
		err = runtime.ErrSandboxLost
	}
	if err != nil {
		return runtime.Usage{}, fmt.Errorf("sandbox %s: %w", s.m.id, err)
	}
	return u, nil
}

// WorkingSet implements [runtime.Sandbox].
func (s *sandbox) WorkingSet() (int64, error) {
	n, err := s.m.group.MemoryInUse(0)
	if errors.Is(err, fs.ErrNotExist) {
		err = runtime.ErrSandboxLost
	}
	if err != nil {
		return 0, fmt.Errorf("sandbox %s: %w", s.m.id, err)
	}
	return n, nil
}

// Destroy implements [runtime.Sandbox]. The work goes on when ctx ends; only the
// waiting stops. After a failure the next call tries again.
func (s *sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	if s.isReleased() {
		s.mu.Unlock()
		return nil
	}
	t := s.teardown
	if t == nil || t.failed() {
		t = &teardown{finished: make(chan struct{})}
		s.teardown = t
		s.r.owned.Go(func() {
			defer close(t.finished)
			t.err = s.remove()
		})
	}
	s.mu.Unlock()
	select {
	case <-t.finished:
		return t.err
	case <-ctx.Done():
		return fmt.Errorf("sandbox %s: it is still being destroyed: %w", s.m.id, ctx.Err())
	}
}

func (t *teardown) failed() bool {
	select {
	case <-t.finished:
		return t.err != nil
	default:
		return false
	}
}

func (s *sandbox) remove() error {
	_ = s.client.Close() // what matters is that the process ends
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := s.m.remove(ctx, s.r); err != nil {
		return fmt.Errorf("sandbox %s could not be removed from the host whole: %w", s.m.id, err)
	}
	<-s.done // nobody sees a destroyed sandbox that is not done
	return nil
}

// remove takes a machine from the host: process, group, gVisor's files, record.
// It can be repeated; the record goes last, and only if all else is gone.
func (m *machine) remove(ctx context.Context, r *Runtime) error {
	if m.conn != nil {
		m.conn.Close()
	}
	var errs []error
	if m.process != nil {
		// Killed first, the process is gone when gVisor looks for it, and gVisor
		// does not need to poll, nor to wait without an end. It is our child:
		// gVisor collects its status.
		if err := m.process.kill(); err != nil {
			return err
		}
		if err := m.process.wait(ctx); err != nil {
			return err
		}
	}
	if m.container != nil {
		if err := m.container.Destroy(); err != nil {
			errs = append(errs, err)
		} else {
			m.container = nil
		}
	}
	if m.link != nil {
		if err := m.link.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := m.group.Remove(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := r.removeFiles(m.id); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if m.process != nil {
		m.process.close()
	}
	return r.records.remove(m.id)
}

// abandon removes a machine that never became a sandbox.
func (m *machine) abandon(r *Runtime) {
	ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
	defer cancel()
	if err := m.remove(ctx, r); err != nil {
		r.log.Error("a sandbox that did not start left something behind; the next start of the server removes it", "sandbox", m.id, "error", err)
	}
}

// socketName is the name that gVisor gives the control socket of a sandbox.
func socketName(id string) string { return "runsc-" + id + ".sock" }

// fileNames are the names of the files that gVisor keeps of a sandbox.
func fileNames(id string) []string {
	return []string{
		socketName(id),
		id + "_sandbox:" + id + ".state",
		id + "_sandbox:" + id + ".lock",
	}
}

// removeFiles removes the files that gVisor keeps of a sandbox.
func (r *Runtime) removeFiles(id string) error {
	var errs []error
	for _, name := range fileNames(id) {
		if err := os.Remove(filepath.Join(r.conf.RootDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
