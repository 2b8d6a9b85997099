package eventlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Log is the writer's side of a log. Its methods take turns; what they do with the
// disk no reader waits for.
type Log struct {
	c     *content
	limit int64

	mu   sync.Mutex
	last uint64 // the number of the last event
	// progress is where Resume found the log. Of the files that changed in the run,
	// the first marked are in marks.
	progress runtime.Progress
	marked   int
	// full says of which stream nothing more is kept.
	full [2]bool
	// lost says that events are missing, and a Gap has to tell it.
	lost bool

	// failing says that the file could not be written; charged is how much output
	// was kept in memory since.
	failing bool
	charged int64

	finished, published, closed bool
	// last events, from Seal to Publish.
	seal *seal
}

func newLog(c *content, limit int64) *Log {
	c.tail, c.visible = []byte(magic), int64(len(magic))
	return &Log{c: c, limit: limit}
}

// Last is the number of the last event; 0: there is none.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Totals says what became of the output so far. Written is what Append was given,
// until Finish says it better.
func (l *Log) Totals() Totals {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return Totals{l.c.streams[0], l.c.streams[1]}
}

// Progress is where Resume found the log: from there on the sandbox has the rest. The
// zero value is the beginning.
func (l *Log) Progress() runtime.Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// Append adds an event, which readers see at once. Of Stdout and Stderr, what is over
// the limit is counted and not kept. It fails only where the log takes no more
// events, and with more than MaxData.
func (l *Log) Append(kind Kind, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.finished || l.lost:
		return fmt.Errorf("event log of %s: %w", l.c.id, ErrSealed)
	case kind == 0 || kind == Gap || kind == Ended || kind == mark:
		return fmt.Errorf("event log of %s: an event of kind %d is not for Append", l.c.id, kind)
	case len(data) > MaxData:
		return fmt.Errorf("event log of %s: an event of %d bytes is too large", l.c.id, len(data))
	}
	c := l.c
	stream := c.stream(kind)
	var room int
	if stream != nil {
		room = l.room(kind, stream, len(data))
	}
	c.mu.Lock()
	if c.stopped != nil {
		defer c.mu.Unlock()
		return fmt.Errorf("event log of %s: %w", c.id, c.stopped)
	}
	if stream != nil {
		stream.Written += int64(len(data))
		if data = data[:room]; room > 0 {
			stream.Kept += int64(room)
			stream.Last = data[room-1]
		}
	}
	if stream == nil || room > 0 {
		l.last++
		l.add(frame{Number: l.last, Kind: kind, Data: data})
	}
	spill := len(c.tail) >= spillBytes && !l.failing
	c.mu.Unlock()
	if spill {
		_ = l.write() // Commit fails the same way, and says so
	}
	return nil
}

// room is how many of n bytes are kept of a stream. When some are not, nothing that
// follows is: what is kept of a stream is its beginning.
func (l *Log) room(kind Kind, s *Total, n int) int {
	full := &l.full[kind-Stdout]
	most := int64(n)
	if *full {
		return 0
	}
	if l.limit > 0 {
		most = min(most, max(0, l.limit-s.Kept))
	}
	if l.failing {
		if l.c.dir.unwritten.Add(most) > l.c.dir.mostUnwritten {
			l.c.dir.unwritten.Add(-most)
			most = 0
		}
		l.charged += most
	}
	*full = most < int64(n)
	return int(most)
}

// add puts a frame into the tail. The caller holds c.mu, too.
func (l *Log) add(f frame) {
	c := l.c
	before := len(c.tail)
	c.tail = appendFrame(c.tail, f)
	c.visible += int64(len(c.tail) - before)
	c.announce()
}

// Commit writes what there is to the file, and with it the place in the sandbox's
// log up to which it was taken. The sandbox may forget that then. Of p, Changed is
// all that was reported so far. After an error, what is in the file is as it was,
// all of the log can be read, and the next Commit tries again.
func (l *Log) Commit(p runtime.Progress) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished {
		return fmt.Errorf("event log of %s: %w", l.c.id, ErrSealed)
	}
	data, err := encodeMark(p, l.marked)
	if err != nil {
		return fmt.Errorf("event log of %s: %w", l.c.id, err)
	}
	l.c.mu.Lock()
	l.add(frame{Number: l.last, Kind: mark, Data: data})
	l.c.mu.Unlock()
	l.marked = len(p.Changed)
	return l.write()
}

// write writes the tail to the file.
func (l *Log) write() error {
	c := l.c
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped != nil {
		return fmt.Errorf("event log of %s: %w", c.id, stopped)
	}
	if err := l.writeAt(c.tail); err != nil {
		l.failing = true
		return fmt.Errorf("event log: %w", err)
	}
	c.mu.Lock()
	c.written += int64(len(c.tail))
	c.tail = nil
	c.places = append(c.places, place{l.last, c.written})
	c.mu.Unlock()
	l.failing = false
	l.discharge()
	return nil
}

// writeAt writes b behind what is in the file, or nothing.
func (l *Log) writeAt(b []byte) error {
	c := l.c
	if c.file == nil {
		f, err := c.dir.openFile(c.name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.file = f
		c.mu.Unlock()
	}
	if _, err := c.file.WriteAt(b, c.written); err != nil {
		return errors.Join(err, c.file.Truncate(c.written))
	}
	return nil
}

func (l *Log) discharge() {
	l.c.dir.unwritten.Add(-l.charged)
	l.charged = 0
}

// SkipLost says that what came after the last Commit cannot be had again: the
// sandbox is gone, or has forgotten it. Readers of an earlier process may have seen
// events of it, whose numbers are not given again. A Gap tells of it. Only Finish can
// follow.
func (l *Log) SkipLost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last += lostNumbers
	l.lost = true
}

// resume reads the file, and cuts it at the last mark.
func (l *Log) resume() error {
	c := l.c
	f, err := c.dir.openFile(c.name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("event log: %w", err)
	}
	there, err := scanFile(c, f)
	committed := there.committed
	if err == nil {
		err = f.Truncate(committed.offset)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("event log: %w", err)
	}
	l.last, l.progress, l.marked = committed.number, committed.progress, len(committed.progress.Changed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.file = f
	c.cutTo(committed.offset, there.places)
	for i, taken := range []int64{l.progress.Stdout, l.progress.Stderr} {
		c.streams[i] = committed.streams[i]
		c.streams[i].Written = max(taken, c.streams[i].Kept)
		l.full[i] = c.streams[i].Kept < taken
	}
	return there.damage
}

// Close lets go of the log. The file of one that was not published stays, for
// Resume. It can be repeated.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed, l.finished = true, true
	l.discharge()
	if !l.published {
		l.c.stop(ErrLeft)
		l.c.dir.forget(l.c)
	}
	l.c.dir.release(l.c)
}

// Events reads the events after a number. The caller closes the Reader.
func (l *Log) Events(after uint64) *Reader {
	l.c.dir.retain(l.c)
	return newReader(l.c, after)
}

// Output reads what there is now of Stdout or Stderr, also when the log was removed: the
// writer has it until Close. The caller closes the Output.
func (l *Log) Output(stream Kind) *Output {
	l.c.dir.retain(l.c)
	o := newOutput(l.c, stream)
	o.cursor.ofWriter = true
	return o
}
