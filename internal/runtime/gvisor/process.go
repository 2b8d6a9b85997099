package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a process of the host that is told apart from any later one with
// the same number, by a descriptor that holds on to it. It may or may not be a
// child of this one; nothing here collects its exit status.
type process struct {
	pid    int
	handle *os.File
	raw    syscall.RawConn
	closed atomic.Bool
	ended  chan struct{} // closed when the process has ended, or was let go of
}

// openProcess takes hold of a live process. One that is not there is
// os.ErrProcessDone. A goroutine watches the process until it ends or close is
// called.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	handle := os.NewFile(uintptr(fd), "pidfd")
	raw, err := handle.SyscallConn()
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, handle: handle, raw: raw, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		// The only error is that the handle was closed.
		_ = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	}()
	return p, nil
}

// kill sends SIGKILL. It is not an error if the process has ended, or was let go
// of.
func (p *process) kill() error {
	var sent error
	err := p.raw.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if err = errors.Join(err, sent); err != nil && !errors.Is(err, unix.ESRCH) && !p.closed.Load() {
		return fmt.Errorf("killing process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns when the process has ended, or with the error of ctx.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d has not ended: %w", p.pid, ctx.Err())
	}
}

// ended asks a process descriptor, without waiting.
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}

// close lets go of the process.
func (p *process) close() {
	p.closed.Store(true)
	p.handle.Close()
	<-p.ended
}

// startTime is when a process started, in clock ticks since the host did. With
// the number of the process, and the identity of the host's run, it names a
// process for ever.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses that may hold anything, so count
	// from the last parenthesis: the state is field 3, the start time field 22.
	_, rest, ok := cutLast(string(b), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// bootID names this run of the host's kernel.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
