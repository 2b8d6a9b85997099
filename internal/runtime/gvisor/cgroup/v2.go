package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// v2 is version 2: one hierarchy for all controllers. root is its top directory
// as this process sees it.
type v2 struct{ root string }

// prepare hands the controllers down: from the top to the parent, and from the
// parent to the groups of sandboxes.
func (v v2) prepare(parent map[string]string) error {
	for _, dir := range []string{v.root, parent[Unified]} {
		if err := delegate(dir); err != nil {
			return err
		}
	}
	return nil
}

func delegate(dir string) error {
	const file = "cgroup.subtree_control"
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	var want []string
	for _, c := range neededV2 {
		if !slices.Contains(strings.Fields(string(b)), c) {
			want = append(want, "+"+c)
		}
	}
	if len(want) == 0 {
		return nil
	}
	err = os.WriteFile(path, []byte(strings.Join(want, " ")), 0o644)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("control groups: cannot hand %s down from %s, because processes are directly in that group: move them into a group below it first (in a container, its start script can; in a systemd unit, Delegate=yes with DelegateSubgroup=)", strings.Join(want, " "), dir)
	}
	if err != nil {
		return fmt.Errorf("control groups: cannot write %q to %s: %w", strings.Join(want, " "), path, err)
	}
	return nil
}

// joinFile takes whole processes. Version 2 has no other way in: a thread cannot
// be in a group without its process.
func (v2) joinFile() string { return procsFile }

func (v2) kill(group map[string]string) error {
	// Kernels before 5.14 have no such file; the caller then kills one by one.
	path := filepath.Join(group[Unified], "cgroup.kill")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("1"); err != nil && !gone(err) {
		return fmt.Errorf("control groups: %s: %w", path, err)
	}
	return nil
}

func (v2) tasks(group map[string]string) string { return group[Unified] }

func (v2) setLimits(group map[string]string, l runtime.Limits) error {
	dir := group[Unified]
	memory, quota, tasks := maxText, maxText, maxText
	if l.MemoryBytes > 0 {
		memory = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.MilliCPUs > 0 {
		quota = strconv.FormatInt(quotaUS(l.MilliCPUs), 10)
	}
	if l.Tasks > 0 {
		tasks = strconv.FormatInt(l.Tasks, 10)
	}
	// Swap would make a limit of memory mean nothing; without the controller's
	// file there is none. The kernel kills all of a group or nothing of it, so
	// that no sandbox goes on with half of its processes.
	for _, optional := range [][2]string{{"memory.swap.max", "0"}, {"memory.oom.group", "1"}} {
		if !exists(dir, optional[0]) {
			continue
		}
		if err := install(dir, optional[0], optional[1], sameText); err != nil {
			return err
		}
	}
	if err := install(dir, "memory.max", memory, sameBytes); err != nil {
		return err
	}
	if err := install(dir, "cpu.max", fmt.Sprintf("%s %d", quota, cpuPeriodUS), sameText); err != nil {
		return err
	}
	return install(dir, "pids.max", tasks, sameText)
}

func (v2) usage(group map[string]string) (runtime.Usage, error) {
	dir := group[Unified]
	var u runtime.Usage
	var err error
	if u.MemoryBytes, err = readInt(dir, "memory.current"); err != nil {
		return u, err
	}
	u.MemoryPeakBytes = u.MemoryBytes
	if exists(dir, "memory.peak") { // since Linux 5.19
		if u.MemoryPeakBytes, err = readInt(dir, "memory.peak"); err != nil {
			return u, err
		}
	}
	if u.OOMKills, err = readKey(dir, "memory.events", "oom_kill"); err != nil {
		return u, err
	}
	us, err := readKey(dir, "cpu.stat", "usage_usec")
	u.CPU = time.Duration(us) * time.Microsecond
	return u, err
}
