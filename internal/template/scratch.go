package template

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// scratch is a temporary directory in the cache. Beside it lies a file with a
// lock, which lasts as long as this process and the tools that it started for
// the directory: a directory whose lock is free is an interrupted build's.
type scratch struct {
	dir  string
	lock *os.File
}

// scratch makes a temporary directory, after removing those that interrupted
// builds left.
func (c *Cache) scratch(ctx context.Context) (*scratch, error) {
	// So that nobody sees a file before its lock is taken.
	gate, err := c.waitLock(ctx, "tmp", func() {})
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	c.sweep(ctx)
	lock, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "build-*.lock")
	if err != nil {
		return nil, err
	}
	if err := flock(lock, syscall.LOCK_EX); err != nil {
		lock.Close()
		return nil, err
	}
	s := &scratch{dir: strings.TrimSuffix(lock.Name(), ".lock"), lock: lock}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

// remove removes the directory and lets go of its lock.
func (s *scratch) remove() error {
	err := removeTree(s.dir)
	if err == nil {
		err = os.Remove(s.lock.Name())
	}
	return errors.Join(err, s.lock.Close())
}

// sweep removes temporary directories whose builds were interrupted. What cannot
// be removed is logged and left for the next time.
func (c *Cache) sweep(ctx context.Context) {
	locks, err := filepath.Glob(filepath.Join(c.dir, "tmp", "build-*.lock"))
	if err != nil {
		c.log.WarnContext(ctx, "cannot look for interrupted builds", "error", err)
		return
	}
	for _, name := range locks {
		lock, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue // its owner has just removed it
		}
		if err := flock(lock, syscall.LOCK_EX); err != nil {
			lock.Close()
			continue // in use
		}
		left := &scratch{dir: strings.TrimSuffix(name, ".lock"), lock: lock}
		if err := left.remove(); err != nil {
			c.log.WarnContext(ctx, "cannot remove what an interrupted build left", "dir", left.dir, "error", err)
			continue
		}
		c.log.InfoContext(ctx, "removed what an interrupted build left", "dir", left.dir)
	}
}

// removeTree removes a directory and all below it, unless something is mounted
// there: a tool that was killed may have left the host's /proc or /dev mounted
// in a tree, and they must not be emptied.
func removeTree(dir string) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot tell what is mounted below %s: %w", dir, err)
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			return fmt.Errorf("%s is still mounted: umount it", fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot tell what is mounted below %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// needSpace fails if a file system has less than that many bytes left.
func needSpace(dir string, bytes int64) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if free := int64(stat.Bavail) * stat.Bsize; free < bytes {
		return fmt.Errorf("the disk of the cache directory %s has %d MB left and the build needs %d MB: make room, or choose another cache directory (cache_dir)", dir, free>>20, bytes>>20)
	}
	return nil
}
