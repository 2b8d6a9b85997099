package proc

import (
	"cmp"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Child is a process that the agent started, and that leads a session of its own.
type Child struct {
	table *Table
	pid   int
	mark  mark          // of it and all that it starts; 0: none
	done  chan struct{} // closed when it has been reaped; the rest is set then

	status unix.WaitStatus
	cpu    time.Duration // its own and that of children that it waited for
	ended  time.Time

	// Guarded by table.mu.
	reaped    bool
	takeGroup bool // kill its process group when it has exited
}

// Adopt makes a process that the child has forked a child of its own, with the same
// mark. Process 1 is the parent of that by now, because it is an orphan. It is an
// error if it has ended already.
func (ch *Child) Adopt(pid int) (*Child, error) {
	t := ch.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := unix.Kill(pid, 0); err != nil || t.live[pid] != nil {
		return nil, fmt.Errorf("process %d is none that can be adopted: %w", pid, cmp.Or(err, error(unix.EEXIST)))
	}
	adopted := &Child{table: t, pid: pid, mark: ch.mark, done: make(chan struct{})}
	t.live[pid] = adopted
	return adopted, nil
}

// others lists the children that have the mark of one and are not that one: a
// fork server and what it has forked.
func (t *Table) others(of *Child) []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pids []int
	for pid, ch := range t.live {
		if ch != of && ch.mark == of.mark {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reapAll is the reaper of process 1: it also reaps orphans.
func (t *Table) reapAll() {
	for {
		pid, err := awaitExit(unix.P_ALL, 0)
		switch err {
		case nil:
			t.reap(pid)
			// Who waited for it comes first: a thread that waits in the kernel keeps
			// others from running for a while.
			runtime.Gosched()
		case unix.ECHILD:
			select {
			case <-t.born:
			case <-t.stop:
				return
			}
		default:
			panic(fmt.Sprintf("waitid: %v", err)) // no other error is documented
		}
	}
}

// reapOne reaps one child of a process that has others besides ours.
func (t *Table) reapOne(pid int) {
	if _, err := awaitExit(unix.P_PID, pid); err == nil {
		t.reap(pid)
	}
}

// awaitExit waits until a child has exited, and leaves it a zombie.
func awaitExit(idType, id int) (int, error) {
	// The part of siginfo_t that waitid fills in, on 64-bit machines.
	var info struct {
		signo, errno, code, _ int32
		pid                   int32
		rest                  [108]byte
	}
	for {
		err := unix.Waitid(idType, id, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return int(info.pid), err
		}
	}
}

// reap takes a zombie away.
func (t *Table) reap(pid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ch := t.live[pid]
	if ch != nil && ch.takeGroup {
		_ = unix.Kill(-pid, unix.SIGKILL) // the zombie holds the id
	}
	var status unix.WaitStatus
	var usage unix.Rusage
	for {
		_, err := unix.Wait4(pid, &status, 0, &usage)
		if err != unix.EINTR {
			break
		}
	}
	if ch == nil {
		return
	}
	delete(t.live, pid)
	ch.reaped = true
	ch.status = status
	ch.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	ch.ended = time.Now()
	close(ch.done)
}

// PID is the process id. It is that of another process as soon as the child has been
// reaped: see WithLive.
func (ch *Child) PID() int { return ch.pid }

// Done is closed when the child has been reaped.
func (ch *Child) Done() <-chan struct{} { return ch.done }

// Exited tells whether the child has been reaped.
func (ch *Child) Exited() bool {
	select {
	case <-ch.done:
		return true
	default:
		return false
	}
}

// Exit says how the child has ended that was given its run at some moment, when it
// had used so much CPU. It must be done.
func (ch *Child) Exit(started time.Time, usedBefore time.Duration) Exit {
	return Exit{Status: ch.status, Duration: ch.ended.Sub(started), CPU: ch.cpu - usedBefore}
}

// WithLive calls f with the child's id if it has not been reaped, and keeps it
// from being reaped meanwhile.
func (ch *Child) WithLive(f func(pid int)) {
	ch.table.mu.Lock()
	defer ch.table.mu.Unlock()
	if !ch.reaped {
		f(ch.pid)
	}
}

// Continue continues the child if another process has stopped it, and ContinueGroup
// its process group.
func (ch *Child) Continue() {
	ch.WithLive(func(pid int) { _ = unix.Kill(pid, unix.SIGCONT) })
}

func (ch *Child) ContinueGroup() {
	ch.WithLive(func(pid int) { _ = unix.Kill(-pid, unix.SIGCONT) })
}

// Interrupt does to the process group of the child what Ctrl-C does on a terminal. A
// process that was stopped takes notice, too.
func (ch *Child) Interrupt() {
	ch.WithLive(func(pid int) {
		_ = unix.Kill(-pid, unix.SIGINT)
		_ = unix.Kill(-pid, unix.SIGCONT)
	})
}

// killGroupAtExit makes the end of the child the end of its process group.
func (ch *Child) killGroupAtExit() {
	ch.WithLive(func(int) { ch.takeGroup = true })
}
