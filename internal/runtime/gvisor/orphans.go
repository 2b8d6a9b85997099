package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/cgroup"
)

// Left is what one server has on this machine.
type Left struct {
	// Name is that of its control groups, and of its directory in /run.
	Name string
	// StateDir is where its state directory is or was; empty: that is not known.
	StateDir string
	Owner    Owner
	// Sandboxes are the ids of its sandboxes.
	Sandboxes []string
	// Ended says that all of it was ended and removed.
	Ended bool
}

// Owner says what became of a server.
type Owner string

const (
	OwnerRuns    Owner = "running" // it runs
	OwnerStopped Owner = "stopped" // its state directory is there
	OwnerGone    Owner = "gone"    // its state directory is not there any more
	OwnerUnknown Owner = "unknown" // that cannot be found out
)

// FindLeft lists what servers have on this machine, with sandboxes or without.
// With end, it ends and removes what belongs to servers that are gone; whatever
// else it finds it leaves alone.
func FindLeft(ctx context.Context, end bool) ([]Left, error) {
	dirs, err := filepath.Glob(filepath.Join(runDir, groupPrefix+"*"))
	if err != nil {
		return nil, err
	}
	var all []Left
	for _, dir := range dirs {
		l := Left{Name: filepath.Base(dir)}
		l.StateDir, l.Owner = ownerOf(dir)
		parent, err := cgroup.Open(l.Name)
		if err == nil {
			l.Sandboxes, err = parent.List()
		}
		if err == nil && end && l.Owner == OwnerGone {
			if err = endLeft(ctx, parent, l.Sandboxes, dir); err == nil {
				l.Ended = true
			}
		}
		if err != nil {
			return all, fmt.Errorf("what %s has on this machine: %w", l.Name, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// endLeft removes everything of a server that is gone. Its processes are those
// that are in its control groups.
func endLeft(ctx context.Context, parent *cgroup.Parent, sandboxes []string, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	for _, id := range sandboxes {
		group, err := parent.Group(id)
		if err != nil {
			return err
		}
		if err := group.Remove(ctx); err != nil {
			return err
		}
	}
	if err := parent.Remove(); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// ownerOf finds out whose a directory in /run is.
func ownerOf(dir string) (stateDir string, of Owner) {
	f, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", OwnerUnknown // of an older build, or on its way
	}
	defer f.Close()
	var o owner
	known := json.NewDecoder(f).Decode(&o) == nil
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return o.StateDir, OwnerRuns
	}
	if !known {
		return "", OwnerUnknown
	}
	name := filepath.Base(dir)
	switch found, err := os.Open(o.StateDir); {
	case err == nil:
		defer found.Close()
		if own, err := homeName(found); err == nil && own == name {
			return o.StateDir, OwnerStopped
		}
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return o.StateDir, OwnerUnknown
	}
	return o.find(name)
}

// find looks for a state directory that is not where it was: renamed, or gone.
func (o *owner) find(name string) (stateDir string, of Owner) {
	if len(o.Handle) == 0 {
		return o.StateDir, OwnerUnknown
	}
	mount, err := openAncestor(o.StateDir)
	if err != nil {
		return o.StateDir, OwnerUnknown
	}
	defer mount.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &st); err != nil || st.Dev != o.Device {
		return o.StateDir, OwnerUnknown // its file system may not be mounted
	}
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), unix.NewFileHandle(o.HandleType, o.Handle), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	switch {
	case errors.Is(err, unix.ESTALE):
		return o.StateDir, OwnerGone
	case err != nil:
		return o.StateDir, OwnerUnknown
	}
	found := os.NewFile(uintptr(fd), o.StateDir)
	defer found.Close()
	if own, err := homeName(found); err != nil || own != name {
		return o.StateDir, OwnerUnknown
	}
	if err := unix.Fstat(fd, &st); err == nil && st.Nlink == 0 {
		return o.StateDir, OwnerGone // removed, and held open by somebody
	}
	if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil {
		return path, OwnerStopped
	}
	return o.StateDir, OwnerStopped
}

// openAncestor opens the nearest directory above a path that is there.
func openAncestor(path string) (*os.File, error) {
	for {
		path = filepath.Dir(path)
		f, err := os.Open(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) || path == "/" {
			return f, err
		}
	}
}
