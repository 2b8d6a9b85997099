package proc

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime reads how much CPU a process has used. On failure it is 0.
func cpuTime(pid int) time.Duration {
	const wholeProcess = 2 // CPUCLOCK_SCHED of linux/posix-timers
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|wholeProcess, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// CPU adds up the CPU time of the child and all that it has started: of the processes
// that live, and of those that these have waited for.
func (ch *Child) CPU() time.Duration {
	pids := []int{ch.pid}
	if ch.mark == 0 {
		pids = append(pids, descendants(ch.pid)...)
	} else {
		others := ch.table.others(ch)
		for _, m := range ch.table.members() {
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

// OwnCPU is how much CPU the process of the child has used. It is 0 when the child has
// been reaped.
func (ch *Child) OwnCPU() (used time.Duration) {
	ch.WithLive(func(pid int) { used = cpuTime(pid) })
	return used
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
