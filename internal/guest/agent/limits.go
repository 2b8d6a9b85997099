package agent

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// limitsOf are the limits of a run's processes. A final run takes its process group
// with it.
func limitsOf(req *guest.RunRequest) proc.Limits {
	return proc.Limits{
		Processes: req.Processes, OpenFiles: req.OpenFiles, CPUTime: time.Duration(req.CPUTimeNS), KillGroup: req.Final,
	}
}

// relieve ends every process of the user, because the sandbox holds more memory
// than it may. The results of the runs say so.
func (a *Agent) relieve() {
	a.relieving.Lock()
	defer a.relieving.Unlock()
	a.endRuns(ending{limit: runtime.LimitMemory})
	a.processes.KillUser()
	a.endRuns(ending{limit: runtime.LimitMemory}) // of those that began meanwhile
	releaseMemory(0)
}

// keptMemory is how much the heap of the sandbox's kernel may have grown when a run
// ends, in bytes, before it has to collect its garbage. The kernel takes some of it
// for any run, and a collection takes milliseconds.
const keptMemory = 32 << 20

// releaseMemory has the kernel of the sandbox give back what it held for processes
// that are gone, if its heap grew by more than so many bytes. That would count against
// the next runs, and end them. Other kernels know no such option.
func releaseMemory(bytes uintptr) {
	_ = unix.Prctl(guest.ReleaseMemory, bytes, 0, 0, 0)
}

// endRuns ends every run that is under way.
func (a *Agent) endRuns(why ending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.runs {
		r.endBy(why) // does nothing to one that is over
	}
}

// guardEvery is how often a run's use is looked at. The user can outrun it by
// what one process does in that time, and no further.
const guardEvery = 25 * time.Millisecond

// guard watches what the kernel of the sandbox does not bound by itself, or does
// not tell about: CPU time of a run as a whole, inodes, and whether the user had
// all the processes that it may. It continues a process that was stopped before it
// had begun the run. The function returned ends the watch when the
// main process has ended, and completes the result.
func (r *run) guard() (stop func(*guest.RunResult)) {
	enough, finished := make(chan struct{}), make(chan struct{})
	processesFull, begun := false, false
	// What earlier runs have left there is not this one's fault.
	sharedBefore := r.a.sharedMemoryFull()
	sharedFull := false
	go func() {
		defer close(finished)
		tick := time.NewTicker(guardEvery)
		defer tick.Stop()
		for {
			select {
			case <-enough:
				return
			case <-tick.C:
			}
			if begun = begun || r.proc.Begun(); !begun {
				r.proc.Continue() // another run of the user may have stopped it
			}
			if most := time.Duration(r.req.CPUTimeNS); most > 0 && r.proc.CPU() > most {
				r.endBy(ending{limit: runtime.LimitCPUTime})
			}
			if r.a.inodes.over(r.a, r.req.Inodes, enough) {
				r.a.endRuns(ending{limit: runtime.LimitInodes})
			}
			processesFull = processesFull || r.a.processes.Full(r.req.Processes)
			sharedFull = sharedFull || r.a.sharedMemoryFull()
		}
	}()
	return func(result *guest.RunResult) {
		close(enough)
		<-finished
		if result.ExitCode == 0 && result.Signal == 0 {
			return
		}
		// The main process was one of them until a moment ago.
		result.ProcessesFull = processesFull || r.a.processes.Full(r.req.Processes-1)
		result.DiskFull = r.a.diskFull()
		// Whoever writes to a map of a file there that has no room gets SIGBUS.
		result.SharedMemoryFull = (sharedFull || r.a.sharedMemoryFull()) && (!sharedBefore || result.Signal == int(unix.SIGBUS))
	}
}

// fullBytes is how little room makes a file system count as full: less than the
// buffers in which programs write.
const fullBytes = 4 << 10

// diskFull tells whether the file system of the sandbox has no room left, and
// sharedMemoryFull the same of /dev/shm.
func (a *Agent) diskFull() bool { return a.opts.Init && full(a.workspace) }

func (a *Agent) sharedMemoryFull() bool { return a.opts.Init && full(sharedMemoryDir) }

func full(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Blocks > 0 && st.Bavail*uint64(st.Bsize) <= fullBytes
}
