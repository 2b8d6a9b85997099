package proc

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killRounds bounds how often Kill looks for processes that were born while
// it looked.
const killRounds = 16

// Kill ends the child, all its descendants, and whatever else has its mark, orphans in
// sessions of their own included. One system call stops every process of the user
// first, because a look at each takes as long as a fork bomb wants; those of other
// runs go on right after. It returns how much CPU they had used. The child is left
// out of that, and so is a fork bomb: it is looked at when its processes stand still,
// for the same reason.
func (ch *Child) Kill() (used time.Duration) {
	t := ch.table
	if !t.opts.Init || ch.mark == 0 {
		if !ch.Exited() {
			for _, pid := range descendants(ch.pid) {
				used += cpuTime(pid) + waitedCPU(pid)
			}
		}
		ch.KillTree()
		return used
	}
	t.mu.Lock() // keeps ids from being reaped and used again
	defer t.mu.Unlock()
	t.killGroup(ch)
	_, used = t.killMarked(ch.mark)
	return used
}

// killMarked ends the processes that have a mark, and those that have given up theirs.
// It returns how many, and the CPU time of those with the mark that are no children.
// The caller holds mu.
func (t *Table) killMarked(marked mark) (ended int, used time.Duration) {
	var others []int
	measured := map[int]bool{}
	for range killRounds {
		_ = t.opts.AsUser(func() error { return unix.Kill(-1, unix.SIGSTOP) })
		others = others[:0]
		found := false
		for _, m := range t.members() {
			if m.mark != marked && m.mark != 0 {
				others = append(others, m.pid)
				continue
			}
			if m.mark == marked && t.live[m.pid] == nil && !measured[m.pid] {
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
// more than once. The caller holds mu.
func (t *Table) killGroup(ch *Child) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || info.Procs < crowd {
		return
	}
	for range killRounds {
		_ = t.opts.AsUser(func() error { return unix.Kill(-1, unix.SIGSTOP) })
		_ = unix.Kill(-ch.pid, unix.SIGKILL)
		time.Sleep(time.Millisecond)
	}
}

// KillLeftovers ends what the run that is over and has left most processes behind
// still has, if the user has almost as many as it may: a sandbox in which nothing
// can be started any more is of no use. It returns how many processes it ended.
func (t *Table) KillLeftovers(most int64) (ended int) {
	const room = 8
	if !t.opts.Init || !t.Full(most-min(room, most/4)) {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := map[mark]bool{} // of runs under way, and of interpreters that wait
	for _, ch := range t.live {
		wanted[ch.mark] = true
	}
	byMark := map[mark]int{}
	worst := mark(0)
	for _, m := range t.members() {
		if m.mark != 0 && !wanted[m.mark] {
			if byMark[m.mark]++; byMark[m.mark] > byMark[worst] {
				worst = m.mark
			}
		}
	}
	if worst == 0 {
		return 0 // the runs under way need them
	}
	ended, _ = t.killMarked(worst)
	return ended
}

// stopRounds bounds how often KillTree looks for children that were born while
// it stopped their parents.
const stopRounds = 16

// KillTree ends the child, its process group and all its descendants. They are
// stopped first, because what a killed process had started would no longer be
// known as its descendant.
func (ch *Child) KillTree() {
	ch.WithLive(func(pid int) {
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

// sweepTime bounds how long the last processes of the user may take to die.
const sweepTime = 2 * time.Second

// KillUser ends every process of the user; only process 1 may do that. One
// system call reaches all of them, so nothing can fork out of its way; it is
// repeated until there is nothing left.
func (t *Table) KillUser() {
	if !t.opts.Init || t.opts.User == nil {
		return
	}
	end := time.Now().Add(sweepTime)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(end) {
		err := t.opts.AsUser(func() error { return unix.Kill(-1, unix.SIGKILL) })
		if err == unix.ESRCH {
			return
		}
		<-tick.C
	}
	t.opts.Logger.Warn("processes of the user outlived SIGKILL", "seconds", sweepTime.Seconds())
}
