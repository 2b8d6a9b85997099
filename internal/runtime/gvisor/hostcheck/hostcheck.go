// Package hostcheck finds out whether this host can run sandboxes, and what is
// missing if it cannot. It only looks: it changes no setting, and what it tries
// out (a process in new namespaces) is gone when it returns.
//
// It never fails as a whole: what cannot be found out is a finding too.
package hostcheck

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/runtime/gvisor/cgroup"
)

// Finding is one fact about this host.
type Finding struct {
	Name string `json:"name"`
	// OK says that the fact is as it should be.
	OK bool `json:"ok"`
	// Required says that there can be no sandbox while it is not OK.
	Required bool   `json:"required"`
	Detail   string `json:"detail"`
	// Remedy says what to do about it; empty for nothing.
	Remedy string `json:"remedy,omitempty"`
}

// Options say what to check.
type Options struct {
	// CacheDir and StateDir need room; they, or directories above, must exist.
	CacheDir, StateDir string
}

// Least room that a cache directory needs for a template and its snapshots, and
// a state directory for its records.
const (
	cacheBytes = 4 << 30
	stateBytes = 64 << 20
)

// minMemoryBytes is the least memory of a host that one sandbox is happy with.
const minMemoryBytes = 1 << 30

// Check looks at everything that sandboxes need of a host.
func Check(ctx context.Context, opts Options) []Finding {
	return []Finding{
		userID(os.Geteuid()),
		kernel(),
		namespaces(ctx),
		controlGroups(),
		seccomp("/proc/sys/kernel/seccomp/actions_avail"),
		ptrace("/proc/sys/kernel/yama/ptrace_scope"),
		memfd(),
		pidfd(),
		room("cache directory", opts.CacheDir, cacheBytes),
		room("state directory", opts.StateDir, stateBytes),
		processors(),
		memory("/proc/meminfo"),
		mmdebstrap(),
		kvm("/dev/kvm"),
		rcu("/sys/kernel/rcu_expedited"),
	}
}

// Missing returns the findings without which there can be no sandbox.
func Missing(findings []Finding) []Finding {
	var missing []Finding
	for _, f := range findings {
		if f.Required && !f.OK {
			missing = append(missing, f)
		}
	}
	return missing
}

func userID(uid int) Finding {
	f := Finding{Name: "root", OK: uid == 0, Required: true, Detail: fmt.Sprintf("running as user %d", uid)}
	if !f.OK {
		f.Remedy = "run as root: the server needs it to make control groups and to give sandboxes to the user nobody"
	}
	return f
}

func kernel() Finding {
	f := Finding{Name: "kernel", Required: true, Remedy: "use Linux 5.11 or later on amd64 or arm64"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Detail = err.Error()
		return f
	}
	release := unix.ByteSliceToString(u.Release[:])
	f.Detail = fmt.Sprintf("Linux %s on %s", release, runtime.GOARCH)
	f.OK = atLeast(release, 5, 11) && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")
	if f.OK {
		f.Remedy = ""
	}
	return f
}

// atLeast compares the first two numbers of a kernel release.
func atLeast(release string, major, minor int) bool {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return false
	}
	a, err1 := strconv.Atoi(parts[0])
	b, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (a > major || a == major && b >= minor)
}

// nobody is the user that a sandbox runs as.
const nobody = 65534

// namespaces starts a process the way a sandbox starts.
func namespaces(ctx context.Context) Finding {
	f := Finding{Name: "namespaces", Required: true}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/true")
	cmd.Env = []string{}
	ids := []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		UidMappings: ids,
		GidMappings: ids,
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
	}
	if err := cmd.Run(); err != nil {
		f.Detail = "a process cannot be started as nobody in namespaces of its own: " + err.Error()
		f.Remedy = "allow user namespaces (user.max_user_namespaces above 0, no seccomp or AppArmor profile that forbids them; in a container: --privileged)"
		return f
	}
	f.OK = true
	f.Detail = "user, PID, mount, IPC, UTS and network namespaces can be made"
	return f
}

func controlGroups() Finding {
	f := Finding{Name: "control groups", Required: true}
	// A name of its own: the groups of a running server stay alone.
	parent, err := cgroup.Open("agentsandbox-check-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		f.Detail = err.Error()
		f.Remedy = "give the server writable control groups with the controllers cpu, memory and pids"
		return f
	}
	if err := parent.Remove(); err != nil {
		f.Detail = err.Error()
		f.Remedy = "remove that group by hand"
		return f
	}
	f.OK = true
	f.Detail = fmt.Sprintf("version %d, writable, with the controllers cpu, memory and pids", parent.Version())
	return f
}

func seccomp(path string) Finding {
	f := Finding{Name: "seccomp", Required: true, Remedy: "use a kernel with CONFIG_SECCOMP_FILTER"}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	actions := strings.Fields(string(b))
	has := map[string]bool{}
	for _, a := range actions {
		has[a] = true
	}
	f.OK = has["trap"] && has["kill_process"]
	f.Detail = "actions: " + strings.Join(actions, " ")
	if f.OK {
		f.Remedy = ""
	}
	return f
}

// ptrace looks at the one setting that keeps a sandbox's kernel from tracing the
// processes in which it runs user code.
func ptrace(scopePath string) Finding {
	f := Finding{Name: "ptrace", OK: true, Required: true, Detail: "a process may trace its children"}
	b, err := os.ReadFile(scopePath)
	if err != nil {
		return f // without Yama there is no such setting
	}
	scope := strings.TrimSpace(string(b))
	f.Detail += " (kernel.yama.ptrace_scope is " + scope + ")"
	if scope != "0" && scope != "1" {
		f.OK = false
		f.Detail = "kernel.yama.ptrace_scope is " + scope + ": a process may not trace its children"
		f.Remedy = "set kernel.yama.ptrace_scope to 1, the default"
	}
	return f
}

func memfd() Finding {
	f := Finding{Name: "memory files", Required: true}
	fd, err := unix.MemfdCreate("agentsandbox-check", unix.MFD_CLOEXEC)
	if err != nil {
		f.Detail, f.Remedy = "memfd_create: "+err.Error(), "use a kernel with CONFIG_MEMFD_CREATE"
		return f
	}
	_ = unix.Close(fd)
	f.OK, f.Detail = true, "memfd_create works"
	return f
}

func pidfd() Finding {
	f := Finding{Name: "process descriptors", Required: true}
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		f.Detail, f.Remedy = "pidfd_open: "+err.Error(), "use Linux 5.11 or later, without a seccomp profile that forbids it"
		return f
	}
	_ = unix.Close(fd)
	f.OK, f.Detail = true, "pidfd_open works"
	return f
}

// room looks at the file system on which a directory is or will be.
func room(name, dir string, need uint64) Finding {
	f := Finding{Name: name, Required: true}
	if dir == "" {
		f.Detail, f.Remedy = "is not set", "set it in the configuration"
		return f
	}
	at, err := filepath.Abs(dir)
	for err == nil {
		if _, err = os.Stat(at); err == nil || at == "/" {
			break
		}
		at, err = filepath.Dir(at), nil
	}
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(at, &st)
	}
	if err != nil {
		f.Detail, f.Remedy = dir+": "+err.Error(), "choose another directory"
		return f
	}
	free := st.Bavail * uint64(st.Bsize)
	f.Detail = fmt.Sprintf("%s has %s free", dir, bytes(free))
	f.OK = free >= need
	if !f.OK {
		f.Remedy = fmt.Sprintf("make room for %s, or choose another directory", bytes(need))
	}
	return f
}

func processors() Finding {
	n := runtime.NumCPU()
	f := Finding{Name: "processors", OK: n >= 2, Detail: fmt.Sprintf("%d", n)}
	if !f.OK {
		f.Remedy = "two or more let sandboxes be made while others run"
	}
	return f
}

func memory(meminfo string) Finding {
	f := Finding{Name: "memory"}
	b, err := os.ReadFile(meminfo)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	kib := func(key string) uint64 {
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) >= 2 && fields[0] == key+":" {
				n, _ := strconv.ParseUint(fields[1], 10, 64) // 0 is "not known"
				return n
			}
		}
		return 0
	}
	total, free := kib("MemTotal")<<10, kib("MemAvailable")<<10
	f.OK = free >= minMemoryBytes
	f.Detail = fmt.Sprintf("%s, of which %s available", bytes(total), bytes(free))
	if !f.OK {
		f.Remedy = fmt.Sprintf("have at least %s available", bytes(minMemoryBytes))
	}
	return f
}

func mmdebstrap() Finding {
	f := Finding{Name: "mmdebstrap"}
	path, err := exec.LookPath("mmdebstrap")
	if err != nil {
		f.Detail, f.Remedy = "not found; needed only to build templates", "apt-get install mmdebstrap"
		return f
	}
	f.OK, f.Detail = true, path
	return f
}

// kvm never asks for anything: the default platform does without.
func kvm(path string) Finding {
	f := Finding{Name: "KVM", OK: true, Detail: path + " is usable: the platform \"kvm\" can be chosen"}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Detail = "not there (" + err.Error() + "): the platform \"systrap\", the default, does not need it"
		return f
	}
	defer func() { _ = unix.Close(fd) }()
	// The version of the interface has been 12 since Linux 2.6.22.
	const getAPIVersion = 0xae00
	if v, err := unix.IoctlRetInt(fd, getAPIVersion); err != nil || v != 12 {
		f.Detail = path + " is there, but no hardware virtualisation: the platform \"systrap\", the default, does not need it"
	}
	return f
}

// rcu names a switch of the host and its worth. Setting it is the
// administrator's business.
func rcu(path string) Finding {
	f := Finding{Name: "rcu_expedited", OK: true}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Detail = "not known: " + err.Error()
		return f
	}
	value := strings.TrimSpace(string(b))
	f.Detail = "is " + value
	if value == "0" {
		f.Remedy = "writing 1 to " + path + " shortens the start of a sandbox by a third, at the price of more interrupts on the whole host; only the administrator can weigh that"
	}
	return f
}

func bytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}
