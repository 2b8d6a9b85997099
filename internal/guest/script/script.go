// Package script owns the files that hold the code of runs.
//
// Each [Script] has a directory of its own below one that only root can write to; the
// user can read it. A run sees its script under a name in the workspace, the stage,
// which is the same for every run of a language (see stages). Where there is no stage,
// the run sees the path of the file.
//
// The package must not know what executes a script. It fails with the errors of the
// file system; without a stage it goes on, and logs why.
package script

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// Dir makes scripts.
type Dir struct {
	path   string
	stages stages
	serial atomic.Uint64
}

// Open makes the directory of scripts, or empties it.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of scripts: %w", err)
	}
	// The directory itself may be a mount of its own, and stays.
	old, err := os.ReadDir(path)
	for _, entry := range old {
		err = errors.Join(err, os.RemoveAll(filepath.Join(path, entry.Name())))
	}
	if err != nil {
		return nil, fmt.Errorf("remove the scripts of an earlier agent: %w", err)
	}
	return &Dir{path: path}, nil
}

// Script is one such file.
type Script struct {
	dir  string
	path string
	// stage is the name under which its run sees it; empty: none but path.
	stage string
}

// New makes a script for a language, by the extension of its file, that is empty.
func (d *Dir) New(extension string) (Script, error) {
	dir := filepath.Join(d.path, strconv.FormatUint(d.serial.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return Script{}, err
	}
	made := Script{dir: dir, path: filepath.Join(dir, guest.ScriptName+extension)}
	if err := rawio.WriteFile(made.path, unix.O_CREAT|unix.O_EXCL, nil); err != nil {
		_ = unix.Rmdir(dir)
		return Script{}, err
	}
	made.stage = d.stages.find(extension)
	return made, nil
}

// Name is what the script is called for the interpreter that runs it.
func (s Script) Name() string {
	if s.stage != "" {
		return s.stage
	}
	return s.path
}

// Path is where the file is.
func (s Script) Path() string { return s.path }

// Beside is the path of another file in the directory of the script. It has to be
// removed before the script.
func (s Script) Beside(name string) string { return filepath.Join(s.dir, name) }

// Write puts code into the script. It stays the same file, because it may be
// mounted.
func (s Script) Write(code []byte) error {
	err := rawio.WriteFile(s.path, unix.O_TRUNC, code)
	if err != nil {
		s.Clear()
	}
	return err
}

// Clear empties the script.
func (s Script) Clear() { _ = unix.Truncate(s.path, 0) }

// Remove removes the file and its directory; nobody else can have put anything
// there.
func (s Script) Remove() {
	_ = unix.Unlink(s.path)
	_ = unix.Rmdir(s.dir)
}
