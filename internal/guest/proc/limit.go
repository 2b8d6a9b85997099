package proc

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Limits are what one process, and all that it will start, are held to. 0: no limit.
type Limits struct {
	// Processes bounds the processes and threads of the user. Nothing holds root to it.
	Processes int64
	// OpenFiles bounds the descriptors of each process.
	OpenFiles int64
	// CPUTime bounds each process. The kernel counts in seconds: it may use up to two
	// more.
	CPUTime time.Duration
	// KillGroup says that the process group ends with its leader.
	KillGroup bool
}

// Limit sets the limits of a child, and reads each of them back. The program has been
// executed by now, and is far from the first line of the user's code: its loader has
// work to do. KillGroup must be known before the child can have ended.
func (ch *Child) Limit(l Limits) error {
	if l.KillGroup {
		ch.killGroupAtExit()
	}
	type setting struct {
		name     string
		resource int
		value    uint64
	}
	var settings []setting
	if ch.table.opts.User != nil && l.Processes > 0 {
		settings = append(settings, setting{"processes", unix.RLIMIT_NPROC, uint64(l.Processes)})
	}
	if l.OpenFiles > 0 {
		settings = append(settings, setting{"open files", unix.RLIMIT_NOFILE, uint64(l.OpenFiles)})
	}
	if l.CPUTime > 0 {
		// Whoever counts the whole run comes first.
		used := cpuTime(ch.pid)
		seconds := (l.CPUTime + used + 2*time.Second) / time.Second
		settings = append(settings, setting{"CPU time", unix.RLIMIT_CPU, uint64(seconds)})
	}
	var failure error
	ch.WithLive(func(pid int) {
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
				// Not wrapped: to the host the number would say what a path is like.
				failure = fmt.Errorf("the limit of %s cannot be set to %d: %s", s.name, s.value, err.Error())
				return
			case got != want:
				failure = fmt.Errorf("the limit of %s is %d after it was set to %d", s.name, got.Cur, s.value)
				return
			}
		}
	})
	return failure
}
