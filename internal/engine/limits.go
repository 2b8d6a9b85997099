package engine

import (
	"cmp"
	"maps"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// The least that a sandbox can be given and still start an interpreter.
const (
	minMemoryMB = 64
	minCPUs     = 0.1
)

// GentleLimits are defaults and caps of the limits that a program meets as an
// error that it can deal with. 0: none.
type GentleLimits struct {
	DefaultProcesses, MaxProcesses int64
	DefaultOpenFiles, MaxOpenFiles int64
	DefaultDiskMB, MaxDiskMB       int64
	DefaultInodes, MaxInodes       int64
	DefaultCPUTime                 time.Duration
}

// Default returns the limits of a sandbox for which nothing was asked.
func (l Limits) Default() runtime.Limits {
	return l.sandbox(l.DefaultMemoryMB, l.DefaultCPUs, 0)
}

func (l Limits) sandbox(memoryMB int64, cpus float64, diskMB int64) runtime.Limits {
	return runtime.Limits{
		MemoryBytes: memoryMB << 20, MilliCPUs: int64(cpus * 1000), Tasks: l.Tasks,
		DiskBytes: cmp.Or(diskMB, l.Gentle.DefaultDiskMB) << 20,
	}
}

// asked is what a request can ask for, of a session and of a run.
type asked struct {
	timeoutMS, memoryMB int64
	cpus                float64
	run                 agentsandbox.RunLimits
	disk                agentsandbox.DiskLimits
}

// checkLimits refuses what a request asks for beyond the server's caps. Zero
// means that it does not ask.
func (e *Engine) checkLimits(a asked) error {
	l := e.limits
	switch {
	case a.memoryMB != 0 && (a.memoryMB < minMemoryMB || a.memoryMB > l.MaxMemoryMB):
		return agentsandbox.Invalid("memory_mb", "must be from %d to %d on this server, not %d.", minMemoryMB, l.MaxMemoryMB, a.memoryMB)
	case a.cpus != 0 && (a.cpus < minCPUs || a.cpus > l.MaxCPUs):
		return agentsandbox.Invalid("cpus", "must be from %g to %g on this server, not %g.", minCPUs, l.MaxCPUs, a.cpus)
	}
	for _, bound := range []struct {
		field      string
		value, max int64
	}{
		{"timeout_ms", a.timeoutMS, l.MaxTimeout.Milliseconds()},
		{"cpu_time_ms", a.run.CPUTimeMS, l.MaxTimeout.Milliseconds()},
		{"processes", a.run.Processes, l.Gentle.MaxProcesses},
		{"open_files", a.run.OpenFiles, l.Gentle.MaxOpenFiles},
		{"output_bytes", a.run.OutputBytes, l.OutputBytes},
		{"disk_mb", a.disk.DiskMB, l.Gentle.MaxDiskMB},
		{"inodes", a.disk.Inodes, l.Gentle.MaxInodes},
	} {
		if bound.max > 0 && bound.value > bound.max {
			return agentsandbox.Invalid(bound.field, "must be at most %d on this server, not %d.", bound.max, bound.value)
		}
	}
	return nil
}

// sandboxLimits fills in the server's defaults.
func (e *Engine) sandboxLimits(memoryMB int64, cpus float64, diskMB int64) runtime.Limits {
	return e.limits.sandbox(cmp.Or(memoryMB, e.limits.DefaultMemoryMB), cmp.Or(cpus, e.limits.DefaultCPUs), diskMB)
}

// sessionLimits fills in what holds for the runs of a session that asks for
// nothing else.
func (e *Engine) sessionLimits(run agentsandbox.RunLimits, disk agentsandbox.DiskLimits) (agentsandbox.RunLimits, agentsandbox.DiskLimits) {
	g := e.limits.Gentle
	return agentsandbox.RunLimits{
			Processes:   cmp.Or(run.Processes, g.DefaultProcesses),
			OpenFiles:   cmp.Or(run.OpenFiles, g.DefaultOpenFiles),
			OutputBytes: cmp.Or(run.OutputBytes, e.limits.OutputBytes),
		}, agentsandbox.DiskLimits{
			DiskMB: cmp.Or(disk.DiskMB, g.DefaultDiskMB),
			Inodes: cmp.Or(disk.Inodes, g.DefaultInodes),
		}
}

// bounds are the limits of one run, with every default filled in.
type bounds struct {
	timeout time.Duration
	output  int64 // bytes kept of each stream; 0: all
	run     runtime.RunLimits
	// ignored says that the files of tools are kept, too.
	ignored bool
}

// boundsOf takes for each limit the first that is set: the run's, the session's,
// the server's default.
func (e *Engine) boundsOf(req agentsandbox.ExecuteRequest, s agentsandbox.Session) bounds {
	session, disk := e.sessionLimits(s.RunLimits, s.DiskLimits)
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	return bounds{
		timeout: cmp.Or(ms(req.TimeoutMS), ms(s.TimeoutMS), e.limits.DefaultTimeout),
		output:  cmp.Or(req.OutputBytes, session.OutputBytes),
		run: runtime.RunLimits{
			CPUTime:     cmp.Or(ms(req.CPUTimeMS), e.limits.Gentle.DefaultCPUTime),
			Processes:   cmp.Or(req.Processes, session.Processes),
			OpenFiles:   cmp.Or(req.OpenFiles, session.OpenFiles),
			StreamBytes: e.limits.StreamBytes,
			Inodes:      disk.Inodes,
		},
		ignored: *cmp.Or(req.CollectIgnored, &s.CollectIgnored),
	}
}

// mergeEnv adds the variables of one run to those of its session.
func mergeEnv(ofSession, ofRun map[string]string) map[string]string {
	if len(ofRun) == 0 {
		return ofSession
	}
	env := make(map[string]string, len(ofSession)+len(ofRun))
	maps.Copy(env, ofSession)
	maps.Copy(env, ofRun)
	return env
}
