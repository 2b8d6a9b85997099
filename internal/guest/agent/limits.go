package agent

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// limit holds a process, and all that it will start, to the limits of a run, and
// reads each of them back. The program has been executed by now, and is far from
// the first line of the user's code: its loader has work to do. A final run also
// takes its process group with it, which must be known before it can have ended.
func (a *Agent) limit(ch *child, req *guest.RunRequest) error {
	if req.Final {
		ch.killGroupAtExit()
	}
	type setting struct {
		name     string
		resource int
		value    uint64
	}
	var settings []setting
	if a.opts.User != nil && req.Processes > 0 {
		settings = append(settings, setting{"processes", unix.RLIMIT_NPROC, uint64(req.Processes)})
	}
	if req.OpenFiles > 0 {
		settings = append(settings, setting{"open files", unix.RLIMIT_NOFILE, uint64(req.OpenFiles)})
	}
	if req.CPUTimeNS > 0 {
		// The kernel counts each process for itself, and in seconds: the guard,
		// which counts the whole run, comes first.
		used := cpuTime(ch.pid)
		seconds := (time.Duration(req.CPUTimeNS) + used + 2*time.Second) / time.Second
		settings = append(settings, setting{"CPU time", unix.RLIMIT_CPU, uint64(seconds)})
	}
	var failure error
	ch.withLive(func(pid int) {
		for _, s := range settings {
			want, got := unix.Rlimit{Cur: s.value, Max: s.value}, unix.Rlimit{}
			err := unix.Prlimit(pid, s.resource, &want, nil)
			if err == nil {
				err = unix.Prlimit(pid, s.resource, nil, &got)
			}
			switch {
			case errors.Is(err, unix.ESRCH):
				return // it has ended already, and its outcome says how
			case err != nil:
				failure = refuse(guest.FailOther, "the limit of %s cannot be set to %d: %v", s.name, s.value, err)
				return
			case got != want:
				failure = refuse(guest.FailOther, "the limit of %s is %d after it was set to %d", s.name, got.Cur, s.value)
				return
			}
		}
	})
	return failure
}

// relieve ends every process of the user, because the sandbox holds more memory
// than it may. The results of the runs say so.
func (a *Agent) relieve() {
	a.relieving.Lock()
	defer a.relieving.Unlock()
	a.endRuns(ending{limit: runtime.LimitMemory})
	a.killUser()
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
			if begun = begun || r.proc.begun(); !begun {
				// Another run of the user may have stopped it.
				r.proc.withLive(func(pid int) { _ = unix.Kill(pid, unix.SIGCONT) })
			}
			if most := time.Duration(r.req.CPUTimeNS); most > 0 && r.a.cpuOf(r.proc.child)-r.proc.usedBefore > most {
				r.endBy(ending{limit: runtime.LimitCPUTime})
			}
			if r.a.inodes.over(r.a, r.req.Inodes, enough) {
				r.a.endRuns(ending{limit: runtime.LimitInodes})
			}
			processesFull = processesFull || r.a.processesFull(r.req.Processes)
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
		result.ProcessesFull = processesFull || r.a.processesFull(r.req.Processes-1)
		result.DiskFull = r.a.diskFull()
		// Whoever writes to a map of a file there that has no room gets SIGBUS.
		result.SharedMemoryFull = (sharedFull || r.a.sharedMemoryFull()) && (!sharedBefore || result.Signal == int(unix.SIGBUS))
	}
}

// processesFull tells whether the user has at least that many processes and
// threads.
func (a *Agent) processesFull(most int64) bool {
	if a.opts.User == nil || most <= 0 {
		return false
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || int64(info.Procs) < most {
		return false // cheaper than a look at each
	}
	var threads int64
	for _, m := range a.members() {
		threads += int64(m.threads)
	}
	return threads >= most
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
