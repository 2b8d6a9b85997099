package proc

import (
	"cmp"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Output is our ends of a process's standard output and error, and what waits
// for them.
type Output struct {
	Stdout, Stderr *Pipe
	Waiter         *Waiter
}

func (o Output) Close() {
	o.Waiter.Close()
	o.Stdout.Close()
	o.Stderr.Close()
}

// NewOutput makes the pipes for a process's standard output and error; the
// process's ends are the caller's to close.
func NewOutput() (out Output, ends [2]int, err error) {
	if out.Stdout, ends[0], err = newPipe(); err != nil {
		return Output{}, ends, err
	}
	if out.Stderr, ends[1], err = newPipe(); err != nil {
		out.Stdout.Close()
		unix.Close(ends[0])
		return Output{}, ends, err
	}
	if out.Waiter, err = newWaiter(out.Stdout, out.Stderr); err != nil {
		out.Stdout.Close()
		out.Stderr.Close()
		unix.Close(ends[0])
		unix.Close(ends[1])
		return Output{}, ends, err
	}
	return out, ends, nil
}

// Pipe is the end of a pipe that the agent reads.
type Pipe struct {
	fd     int
	number int32 // of those that its waiter has
}

func newPipe() (*Pipe, int, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, os.NewSyscallError("pipe", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return &Pipe{fd: fds[0]}, fds[1], nil
}

// FD is the descriptor. It does not block.
func (p *Pipe) FD() int { return p.fd }

func (p *Pipe) Close() { unix.Close(p.fd) }

// ReadNow reads what is there, without waiting.
func (p *Pipe) ReadNow(b []byte) int {
	for {
		n, err := unix.Read(p.fd, b)
		if err != unix.EINTR {
			return max(n, 0)
		}
	}
}

// Buffered says how much is there to be read.
func (p *Pipe) Buffered() int {
	n, err := unix.IoctlGetInt(p.fd, unix.TIOCINQ) // also known as FIONREAD
	if err != nil {
		return 0
	}
	return n
}

// Waiter waits until one of two pipes can be read, without taking a thread and
// without being told of each write.
//
// Go's poller wakes for every write to what it watches, wanted or not, which costs
// more than the writing itself where a program writes line by line. So it watches
// an epoll instance of the waiter's own, which tells of each pipe once, until that is
// armed again.
type Waiter struct {
	file *os.File
	conn syscall.RawConn
}

const readableOnce = unix.EPOLLIN | unix.EPOLLONESHOT

func newWaiter(pipes ...*Pipe) (*Waiter, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	for i, p := range pipes {
		p.number = int32(i)
		err = cmp.Or(err, unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{Events: readableOnce, Fd: p.number}))
	}
	if err := cmp.Or(err, unix.SetNonblock(fd, true)); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	w := &Waiter{file: os.NewFile(uintptr(fd), "output")}
	w.conn, err = w.file.SyscallConn()
	return w, err
}

// Wait waits until a pipe can be read, or for timeout, if that is not 0. It says
// which pipes can be read, or that the waiter was closed.
func (w *Waiter) Wait(timeout time.Duration) (ready [2]bool, closed bool) {
	if timeout > 0 {
		_ = w.file.SetReadDeadline(time.Now().Add(timeout))
		defer func() { _ = w.file.SetReadDeadline(time.Time{}) }()
	}
	err := w.conn.Read(func(fd uintptr) bool {
		var events [2]unix.EpollEvent
		n, _ := unix.EpollWait(int(fd), events[:], 0)
		for _, e := range events[:max(n, 0)] {
			ready[e.Fd] = true
		}
		return n > 0
	})
	return ready, err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// Rearm makes Wait tell of a pipe once more.
func (w *Waiter) Rearm(p *Pipe) {
	_ = w.conn.Control(func(fd uintptr) {
		_ = unix.EpollCtl(int(fd), unix.EPOLL_CTL_MOD, p.fd, &unix.EpollEvent{Events: readableOnce, Fd: p.number})
	})
}

// Close makes Wait return, now and for ever.
func (w *Waiter) Close() { w.file.Close() }
