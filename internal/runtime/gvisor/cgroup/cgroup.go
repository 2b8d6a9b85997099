// Package cgroup keeps the control groups of sandboxes: one parent group per
// data directory, one group below it per sandbox. It finds out which version of
// control groups the host has, writes limits and reads every one of them back.
//
// It knows nothing of gVisor and starts no process. A process joins a group by
// writing "0" into each of the descriptors that [Group.JoinFiles] opened, so that
// it can do so as its very first act, without any right of its own.
//
// A limit that cannot be installed is an error that names the file. Groups that
// another program made are never touched: everything happens below the parent.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// mountInfo is where the kernel lists the mounts of this process.
const mountInfo = "/proc/self/mountinfo"

// retryEvery is how long Kill and Remove wait between two looks at a group that
// is not empty yet. The kernel tells nobody when a group becomes removable.
const retryEvery = 2 * time.Millisecond

// version is what the two versions of control groups do differently. The
// functions get the directory of one group, by hierarchy.
type version interface {
	// prepare makes the parent group ready to have groups with limits below it.
	prepare(parent map[string]string) error
	setLimits(group map[string]string, l runtime.Limits) error
	usage(group map[string]string) (runtime.Usage, error)
	// memory is the directory with the files of memory.
	memory(group map[string]string) memoryFiles
	// setWall limits the memory of the groups below a parent together.
	setWall(parent map[string]string, limit int64) error
	// tasks is the directory with the files of the limit of tasks.
	tasks(group map[string]string) string
	// joinFile is the name of the file that moves its writer into a group.
	joinFile() string
	// kill ends every process of a group, if the version has such a switch.
	kill(group map[string]string) error
}

// Parent is the group that holds the groups of one data directory.
type Parent struct {
	name    string
	dirs    map[string]string // hierarchy to directory of the parent
	version version
	number  int
}

// Open finds the hierarchies of this host and makes the parent group called
// name in each. It needs write access to them.
func Open(name string) (*Parent, error) {
	f, err := os.Open(mountInfo)
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	defer f.Close()
	host, err := Detect(f)
	if err != nil {
		return nil, err
	}
	return host.Open(name)
}

// Open makes the parent group called name in the hierarchies of a host.
func (h Host) Open(name string) (*Parent, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	p := &Parent{name: name, dirs: map[string]string{}, number: h.Version}
	switch h.Version {
	case 1:
		p.version = v1{}
	case 2:
		p.version = v2{root: h.Dirs[Unified]}
	default:
		return nil, fmt.Errorf("control groups: version %d is not known", h.Version)
	}
	for hierarchy, dir := range h.Dirs {
		p.dirs[hierarchy] = filepath.Join(dir, name)
	}
	for _, dir := range p.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("control groups: cannot make a group (%w): run as root, on a host whose control groups are writable", err)
		}
	}
	if err := p.version.prepare(p.dirs); err != nil {
		return nil, err
	}
	return p, nil
}

// Version is the version of control groups in use: 1 or 2.
func (p *Parent) Version() int { return p.number }

// Group names the group of one sandbox, which may not exist yet.
func (p *Parent) Group(name string) (*Group, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	g := &Group{name: name, dirs: map[string]string{}, version: p.version}
	for hierarchy, dir := range p.dirs {
		g.dirs[hierarchy] = filepath.Join(dir, name)
	}
	return g, nil
}

// List returns the names of the groups below the parent, sorted.
func (p *Parent) List() ([]string, error) {
	var names []string
	for _, dir := range p.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("control groups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Remove removes the parent group, which must be empty. It can be repeated.
func (p *Parent) Remove() error { return removeDirs(p.dirs) }

// Group is the control group of one sandbox.
type Group struct {
	name    string
	dirs    map[string]string
	version version
}

// Name is the name that the group was made with.
func (g *Group) Name() string { return g.name }

// Create makes the group in every hierarchy. One that exists already is an
// error: it belongs to somebody else.
func (g *Group) Create() error {
	for _, dir := range g.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("control groups: %w", err)
		}
	}
	return nil
}

// SetLimits installs limits and reads them back. The error names the file whose
// value is not what was asked for. Zero removes a limit.
func (g *Group) SetLimits(l runtime.Limits) error {
	if l.MemoryBytes < 0 || l.MilliCPUs < 0 || l.Tasks < 0 {
		return fmt.Errorf("control groups: limits must not be negative: %+v", l)
	}
	return g.version.setLimits(g.dirs, l)
}

// Usage reads the counters.
func (g *Group) Usage() (runtime.Usage, error) { return g.version.usage(g.dirs) }

// Refused counts how often the limit of tasks kept a process or thread from being
// made.
func (g *Group) Refused() (int64, error) {
	return readKey(g.version.tasks(g.dirs), "pids.events", "max")
}

// JoinFiles opens, in every hierarchy, the file that moves a process into the
// group when the process writes "0" to it. In version 1 that is the writing
// thread alone: it must be the only one, or execute the next program, which ends
// the others. The kernel looks at the rights of who opened the file, so the
// process needs none. The caller closes the files.
func (g *Group) JoinFiles() ([]*os.File, error) {
	files := make([]*os.File, 0, len(g.dirs))
	for _, dir := range g.dirs {
		f, err := os.OpenFile(filepath.Join(dir, g.version.joinFile()), os.O_WRONLY, 0)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("control groups: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// Holds tells whether a process is in the group, in every hierarchy.
func (g *Group) Holds(pid int) (bool, error) {
	for _, dir := range g.dirs {
		pids, err := readPids(dir)
		if err != nil {
			return false, fmt.Errorf("control groups: %w", err)
		}
		if !slices.Contains(pids, pid) {
			return false, nil
		}
	}
	return true, nil
}

// Pids lists the processes of the group, in whichever hierarchy they are; none
// if the group does not exist.
func (g *Group) Pids() ([]int, error) {
	var all []int
	for _, dir := range g.dirs {
		pids, err := readPids(dir)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("control groups: %w", err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Signal sends SIGKILL to every process that is in the group now, without
// waiting for them to end.
func (g *Group) Signal() error {
	if err := g.version.kill(g.dirs); err != nil {
		return err
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	// A number read from the list may belong to another process by the time that
	// it is used. A descriptor holds on to a process, so: open, then look whether
	// the number is still listed, then send through the descriptor.
	handles := map[int]int{}
	defer func() {
		for _, fd := range handles {
			_ = unix.Close(fd) // it was only used to signal
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == nil:
			handles[pid] = fd
		case errors.Is(err, unix.ESRCH):
		default:
			return fmt.Errorf("control groups: process %d of %s: %w", pid, g.name, err)
		}
	}
	still, err := g.Pids()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := handles[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("control groups: killing process %d of %s: %w", pid, g.name, err)
		}
	}
	return nil
}

// Remove kills what is still in the group and removes it, trying again until
// the kernel agrees or ctx ends. It can be repeated.
func (g *Group) Remove(ctx context.Context) error {
	for {
		err := removeDirs(g.dirs)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if killErr := g.Signal(); killErr != nil {
			return killErr
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("control groups: %s is still in use: %w", g.name, errors.Join(err, ctx.Err()))
		case <-time.After(retryEvery):
		}
	}
}

// procsFile lists the processes of a group, and takes new ones.
const procsFile = "cgroup.procs"

func readPids(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, procsFile))
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, procsFile), err)
		}
		if pid > 0 { // 0 stands for a process that this one cannot see
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func removeDirs(dirs map[string]string) error {
	var errs []error
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("control groups: removing %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// gone tells that a group is not there, or vanished while it was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00\n") {
		return fmt.Errorf("control groups: %q cannot be the name of a group", name)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
