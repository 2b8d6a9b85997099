package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockEvery is how long a waiting lockFile waits between two tries. The kernel
// can wait by itself, but not be told to stop.
const lockEvery = 20 * time.Millisecond

// lockFile takes the exclusive lock of a path, which holds between processes and
// ends with the file, or with the process. waiting is called once if somebody
// else has it. The file, and its directory, may be removed by anybody at any
// time: a lock counts only if the path still leads to it.
func lockFile(ctx context.Context, path string, waiting func()) (*os.File, error) {
	told := false
	for {
		f, err := tryLock(path)
		if f != nil || err != nil {
			return f, err
		}
		if !told {
			told = true
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockEvery):
		}
	}
}

// tryLock returns nil and no error if the lock cannot be had now.
func tryLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); errors.Is(err, os.ErrNotExist) {
		return nil, nil // the directory above it was removed in between
	} else if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // the directory was removed in between
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	mine, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(mine, there) {
		return f, nil
	}
	f.Close()
	return nil, nil // the path leads elsewhere by now
}
