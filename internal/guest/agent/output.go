package agent

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// outputs are our ends of a process's standard output and error, and what waits
// for them.
type outputs struct {
	stdout, stderr *pipe
	waiter         *pipeWaiter
}

func (o outputs) close() {
	o.waiter.close()
	o.stdout.close()
	o.stderr.close()
}

// spawn starts a program with /dev/null as input and pipes as output, in a
// session of its own, with the user's rights. What p.files has at 3 and above
// stays.
func (a *Agent) spawn(p program) (*child, outputs, error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, outputs{}, os.NewSyscallError("open /dev/null", err)
	}
	defer unix.Close(null)
	out, ends, err := newOutputs()
	if err != nil {
		return nil, outputs{}, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	for len(p.files) < 3 {
		p.files = append(p.files, 0)
	}
	p.files[0], p.files[1], p.files[2] = uintptr(null), uintptr(ends[0]), uintptr(ends[1])
	p.dir = a.workspace
	p.user = a.opts.User
	ch, err := a.children.start(p)
	if err != nil {
		out.close()
		return nil, outputs{}, err
	}
	return ch, out, nil
}

// newOutputs makes the pipes for a process's standard output and error; the
// process's ends are the caller's to close.
func newOutputs() (out outputs, ends [2]int, err error) {
	if out.stdout, ends[0], err = newPipe(); err != nil {
		return outputs{}, ends, err
	}
	if out.stderr, ends[1], err = newPipe(); err != nil {
		out.stdout.close()
		unix.Close(ends[0])
		return outputs{}, ends, err
	}
	if out.waiter, err = newPipeWaiter(out.stdout, out.stderr); err != nil {
		out.stdout.close()
		out.stderr.close()
		unix.Close(ends[0])
		unix.Close(ends[1])
		return outputs{}, ends, err
	}
	return out, ends, nil
}

// pipe is the end of a pipe that the agent reads.
type pipe struct {
	fd     int
	number int32 // of those that its waiter has
}

func newPipe() (*pipe, int, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, os.NewSyscallError("pipe", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return &pipe{fd: fds[0]}, fds[1], nil
}

func (p *pipe) close() { unix.Close(p.fd) }

// readNow reads what is there, without waiting.
func (p *pipe) readNow(b []byte) int {
	for {
		n, err := unix.Read(p.fd, b)
		if err != unix.EINTR {
			return max(n, 0)
		}
	}
}

// waitingBytes says how much is there to be read.
func (p *pipe) waitingBytes() int {
	n, err := unix.IoctlGetInt(p.fd, unix.TIOCINQ) // also known as FIONREAD
	if err != nil {
		return 0
	}
	return n
}

// drains read and drop what processes write that a run has left behind: they
// would die of SIGPIPE if nobody read it.
type drains struct {
	wg sync.WaitGroup

	mu     sync.Mutex
	pipes  map[*os.File]bool
	closed bool
}

// maxDrains bounds the pipes that are drained; the writers of others have to
// cope.
const maxDrains = 256

// adopt takes a pipe over. It is closed when its last writer has closed it.
func (d *drains) adopt(p *pipe) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b [1]byte
	if n, err := unix.Read(p.fd, b[:]); n == 0 && err == nil || d.closed || len(d.pipes) >= maxDrains {
		p.close() // nobody writes to it any more
		return
	}
	if d.pipes == nil {
		d.pipes = map[*os.File]bool{}
	}
	f := os.NewFile(uintptr(p.fd), "output") // waits in Go's poller, and takes no thread
	d.pipes[f] = true
	d.wg.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				break
			}
		}
		d.mu.Lock()
		delete(d.pipes, f)
		d.mu.Unlock()
		f.Close()
	})
}

// close lets go of every pipe.
func (d *drains) close() {
	d.mu.Lock()
	d.closed = true
	for f := range d.pipes {
		_ = f.SetReadDeadline(longAgo)
	}
	d.mu.Unlock()
	d.wg.Wait()
}

const (
	// pumpSize is how much is read of a pipe at once.
	pumpSize = guest.MaxChunk
	// maxPause is how long the pipes are left alone after something was read: to
	// wake the reader for each line of a program that writes line by line costs
	// more than the writing itself. What comes after a longer silence is read at
	// once. The pause is shorter for a program that fills a pipe in that time: it
	// aims at pumpAim at a time, half of a pipe.
	maxPause = 10 * time.Millisecond
	minPause = 50 * time.Microsecond
	pumpAim  = 32 << 10
	// maxHeld is how much output of a process is held back that has not begun the
	// run. A process that writes more than that is the only one of its run.
	maxHeld = 1 << 20
	// heldPause is how often it is seen whether it has begun meanwhile.
	heldPause = 10 * time.Millisecond
)

// pumps take what a process writes to the log of its run.
type pumps struct {
	streams [2]*pump
	waiter  *pipeWaiter
	buf     *[pumpSize]byte
	// begun tells whether the process has begun the run. Until it has, what it
	// writes is held back: another process may take its place.
	begun     func() bool
	held      []held
	heldBytes int
	stop      chan struct{} // closed when the main process has ended
	done      chan struct{}
}

// held is output of a process that may not have begun the run.
type held struct {
	pump *pump
	data []byte
}

// pump takes one stream.
type pump struct {
	pipe  *pipe
	r     *run
	kind  uint8
	total int64 // bytes that were written; read it after finish
	kept  int64
	open  bool // somebody may still write to the pipe
}

// buffers are for pumps: to touch new memory costs more than to read.
var buffers = sync.Pool{New: func() any { return new([pumpSize]byte) }}

func startPumps(out outputs, r *run, begun func() bool) *pumps {
	ps := &pumps{
		streams: [2]*pump{
			{pipe: out.stdout, r: r, kind: guest.KindStdout, open: true},
			{pipe: out.stderr, r: r, kind: guest.KindStderr, open: true},
		},
		waiter: out.waiter,
		buf:    buffers.Get().(*[pumpSize]byte),
		begun:  begun,
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go ps.run()
	return ps
}

// run reads until every writer has closed both pipes, or finish ends it.
func (ps *pumps) run() {
	defer close(ps.done)
	pause := maxPause
	resume := time.NewTimer(0)
	defer resume.Stop()
	for ps.streams[0].open || ps.streams[1].open {
		timeout := time.Duration(0)
		if ps.heldBytes > 0 {
			timeout = heldPause
		}
		ready, closed := ps.waiter.wait(timeout)
		if closed {
			return
		}
		most := 0
		for i, pu := range ps.streams {
			if ready[i] {
				most = max(most, ps.read(pu))
			}
		}
		if ps.heldBytes > 0 && ps.begun() {
			ps.release()
		}
		switch {
		case most > pumpAim:
			pause = max(pause/2, minPause)
		case most < pumpAim/4:
			pause = min(pause*2, maxPause)
		}
		if most > 0 {
			resume.Reset(pause)
			select {
			case <-resume.C:
			case <-ps.stop:
				return
			}
		}
		for i, pu := range ps.streams {
			if ready[i] && pu.open {
				ps.waiter.rearm(pu.pipe)
			}
		}
	}
}

// read takes what is in a pipe, as far as the buffer goes.
func (ps *pumps) read(pu *pump) int {
	n, err := unix.Read(pu.pipe.fd, ps.buf[:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0
	case err != nil || n == 0:
		pu.open = false
		return 0
	}
	ps.take(pu, ps.buf[:n])
	return n
}

// take gives what was read to its pump, or holds it back.
func (ps *pumps) take(pu *pump, b []byte) {
	if ps.begun != nil && (ps.heldBytes > 0 || !ps.begun()) {
		ps.held = append(ps.held, held{pu, bytes.Clone(b)})
		ps.heldBytes += len(b)
		if ps.heldBytes > maxHeld {
			ps.release()
		}
		return
	}
	pu.take(b)
}

// release lets everything go to the log, now and from now on.
func (ps *pumps) release() {
	for _, h := range ps.held {
		h.pump.take(h.data)
	}
	ps.held, ps.heldBytes, ps.begun = nil, 0, nil
}

// released tells whether what was written went to the log, or would: another process
// must not take this one's place.
func (ps *pumps) released() bool { return ps.begun == nil }

// take counts bytes and keeps those below the limit; a run that goes on and on
// is ended. It waits while the log is full: then the pipe fills up and the
// process waits too.
func (pu *pump) take(b []byte) {
	pu.total += int64(len(b))
	if most := pu.r.req.StreamLimit; most > 0 && pu.total > most {
		pu.r.endBy(ending{limit: runtime.LimitStream})
	}
	if limit := pu.r.req.OutputLimit; limit > 0 {
		b = b[:min(int64(len(b)), limit-pu.kept)]
	}
	if len(b) > 0 {
		pu.kept += int64(len(b))
		pu.r.log.append(pu.kind, b)
	}
}

// finish takes what is in the pipes at this moment and ends the reading. It is
// called when the main process has ended: what that wrote is in the pipes, and
// whatever another process goes on writing is none of this run's.
func (ps *pumps) finish() {
	close(ps.stop)
	ps.waiter.close()
	<-ps.done
	for _, pu := range ps.streams {
		if !pu.open {
			continue
		}
		for left := pu.pipe.waitingBytes(); left > 0; {
			n := pu.pipe.readNow(ps.buf[:min(left, len(ps.buf))])
			if n == 0 {
				break
			}
			left -= n
			ps.take(pu, ps.buf[:n])
		}
	}
	buffers.Put(ps.buf)
	ps.buf = nil
}

// pipeWaiter waits until one of two pipes can be read, without taking a thread and
// without being told of each write.
//
// Go's poller wakes for every write to what it watches, wanted or not, which costs
// more than the writing itself where a program writes line by line. So it watches
// an epoll instance of the waiter's own, which tells of each pipe once, until that is
// armed again.
type pipeWaiter struct {
	file *os.File
	conn syscall.RawConn
}

const readableOnce = unix.EPOLLIN | unix.EPOLLONESHOT

func newPipeWaiter(pipes ...*pipe) (*pipeWaiter, error) {
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
	w := &pipeWaiter{file: os.NewFile(uintptr(fd), "output")}
	w.conn, err = w.file.SyscallConn()
	return w, err
}

// wait waits until a pipe can be read, or for timeout, if that is not 0. It says
// which pipes can be read, or that the waiter was closed.
func (w *pipeWaiter) wait(timeout time.Duration) (ready [2]bool, closed bool) {
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

// rearm makes wait tell of a pipe once more.
func (w *pipeWaiter) rearm(p *pipe) {
	_ = w.conn.Control(func(fd uintptr) {
		_ = unix.EpollCtl(int(fd), unix.EPOLL_CTL_MOD, p.fd, &unix.EpollEvent{Events: readableOnce, Fd: p.number})
	})
}

// close makes wait return, now and for ever.
func (w *pipeWaiter) close() { w.file.Close() }
