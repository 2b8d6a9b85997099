package birth

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// emptyRoot is where the new root is put together. It must exist on every host;
// what is in it disappears from this process's sight, and from no other's: the
// process has a mount namespace of its own.
const emptyRoot = "/tmp"

// hard are the flags of every mount that the process sees.
const hard = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// enterEmptyRoot leaves the host's files: afterwards there is a read-only root
// with nothing in it but /proc, which the process needs until it is sealed off.
func enterEmptyRoot(dir string) error {
	// What is mounted here must not show elsewhere.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("root: mounts cannot be kept apart: %w", err)
	}
	if err := unix.Mount("root", dir, "tmpfs", hard, "size=64k,mode=0755"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	proc := dir + "/proc"
	if err := unix.Mkdir(proc, 0o755); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := mountProc(proc); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|hard, ""); err != nil {
		return fmt.Errorf("root: it cannot be made read-only: %w", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	// With one directory as both arguments, the old root is mounted on top of the
	// new one, from where it can be let go.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("root: the host's is still there: %w", err)
	}
	return unix.Chdir("/")
}

// mountProc gives the process its own view of itself. Where the host's /proc is
// partly covered, as in a container, the kernel refuses a new one; then it is the
// host's, with its covers.
func mountProc(dir string) error {
	err := unix.Mount("proc", dir, "proc", unix.MS_RDONLY|hard, "")
	if !errors.Is(err, unix.EPERM) {
		if err != nil {
			return fmt.Errorf("/proc: %w", err)
		}
		return nil
	}
	if err := unix.Mount("/proc", dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|hard, ""); err != nil {
		return fmt.Errorf("/proc: it cannot be made read-only: %w", err)
	}
	return nil
}

// procPath ends with a zero byte, for the kernel.
var procPath = [...]byte{'/', 'p', 'r', 'o', 'c', 0}

// unmountProcLater leaves a child behind that takes /proc away when a byte is
// written to the descriptor that is returned, and ends: with status 0 if it
// could. The next program has no right to do so itself; it writes the byte, waits
// for its only child, and checks that /proc is gone.
func unmountProcLater() (signal int, err error) {
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		return 0, fmt.Errorf("unmounting /proc: %w", err)
	}
	if errno := forkUnmounter(uintptr(pipe[0])); errno != 0 {
		return 0, fmt.Errorf("unmounting /proc: %w", errno)
	}
	return pipe[1], unix.Close(pipe[0])
}

// forkUnmounter makes the child: a copy of this process, without executing a
// program. In the copy there is one thread, and no Go runtime that works: it may
// do nothing but system calls, without growing its stack.
//
//go:noinline
//go:norace
//go:nosplit
func forkUnmounter(wait uintptr) syscall.Errno {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return errno
	}
	// It keeps nothing of what the parent has open, its end of the pipe included:
	// when the parent dies, the wait ends.
	_, _, errno = unix.RawSyscall(unix.SYS_CLOSE_RANGE, 0, wait-1, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_CLOSE_RANGE, wait+1, math.MaxUint32, 0)
	}
	var one byte
	var n uintptr
	for errno == 0 && n == 0 {
		n, _, errno = unix.RawSyscall(unix.SYS_READ, wait, uintptr(unsafe.Pointer(&one)), 1)
		switch {
		case errno == unix.EINTR:
			n, errno = 0, 0
		case errno == 0 && n == 0: // the parent's end was closed
			errno = unix.EPIPE
		}
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(&procPath)), unix.MNT_DETACH, 0)
	}
	status := uintptr(0)
	if errno != 0 {
		status = ExitStatus
	}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}

// dropRights gives up everything that a process can have more than another. It
// must be nobody already.
func dropRights() error {
	if uid, gid := os.Getuid(), os.Getgid(); uid != nobody || gid != nobody || os.Geteuid() != nobody || os.Getegid() != nobody {
		return fmt.Errorf("rights: the process is user %d, group %d, and not nobody", uid, gid)
	}
	// The bounding set first: it takes a right to give it up. The kernel says
	// where the list of capabilities ends.
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_SYS_ADMIN {
			break
		}
		if err != nil {
			return fmt.Errorf("rights: capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("rights: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("rights: %w", err)
	}
	return nil
}

// nobody is the user and group of every sandbox's process.
const nobody = 65534
