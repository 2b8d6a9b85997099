package agent

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// firstMark is the first of the group ids that mark the processes of a run. No
// account of an image has one as high.
const firstMark = 1 << 20

// mark is a supplementary group that the agent gives to one process alone. All
// that it starts inherit it, through any number of forks, sessions and changes
// of program, and a process without capabilities cannot put it off. So it tells
// which run a process belongs to when its parents are long gone.
type mark uint32

// member is a process of the user.
type member struct {
	pid     int
	threads int
	// mark is 0 if the process has none: it has entered a user namespace of its
	// own, where it may give up its groups.
	mark mark
}

// members lists the processes of the user, as /proc has them.
func (a *Agent) members() []member {
	if a.opts.User == nil {
		return nil
	}
	var found []member
	for _, pid := range processes() {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			continue // it has ended
		}
		if m, ok := memberOf(string(status), a.opts.User.UID); ok {
			m.pid = pid
			found = append(found, m)
		}
	}
	return found
}

// memberOf reads the status of a process, and tells whether it is the user's and
// has not ended.
func memberOf(status string, uid int) (m member, ok bool) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch name {
		case "State":
			if len(fields) > 0 && (fields[0] == "Z" || fields[0] == "X") {
				return m, false
			}
		case "Uid":
			if len(fields) == 0 || fields[0] != strconv.Itoa(uid) {
				return m, false
			}
			ok = true
		case "Threads":
			if len(fields) > 0 {
				m.threads, _ = strconv.Atoi(fields[0])
			}
		case "Groups":
			for _, field := range fields {
				if id, err := strconv.ParseUint(field, 10, 32); err == nil && id >= firstMark {
					m.mark = mark(id)
				}
			}
		}
	}
	return m, ok
}

// processes lists every process of the sandbox.
func processes() []int {
	dir, err := rawio.OpenDirectory(unix.AT_FDCWD, "/proc")
	if err != nil {
		return nil
	}
	defer unix.Close(dir)
	var pids []int
	err = rawio.ReadNames(dir, func(name string) bool {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
		return true
	})
	if err != nil {
		return nil
	}
	return pids
}

// clearBombs ends what the run that is over and has left most processes behind
// still has, if the user has almost as many as it may: a sandbox in which nothing
// can be started any more is of no use. It returns how many processes it ended.
func (a *Agent) clearBombs(most int64) (ended int) {
	const room = 8
	if !a.opts.Init || !a.processesFull(most-min(room, most/4)) {
		return 0
	}
	a.children.mu.Lock()
	defer a.children.mu.Unlock()
	wanted := map[mark]bool{} // of runs under way, and of interpreters that wait
	for _, ch := range a.children.live {
		wanted[ch.mark] = true
	}
	byMark := map[mark]int{}
	worst := mark(0)
	for _, m := range a.members() {
		if m.mark != 0 && !wanted[m.mark] {
			if byMark[m.mark]++; byMark[m.mark] > byMark[worst] {
				worst = m.mark
			}
		}
	}
	if worst == 0 {
		return 0 // the runs under way need them
	}
	ended, _ = a.killMarked(worst)
	return ended
}

// killRounds bounds how often killRun looks for processes that were born while
// it looked.
const killRounds = 16

// killRun ends the child, all its descendants, and whatever else bears its
// mark, orphans in sessions of their own included. One system call stops every
// process of the user first, because a look at each takes as long as a fork bomb
// wants; those of other runs go on right after. It returns how much CPU they had
// used, the child left out, and those of a fork bomb: it is looked at when they
// stand still, for the same reason.
func (a *Agent) killRun(ch *child) (used time.Duration) {
	if !a.opts.Init || ch.mark == 0 {
		if !ch.exited() {
			for _, pid := range descendants(ch.pid) {
				used += cpuTime(pid) + waitedCPU(pid)
			}
		}
		ch.killTree()
		return used
	}
	ch.set.mu.Lock() // keeps ids from being reaped and used again
	defer ch.set.mu.Unlock()
	a.killGroup(ch)
	_, used = a.killMarked(ch.mark)
	return used
}

// killMarked ends the processes that bear a mark, and those that have put theirs
// off. It returns how many, and the CPU time of those with the mark that the agent
// did not start. The lock of the children is held.
func (a *Agent) killMarked(marked mark) (ended int, used time.Duration) {
	var others []int
	measured := map[int]bool{}
	for range killRounds {
		_ = a.threads.do(func() error { return unix.Kill(-1, unix.SIGSTOP) })
		others = others[:0]
		found := false
		for _, m := range a.members() {
			if m.mark != marked && m.mark != 0 {
				others = append(others, m.pid)
				continue
			}
			if m.mark == marked && a.children.live[m.pid] == nil && !measured[m.pid] {
				measured[m.pid] = true
				used += cpuTime(m.pid) + waitedCPU(m.pid)
			}
			_ = unix.Kill(m.pid, unix.SIGKILL)
			found = true
			ended++
		}
		if !found {
			break
		}
	}
	for _, pid := range others {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	return ended, used
}

// crowd is how many processes make a run's end one without a look at each.
const crowd = 64

// killGroup ends the process group of a child that has a crowd below it. A fork
// bomb leaves so little of the processor that to look at each of its processes takes
// minutes. What was just being forked goes on, and forks in its turn, so it is done
// more than once. The lock of the children is held.
func (a *Agent) killGroup(ch *child) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || info.Procs < crowd {
		return
	}
	for range killRounds {
		_ = a.threads.do(func() error { return unix.Kill(-1, unix.SIGSTOP) })
		_ = unix.Kill(-ch.pid, unix.SIGKILL)
		time.Sleep(time.Millisecond)
	}
}

// cpuOf adds up the CPU time of the processes of a run: of those that live, and
// of those that these have waited for.
func (a *Agent) cpuOf(ch *child) time.Duration {
	pids := []int{ch.pid}
	if ch.mark == 0 {
		pids = append(pids, descendants(ch.pid)...)
	} else {
		others := a.children.others(ch)
		for _, m := range a.members() {
			if m.mark == ch.mark && m.pid != ch.pid && !slices.Contains(others, m.pid) {
				pids = append(pids, m.pid)
			}
		}
	}
	var total time.Duration
	for _, pid := range pids {
		total += cpuTime(pid) + waitedCPU(pid)
	}
	return total
}

// clockTicks is how many a second has in /proc, on every machine that Linux
// programs were built for since 2.4.
const clockTicks = 100

// waitedCPU reads how much CPU the children used that a process has waited for.
// On failure it is 0.
func waitedCPU(pid int) time.Duration {
	fields := statFields(pid)
	const userTicks, systemTicks = 16 - 3, 17 - 3 // fields 16 and 17 of proc(5), counted from the third
	if len(fields) <= systemTicks {
		return 0
	}
	user, err1 := strconv.ParseInt(fields[userTicks], 10, 64)
	system, err2 := strconv.ParseInt(fields[systemTicks], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration(user+system) * time.Second / clockTicks
}
