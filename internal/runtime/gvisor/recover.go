package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// recoverAtOnce is how many sandboxes of an earlier process are dealt with at the
// same time: most of it is waiting.
const recoverAtOnce = 16

// Recover implements [runtime.Runtime]. Three things say what is ours: a record,
// a control group below the parent of this state directory, and a file in
// gVisor's directory in it. Processes are killed only if they are in such a
// group, or if a record names them whole, number, start time and the host's run,
// and was made by this state directory.
func (r *Runtime) Recover(ctx context.Context, keep []string) (runtime.Recovered, error) {
	var result runtime.Recovered
	left, foreign, err := r.left()
	result.Foreign = foreign
	if err != nil {
		return result, err
	}
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	slots := make(chan struct{}, recoverAtOnce)
	for _, rec := range left {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			sb, err := r.adoptOrEnd(ctx, rec, slices.Contains(keep, rec.ID))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, err)
			case sb != nil:
				result.Adopted = append(result.Adopted, sb)
			case !strings.HasPrefix(rec.ID, snapshotIDPrefix):
				result.Destroyed = append(result.Destroyed, rec.ID)
			}
		})
	}
	all.Wait()
	slices.Sort(result.Destroyed)
	if len(errs) == 0 {
		// With nothing else left alive, what is left in gVisor's directory is
		// nobody's.
		errs = append(errs, r.removeStrayFiles(result.Adopted))
	}
	return result, errors.Join(errs...)
}

// left lists what an earlier process left: records, and groups without one.
// Foreign are the sandboxes of another state directory, whose records were copied.
func (r *Runtime) left() (left []record, foreign []string, err error) {
	if left, err = r.records.list(); err != nil {
		return nil, nil, err
	}
	if left, foreign, err = r.disown(left); err != nil {
		return nil, nil, err
	}
	known := map[string]bool{}
	for _, rec := range left {
		known[rec.ID] = true
	}
	groups, err := r.parent.List()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range groups {
		if !known[name] {
			left = append(left, record{ID: name})
		}
	}
	return left, foreign, nil
}

// adoptOrEnd returns nil and no error if the sandbox is gone.
func (r *Runtime) adoptOrEnd(ctx context.Context, rec record, keep bool) (*sandbox, error) {
	if keep {
		sb, err := r.adopt(ctx, rec)
		if err == nil {
			return sb, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err // stopped at once, the server leaves all as it is
		}
		r.log.Warn("a sandbox of an earlier server cannot be taken over, and is destroyed", "sandbox", rec.ID, "error", err)
	}
	return nil, r.recoverOne(ctx, rec)
}

func (r *Runtime) recoverOne(ctx context.Context, rec record) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := r.endProcess(ctx, rec); err != nil {
		return fmt.Errorf("sandbox %s, left by an earlier server: %w", rec.ID, err)
	}
	group, err := r.parent.Group(rec.ID)
	if err != nil {
		return err
	}
	if err := group.Remove(ctx); err != nil {
		return fmt.Errorf("sandbox %s, left by an earlier server: %w", rec.ID, err)
	}
	if err := r.removeFiles(rec.ID); err != nil {
		return fmt.Errorf("sandbox %s, left by an earlier server: %w", rec.ID, err)
	}
	return r.records.remove(rec.ID)
}

// endProcess kills the process of a record, if that is what its number stands
// for now, and waits until it has ended.
func (r *Runtime) endProcess(ctx context.Context, rec record) error {
	p, err := r.provenProcess(rec)
	if errors.Is(err, errNotOurs) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.kill(); err != nil {
		return err
	}
	return p.wait(ctx)
}

// removeStrayFiles removes what is in gVisor's directory but of no sandbox that
// lives.
func (r *Runtime) removeStrayFiles(alive []runtime.Sandbox) error {
	ours := map[string]bool{ownerFile: true}
	for _, sb := range alive {
		for _, name := range fileNames(sb.ID()) {
			ours[name] = true
		}
	}
	entries, err := os.ReadDir(r.conf.RootDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !ours[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(r.conf.RootDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
