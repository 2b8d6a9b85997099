package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reserveName is the file that holds disk space for the writes that must still
// succeed when the disk is full.
const reserveName = "reserve"

// reserve is disk space set aside. Deleting a row makes the WAL longer before
// it makes anything smaller, so on a full disk even that needs room: the reserve
// is given up for it, and nothing else may write until it is whole again. It is
// used by who holds the turn to write.
type reserve struct {
	path  string
	bytes int64
	log   *slog.Logger
	spent bool
}

func newReserve(dir string, bytes int64, log *slog.Logger) *reserve {
	return &reserve{path: filepath.Join(dir, reserveName), bytes: bytes, log: log}
}

// hold sets the space aside. Only a full disk makes it count as spent: where
// the file system cannot set space aside, the store works without.
func (r *reserve) hold() (err error) {
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = allocate(f, r.bytes)
		if err != nil {
			err = errors.Join(err, f.Truncate(0)) // a part is of no use, and keeps room from others
		}
		err = errors.Join(err, f.Close())
	}
	r.spent = noSpace(err)
	if err != nil {
		return fmt.Errorf("store: the reserve: %w", err)
	}
	return nil
}

func allocate(f *os.File, bytes int64) error {
	// While the disk is full this is asked for with every new row, and trying
	// costs far more than looking.
	if room, err := roomFor(f); err == nil && room < bytes {
		return unix.ENOSPC
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < bytes; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), bytes-at)], at); err != nil {
			return err
		}
	}
	return f.Sync() // where blocks are allocated late, a full disk shows here
}

// roomFor is how large a file can be, in bytes: what it has and what is free.
func roomFor(f *os.File) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &disk); err != nil {
		return 0, err
	}
	var file unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &file); err != nil {
		return 0, err
	}
	const statBlock = 512
	return file.Blocks*statBlock + int64(disk.Bavail)*disk.Frsize, nil
}

// restore tells whether rows may be added: the reserve is whole, or is so again.
func (r *reserve) restore() bool {
	if !r.spent {
		return true
	}
	if err := r.hold(); r.spent {
		return false
	} else if err != nil {
		r.complain(err)
		return true
	}
	r.log.Info("the disk has room again: new rows are accepted")
	return true
}

// complain tells the operator what it means that hold failed.
func (r *reserve) complain(err error) {
	means := "on a full disk, deleting may fail too"
	if r.spent {
		means = "only deleting and ending things is possible until there is room"
	}
	r.log.Warn("no disk space could be set aside: "+means, "bytes", r.bytes, "error", err)
}

// release gives the space up. It tells whether there was any.
func (r *reserve) release() bool {
	info, err := os.Lstat(r.path)
	if err != nil || info.Size() == 0 {
		return false
	}
	if err := os.Truncate(r.path, 0); err != nil {
		r.log.Error("the reserve of disk space could not be released", "error", err)
		return false
	}
	r.spent = true
	r.log.Warn("the disk is full: only deleting and ending things is possible until there is room",
		"bytes", r.bytes)
	return true
}
