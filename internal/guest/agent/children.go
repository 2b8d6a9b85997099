package agent

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// children are the processes that the agent started. An exited one is reaped
// under the lock, and signals are sent under the lock, so that no signal reaches
// another process that got the same id.
type children struct {
	init bool
	wg   sync.WaitGroup

	mu    sync.Mutex
	live  map[int]*child
	marks mark // the last that was given
	// born wakes the reaper of process 1 when there is something to wait for.
	born chan struct{}
	stop chan struct{}
}

// child is a process that the agent started, and leads a session of its own.
type child struct {
	set  *children
	pid  int
	mark mark          // of it and all that it starts; 0: none
	done chan struct{} // closed when it has been reaped; the rest is set then

	status unix.WaitStatus
	cpu    time.Duration // its own and that of children that it waited for
	ended  time.Time

	// Guarded by set.mu.
	reaped    bool
	takeGroup bool // kill its process group when it has exited
}

func newChildren(init bool) *children {
	c := &children{
		init: init,
		live: map[int]*child{},
		born: make(chan struct{}, 1),
		stop: make(chan struct{}),
	}
	if init {
		c.wg.Go(c.reapAll)
	}
	return c
}

// close waits for the reapers. Every child must have been killed.
func (c *children) close() {
	close(c.stop)
	c.wg.Wait()
}

// program is what start starts.
type program struct {
	path  string
	args  []string // with the name
	env   []string
	dir   string
	files []uintptr // descriptors 0, 1, …
	user  *User
	// script is what it runs, and sees on its stage.
	script script
}

func (c *children) start(p program) (*child, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	// The lock keeps the reaper of process 1 from taking a child that is not
	// in the table yet for an orphan.
	c.mu.Lock()
	defer c.mu.Unlock()
	var given mark
	if p.user != nil {
		c.marks++
		given = firstMark + c.marks
		sys.Credential = &syscall.Credential{Uid: uint32(p.user.UID), Gid: uint32(p.user.GID), Groups: []uint32{uint32(given)}}
	}
	pid, err := p.script.staged(func() (int, error) {
		return syscall.ForkExec(p.path, p.args, &syscall.ProcAttr{Dir: p.dir, Env: p.env, Files: p.files, Sys: sys})
	})
	if err != nil {
		return nil, err
	}
	ch := &child{set: c, pid: pid, mark: given, done: make(chan struct{})}
	c.live[pid] = ch
	if !c.init {
		c.wg.Go(func() { c.reapOne(pid) })
		return ch, nil
	}
	select {
	case c.born <- struct{}{}:
	default:
	}
	return ch, nil
}

// adopt makes a process a child that process 1 has become the parent of, as an
// orphan that a child forked. It has that child's mark. It is an error if it has
// ended already.
func (c *children) adopt(pid int, given mark) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := unix.Kill(pid, 0); err != nil || c.live[pid] != nil {
		return nil, fmt.Errorf("process %d is none that can be adopted: %w", pid, cmp.Or(err, error(unix.EEXIST)))
	}
	ch := &child{set: c, pid: pid, mark: given, done: make(chan struct{})}
	c.live[pid] = ch
	return ch, nil
}

// others lists the children that bear the mark of one and are not that one: a
// fork server and what it has forked.
func (c *children) others(of *child) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var pids []int
	for pid, ch := range c.live {
		if ch != of && ch.mark == of.mark {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reapAll is the reaper of process 1: it also reaps orphans.
func (c *children) reapAll() {
	for {
		pid, err := awaitExit(unix.P_ALL, 0)
		switch err {
		case nil:
			c.reap(pid)
			// Who waited for it comes first: a thread that waits in the kernel keeps
			// others from running for a while.
			runtime.Gosched()
		case unix.ECHILD:
			select {
			case <-c.born:
			case <-c.stop:
				return
			}
		default:
			panic(fmt.Sprintf("waitid: %v", err)) // no other error is documented
		}
	}
}

// reapOne reaps one child of a process that has others besides ours.
func (c *children) reapOne(pid int) {
	if _, err := awaitExit(unix.P_PID, pid); err == nil {
		c.reap(pid)
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
func (c *children) reap(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.live[pid]
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
	delete(c.live, pid)
	ch.reaped = true
	ch.status = status
	ch.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	ch.ended = time.Now()
	close(ch.done)
}

// exited tells whether the child has been reaped.
func (ch *child) exited() bool {
	select {
	case <-ch.done:
		return true
	default:
		return false
	}
}

// withLive calls f with the child's id if it has not been reaped, and keeps it
// from being reaped meanwhile.
func (ch *child) withLive(f func(pid int)) {
	ch.set.mu.Lock()
	defer ch.set.mu.Unlock()
	if !ch.reaped {
		f(ch.pid)
	}
}

// killGroupAtExit makes the end of the child the end of its process group.
func (ch *child) killGroupAtExit() {
	ch.withLive(func(int) { ch.takeGroup = true })
}

// stopRounds bounds how often killTree looks for children that were born while
// it stopped their parents.
const stopRounds = 16

// killTree ends the child, its process group and all its descendants. They are
// stopped first, because what a killed process had started would no longer be
// known as its descendant.
func (ch *child) killTree() {
	ch.withLive(func(pid int) {
		_ = unix.Kill(-pid, unix.SIGSTOP)
		seen := map[int]bool{}
		for range stopRounds {
			news := false
			for _, p := range descendants(pid) {
				if !seen[p] {
					seen[p], news = true, true
					_ = unix.Kill(p, unix.SIGSTOP)
				}
			}
			if !news {
				break
			}
		}
		for p := range seen {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		_ = unix.Kill(-pid, unix.SIGKILL)
		_ = unix.Kill(pid, unix.SIGKILL) // should it have left its group
	})
}

// descendants lists the processes below one, as /proc has them.
func descendants(root int) []int {
	below := map[int][]int{}
	for _, pid := range processes() {
		if parent, ok := parentOf(pid); ok {
			below[parent] = append(below[parent], pid)
		}
	}
	found := below[root]
	for i := 0; i < len(found); i++ {
		found = append(found, below[found[i]]...)
	}
	return found
}

func parentOf(pid int) (int, bool) {
	fields := statFields(pid)
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// statFields reads what /proc says of a process, from the third field on, which
// is its state.
func statFields(pid int) []string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	// The name in brackets is the program's choice and may hold anything.
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
}

// cpuTime reads how much CPU a process has used. On failure it is 0.
func cpuTime(pid int) time.Duration {
	const wholeProcess = 2 // CPUCLOCK_SCHED of linux/posix-timers
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|wholeProcess, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// sweepTime bounds how long the last processes of the user may take to die.
const sweepTime = 2 * time.Second

// killUser ends every process of the user; only process 1 may do that. One
// system call reaches all of them, so nothing can fork out of its way; it is
// repeated until there is nothing left.
func (a *Agent) killUser() {
	if !a.opts.Init || a.opts.User == nil {
		return
	}
	end := time.Now().Add(sweepTime)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) {
		err := a.threads.do(func() error { return unix.Kill(-1, unix.SIGKILL) })
		if err == unix.ESRCH {
			return
		}
		<-tick.C
	}
	a.log.Warn("processes of the user outlived SIGKILL", "seconds", sweepTime.Seconds())
}
