// Package limits says what sandboxes, sessions and runs may take: the defaults of the
// server, its caps, and what of both holds for a request. A request beyond a cap is
// refused with an error that names the field and the cap.
package limits

import (
	"cmp"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Limits are the defaults of the server, and how far a request may go.
type Limits struct {
	DefaultTimeout, MaxTimeout   time.Duration
	DefaultMemoryMB, MaxMemoryMB int64
	DefaultCPUs, MaxCPUs         float64
	// Tasks bounds the processes and threads of one sandbox on the host.
	Tasks int64
	// OutputBytes bounds what is kept of each output stream.
	OutputBytes int64
	CodeBytes   int64
	UploadBytes int64
	Collect     runtime.CollectLimits
	Guest       Guest
	// StreamBytes ends a run that has written more to one stream.
	StreamBytes int64
}

// The least that a sandbox can be given and still start an interpreter.
const (
	minMemoryMB = 64
	minCPUs     = 0.1
)

// Guest are defaults and caps of the limits that a program meets as an
// error that it can deal with. 0: none.
type Guest struct {
	DefaultProcesses, MaxProcesses int64
	DefaultOpenFiles, MaxOpenFiles int64
	DefaultDiskMB, MaxDiskMB       int64
	DefaultInodes, MaxInodes       int64
	DefaultCPUTime                 time.Duration
}

// Default returns the limits of a sandbox for which nothing was asked.
func (l Limits) Default() runtime.Limits {
	return l.Sandbox(0, 0, 0)
}

// Sandbox returns the limits of a sandbox; 0 is the server's default.
func (l Limits) Sandbox(memoryMB int64, cpus float64, diskMB int64) runtime.Limits {
	return runtime.Limits{
		MemoryBytes: cmp.Or(memoryMB, l.DefaultMemoryMB) << 20, MilliCPUs: int64(cmp.Or(cpus, l.DefaultCPUs) * 1000), Tasks: l.Tasks,
		DiskBytes: cmp.Or(diskMB, l.Guest.DefaultDiskMB) << 20,
	}
}

// Requested is what a request can ask for, of a session and of a run. Zero means that
// it does not ask.
type Requested struct {
	TimeoutMS, MemoryMB int64
	CPUs                float64
	Run                 agentsandbox.RunLimits
	Disk                agentsandbox.DiskLimits
}

// Check refuses what a request asks for beyond the server's caps.
func (l Limits) Check(r Requested) error {
	switch {
	case r.MemoryMB != 0 && (r.MemoryMB < minMemoryMB || r.MemoryMB > l.MaxMemoryMB):
		return agentsandbox.Invalid("memory_mb", "must be from %d to %d on this server, not %d.", minMemoryMB, l.MaxMemoryMB, r.MemoryMB)
	case r.CPUs != 0 && (r.CPUs < minCPUs || r.CPUs > l.MaxCPUs):
		return agentsandbox.Invalid("cpus", "must be from %g to %g on this server, not %g.", minCPUs, l.MaxCPUs, r.CPUs)
	}
	for _, bound := range []struct {
		field      string
		value, max int64
	}{
		{"timeout_ms", r.TimeoutMS, l.MaxTimeout.Milliseconds()},
		{"cpu_time_ms", r.Run.CPUTimeMS, l.MaxTimeout.Milliseconds()},
		{"processes", r.Run.Processes, l.Guest.MaxProcesses},
		{"open_files", r.Run.OpenFiles, l.Guest.MaxOpenFiles},
		{"output_bytes", r.Run.OutputBytes, l.OutputBytes},
		{"disk_mb", r.Disk.DiskMB, l.Guest.MaxDiskMB},
		{"inodes", r.Disk.Inodes, l.Guest.MaxInodes},
	} {
		if bound.max > 0 && bound.value > bound.max {
			return agentsandbox.Invalid(bound.field, "must be at most %d on this server, not %d.", bound.max, bound.value)
		}
	}
	return nil
}

// Session fills in what holds for the runs of a session that asks for
// nothing else.
func (l Limits) Session(run agentsandbox.RunLimits, disk agentsandbox.DiskLimits) (agentsandbox.RunLimits, agentsandbox.DiskLimits) {
	g := l.Guest
	return agentsandbox.RunLimits{
			Processes:   cmp.Or(run.Processes, g.DefaultProcesses),
			OpenFiles:   cmp.Or(run.OpenFiles, g.DefaultOpenFiles),
			OutputBytes: cmp.Or(run.OutputBytes, l.OutputBytes),
		}, agentsandbox.DiskLimits{
			DiskMB: cmp.Or(disk.DiskMB, g.DefaultDiskMB),
			Inodes: cmp.Or(disk.Inodes, g.DefaultInodes),
		}
}

// Bounds are the limits of one run, with every default filled in.
type Bounds struct {
	Timeout time.Duration
	Output  int64 // bytes kept of each stream; 0: all
	Run     runtime.RunLimits
	// Ignored says that the files of tools are kept, too.
	Ignored bool
}

// Bounds takes for each limit the first that is set: the run's, the session's,
// the server's default.
func (l Limits) Bounds(req agentsandbox.ExecuteRequest, s agentsandbox.Session) Bounds {
	session, disk := l.Session(s.RunLimits, s.DiskLimits)
	ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	return Bounds{
		Timeout: cmp.Or(ms(req.TimeoutMS), ms(s.TimeoutMS), l.DefaultTimeout),
		Output:  cmp.Or(req.OutputBytes, session.OutputBytes),
		Run: runtime.RunLimits{
			CPUTime:     cmp.Or(ms(req.CPUTimeMS), l.Guest.DefaultCPUTime),
			Processes:   cmp.Or(req.Processes, session.Processes),
			OpenFiles:   cmp.Or(req.OpenFiles, session.OpenFiles),
			StreamBytes: l.StreamBytes,
			Inodes:      disk.Inodes,
		},
		Ignored: *cmp.Or(req.CollectIgnored, &s.CollectIgnored),
	}
}
