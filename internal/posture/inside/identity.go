package inside

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identity states who the code is and which rights it has.
func identity(r *report) {
	ruid, euid, suid := unix.Getresuid()
	r.addf("uid", "real %d, effective %d, saved %d", ruid, euid, suid)
	rgid, egid, sgid := unix.Getresgid()
	r.addf("gid", "real %d, effective %d, saved %d", rgid, egid, sgid)
	r.add("groups", groups())
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		r.add("capabilities", failure(err))
	}
	for _, line := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(line, ":\t")
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			r.add("capabilities "+name, value)
		}
	}
	r.add("no new privileges", prctl(unix.PR_GET_NO_NEW_PRIVS))
	r.add("seccomp of the process", prctl(unix.PR_GET_SECCOMP))
	var names []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	r.add("environment", strings.Join(names, " "))
}

// groups are the supplementary groups. The agent gives each run one of its own,
// whose number no account has, to know its processes by.
func groups() string {
	all, err := unix.Getgroups()
	if err != nil {
		return failure(err)
	}
	const firstMark = 1 << 20
	if len(all) == 1 && all[0] >= firstMark {
		return "the mark of its run"
	}
	return fmt.Sprint(all)
}

func prctl(option int) string {
	value, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, uintptr(option), 0, 0, 0, 0, 0)
	if errno != 0 {
		return failure(errno)
	}
	return strconv.Itoa(int(value))
}

// kernel states what the code learns of the machine that it is on.
func kernel(r *report) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		r.add("kernel", failure(err))
	} else {
		r.addf("kernel", "%s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]))
		r.add("hostname", unix.ByteSliceToString(u.Nodename[:]))
	}
	for _, f := range []struct{ name, path string }{
		{"kernel version", "/proc/version"},
		{"kernel command", "/proc/cmdline"},
		{"boot id", "/proc/sys/kernel/random/boot_id"},
		{"machine id", "/etc/machine-id"},
	} {
		r.add(f.name, content(f.path))
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		r.add("processors", failure(err))
	} else {
		r.addf("processors", "%d in the set, %d in /proc/cpuinfo", set.Count(), strings.Count("\n"+content("/proc/cpuinfo"), "\nprocessor"))
	}
	memory := "not stated"
	for _, line := range strings.Split(content("/proc/meminfo"), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64) // an odd text shows as 0
			memory = strconv.FormatInt(kib<<10, 10)
		}
	}
	r.add("memory", memory)
	var entries []string
	for _, dir := range []string{"/sys/block", "/sys/class", "/sys/firmware", "/sys/devices/virtual", "/sys/module", "/sys/kernel", "/sys/bus"} {
		list, err := os.ReadDir(dir)
		if err != nil {
			continue // it shows nothing
		}
		for _, e := range list {
			entries = append(entries, dir+"/"+e.Name())
		}
	}
	r.add("hardware in /sys", strings.Join(entries, " "))
}

// maxContent bounds what is read of one file.
const maxContent = 64 << 10

func content(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return failure(err)
	}
	defer f.Close()
	b := make([]byte, maxContent)
	n, err := f.Read(b)
	if n == 0 && err != nil {
		return ""
	}
	return string(b[:n])
}

// limits states what bounds the code from inside.
func limits(r *report) {
	for _, l := range []struct {
		name     string
		resource int
	}{
		{"processes", unix.RLIMIT_NPROC}, {"open files", unix.RLIMIT_NOFILE}, {"core", unix.RLIMIT_CORE},
		{"address space", unix.RLIMIT_AS}, {"locked memory", unix.RLIMIT_MEMLOCK}, {"file size", unix.RLIMIT_FSIZE},
		{"stack", unix.RLIMIT_STACK}, {"data", unix.RLIMIT_DATA}, {"processor time", unix.RLIMIT_CPU},
		{"pending signals", unix.RLIMIT_SIGPENDING}, {"message queues", unix.RLIMIT_MSGQUEUE},
		{"priority", unix.RLIMIT_NICE}, {"real time", unix.RLIMIT_RTPRIO},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			r.add("limit "+l.name, failure(err))
			continue
		}
		// The Go run time raises its own soft limit of open files.
		r.add("limit "+l.name, limit(now.Max))
	}
	for _, path := range []string{"/workspace", "/tmp", "/dev/shm"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			r.add("size of "+path, failure(err))
			continue
		}
		r.addf("size of "+path, "%d", int64(fs.Blocks)*fs.Bsize)
	}
}

func limit(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "none"
	}
	return strconv.FormatUint(n, 10)
}
