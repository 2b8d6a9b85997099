package proc

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest/rawio"
)

// firstMark is the first of the group ids that mark the processes of a run. No
// account of an image has one as high.
const firstMark = 1 << 20

// mark is a supplementary group that the agent gives to one process alone. All
// that it starts inherit it, through any number of forks, sessions and changes
// of program, and a process without capabilities cannot give it up. So it tells
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
func (t *Table) members() []member {
	if t.opts.User == nil {
		return nil
	}
	var found []member
	for _, pid := range processes() {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			continue // it has ended
		}
		if m, ok := memberOf(string(status), t.opts.User.UID); ok {
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

// Leftovers tells whether there may be processes that a run has left behind. Where
// this is not process 1, they cannot be told from others.
func (t *Table) Leftovers() bool {
	if !t.opts.Init {
		return true
	}
	pids := processes()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pid := range pids {
		if pid != 1 && t.live[pid] == nil {
			return true
		}
	}
	return false
}

// HasLeft tells whether there are processes with the mark of the child which are no
// children: what it has started, or what its forks have.
func (ch *Child) HasLeft() bool {
	known := append(ch.table.others(ch), ch.pid)
	return slices.ContainsFunc(ch.table.members(), func(m member) bool {
		return m.mark == ch.mark && !slices.Contains(known, m.pid)
	})
}

// Full tells whether the user has at least that many processes and
// threads.
func (t *Table) Full(most int64) bool {
	if t.opts.User == nil || most <= 0 {
		return false
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || int64(info.Procs) < most {
		return false // cheaper than a look at each
	}
	var threads int64
	for _, m := range t.members() {
		threads += int64(m.threads)
	}
	return threads >= most
}
