package run

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/engine/limits"
	"github.com/agentsandbox/agentsandbox/internal/engine/sessions"
	"github.com/agentsandbox/agentsandbox/internal/engine/supply"
	"github.com/agentsandbox/agentsandbox/internal/engine/work"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// judge turns a result into the one terminal state of the record, and returns
// the last line of its standard error; empty if the code ended by itself.
//
// What ended the run comes first, then what it said itself; that a limit was
// reached counts only if the run failed.
func judge(rec *agentsandbox.Execution, r *runtime.Result, b limits.Bounds) (note string) {
	rec.CPUMS = r.CPU.Milliseconds()
	rec.MemoryPeakBytes = r.MemoryPeakBytes
	rec.ReturnCode = r.ExitCode
	if r.Signal != 0 {
		rec.ReturnCode = signalBase + r.Signal
		rec.Signal = signalName(r.Signal)
	}
	switch {
	case r.TimedOut:
		rec.Status, rec.ReturnCode = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut
		return timedOutNote(b.Timeout)
	case r.Limit == runtime.LimitCPUTime:
		rec.Status, rec.ReturnCode = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut
		return fmt.Sprintf("ended after %s of CPU time: the CPU time limit", inSeconds(b.Run.CPUTime))
	case r.Limit == runtime.LimitMemory:
		rec.Status = agentsandbox.StatusMemoryExceeded
		return "ended: the memory limit of the sandbox, which its files count against too"
	case r.Limit == runtime.LimitStream:
		rec.Status = agentsandbox.StatusOutputLimit
		return fmt.Sprintf("ended: more than %d bytes of output on one stream", b.Run.StreamBytes)
	case r.Limit == runtime.LimitInodes:
		rec.Status = agentsandbox.StatusDiskFull
		return fmt.Sprintf("ended: more than %d files, directories and links in the sandbox", b.Run.Inodes)
	case r.Killed:
		rec.Status = agentsandbox.StatusCancelled
	case rec.ReturnCode == 0:
		rec.Status = agentsandbox.StatusSucceeded
	case r.DiskFull:
		rec.Status = agentsandbox.StatusDiskFull
		return "failed while the disk of the sandbox was full"
	case r.SharedMemoryFull:
		rec.Status = agentsandbox.StatusDiskFull
		return "failed while /dev/shm was full, which has room for half of the memory limit, and for 64 MiB at least"
	case r.ProcessesFull:
		rec.Status = agentsandbox.StatusProcessLimit
		return fmt.Sprintf("failed after reaching the limit of %d processes", b.Run.Processes)
	default:
		rec.Status = agentsandbox.StatusFailed
	}
	return ""
}

// judgeError turns the lack of a result into the one terminal state of the record, and
// returns the last line of its standard error, and what is left of the error: nil if the
// outcome says it all.
func (r *Run) judgeError(ctx context.Context, err error) (note string, left error) {
	rec, end := &r.record, r.endCause(ctx)
	switch {
	case errors.Is(err, errNoVerdict): // its session sees the sandbox die of that, and is not the cause
		rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut, "SIGKILL"
		rec.Error = "The sandbox did not report after the time limit and was destroyed."
		return timedOutNote(r.bounds.Timeout), nil
	case errors.Is(end, runtime.ErrSandboxLost): // its session has noticed already
		return r.judgeLost(), nil
	case end != nil:
		return cancelled(rec, end), nil
	case errors.Is(err, runtime.ErrSandboxLost):
		return r.judgeLost(), nil
	case r.resumed && errors.Is(err, runtime.ErrNotExist):
		r.endUnknown()
		return lostTrack(rec), nil
	case errors.Is(err, runtime.ErrNotStarted):
		rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, returnCodeNotStarted
		rec.Error = err.Error()
		return rec.Error, nil
	}
	rec.Status, rec.ReturnCode = agentsandbox.StatusFailed, 1
	rec.Error = agentsandbox.MessageOf(err)
	return "", err
}

// clearedNote says that the sandbox was made usable before the run began.
func clearedNote(r *runtime.Result, b limits.Bounds) string {
	if r.Cleared == 0 {
		return ""
	}
	return fmt.Sprintf("before this ran, %d processes that earlier runs had left behind were ended: they had reached the limit of %d processes", r.Cleared, b.Run.Processes)
}

func timedOutNote(limit time.Duration) string {
	return fmt.Sprintf("ended after %s: the time limit", inSeconds(limit))
}

// inSeconds says a time as a person would, such as "0.5 s".
func inSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}

// cancelled is the verdict on a run that had to end, and returns the last line of
// its standard error.
func cancelled(rec *agentsandbox.Execution, cause error) (note string) {
	rec.Status, rec.ReturnCode, rec.Signal = agentsandbox.StatusCancelled, returnCodeKilled, "SIGKILL"
	switch {
	case errors.Is(cause, sessions.ErrDeleted):
		rec.Error = "The session was deleted while this ran."
	case errors.Is(cause, sessions.ErrExpired):
		rec.Error = "The session expired while this ran."
	case errors.Is(cause, work.ErrShutdown), errors.Is(cause, work.ErrLeaving):
		rec.Error = "The server shut down while this ran."
	default:
		rec.Error = "The client disconnected while this ran."
	}
	return rec.Error
}

// judgeLost tells a sandbox that the memory limit killed from one that died, and
// returns the last line of standard error.
func (r *Run) judgeLost() (note string) {
	rec, sb := &r.record, r.sandbox
	rec.ReturnCode, rec.Signal = returnCodeKilled, "SIGKILL"
	rec.Status, rec.Error = agentsandbox.StatusSandboxLost, "The sandbox died. It is safe to run this again."
	if why := supply.Evicted(sb); why != "" {
		rec.Status, rec.Error = agentsandbox.StatusMemoryExceeded, why
		return why
	}
	usage, err := sb.Usage()
	switch {
	case err != nil:
		r.s.log.Warn("the counters of a lost sandbox could not be read", "sandbox", sb.ID(), "error", err)
	case usage.OOMKills > 0:
		rec.Status, rec.Error = agentsandbox.StatusMemoryExceeded, "The sandbox used more memory than its limit and was killed."
		rec.MemoryPeakBytes = usage.MemoryPeakBytes
	}
	return rec.Error
}

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", n)
}
