package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/sentry/hostmm"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// bundle is the directory in which gVisor looks for the spec of a sandbox. It
// stands beside a snapshot and serves every sandbox of it.
type bundle struct{ dir string }

// specFile is the name that gVisor expects.
const specFile = "config.json"

// spec reads the spec, anew for every sandbox, because gVisor writes to it.
func (b bundle) spec() (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(b.dir, specFile))
	if err != nil {
		return nil, fmt.Errorf("spec of a sandbox: %w", err)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("spec of a sandbox: %w", err)
	}
	return spec, nil
}

// coresFor is the number of processors that a sandbox of those limits sees:
// those that its share fills, rounded up. A snapshot keeps its number for ever,
// because programs size their data by it, so each number has its own snapshot.
func coresFor(l runtime.Limits) int {
	all := goruntime.NumCPU()
	if l.MilliCPUs <= 0 {
		return all
	}
	return int(min(max((l.MilliCPUs+999)/1000, 1), int64(all)))
}

// minKernelCores is the least number of processors for the sandbox's own kernel.
// It works with one, but then waits where it could poll.
const minKernelCores = 2

// bootArguments are what a sandbox's kernel is told of its limits, so that
// /proc/meminfo shows the grant and not the host, and so that it does not start
// threads for processors that it may not use. restored says that the number of
// processors that programs see comes from a snapshot.
func bootArguments(l runtime.Limits, cores int, restored bool) []string {
	if restored {
		cores = min(max(cores, minKernelCores), goruntime.NumCPU())
	}
	args := []string{"--cpu-num=" + strconv.Itoa(cores)}
	if l.MemoryBytes > 0 {
		memory := strconv.FormatInt(l.MemoryBytes, 10)
		args = append(args, "--total-memory="+memory, "--total-host-memory="+memory)
	}
	return append(args, hugePageArguments()...)
}

// hugePageArguments are the host's settings of transparent huge pages, which
// gVisor goes by, and which cannot be read from an empty root. Where the host has
// none, gVisor does without.
func hugePageArguments() []string {
	var args []string
	for _, setting := range []struct{ file, flag string }{
		{"shmem_enabled", "--host-thp-shmem-enabled="},
		{"defrag", "--host-thp-defrag="},
	} {
		if value, err := hostmm.ReadTransparentHugepageEnum(setting.file); err == nil {
			args = append(args, setting.flag+value)
		}
	}
	return args
}
