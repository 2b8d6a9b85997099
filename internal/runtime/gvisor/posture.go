package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// HostFact is one thing that the host says of a sandbox's process.
type HostFact struct{ Name, Value string }

// HostFacts asks the host what the process of a sandbox may do, what it sees and
// what holds it: the outer half of its posture. The sandbox must be one of this
// package.
func HostFacts(sb runtime.Sandbox) ([]HostFact, error) {
	s, ok := sb.(*sandbox)
	if !ok {
		return nil, fmt.Errorf("sandbox %s was not made by this package", sb.ID())
	}
	proc := filepath.Join("/proc", strconv.Itoa(s.m.process.pid))
	var facts []HostFact
	for _, look := range []func(proc string) ([]HostFact, error){statusFacts, namespaceFacts, viewFacts, descriptorFacts} {
		seen, err := look(proc)
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: what the host says of its process: %w", s.m.id, err)
		}
		facts = append(facts, seen...)
	}
	limits, err := s.m.group.Limits()
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.m.id, err)
	}
	held, err := s.m.group.Holds(s.m.process.pid)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.m.id, err)
	}
	return append(facts,
		HostFact{"in its control groups", strconv.FormatBool(held)},
		HostFact{"memory limit", strconv.FormatInt(limits.MemoryBytes, 10)},
		HostFact{"processor limit", strconv.FormatInt(limits.MilliCPUs, 10)},
		HostFact{"task limit", strconv.FormatInt(limits.Tasks, 10)},
	), nil
}

// CPUs is how many processors programs see in a sandbox of those limits.
func CPUs(l runtime.Limits) int { return coresFor(l) }

func statusFacts(proc string) ([]HostFact, error) {
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return nil, err
	}
	wanted := []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}
	var facts []HostFact
	for _, line := range strings.Split(string(status), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && slices.Contains(wanted, name) {
			facts = append(facts, HostFact{name, orNone(strings.Join(strings.Fields(value), " "))})
		}
	}
	return facts, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func namespaceFacts(proc string) ([]HostFact, error) {
	var facts []HostFact
	for _, ns := range []string{"user", "pid", "mnt", "ipc", "uts", "net"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return nil, err
		}
		its, err := os.Readlink(filepath.Join(proc, "ns", ns))
		if err != nil {
			return nil, err
		}
		value := "its own"
		if ours == its {
			value = "THE HOST'S"
		}
		facts = append(facts, HostFact{ns + " namespace", value})
	}
	return facts, nil
}

// viewFacts are what the process sees of the host's files and network, and what
// it was started with.
func viewFacts(proc string) ([]HostFact, error) {
	var names []string
	root := filepath.Join(proc, "root")
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != root {
			names = append(names, strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	environ, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		return nil, err
	}
	var variables []string
	for _, pair := range strings.Split(strings.TrimRight(string(environ), "\x00"), "\x00") {
		name, _, _ := strings.Cut(pair, "=")
		variables = append(variables, name)
	}
	slices.Sort(variables)
	score, err := os.ReadFile(filepath.Join(proc, "oom_score_adj"))
	if err != nil {
		return nil, err
	}
	devices, err := os.ReadFile(filepath.Join(proc, "net", "dev"))
	if err != nil {
		return nil, err
	}
	var interfaces []string
	for _, line := range strings.Split(string(devices), "\n") {
		if name, _, ok := strings.Cut(line, ":"); ok {
			interfaces = append(interfaces, strings.TrimSpace(name))
		}
	}
	return []HostFact{
		{"files that it sees", orNone(strings.Join(names, " "))},
		{"environment", orNone(strings.Join(variables, " "))},
		{"out of memory score", strings.TrimSpace(string(score))},
		{"network interfaces", orNone(strings.Join(interfaces, " "))},
	}, nil
}

// descriptorFacts are the kinds of what the process has open; how many there are
// of each kind changes.
func descriptorFacts(proc string) ([]HostFact, error) {
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return nil, err
	}
	var kinds []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(proc, "fd", e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // closed meanwhile
		case err != nil:
			return nil, err
		}
		kinds = append(kinds, descriptorKind(target))
	}
	slices.Sort(kinds)
	return []HostFact{{"kinds of open descriptors", strings.Join(slices.Compact(kinds), ", ")}}, nil
}

func descriptorKind(target string) string {
	for _, prefix := range []string{"socket:", "pipe:"} {
		if strings.HasPrefix(target, prefix) {
			return strings.TrimSuffix(prefix, ":")
		}
	}
	switch {
	case strings.HasPrefix(target, "/memfd:"):
		return "memory"
	case strings.HasPrefix(target, "anon_inode:"):
		return strings.Trim(strings.TrimPrefix(target, "anon_inode:"), "[]")
	case strings.HasSuffix(target, ".erofs"):
		return "image"
	}
	return target
}
