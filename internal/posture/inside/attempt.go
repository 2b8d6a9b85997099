package inside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls that code which wants out tries. Each is made in a
// process of its own, so that one that is allowed has no effect on the next.
// Arguments are such that the call fails late where it is allowed at all, and
// does no harm if it succeeds: EFAULT or EINVAL instead of EPERM or ENOSYS shows
// that the call is served.
var calls = map[string]func() error{
	"mount": func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"bind mount": func() error {
		return unix.Mount("/", "/tmp", "", unix.MS_BIND, "")
	},
	"umount":     func() error { return unix.Unmount("/proc", unix.MNT_DETACH) },
	"pivot_root": func() error { return unix.PivotRoot("/", "/tmp") },
	"chroot":     func() error { return unix.Chroot("/tmp") },
	"setns": func() error {
		fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, 0)
	},
	"setuid":        func() error { return syscall.Setuid(0) },
	"setgid":        func() error { return syscall.Setgid(0) },
	"setgroups":     func() error { return syscall.Setgroups([]int{0}) },
	"bpf":           func() error { return raw(unix.SYS_BPF, 5, block(), 128) },
	"perf events":   func() error { return raw(unix.SYS_PERF_EVENT_OPEN, block(), 0, ^uintptr(0), ^uintptr(0), 0) },
	"userfaultfd":   func() error { return raw(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) },
	"keyctl":        func() error { return raw(unix.SYS_KEYCTL, 0, ^uintptr(0), 0) }, // the id of this thread's keyring
	"add_key":       func() error { return raw(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0) },
	"request_key":   func() error { return raw(unix.SYS_REQUEST_KEY, 0, 0, 0, 0) },
	"io_uring":      func() error { return raw(unix.SYS_IO_URING_SETUP, 1, block()) },
	"init_module":   func() error { return raw(unix.SYS_INIT_MODULE, 0, 0, 0) },
	"finit_module":  func() error { return raw(unix.SYS_FINIT_MODULE, 0, 0, 0) },
	"delete_module": func() error { return raw(unix.SYS_DELETE_MODULE, 0, 0) },
	"kexec_load":    func() error { return raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
	"reboot":        func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
	"swapon":        func() error { return raw(unix.SYS_SWAPON, 0, 0) },
	"acct":          func() error { return raw(unix.SYS_ACCT, 0) },
	"syslog":        func() error { return raw(unix.SYS_SYSLOG, 3, block(), 128) },
	"sethostname":   func() error { return unix.Sethostname([]byte("other")) },
	"settimeofday":  func() error { return unix.Settimeofday(&unix.Timeval{Sec: 1}) },
	"quotactl":      func() error { return raw(unix.SYS_QUOTACTL, 0, 0, 0, 0) },
	"fanotify_init": func() error { return raw(unix.SYS_FANOTIFY_INIT, 0, 0) },
	"name_to_handle_at": func() error {
		return raw(unix.SYS_NAME_TO_HANDLE_AT, ^uintptr(99), 0, 0, 0, 0)
	},
	"open_by_handle_at": func() error { return raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, block(), 0) },
	"kcmp":              func() error { return raw(unix.SYS_KCMP, 1, 1, 0, 0, 0) },
	"process_vm_readv of the agent": func() error {
		return raw(unix.SYS_PROCESS_VM_READV, 1, block(), 1, block(), 1, 0)
	},
	"ptrace of the agent": func() error { return raw(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0, 0) },
	"signal to the agent": func() error { return unix.Kill(1, 0) },
	"pidfd of the agent": func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		return raw(unix.SYS_PIDFD_GETFD, uintptr(fd), 0, 0)
	},
	"mknod of a device": func() error { return unix.Mknod("/tmp/probe-mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))) },
	"priority":          func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) },
	"raise a limit": func() error {
		return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	},
	"raw socket":    func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"packet socket": func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
	"vsock":         func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"crypto socket": func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
	"bluetooth":     func() error { return socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0) },
}

// scratch is memory for arguments that the kernel reads or writes.
var scratch [1024]byte

func block() uintptr { return uintptr(unsafe.Pointer(&scratch[0])) }

func raw(call uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(call, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// attemptOne makes one call and prints how it ended.
func attemptOne(name string, stdout io.Writer) error {
	call, ok := calls[name]
	if !ok {
		return fmt.Errorf("there is no attempt %q", name)
	}
	_, err := fmt.Fprint(stdout, failure(call()))
	return err
}

// attempts makes every call, then looks at what new namespaces would give.
func attempts(r *report) {
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		r.add("attempt "+name, child(nil, attemptCommand, name))
	}
	for _, n := range []struct {
		name  string
		flags uintptr
	}{
		{"pid", unix.CLONE_NEWPID}, {"network", unix.CLONE_NEWNET}, {"mount", unix.CLONE_NEWNS},
		{"IPC", unix.CLONE_NEWIPC}, {"UTS", unix.CLONE_NEWUTS}, {"user", unix.CLONE_NEWUSER},
		{"user, mount and network", unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET},
	} {
		attr := &syscall.SysProcAttr{Cloneflags: n.flags}
		if n.flags&unix.CLONE_NEWUSER != 0 {
			attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		r.add("new namespace "+n.name, child(attr, namespaceCommand))
	}
}

// inNewNamespaces says what a process can do that has namespaces of its own.
func inNewNamespaces(stdout io.Writer) error {
	mounted := failure(unix.Mount("none", "/tmp", "tmpfs", 0, ""))
	_, err := fmt.Fprintf(stdout, "made; mount in it: %s", mounted)
	return err
}

// child runs this program again.
func child(attr *syscall.SysProcAttr, args ...string) string {
	cmd := exec.Command("/proc/self/exe", append([]string{"probe"}, args...)...)
	cmd.SysProcAttr = attr
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	var path *os.PathError
	switch {
	case errors.As(err, &path):
		return failure(path.Err)
	case err != nil && out.Len() == 0:
		return strings.TrimSpace(err.Error())
	case err != nil:
		return out.String() + ", then " + err.Error()
	}
	return out.String()
}
