package run

import (
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestVerdicts(t *testing.T) {
	b := limits.Bounds{Timeout: 500 * time.Millisecond, Run: runtime.RunLimits{CPUTime: 2 * time.Second, StreamBytes: 99, Inodes: 77, Processes: 55}}
	tests := []struct {
		name   string
		result runtime.Result
		status agentsandbox.Status
		code   int
		note   string
	}{
		{"success", runtime.Result{ProcessesFull: true, DiskFull: true}, agentsandbox.StatusSucceeded, 0, ""},
		{"failure", runtime.Result{ExitCode: 3}, agentsandbox.StatusFailed, 3, ""},
		{"signal", runtime.Result{Signal: 9}, agentsandbox.StatusFailed, 137, ""},
		{"time", runtime.Result{Signal: 9, TimedOut: true, DiskFull: true}, agentsandbox.StatusTimedOut, 124, "ended after 0.5 s: the time limit"},
		{"CPU time", runtime.Result{Signal: 9, Limit: runtime.LimitCPUTime}, agentsandbox.StatusTimedOut, 124, "ended after 2 s of CPU time: the CPU time limit"},
		{"memory", runtime.Result{Signal: 9, Limit: runtime.LimitMemory, ProcessesFull: true}, agentsandbox.StatusMemoryExceeded, 137, "ended: the memory limit of the sandbox, which its files count against too"},
		{"output", runtime.Result{Signal: 9, Limit: runtime.LimitStream}, agentsandbox.StatusOutputLimit, 137, "ended: more than 99 bytes of output on one stream"},
		{"inodes", runtime.Result{Signal: 9, Limit: runtime.LimitInodes}, agentsandbox.StatusDiskFull, 137, "ended: more than 77 files, directories and links in the sandbox"},
		{"killed", runtime.Result{Signal: 9, Killed: true}, agentsandbox.StatusCancelled, 137, ""},
		{"shared memory", runtime.Result{Signal: 7, SharedMemoryFull: true, ProcessesFull: true}, agentsandbox.StatusDiskFull, 135, "failed while /dev/shm was full, which has room for half of the memory limit, and for 64 MiB at least"},
		{"disk", runtime.Result{ExitCode: 1, DiskFull: true, ProcessesFull: true}, agentsandbox.StatusDiskFull, 1, "failed while the disk of the sandbox was full"},
		{"processes", runtime.Result{ExitCode: 1, ProcessesFull: true}, agentsandbox.StatusProcessLimit, 1, "failed after reaching the limit of 55 processes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := agentsandbox.Execution{}
			tt.result.MemoryPeakBytes = 4096
			note := judge(&rec, &tt.result, b)
			if rec.Status != tt.status || rec.ReturnCode != tt.code || note != tt.note || rec.MemoryPeakBytes != 4096 {
				t.Errorf("got %s, %d, %q", rec.Status, rec.ReturnCode, note)
			}
		})
	}
}

func TestNoteStandsOnALineOfItsOwn(t *testing.T) {
	for _, tt := range []struct{ stderr, note, want string }{
		{"", "", ""}, {"cut", "", "cut"}, {"", "why", "agentsandbox: why\n"},
		{"cut", "why", "cut\nagentsandbox: why\n"}, {"whole\n", "why", "whole\nagentsandbox: why\n"},
	} {
		written := eventlog.Total{Kept: int64(len(tt.stderr))}
		if tt.stderr != "" {
			written.Last = tt.stderr[len(tt.stderr)-1]
		}
		if got := tt.stderr + string(notes(written, "", tt.note)); got != tt.want {
			t.Errorf("%q and %q give %q", tt.stderr, tt.note, got)
		}
	}
}
