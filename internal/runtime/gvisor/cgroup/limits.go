package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Limits reads the limits that are in force; zero for none.
func (g *Group) Limits() (runtime.Limits, error) {
	var l runtime.Limits
	var err error
	tasks := g.version.tasks(g.dirs)
	if l.Tasks, err = readLimit(tasks, "pids.max"); err != nil {
		return l, err
	}
	if dir, ok := g.dirs[Unified]; ok {
		if l.MemoryBytes, err = readLimit(dir, "memory.max"); err != nil {
			return l, err
		}
		l.MilliCPUs, err = readQuota(dir, "cpu.max")
		return l, err
	}
	memory, cpu := controllerDir(g.dirs, "memory"), controllerDir(g.dirs, "cpu")
	if l.MemoryBytes, err = readLimit(memory, "memory.limit_in_bytes"); err != nil {
		return l, err
	}
	quota, err := readInt(cpu, "cpu.cfs_quota_us")
	if err != nil || quota < 0 {
		return l, err
	}
	period, err := readInt(cpu, "cpu.cfs_period_us")
	if err != nil || period <= 0 {
		return l, err
	}
	l.MilliCPUs = quota * 1000 / period
	return l, nil
}

// readLimit reads a number; "max", and what version 1 shows for it, is 0.
func readLimit(dir, file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, fmt.Errorf("control groups: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == maxText || sameBytes(v1NoLimit, text) {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("control groups: %s: %w", filepath.Join(dir, file), err)
	}
	return n, nil
}

// readQuota reads "QUOTA PERIOD" as thousandths of a processor.
func readQuota(dir, file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, fmt.Errorf("control groups: %w", err)
	}
	var quota string
	var period int64
	if _, err := fmt.Sscan(string(b), &quota, &period); err != nil || period <= 0 {
		return 0, fmt.Errorf("control groups: %s says %q", filepath.Join(dir, file), b)
	}
	if quota == maxText {
		return 0, nil
	}
	n, err := strconv.ParseInt(quota, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("control groups: %s: %w", filepath.Join(dir, file), err)
	}
	return n * 1000 / period, nil
}
