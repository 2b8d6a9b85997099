package agent

import (
	"bytes"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/proc"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

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
func (d *drains) adopt(p *proc.Pipe) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b [1]byte
	if n, err := unix.Read(p.FD(), b[:]); n == 0 && err == nil || d.closed || len(d.pipes) >= maxDrains {
		p.Close() // nobody writes to it any more
		return
	}
	if d.pipes == nil {
		d.pipes = map[*os.File]bool{}
	}
	f := os.NewFile(uintptr(p.FD()), "output") // waits in Go's poller, and takes no thread
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

// close closes every pipe.
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
	waiter  *proc.Waiter
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
	pipe  *proc.Pipe
	r     *run
	kind  uint8
	total int64 // bytes that were written; read it after finish
	kept  int64
	open  bool // somebody may still write to the pipe
}

// buffers are for pumps: to touch new memory costs more than to read.
var buffers = sync.Pool{New: func() any { return new([pumpSize]byte) }}

func startPumps(out proc.Output, r *run, begun func() bool) *pumps {
	ps := &pumps{
		streams: [2]*pump{
			{pipe: out.Stdout, r: r, kind: guest.KindStdout, open: true},
			{pipe: out.Stderr, r: r, kind: guest.KindStderr, open: true},
		},
		waiter: out.Waiter,
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
		ready, closed := ps.waiter.Wait(timeout)
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
				ps.waiter.Rearm(pu.pipe)
			}
		}
	}
}

// read takes what is in a pipe, as far as the buffer goes.
func (ps *pumps) read(pu *pump) int {
	n, err := unix.Read(pu.pipe.FD(), ps.buf[:])
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
	ps.waiter.Close()
	<-ps.done
	for _, pu := range ps.streams {
		if !pu.open {
			continue
		}
		for left := pu.pipe.Buffered(); left > 0; {
			n := pu.pipe.ReadNow(ps.buf[:min(left, len(ps.buf))])
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
