package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Recover implements [runtime.Runtime]. Three things say what is ours: a record,
// a control group below the parent of this state directory, and a file in
// gVisor's directory in it. Processes are killed only if they are in such a
// group, or if a record names them whole: number, start time and the host's run.
func (r *Runtime) Recover(ctx context.Context) ([]string, error) {
	left, err := r.records.list()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, rec := range left {
		known[rec.ID] = true
	}
	groups, err := r.parent.List()
	if err != nil {
		return nil, err
	}
	for _, name := range groups {
		if !known[name] {
			left = append(left, record{ID: name})
		}
	}
	var ids []string
	var errs []error
	for _, rec := range left {
		if err := r.recoverOne(ctx, rec); err != nil {
			errs = append(errs, err)
			continue
		}
		if !strings.HasPrefix(rec.ID, snapshotIDPrefix) {
			ids = append(ids, rec.ID)
		}
	}
	if len(errs) == 0 {
		// With nothing left alive, what is left in gVisor's directory is nobody's.
		errs = append(errs, removeContents(r.conf.RootDir))
	}
	return ids, errors.Join(errs...)
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
	if rec.PID == 0 || rec.BootID != r.bootID {
		return nil
	}
	p, err := openProcess(rec.PID)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	ticks, err := startTime(rec.PID) // after opening: it is this process's
	if errors.Is(err, fs.ErrNotExist) || err == nil && ticks != rec.StartTicks {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.kill(); err != nil {
		return err
	}
	return p.wait(ctx)
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
