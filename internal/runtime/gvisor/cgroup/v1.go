package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// v1 is version 1: one hierarchy per controller.
type v1 struct{}

func (v1) prepare(map[string]string) error { return nil }

func (v1) kill(map[string]string) error { return nil }

// joinFile takes single threads. To move a whole process, the kernel first lets
// every processor come to rest, which takes 13 to 18 ms; a thread that moves
// itself does not need that.
func (v1) joinFile() string { return "tasks" }

func (v1) tasks(group map[string]string) string { return controllerDir(group, "pids") }

// v1NoLimit is what version 1 takes for "no limit".
const v1NoLimit = "-1"

func (v1) setLimits(group map[string]string, l runtime.Limits) error {
	if err := v1Memory(controllerDir(group, "memory"), l.MemoryBytes); err != nil {
		return err
	}
	cpu := controllerDir(group, "cpu")
	if err := install(cpu, "cpu.cfs_period_us", strconv.Itoa(cpuPeriodUS), sameText); err != nil {
		return err
	}
	quota := v1NoLimit
	if l.MilliCPUs > 0 {
		quota = strconv.FormatInt(quotaUS(l.MilliCPUs), 10)
	}
	if err := install(cpu, "cpu.cfs_quota_us", quota, sameText); err != nil {
		return err
	}
	tasks := maxText
	if l.Tasks > 0 {
		tasks = strconv.FormatInt(l.Tasks, 10)
	}
	return install(controllerDir(group, "pids"), "pids.max", tasks, sameText)
}

// v1Memory sets the limits of memory, and of memory and swap together where the
// kernel counts swap. The second must never be below the first, so the order
// depends on the direction: whichever goes up first does.
func v1Memory(dir string, limit int64) error {
	value := v1NoLimit
	if limit > 0 {
		value = strconv.FormatInt(limit, 10)
	}
	const memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if !exists(dir, both) {
		return install(dir, memory, value, sameBytes)
	}
	now, err := readInt(dir, both)
	if err != nil {
		return err
	}
	order := []string{memory, both}
	if limit <= 0 || limit > now {
		order = []string{both, memory}
	}
	for _, file := range order {
		if err := install(dir, file, value, sameBytes); err != nil {
			return err
		}
	}
	return nil
}

func (v1) usage(group map[string]string) (runtime.Usage, error) {
	var u runtime.Usage
	memory := controllerDir(group, "memory")
	var err error
	if u.MemoryBytes, err = readInt(memory, "memory.usage_in_bytes"); err != nil {
		return u, err
	}
	if u.MemoryPeakBytes, err = readInt(memory, "memory.max_usage_in_bytes"); err != nil {
		return u, err
	}
	if u.OOMKills, err = readKey(memory, "memory.oom_control", "oom_kill"); err != nil {
		return u, err
	}
	ns, err := readInt(controllerDir(group, "cpuacct"), "cpuacct.usage")
	u.CPU = time.Duration(ns)
	return u, err
}

// controllerDir finds the directory of a controller, whose hierarchy may bear
// the names of several.
func controllerDir(group map[string]string, controller string) string {
	for hierarchy, dir := range group {
		if slices.Contains(strings.Split(hierarchy, ","), controller) {
			return dir
		}
	}
	// Detect does not let a host pass that lacks one.
	panic("cgroup: no hierarchy for " + controller)
}

// cpuPeriodUS is the length of the period that CPU quotas count in; the kernel's
// own default.
const cpuPeriodUS = 100_000

// minQuotaUS is the least quota that the kernel takes.
const minQuotaUS = 1000

func quotaUS(milliCPUs int64) int64 {
	return max(milliCPUs*cpuPeriodUS/1000, minQuotaUS)
}

// maxText stands for "no limit" in all files that do not use -1.
const maxText = "max"

// install writes a value, reads it back, and asks same whether what is in force
// is what was asked for.
func install(dir, file, value string, same func(want, got string) bool) error {
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("control groups: cannot set %s to %s: %w", path, value, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("control groups: cannot read %s back: %w", path, err)
	}
	if got := strings.TrimSpace(string(b)); !same(value, got) {
		return fmt.Errorf("control groups: %s is %q after it was set to %q", path, got, value)
	}
	return nil
}

func sameText(want, got string) bool { return want == got }

// sameBytes compares amounts of memory. The kernel keeps them in whole pages,
// rounded down, and shows "no limit" as a very large number.
func sameBytes(want, got string) bool {
	if want == got {
		return true
	}
	g, err := strconv.ParseInt(got, 10, 64)
	if err != nil {
		return false
	}
	if want == v1NoLimit {
		return g >= 1<<60
	}
	w, err := strconv.ParseInt(want, 10, 64)
	return err == nil && g <= w && w-g < int64(os.Getpagesize())
}

func exists(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

func readInt(dir, file string) (int64, error) {
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("control groups: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("control groups: %s: %w", path, err)
	}
	return n, nil
}

// readKey reads one line of a file of "key value" lines.
func readKey(dir, file, key string) (int64, error) {
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("control groups: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("control groups: %s: %w", path, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("control groups: %s has no line %q", path, key)
}
