package agent

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// outputs are our ends of a process's standard output and error.
type outputs struct{ stdout, stderr *pipe }

func (o outputs) close() {
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
	return out, ends, nil
}

// pipe is the end of a pipe that the agent reads.
type pipe struct {
	f  *os.File
	fd int
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
	return &pipe{f: os.NewFile(uintptr(fds[0]), "output"), fd: fds[0]}, fds[1], nil
}

func (p *pipe) close() { p.f.Close() }

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
	pipes  map[*pipe]bool
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
		d.pipes = map[*pipe]bool{}
	}
	d.pipes[p] = true
	_ = p.f.SetReadDeadline(time.Time{})
	d.wg.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			if _, err := p.f.Read(buf); err != nil {
				break
			}
		}
		d.mu.Lock()
		delete(d.pipes, p)
		d.mu.Unlock()
		p.close()
	})
}

// close lets go of every pipe.
func (d *drains) close() {
	d.mu.Lock()
	d.closed = true
	for p := range d.pipes {
		_ = p.f.SetReadDeadline(longAgo)
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// pumpSize is how much is read of a pipe at once.
const pumpSize = guest.MaxChunk

// pump takes what a process writes on one stream to the log of its run.
type pump struct {
	pipe  *pipe
	r     *run
	kind  uint8
	total int64 // bytes that were written; read it after finish
	kept  int64
	open  bool // somebody may still write to the pipe, after finish
	done  chan struct{}
}

func startPump(p *pipe, r *run, kind uint8) *pump {
	pu := &pump{pipe: p, r: r, kind: kind, done: make(chan struct{})}
	go pu.run()
	return pu
}

// run reads until every writer has closed the pipe, or finish ends it.
func (pu *pump) run() {
	defer close(pu.done)
	buf := make([]byte, pumpSize)
	for {
		n, err := pu.pipe.f.Read(buf)
		pu.take(buf[:n])
		if err != nil {
			return
		}
	}
}

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

// finish takes what is in the pipe at this moment and ends the pump. It is
// called when the main process has ended: what that wrote is in the pipe, and
// whatever another process goes on writing is none of this run's.
func (pu *pump) finish() {
	select {
	case <-pu.done:
		return
	default:
	}
	pu.open = true
	_ = pu.pipe.f.SetReadDeadline(longAgo)
	<-pu.done
	buf := make([]byte, pumpSize)
	for left := pu.pipe.waitingBytes(); left > 0; {
		n := pu.pipe.readNow(buf[:min(left, len(buf))])
		if n == 0 {
			break
		}
		left -= n
		pu.take(buf[:n])
	}
}
