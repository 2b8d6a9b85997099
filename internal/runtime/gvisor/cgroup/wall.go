package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryFiles says where a version keeps the memory of a group. What stands in
// the files counts the groups below, too.
type memoryFiles struct {
	dir   string
	usage string // of all memory, in bytes
	// inactive and active are the keys, in memory.stat, of what is cached of
	// files; neither counts files that live in memory alone.
	inactive, active string
}

func (v1) memory(group map[string]string) memoryFiles {
	return memoryFiles{controllerDir(group, "memory"), "memory.usage_in_bytes", "total_inactive_file", "total_active_file"}
}

func (v2) memory(group map[string]string) memoryFiles {
	return memoryFiles{group[Unified], "memory.current", "inactive_file", "active_file"}
}

// workingSet is the usage without what is cached of files. Below enough it may be
// the usage, which costs the kernel less to tell.
func (m memoryFiles) workingSet(enough int64) (int64, error) {
	usage, err := readInt(m.dir, m.usage)
	if err != nil || usage < enough {
		return usage, err
	}
	b, err := os.ReadFile(filepath.Join(m.dir, "memory.stat"))
	if err != nil {
		return 0, fmt.Errorf("control groups: %w", err)
	}
	found := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key != m.inactive && key != m.active {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("control groups: %s: %s: %w", filepath.Join(m.dir, "memory.stat"), key, err)
		}
		usage -= n
		found++
	}
	if found != 2 {
		return 0, fmt.Errorf("control groups: %s lacks %s or %s", filepath.Join(m.dir, "memory.stat"), m.inactive, m.active)
	}
	return max(usage, 0), nil
}

// MemoryInUse reads how much memory the group uses that the kernel cannot take
// back, in bytes. Below enough, it may be more than that.
func (g *Group) MemoryInUse(enough int64) (int64, error) {
	return g.version.memory(g.dirs).workingSet(enough)
}

// MemoryUse reads how much memory all groups below the parent use together that
// the kernel cannot take back, in bytes. Below enough, it may be more than that.
func (p *Parent) MemoryUse(enough int64) (int64, error) {
	return p.version.memory(p.dirs).workingSet(enough)
}

// SetWall limits the memory of all groups below the parent together, in bytes,
// and reads the limit back; 0 removes it.
func (p *Parent) SetWall(limit int64) error {
	if limit < 0 {
		return fmt.Errorf("control groups: the memory limit of all sandboxes must not be negative: %d", limit)
	}
	if err := p.version.setWall(p.dirs, limit); err != nil {
		return fmt.Errorf("the memory limit of all sandboxes together: %w", err)
	}
	return nil
}

func (v1) setWall(parent map[string]string, limit int64) error {
	dir := controllerDir(parent, "memory")
	// Without it, a limit would not count the groups below. Kernels since 5.11
	// know nothing else, and a group inherits it from the one above.
	if err := hierarchical(dir); err != nil {
		return err
	}
	return v1Memory(dir, limit)
}

func hierarchical(dir string) error {
	const file = "memory.use_hierarchy"
	n, err := readInt(dir, file)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && n == 1:
		return nil
	case err != nil:
		return err
	}
	return install(dir, file, "1", sameText)
}

func (v2) setWall(parent map[string]string, limit int64) error {
	dir := parent[Unified]
	memory, swap := maxText, maxText
	if limit > 0 {
		memory, swap = strconv.FormatInt(limit, 10), "0"
	}
	if exists(dir, "memory.swap.max") {
		if err := install(dir, "memory.swap.max", swap, sameText); err != nil {
			return err
		}
	}
	// The kernel is to end one sandbox, not all.
	if exists(dir, "memory.oom.group") {
		if err := install(dir, "memory.oom.group", "0", sameText); err != nil {
			return err
		}
	}
	return install(dir, "memory.max", memory, sameBytes)
}
