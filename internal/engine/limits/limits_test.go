package limits_test

import (
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestCapsAndDefaultsOfLimits(t *testing.T) {
	l := limits.Limits{
		DefaultTimeout: time.Second, MaxTimeout: 10 * time.Second, DefaultMemoryMB: 128, MaxMemoryMB: 256, DefaultCPUs: 1, MaxCPUs: 2, OutputBytes: 5000,
		Guest: limits.Guest{
			DefaultProcesses: 20, MaxProcesses: 40, DefaultOpenFiles: 50, MaxOpenFiles: 100, DefaultDiskMB: 64, MaxDiskMB: 128,
			DefaultInodes: 2000, MaxInodes: 4000, DefaultCPUTime: 3 * time.Second,
		},
	}
	for field, a := range map[string]limits.Requested{
		"timeout_ms":   {TimeoutMS: 10_001},
		"memory_mb":    {MemoryMB: 257},
		"cpus":         {CPUs: 2.5},
		"cpu_time_ms":  {Run: agentsandbox.RunLimits{CPUTimeMS: 10_001}},
		"processes":    {Run: agentsandbox.RunLimits{Processes: 41}},
		"open_files":   {Run: agentsandbox.RunLimits{OpenFiles: 101}},
		"output_bytes": {Run: agentsandbox.RunLimits{OutputBytes: 5001}},
		"disk_mb":      {Disk: agentsandbox.DiskLimits{DiskMB: 256}},
		"inodes":       {Disk: agentsandbox.DiskLimits{Inodes: 4001}},
	} {
		err := l.Check(a)
		if agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := l.Check(limits.Requested{}); err != nil {
		t.Error(err)
	}
	none := l.Bounds(agentsandbox.ExecuteRequest{}, agentsandbox.Session{})
	if want := (limits.Bounds{Timeout: time.Second, Output: 5000, Run: runtime.RunLimits{CPUTime: 3 * time.Second, Processes: 20, OpenFiles: 50, Inodes: 2000}}); none != want {
		t.Errorf("defaults: %+v", none)
	}
	session := agentsandbox.Session{TimeoutMS: 2000, RunLimits: agentsandbox.RunLimits{Processes: 30, OpenFiles: 60, OutputBytes: 2000}, DiskLimits: agentsandbox.DiskLimits{Inodes: 3000}}
	run := agentsandbox.ExecuteRequest{TimeoutMS: 4000, RunLimits: agentsandbox.RunLimits{OpenFiles: 70, CPUTimeMS: 100}}
	if got, want := l.Bounds(run, session), (limits.Bounds{Timeout: 4 * time.Second, Output: 2000, Run: runtime.RunLimits{CPUTime: 100 * time.Millisecond, Processes: 30, OpenFiles: 70, Inodes: 3000}}); got != want {
		t.Errorf("got %+v", got)
	}
}
