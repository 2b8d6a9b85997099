package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPoll is how often a lock that somebody else has is tried again.
const lockPoll = 100 * time.Millisecond

// errLocked says that somebody else has a lock.
var errLocked = errors.New("in use by another process")

// lockFile opens the file of a lock and tries to take it, shared or exclusive.
// The lock is gone when the file, and every copy that a child process got, is
// closed. Lock files stay: removing one would part those who wait for it from
// those who come later.
func (c *Cache) lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "locks", name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// waitLock takes an exclusive lock, waiting for whoever has it. waiting is called
// once if it has to.
func (c *Cache) waitLock(ctx context.Context, name string, waiting func()) (*os.File, error) {
	var ticker *time.Ticker
	for {
		f, err := c.lockFile(name, syscall.LOCK_EX)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		if ticker == nil {
			ticker = time.NewTicker(lockPoll)
			defer ticker.Stop()
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// flock takes a lock on an open file or fails with errLocked.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
