package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// scripts are the files that hold the code of runs. Each has a directory of its
// own below one that only root can write to; the user can read them.
type scripts struct {
	dir    string
	stages stages
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

// script is one such file.
type script struct {
	dir  string
	path string
	// stage is the name under which its run sees it; empty: none but path.
	stage string
}

// new makes a script for a language, by the extension of its file, that is empty.
func (s *scripts) new(extension string) (script, error) {
	dir := filepath.Join(s.dir, strconv.FormatUint(s.serial.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return script{}, err
	}
	made := script{dir: dir, path: filepath.Join(dir, guest.ScriptName+extension)}
	if err := rawio.WriteFile(made.path, unix.O_CREAT|unix.O_EXCL, nil); err != nil {
		_ = unix.Rmdir(dir)
		return script{}, err
	}
	made.stage = s.stages.find(extension)
	return made, nil
}

// name is what the script is called for the interpreter that runs it.
func (s script) name() string {
	if s.stage != "" {
		return s.stage
	}
	return s.path
}

// write puts code into the script. It stays the same file, because it may be
// mounted.
func (s script) write(code []byte) error {
	err := rawio.WriteFile(s.path, unix.O_TRUNC, code)
	if err != nil {
		s.clear()
	}
	return err
}

func (s script) clear() { _ = unix.Truncate(s.path, 0) }

// remove removes the file and its directory; nobody else can have put anything
// there.
func (s script) remove() {
	_ = unix.Unlink(s.path)
	_ = unix.Rmdir(s.dir)
}

// openWatch tells whether a file has been opened.
type openWatch struct {
	fd int

	mu   sync.Mutex
	seen bool
}

func watchOpen(path string) (*openWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return &openWatch{fd: fd}, nil
}

func (w *openWatch) happened() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.seen {
		var event [unix.SizeofInotifyEvent + unix.NAME_MAX + 1]byte
		n, _ := unix.Read(w.fd, event[:])
		w.seen = n > 0
	}
	return w.seen
}

func (w *openWatch) close() { unix.Close(w.fd) }
