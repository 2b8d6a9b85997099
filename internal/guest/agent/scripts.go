package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// scripts are the files that hold the code of runs. Each has a directory of its
// own below one that only root can write to; the user can read them.
type scripts struct {
	dir    string
	serial atomic.Uint64
}

func newScripts(dir string) (*scripts, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of scripts: %w", err)
	}
	// The directory itself may be a mount of its own, and stays.
	old, err := os.ReadDir(dir)
	for _, entry := range old {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	if err != nil {
		return nil, fmt.Errorf("remove the scripts of an earlier agent: %w", err)
	}
	return &scripts{dir: dir}, nil
}

// script is one such file, which may not have been written yet.
type script struct {
	dir  string
	path string
}

func (s *scripts) new(name string) (script, error) {
	dir := filepath.Join(s.dir, strconv.FormatUint(s.serial.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return script{}, err
	}
	return script{dir: dir, path: filepath.Join(dir, name)}, nil
}

func (s script) write(code []byte) error {
	fd, err := unix.Open(s.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.path, Err: err}
	}
	err = writeAll(fd, code)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: s.path, Err: err}
	}
	return nil
}

// remove removes the file and its directory; nobody else can have put anything
// there.
func (s script) remove() {
	_ = unix.Unlink(s.path)
	_ = unix.Rmdir(s.dir)
}
