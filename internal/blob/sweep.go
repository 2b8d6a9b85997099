package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sweepPage is how many names of a directory are held in memory at a time.
const sweepPage = 512

// Sweep removes the contents for which keep says false, and temporary names that
// an earlier process left. It returns how many it removed, also with an error.
//
// It may run beside everything else: contents that this process has stored are
// left alone, as their row may not be written yet, and so are names that this
// package did not give.
func (d *Dir) Sweep(ctx context.Context, keep func(id string) (bool, error)) (int, error) {
	removed, err := d.sweepTemp(ctx)
	if err != nil {
		return removed, fmt.Errorf("blob: sweep: %w", err)
	}
	err = d.eachName(ctx, d.contents, func(first string) error {
		return d.eachName(ctx, filepath.Join(d.contents, first), func(second string) error {
			return d.eachName(ctx, filepath.Join(d.contents, first, second), func(id string) error {
				gone, err := d.sweepOne(filepath.Join(d.contents, first, second, id), id, keep)
				if gone {
					removed++
				}
				return err
			})
		})
	})
	if err != nil {
		return removed, fmt.Errorf("blob: sweep: %w", err)
	}
	return removed, nil
}

func (d *Dir) sweepTemp(ctx context.Context) (removed int, err error) {
	err = d.eachName(ctx, d.temp, func(name string) error {
		if strings.HasPrefix(name, d.run) {
			return nil
		}
		if err := os.Remove(filepath.Join(d.temp, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		removed++
		return nil
	})
	return removed, err
}

// sweepOne removes what is at path, if it is contents that nobody keeps.
func (d *Dir) sweepOne(path, id string, keep func(id string) (bool, error)) (bool, error) {
	if proper, err := d.place(id); err != nil || proper != path {
		d.log.Warn("a file that is no contents of ours was left alone", "path", path)
		return false, nil //nolint:nilerr // it was told, and is no failure of the sweep
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	if !info.ModTime().Before(d.opened) {
		return false, nil
	}
	kept, err := keep(id)
	if err != nil {
		return false, fmt.Errorf("asking for %s: %w", id, err)
	}
	if kept {
		return false, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// eachName calls do for each name in a directory, in no order, page by page, and
// stops at the first error. What is no directory is left alone.
func (d *Dir) eachName(ctx context.Context, dir string, do func(name string) error) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		d.log.Warn("a file that is no contents of ours was left alone", "path", dir)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(sweepPage)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
