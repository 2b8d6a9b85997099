package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// outputs are our ends of a process's standard output and error, and an eventfd
// that ends the reading of them.
type outputs struct {
	stdout, stderr *pipe
	wake           int
}

func (o outputs) close() {
	o.stdout.close()
	o.stderr.close()
	o.closeWake()
}

func (o outputs) closeWake() { unix.Close(o.wake) }

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
	if out.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return outputs{}, ends, os.NewSyscallError("eventfd", err)
	}
	if out.stdout, ends[0], err = newPipe(); err != nil {
		out.closeWake()
		return outputs{}, ends, err
	}
	if out.stderr, ends[1], err = newPipe(); err != nil {
		out.closeWake()
		out.stdout.close()
		unix.Close(ends[0])
		return outputs{}, ends, err
	}
	return out, ends, nil
}

// pipe is the end of a pipe that the agent reads.
type pipe struct{ fd int }

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
	if d.closed || len(d.pipes) >= maxDrains {
		p.close()
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
	maxPause = 3 * time.Millisecond
	minPause = 50 * time.Microsecond
	pumpAim  = 32 << 10
	// maxHeld is how much output of a process is held back that has not begun the
	// run. A process that writes more than that is the only one of its run.
	maxHeld = 1 << 20
	// heldPause is how often it is seen whether it has begun meanwhile.
	heldPause = 10 * time.Millisecond
)

// pumps take what a process writes to the log of its run.
//
// They wait in poll, on a thread of their own, and not in Go's poller, which wakes
// for every write, wanted or not.
type pumps struct {
	streams [2]*pump
	wake    int
	// begun tells whether the process has begun the run. Until it has, what it
	// writes is held back: another process may take its place.
	begun     func() bool
	held      []held
	heldBytes int
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

func startPumps(out outputs, r *run, begun func() bool) *pumps {
	ps := &pumps{
		streams: [2]*pump{
			{pipe: out.stdout, r: r, kind: guest.KindStdout, open: true},
			{pipe: out.stderr, r: r, kind: guest.KindStderr, open: true},
		},
		wake:  out.wake,
		begun: begun,
		done:  make(chan struct{}),
	}
	go ps.run()
	return ps
}

// run reads until every writer has closed both pipes, or finish ends it.
func (ps *pumps) run() {
	defer close(ps.done)
	buf := make([]byte, pumpSize)
	pause := maxPause
	for ps.streams[0].open || ps.streams[1].open {
		ready := [2]bool{}
		patience := time.Duration(-1)
		if ps.heldBytes > 0 {
			patience = heldPause
		}
		if ps.await(patience, &ready) {
			return
		}
		most := 0
		for i, pu := range ps.streams {
			if !ready[i] {
				continue
			}
			n, err := unix.Read(pu.pipe.fd, buf)
			switch {
			case err == unix.EAGAIN || err == unix.EINTR:
			case err != nil || n == 0:
				pu.open = false
			default:
				ps.take(pu, buf[:n])
				most = max(most, n)
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
		if most > 0 && ps.await(pause, nil) {
			return
		}
	}
}

// await waits until a pipe can be read, unless ready is nil, or the time is over;
// a negative one never is. It tells whether the reading is to end.
func (ps *pumps) await(most time.Duration, ready *[2]bool) (end bool) {
	var deadline time.Time
	if most >= 0 {
		deadline = time.Now().Add(most)
	}
	for {
		fds := [3]unix.PollFd{{Fd: int32(ps.wake), Events: unix.POLLIN}, {Fd: -1}, {Fd: -1}}
		for i, pu := range ps.streams {
			if ready != nil && pu.open {
				fds[i+1] = unix.PollFd{Fd: int32(pu.pipe.fd), Events: unix.POLLIN}
			}
		}
		var left *unix.Timespec
		if most >= 0 {
			ts := unix.NsecToTimespec(int64(max(time.Until(deadline), 0)))
			left = &ts
		}
		if _, err := unix.Ppoll(fds[:], left, nil); err == unix.EINTR {
			continue
		}
		if ready != nil {
			ready[0], ready[1] = fds[1].Revents != 0, fds[2].Revents != 0
		}
		return fds[0].Revents != 0
	}
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
	_, _ = unix.Write(ps.wake, binary.NativeEndian.AppendUint64(nil, 1))
	<-ps.done
	buf := make([]byte, pumpSize)
	for _, pu := range ps.streams {
		if !pu.open {
			continue
		}
		for left := pu.pipe.waitingBytes(); left > 0; {
			n := pu.pipe.readNow(buf[:min(left, len(buf))])
			if n == 0 {
				break
			}
			left -= n
			ps.take(pu, buf[:n])
		}
	}
}
